"""Which shapes of which operators are measured: those that small vision, sound, vibration and text networks have.

Sizes are chosen so that one takes at most a few milliseconds on a slow core's fast sibling, and so that between any
two neighbours interpolation is a small step. The order is that of importance: when time runs out, what is missing is
the refinement and not a kind.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

FLOAT = "float32"


@dataclass(frozen=True)
class Spec:
    """One operator of one shape, as a Point of operators.py without its time. `dtype` is that of activations."""

    kind: str
    dtype: str
    rows: int
    depth: int
    width: int
    kernel: int = 1
    stride: int = 1

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the output: square where `rows` is a square number, else a line."""
        side = math.isqrt(self.rows)
        return (side, side) if side * side == self.rows else (1, self.rows)

    @property
    def window(self) -> tuple[int, int]:
        side = math.isqrt(self.kernel)
        return (side, side) if self.sides[0] > 1 and side * side == self.kernel else (1, self.kernel)

    @property
    def strides(self) -> tuple[int, int]:
        return self.stride if self.sides[0] > 1 else 1, self.stride

    @property
    def channels(self) -> int:
        """Of the input."""
        return self.depth // self.kernel if self.kind in ("conv", "conv1x1") else self.width

    @property
    def weights(self) -> int:
        return self.depth * self.width if self.kind in ("conv", "conv1x1", "dense", "depthwise") else 0

    @property
    def work(self) -> int:
        return self.rows * self.depth * self.width

    @property
    def chains(self) -> bool:
        """Whether its output can be its next input."""
        if self.kind in ("conv", "conv1x1"):
            return self.stride == 1 and self.channels == self.width
        if self.kind in ("dense", "matmul"):
            return self.depth == self.width
        same = ("binary", "relu", "sigmoid", "hardswish", "gelu", "softmax", "norm", "skipnorm")
        return self.kind in same or (self.kind == "depthwise" and self.stride == 1)


# rows, input channels, width
_CONV1X1 = (
    *((784, 128, 128), (196, 256, 256), (3136, 64, 64), (49, 512, 512), (256, 32, 32), (3136, 24, 144)),
    *((3136, 144, 24), (196, 64, 384), (196, 384, 64), (784, 32, 192), (784, 192, 32), (12544, 16, 16)),
    *((12544, 32, 64), (49, 160, 960), (49, 960, 160), (196, 512, 512), (49, 1024, 1024), (1024, 16, 32)),
    *((64, 64, 64), (1024, 8, 16), (256, 16, 32), (256, 16, 8), (125, 64, 64), (3136, 128, 16), (784, 16, 64)),
    *((3136, 16, 64), (49, 320, 1280), (784, 256, 256), (1, 256, 64), (1, 64, 256), (4096, 8, 8), (64, 32, 64)),
)
# rows, input channels, width, kernel, stride; rows that are no square make a line and a one-dimensional window
_CONV = (
    *((784, 64, 64, 9, 1), (196, 128, 128, 9, 1), (3136, 32, 32, 9, 1), (12544, 3, 32, 9, 2), (256, 32, 32, 9, 1)),
    *((49, 256, 256, 9, 1), (3136, 64, 64, 9, 1), (196, 64, 128, 9, 2), (1024, 16, 16, 9, 1), (500, 16, 32, 5, 1)),
    *((12544, 3, 64, 49, 2), (784, 32, 128, 9, 1), (1024, 3, 8, 9, 2), (4096, 3, 16, 9, 1), (64, 64, 64, 9, 1)),
    *((49, 512, 512, 9, 1), (784, 64, 128, 9, 2), (49, 256, 512, 9, 2), (3136, 16, 64, 9, 1), (256, 16, 32, 9, 2)),
    *((250, 32, 64, 5, 2), (1000, 1, 16, 9, 2), (125, 64, 64, 3, 1), (784, 16, 32, 25, 1), (196, 48, 192, 9, 1)),
    *((4096, 8, 8, 9, 1), (125, 1, 64, 40, 2), (12544, 32, 32, 9, 1), (16, 64, 128, 9, 2), (4096, 16, 16, 9, 1)),
)
# rows, channels, kernel, stride
_DEPTHWISE = (
    *((784, 128, 9, 1), (196, 256, 9, 1), (3136, 64, 9, 1), (49, 512, 9, 1), (256, 32, 9, 1), (784, 128, 9, 2)),
    *((12544, 32, 9, 1), (3136, 96, 9, 2), (196, 512, 9, 1), (49, 512, 9, 2), (3136, 144, 9, 1), (64, 64, 9, 1)),
    *((196, 120, 25, 1), (49, 672, 25, 2), (49, 960, 9, 1), (1024, 16, 9, 1), (125, 64, 9, 1), (784, 72, 25, 1)),
    *((196, 256, 9, 2), (256, 16, 9, 2), (784, 32, 9, 1), (4096, 8, 9, 1), (64, 32, 9, 2)),
)
_DENSE = (
    *((1, 256, 256), (1, 1024, 1024), (1, 64, 64), (64, 128, 128), (1, 512, 1000), (64, 128, 512), (64, 512, 128)),
    *((1, 128, 10), (128, 256, 256), (16, 64, 64), (1, 640, 128), (1, 2048, 512), (1, 128, 8), (128, 64, 256)),
    *((196, 192, 192), (1, 8, 128), (1, 1280, 1000), (32, 64, 64)),
)
_MATMUL = ((64, 64, 64), (32, 32, 32), (128, 64, 128), (128, 128, 64), (64, 32, 64), (64, 64, 32), (196, 64, 196))
_PLAIN = ((784, 128), (196, 128), (3136, 64), (49, 64), (4, 16), (64, 16), (12544, 64), (1, 256))
_ROWS = ((64, 64), (256, 64), (1, 1000), (128, 128), (512, 128), (1, 10), (64, 256))
_POOL = (
    *((1, 16, 4, 2), (1, 128, 4, 2), (1, 512, 4, 2)),
    *((784, 64, 4, 2), (3136, 64, 9, 2), (196, 128, 4, 2), (256, 16, 4, 2), (12544, 32, 4, 2), (784, 96, 9, 2)),
    *((49, 256, 4, 2), (64, 32, 4, 2), (196, 256, 9, 2)),
)
_GLOBAL = (
    *((49, 512), (784, 128), (196, 128), (3136, 64), (49, 1024), (12544, 32), (64, 64), (256, 32), (1024, 16)),
    *((196, 512), (49, 128), (784, 16), (3136, 16), (16, 64), (784, 512), (4096, 8), (49, 2048)),
)


