"""A small transformer encoder as a PyTorch module: BERT's (Devlin and others, 2019), normalised after each addition."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

FAR = -10000.0
"""Added to the attention on filling: large enough for exp() to be 0, and small enough for float16."""


class Layer(nn.Module):
    """Attention of each token on all, then two dense layers, both added to what came in."""

    def __init__(self, width: int, heads: int, wide: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.each = heads, width // heads
        self.ask, self.offer, self.give, self.gather = (nn.Linear(width, width) for _ in range(4))
        self.widen, self.narrow = nn.Linear(width, wide), nn.Linear(wide, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, far: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x (N,T,width), far (N,1,1,T) added to the attention; returns x and the attention (N,heads,T,T)."""

        def by_head(values: torch.Tensor) -> torch.Tensor:
            return values.unflatten(2, (self.heads, self.each)).transpose(1, 2)

        ask, offer, give = by_head(self.ask(x)), by_head(self.offer(x)), by_head(self.give(x))
        attention = torch.softmax(ask @ offer.transpose(2, 3) * self.each**-0.5 + far, dim=3)
        seen = (attention @ give).transpose(1, 2).flatten(2)
        x = self.first(x + self.drop(self.gather(seen)))
        return self.second(x + self.drop(self.narrow(functional.gelu(self.widen(x))))), attention


class Encoder(nn.Module):
    """input_ids and attention_mask int64 (N,T) to logits (N,classes), from the mean over the tokens that count."""

    def __init__(self, settings: Any) -> None:
        super().__init__()
        width = settings.width
        self.words = nn.Embedding(settings.words, width)
        self.places = nn.Parameter(torch.zeros(settings.tokens, width))
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(
            Layer(width, settings.heads, settings.wide, settings.dropout) for _ in range(settings.layers)
        )
        self.drop, self.head = nn.Dropout(settings.dropout), nn.Linear(width, settings.classes)
        for one in self.modules():  # BERT's start
            if isinstance(one, nn.Linear | nn.Embedding):
                nn.init.normal_(one.weight, std=0.02)
        nn.init.normal_(self.places, std=0.02)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.forward_parts(input_ids, attention_mask)["logits"]

    def forward_parts(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """Also features.0 (N,T,width), the embedding, features.K after each layer, and attention.0 and on."""
        mask = attention_mask.float()
        far = (1 - mask)[:, None, None, :] * FAR
        x = self.drop(self.norm(self.words(input_ids) + self.places[: input_ids.shape[1]]))
        found = {"features.0": x}
        for number, layer in enumerate(self.layers):
            x, found[f"attention.{number}"] = layer(x, far)
            found[f"features.{number + 1}"] = x
        mean = (x * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        return found | {"logits": self.head(mean)}
