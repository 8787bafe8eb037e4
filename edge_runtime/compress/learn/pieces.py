"""The pieces that compact picture and sound networks are put together from, as settings: each writes what it costs on
a sheet (sheet.py), and blocks.py makes a PyTorch module of it.

Depthwise-separable convolutions: Howard and others, 2017 (MobileNet). Inverted residuals: Sandler and others, 2018
(MobileNetV2). Squeeze and excite: Hu and others, 2018; the hard sigmoid and swish: Howard and others, 2019
(MobileNetV3). Fire modules: Iandola and others, 2016 (SqueezeNet). Split and shuffle: Ma and others, 2018
(ShuffleNetV2).

Strided convolutions pad as TensorFlow's SAME does (more below and to the right), the one way that TFLite can do it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Protocol

from edge_runtime.compress.learn.sheet import Sheet, Spot

ACTIVATIONS = ("", "relu", "relu6", "hardsigmoid", "hardswish")


class Piece(Protocol):
    """A frozen dataclass of settings."""

    def write(self, sheet: Sheet, x: Spot) -> Spot:
        """Write it down for an input like x; returns its output, whose shape follows from it."""


@dataclass(frozen=True)
class Conv:
    """Convolution, normalisation (or a bias instead), activation. `each`: every channel filtered by itself."""

    channels: int
    kernel: int | tuple[int, int] = 1
    stride: int | tuple[int, int] = 1
    each: bool = False
    act: str = "relu"
    norm: bool = True

    @property
    def area(self) -> tuple[int, int]:
        return (self.kernel, self.kernel) if isinstance(self.kernel, int) else self.kernel

    @property
    def strides(self) -> tuple[int, int]:
        return (self.stride, self.stride) if isinstance(self.stride, int) else self.stride

    def write(self, sheet: Sheet, x: Spot) -> Spot:
        groups = x.shape[0] if self.each else 1
        weights = self.channels * prod(self.area) * (x.shape[0] // groups)
        sheet.number("conv", weights, weights)
        sheet.number("other", self.channels, (2 if self.norm else 1) * self.channels)
        return sheet.convolve(x, self.channels, self.area, self.strides, groups, self.act)


@dataclass(frozen=True)
class Chain:
    """One after the other."""

    parts: tuple[Piece, ...]

    def write(self, sheet: Sheet, x: Spot) -> Spot:
        for one in self.parts:
            x = one.write(sheet, x)
        return x


@dataclass(frozen=True)
class Added:
    """What `body` makes of x, added to x."""

    body: Piece

    def write(self, sheet: Sheet, x: Spot) -> Spot:
        return sheet.plus(x, self.body.write(sheet, x))


@dataclass(frozen=True)
class Gate:
    """Squeeze and excite: each channel times a number from 0 to 1 that follows from the means of all channels."""

    few: int

    def write(self, sheet: Sheet, x: Spot) -> Spot:
        squeezed = Conv(self.few, act="relu", norm=False).write(sheet, sheet.average(x))
        gate = Conv(x.shape[0], act="hardsigmoid", norm=False).write(sheet, squeezed)
        return sheet.plus(x, gate, "Mul")


@dataclass(frozen=True)
class Fire:
    """Squeeze to few channels, then 1x1 and 3x3 convolutions side by side."""

    few: int
    half: int

    def write(self, sheet: Sheet, x: Spot) -> Spot:
        x = Conv(self.few, norm=False).write(sheet, x)
        return sheet.join([Conv(self.half, kernel, norm=False).write(sheet, x) for kernel in (1, 3)])


@dataclass(frozen=True)
class Shuffle:
    """A ShuffleNetV2 unit: half of the channels (with stride 2: a filtered copy of all) passes beside the branch, then
    both halves are mixed like cards."""

    channels: int
    stride: int = 1

    @property
    def branch(self) -> Chain:
        half = self.channels // 2
        return Chain((Conv(half), Conv(half, 3, self.stride, each=True, act=""), Conv(half)))

    def beside(self, channels: int) -> Chain:
        return Chain((Conv(channels, 3, 2, each=True, act=""), Conv(self.channels // 2)))

    def write(self, sheet: Sheet, x: Spot) -> Spot:
        if self.stride == 1:
            kept, rest = sheet.halve(x)
            rest = self.branch.write(sheet, rest)
        else:
            kept = self.beside(x.shape[0]).write(sheet, x)
            rest = self.branch.write(sheet, x)
        x = sheet.join([kept, rest])
        shape, half_channels = x.shape, x.shape[0] // 2
        x = sheet.add("Reshape", [x], (2, half_channels, *shape[1:]))
        x = sheet.turn(x, (half_channels, 2, *shape[1:]))
        return sheet.add("Reshape", [x], shape)


@dataclass(frozen=True)
class Pool:
    """The largest of each window."""

    kernel: int = 3
    stride: int = 2

    def write(self, sheet: Sheet, x: Spot) -> Spot:
        return sheet.pool(x, self.kernel, self.stride)


@dataclass(frozen=True)
class Shrink:
    """The mean of each square."""

    side: int

    def write(self, sheet: Sheet, x: Spot) -> Spot:
        return sheet.pool(x, self.side, self.side, "AveragePool")


@dataclass(frozen=True)
class Mean:
    """Over the picture: (channels, height, width) to (channels)."""

    def write(self, sheet: Sheet, x: Spot) -> Spot:
        return sheet.add("Flatten", [sheet.average(x)], (x.shape[0],))


@dataclass(frozen=True)
class MeanAndMost:
    """Mean and maximum over the picture side by side: a mark of a few pixels drowns in a mean."""

    def write(self, sheet: Sheet, x: Spot) -> Spot:
        return sheet.join([Mean().write(sheet, x), sheet.highest(x)])


@dataclass(frozen=True)
class Drop:
    """Dropout: nothing of it is left in the file."""

    share: float

    def write(self, sheet: Sheet, x: Spot) -> Spot:
        return x


@dataclass(frozen=True)
class Dense:
    """A matrix product and a bias; `act`: none, or hardswish."""

    outputs: int
    act: str = ""

    def write(self, sheet: Sheet, x: Spot) -> Spot:
        weights = x.shape[-1] * self.outputs
        sheet.number("matrix", weights, weights)
        sheet.number("other", self.outputs, self.outputs)
        x = sheet.product(x, self.outputs)
        return sheet.activate(x, self.act) if self.act else x


def separable(channels: int, outputs: int, stride: int = 1, act: str = "relu") -> Chain:
    """MobileNet's block: every channel filtered by itself, then mixed."""
    return Chain((Conv(channels, 3, stride, each=True, act=act), Conv(outputs, act=act)))


def inverted(
    channels: int, wide: int, outputs: int, stride: int, act: str = "relu6", kernel: int = 3, squeeze: int = 0
) -> Piece:
    """MobileNetV2's block, with MobileNetV3's choices: widen, filter every channel by itself, gate (with `squeeze`
    channels, where it is not 0), narrow without activation; added to the input where the shapes allow it."""
    parts: list[Piece] = [Conv(wide, act=act)] if wide != channels else []
    parts.append(Conv(wide, kernel, stride, each=True, act=act))
    parts += [Gate(squeeze)] if squeeze else []
    parts.append(Conv(outputs, act=""))
    body = Chain(tuple(parts))
    return Added(body) if stride == 1 and channels == outputs else body


def nearest(channels: float, step: int = 8) -> int:
    """The nearest multiple of `step` (8 is what vector units like), never less than nine tenths of what is asked."""
    found = max(step, int(channels + step / 2) // step * step)
    return found + step if found < 0.9 * channels else found
