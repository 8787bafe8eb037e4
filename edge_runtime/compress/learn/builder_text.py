"""A small transformer for texts: fewer layers and heads, narrower, as settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edge_runtime.compress.learn.checks import check_shares, check_whole
from edge_runtime.compress.learn.pieces import Dense
from edge_runtime.compress.learn.sheet import Paper, Sheet, Spot
from edge_runtime.compress.torch_graph import need_torch
from edge_runtime.errors import UsageError
from edge_runtime.operators import Node


@dataclass(frozen=True)
class Transformer:
    """`words` in the vocabulary, `tokens` a text has (cut or filled up), `wide`: of the dense layer inside.

    Raises UsageError for settings out of range, a width that the heads do not divide."""

    words: int = 30522
    tokens: int = 64
    width: int = 128
    layers: int = 2
    heads: int = 2
    wide: int = 512
    classes: int = 2
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check_whole(self, ("words", "tokens", "width", "layers", "heads", "wide", "classes"), 1)
        check_shares(self, ("dropout",), 0, 0.9)
        if self.width % self.heads:
            raise UsageError(f"Transformer: found a width of {self.width}, wanted one that {self.heads} heads divide")

    def build(self) -> Any:
        need_torch()
        from edge_runtime.compress.learn.blocks_text import Encoder

        return Encoder(self)

    def example(self) -> tuple[Any, ...]:
        ones = need_torch().ones(1, self.tokens, dtype=need_torch().int64)
        return ones, ones.clone()

    def paper(self) -> Paper:
        """Constants of one number, such as the scale of the attention, are not among the parameters."""
        sheet, width = Sheet(), self.width
        ids, given = (sheet.take((self.tokens,), 8) for _ in range(2))
        mask = sheet.add("Cast", [given], (self.tokens,))
        counted = sheet.add("ReduceSum", [mask], (1,), Node("globalpool", "float32", self.tokens, 1, 1))
        sheet.number("other", (self.words + self.tokens) * width, (self.words + self.tokens) * width)
        x = sheet.add("Gather", [ids], (self.tokens, width), sheet.flat("copy", (self.tokens, width)))
        x = _normed(sheet, sheet.unary("Add", x))
        far: Spot | None = None
        for _ in range(self.layers):
            offered, asked = self._by_head(sheet, x, turned=True), self._by_head(sheet, x)
            shape = (self.heads, self.tokens, self.tokens)
            weight = sheet.pair("FusedMatMul", asked, offered, shape)
            if far is None:
                far = sheet.add("Unsqueeze", [sheet.unary("Sub", mask)], (1, 1, self.tokens))
                far = sheet.unary("Mul", far)
            weight = sheet.add("Add", [weight, far], shape, sheet.flat("binary", shape))
            weight = sheet.add("Softmax", [weight], shape, sheet.flat("softmax", shape))
            seen = sheet.pair("MatMul", weight, self._by_head(sheet, x), (self.heads, self.tokens, width // self.heads))
            seen = sheet.turn(seen, (self.tokens, self.heads, width // self.heads))
            seen = _dense(sheet, sheet.add("Reshape", [seen], x.shape), width)
            x = _normed(sheet, sheet.add("Add", [x, seen], x.shape, sheet.flat("binary", x.shape)))
            inner = _gelu(sheet, _dense(sheet, x, self.wide))
            x = _normed(sheet, x, _dense(sheet, inner, width, bias=False))
        column = sheet.add("Unsqueeze", [mask], (self.tokens, 1))
        x = sheet.add("Mul", [x, column], x.shape, sheet.flat("binary", x.shape))
        x = sheet.add("ReduceSum", [x], (width,), Node("globalpool", "float32", self.tokens, 1, width))
        x = sheet.add("Div", [x, counted], x.shape, sheet.flat("binary", x.shape))
        return sheet.paper([Dense(self.classes).write(sheet, x)])

    def _by_head(self, sheet: Sheet, x: Spot, turned: bool = False) -> Spot:
        each = self.width // self.heads
        y = sheet.add("Reshape", [_dense(sheet, x, self.width)], (self.tokens, self.heads, each))
        return sheet.turn(y, (self.heads, each, self.tokens) if turned else (self.heads, self.tokens, each))


def _dense(sheet: Sheet, x: Spot, columns: int, bias: bool = True) -> Spot:
    """The bias is an operator of its own, or (without `bias`) a part of the normalisation behind."""
    sheet.number("matrix", x.shape[-1] * columns, x.shape[-1] * columns)
    sheet.number("other", columns, columns)
    x = sheet.product(x, columns, "MatMul")
    return sheet.unary("Add", x) if bias else x


def _normed(sheet: Sheet, x: Spot, more: Spot | None = None) -> Spot:
    sheet.number("other", 2 * x.shape[-1], 2 * x.shape[-1])
    if more is None:
        return sheet.add("LayerNormalization", [x], x.shape, sheet.flat("norm", x.shape))
    return sheet.add("SkipLayerNormalization", [x, more], x.shape, sheet.flat("skipnorm", x.shape))


def _gelu(sheet: Sheet, x: Spot) -> Spot:
    y = sheet.unary("Div", x)
    y = sheet.add("Erf", [y], y.shape, sheet.flat("sigmoid", y.shape))
    y = sheet.unary("Mul", sheet.unary("Add", y))
    return sheet.add("Mul", [x, y], y.shape, sheet.flat("binary", y.shape))