def specs(dtype: str) -> list[Spec]:
    """All shapes for activations of `dtype`, most important first, kinds in turn. 8 bits leave out what engines
    compute in floats anyway."""
    lists = [
        [Spec("conv1x1", dtype, rows, depth, width) for rows, depth, width in _CONV1X1],
        [Spec("conv", dtype, rows, depth * k, width, k, s) for rows, depth, width, k, s in _CONV],
        [Spec("depthwise", dtype, rows, k, width, k, s) for rows, width, k, s in _DEPTHWISE],
        [Spec("dense", dtype, *sizes) for sizes in _DENSE],
        [Spec("pool", dtype, rows, k, width, k, s) for rows, width, k, s in _POOL],
        *([Spec(kind, dtype, rows, 1, width) for rows, width in _PLAIN] for kind in _plain(dtype)),
    ]
    if dtype == FLOAT:
        lists += [
            [Spec(kind, dtype, rows, 1, width) for rows, width in _ROWS] for kind in ("softmax", "norm", "skipnorm")
        ]
        lists.append([Spec("matmul", dtype, *sizes) for sizes in _MATMUL])
    # pooling whole planes ends many other micro-models: it must be known before them
    return [Spec("globalpool", dtype, rows, 1, width) for rows, width in _GLOBAL] + list(_in_turn(lists))


def _plain(dtype: str) -> tuple[str, ...]:
    if dtype == FLOAT:
        return ("binary", "relu", "sigmoid", "hardswish", "gelu", "copy", "transpose")
    return ("binary", "sigmoid", "hardswish", "copy", "transpose", "quantize", "dequantize")


def _in_turn(lists: list[list[Spec]]) -> Iterator[Spec]:
    """Longer lists give more in a turn, so that all of them end together."""
    longest = max(map(len, lists))
    for step in range(longest):
        for one in lists:
            yield from one[step * len(one) // longest : (step + 1) * len(one) // longest]
