"""A small transformer that reads MiniLM's own word pieces, as far as training has them: the student of its answers.

The vocabulary is cut to the pieces that the training messages have at least twice, and to single characters, so that
a word that is not among them falls into pieces that are. The embedding is factorised (ALBERT; Lan and others, 2020): a
narrow one by piece, which can start as the best narrow one of the teacher's (by singular values), and one dense layer.
"""

from __future__ import annotations

import collections
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from models.zoo.encoder import FAR, TOKENS, folder, tokens

Inputs = dict[str, npt.NDArray[np.int64]]
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


@dataclass(frozen=True)
class Shape:
    """`narrow`: numbers of a piece before the dense layer; `wide`: of the dense layer inside."""

    narrow: int = 64
    width: int = 96
    layers: int = 1
    heads: int = 4
    wide: int = 192
    dropout: float = 0.1


class Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, self.heads, self.each = shape.width, shape.heads, shape.width // shape.heads
        self.ask, self.offer, self.give, self.join = (nn.Linear(width, width) for _ in range(4))
        self.widen, self.narrow = nn.Linear(width, shape.wide), nn.Linear(shape.wide, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: torch.Tensor, far: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        def split(values: torch.Tensor) -> torch.Tensor:
            return values.unflatten(2, (self.heads, self.each)).transpose(1, 2)  # (N,heads,T,each)

        ask, offer, give = split(self.ask(x)), split(self.offer(x)), split(self.give(x))
        rows = torch.softmax(ask @ offer.transpose(2, 3) * self.each**-0.5 + far, dim=3)
        x = self.first(x + self.join((rows @ give).transpose(1, 2).flatten(2)))
        return self.second(x + self.narrow(functional.relu(self.widen(x)))), rows


class Student(nn.Module):
    """input_ids (its own numbers) and attention_mask int64 (N,T) to logits float32 (N,2), not spam and spam."""

    def __init__(self, words: int, shape: Shape = Shape()) -> None:
        super().__init__()
        self.words, self.expand = nn.Embedding(words, shape.narrow), nn.Linear(shape.narrow, shape.width)
        self.places = nn.Parameter(torch.randn(TOKENS, shape.width) * 0.02)
        self.norm, self.drop = nn.LayerNorm(shape.width), nn.Dropout(shape.dropout)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.head = nn.Linear(shape.width, 2)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.forward_parts(input_ids, attention_mask)["logits"]

    def forward_parts(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """Besides the logits features.0, the embedding, and features.K+1 and attention.K of each layer."""
        mask = attention_mask.float()
        far = (1 - mask)[:, None, None, :] * FAR
        x = self.drop(self.norm(self.expand(self.words(input_ids)) + self.places[: input_ids.shape[1]]))
        found = {"features.0": x}
        for number, layer in enumerate(self.layers):
            x, found[f"attention.{number}"] = layer(x, far)
            found[f"features.{number + 1}"] = x
        mean = (x * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        return found | {"logits": self.head(mean)}

    @torch.no_grad()
    def start_from(self, embedding: npt.NDArray[np.float32]) -> None:
        """The best embedding of its width for that of the teacher, (words, 384), by singular values."""
        centred = embedding - embedding.mean(0)
        left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
        rank = self.words.embedding_dim
        best = left[:, :rank] * sizes[:rank]
        self.words.weight.copy_(torch.from_numpy(best / best.std()))


# ---------------------------------------------------------------- words


@dataclass(frozen=True)
class Vocabulary:
    """`pieces`: by their number for the student; `theirs`: the number of each for the teacher."""

    pieces: tuple[str, ...]
    theirs: npt.NDArray[np.int64]

    @classmethod
    def of(cls, messages: list[str], least: int = 2) -> Vocabulary:
        """Pieces that `messages` have `least` times, single characters that they have at all, and the special four."""
        whole: dict[str, int] = json.loads((folder() / "tokenizer.json").read_text())["model"]["vocab"]
        found = tokens(messages)
        counts = collections.Counter(found["input_ids"][found["attention_mask"] > 0].tolist())
        letters = {letter for text in messages for letter in text.lower()}
        kept = [
            piece
            for piece, number in sorted(whole.items(), key=lambda one: one[1])
            if piece not in SPECIAL and (counts[number] >= least or piece.removeprefix("##") in letters)
        ]
        pieces = (*SPECIAL, *kept)
        return cls(pieces, np.array([whole[one] for one in pieces], np.int64))

    def tokenizer(self) -> dict[str, Any]:
        """tokenizer.json of the student: MiniLM's with these pieces."""
        made: dict[str, Any] = json.loads((folder() / "tokenizer.json").read_text())
        numbers = {piece: number for number, piece in enumerate(self.pieces)}
        made["model"]["vocab"] = numbers
        made["added_tokens"] = [
            one | {"id": numbers[one["content"]]} for one in made["added_tokens"] if one["content"] in numbers
        ]
        for name, one in made["post_processor"]["special_tokens"].items():
            one["ids"] = [numbers[name]]
        made["truncation"] = {"direction": "Right", "max_length": TOKENS, "strategy": "LongestFirst", "stride": 0}
        made["padding"] = {
            "strategy": {"Fixed": TOKENS}, "direction": "Right", "pad_to_multiple_of": None,
            "pad_id": 0, "pad_type_id": 0, "pad_token": SPECIAL[0],
        }  # fmt: skip
        return made

    def read(self, messages: list[str]) -> Inputs:
        """input_ids and attention_mask, int64 (N,TOKENS), as the student takes them."""
        return read_with(json.dumps(self.tokenizer()), messages)


def read_with(tokenizer: str, messages: list[str]) -> Inputs:
    """`tokenizer`: the text of a tokenizer.json that cuts and fills up by itself."""
    from tokenizers import Tokenizer

    found = Tokenizer.from_str(tokenizer).encode_batch(messages)
    return {
        "input_ids": np.array([one.ids for one in found], np.int64),
        "attention_mask": np.array([one.attention_mask for one in found], np.int64),
    }


def stored_with(out: Path) -> str:
    """The tokenizer that lies beside the student's file."""
    return (out / "minilm-student-tokenizer.json").read_text(encoding="utf-8")


# ---------------------------------------------------------------- texts that nobody wrote


def made_up(messages: list[str], count: int, seed: int = 1) -> list[str]:
    """`count` texts without labels: a message with a fifth of its words gone, or the first part of one and the last of
    another. What they are is the teacher's to say."""
    dice = np.random.default_rng(seed)
    split = [one.split() for one in messages]
    found = []
    for _ in range(count):
        first, second = (split[place] for place in dice.integers(0, len(split), 2))
        if dice.random() < 0.5:
            kept = [word for word in first if dice.random() >= 0.2]
        else:
            cuts = dice.random(2)
            kept = first[: int(len(first) * cuts[0]) + 1] + second[int(len(second) * cuts[1]) :]
        found.append(" ".join(kept or first))
    return found
