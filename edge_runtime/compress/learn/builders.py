"""Compact architectures by name, as settings: `build()` makes the PyTorch module, `paper()` counts without PyTorch.

    separable      depthwise-separable blocks with widths of their own: MobileNet (Howard and others, 2017) made small;
                   the malaria net is one of them
    mobilenetv1    Howard and others, 2017, table 1
    mobilenetv2    Sandler and others, 2018, table 2
    mobilenetv3    Howard and others, 2019, tables 1 and 2: "small" and "large"
    squeezenet     Iandola and others, 2016: version 1.1
    shufflenetv2   Ma and others, 2018, table 5
    efficientlite  EfficientNet (Tan and Le, 2019) without gates and with ReLU6; `compound(phi)` scales all three
    dscnn          Zhang and others, 2017 (Hello Edge): a keyword spotter on spectrograms
    transformer    a small BERT (Devlin and others, 2019) with few layers and heads: builder_text.py

`width` multiplies channels, `depth` repeats of blocks, `resolution` is the side of the picture.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

from edge_runtime.compress.learn.builder_text import Transformer
from edge_runtime.compress.learn.checks import check_shares, check_whole
from edge_runtime.compress.learn.pieces import (
    Conv,
    Dense,
    Drop,
    Fire,
    Mean,
    MeanAndMost,
    Piece,
    Pool,
    Shrink,
    Shuffle,
    inverted,
    nearest,
    separable,
)
from edge_runtime.compress.learn.sheet import Paper, Sheet
from edge_runtime.errors import UsageError


class Builder(Protocol):
    """A frozen dataclass of settings."""

    def build(self) -> Any:
        """A fresh torch.nn.Module; its weights follow from torch's seed."""

    def paper(self) -> Paper: ...

    def example(self) -> tuple[Any, ...]:
        """One item of the network's inputs, as tensors of zeros."""


class Pieces:
    """What builders from pieces share."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the input: channels, height, width."""
        raise NotImplementedError

    def pieces(self) -> tuple[Piece, ...]:
        raise NotImplementedError

    def paper(self) -> Paper:
        sheet = Sheet()
        x = sheet.take(self.shape)
        for one in self.pieces():
            x = one.write(sheet, x)
        return sheet.paper([x])

    def build(self) -> Any:
        from edge_runtime.compress.torch_graph import need_torch

        need_torch()
        from edge_runtime.compress.learn.blocks import Network

        return Network(self.pieces(), self.shape)

    def example(self) -> tuple[Any, ...]:
        from edge_runtime.compress.torch_graph import need_torch

        return (need_torch().zeros(1, *self.shape),)


@dataclass(frozen=True)
class Picture(Pieces):
    """What picture builders share. Raises UsageError for settings out of range."""

    width: float = 1.0
    depth: float = 1.0
    resolution: int = 64
    channels: int = 3
    classes: int = 2
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check_whole(self, ("channels", "classes"), 1)
        check_whole(self, ("resolution",), 8)
        check_shares(self, ("width", "depth"), 0.05, 10)
        check_shares(self, ("dropout",), 0, 0.9)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.resolution, self.resolution

    def wide(self, channels: float) -> int:
        return nearest(channels * self.width)

    def times(self, repeats: int) -> int:
        return max(1, math.ceil(round(repeats * self.depth, 6)))

    def head(self) -> tuple[Piece, ...]:
        return Mean(), Drop(self.dropout), Dense(self.classes)


@dataclass(frozen=True)
class Separable(Pieces):
    """A first convolution of `stem` channels (stride 2), then `depth` blocks: `widths` and `strides` of each; those
    behind the first `depth` are left out. `most`: the head sees the maximum beside the mean. `shrink`: the picture is
    averaged over squares of that side first, so that nets of several resolutions take the same input.

    With 16, (32, 48, 64, 64), (2, 1, 2, 1) and one class it is the malaria net."""

    stem: int = 16
    widths: tuple[int, ...] = (32, 48, 64, 64)
    strides: tuple[int, ...] = (2, 1, 2, 1)
    depth: int = 4
    most: bool = True
    shrink: int = 1
    resolution: int = 64
    channels: int = 3
    classes: int = 1
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check_whole(self, ("stem", "depth", "channels", "classes", "shrink"), 1)
        check_whole(self, ("resolution",), 8 * self.shrink)
        check_shares(self, ("dropout",), 0, 0.9)
        if not 1 <= self.depth <= min(len(self.widths), len(self.strides)):
            raise UsageError(
                f"separable: found {len(self.widths)} widths, {len(self.strides)} strides and a depth of {self.depth}, "
                "wanted a width and a stride for each block"
            )
        if any(not isinstance(one, int) or one < 1 for one in self.widths) or any(
            one not in (1, 2) for one in self.strides
        ):
            raise UsageError(
                f"separable: found widths {list(self.widths)} and strides {list(self.strides)}, wanted widths of 1 and "
                "more and strides of 1 or 2"
            )
        # what is left out plays no part in whether two are the same
        object.__setattr__(self, "widths", tuple(self.widths[: self.depth]))
        object.__setattr__(self, "strides", tuple(self.strides[: self.depth]))

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.resolution, self.resolution

    def pieces(self) -> tuple[Piece, ...]:
        made: list[Piece] = [Shrink(self.shrink)] if self.shrink > 1 else []
        made.append(Conv(self.stem, 3, 2))
        channels = self.stem
        for outputs, stride in zip(self.widths, self.strides, strict=True):
            made.append(separable(channels, outputs, stride))
            channels = outputs
        return (*made, MeanAndMost() if self.most else Mean(), Drop(self.dropout), Dense(self.classes))


@dataclass(frozen=True)
class MobileNetV1(Picture):
    def pieces(self) -> tuple[Piece, ...]:
        made: list[Piece] = [Conv(self.wide(32), 3, 2)]
        channels = self.wide(32)
        for outputs, repeats, stride in ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 2)):
            for place in range(self.times(repeats)):
                made.append(separable(channels, self.wide(outputs), stride if place == 0 else 1))
                channels = self.wide(outputs)
        return (*made, *self.head())


@dataclass(frozen=True)
class MobileNetV2(Picture):
    def pieces(self) -> tuple[Piece, ...]:
        made: list[Piece] = [Conv(self.wide(32), 3, 2, act="relu6")]
        channels = self.wide(32)
        table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2))
        for expansion, outputs, repeats, stride in (*table, (6, 320, 1, 1)):
            for place in range(self.times(repeats)):
                wide = nearest(channels * expansion) if expansion > 1 else channels
                made.append(inverted(channels, wide, self.wide(outputs), stride if place == 0 else 1))
                channels = self.wide(outputs)
        # as published: a net made wider has a wider last layer, a net made narrower keeps it
        last = nearest(1280 * max(1.0, self.width))
        return (*made, Conv(last, act="relu6"), *self.head())


_Row = tuple[int, int, int, int, str, int]  # kernel, expanded channels, channels, gated, activation, stride
_V3: dict[str, tuple[_Row, ...]] = {
    "small": (
        *((3, 16, 16, 1, "relu", 2), (3, 72, 24, 0, "relu", 2), (3, 88, 24, 0, "relu", 1)),
        *((5, 96, 40, 1, "hardswish", 2), (5, 240, 40, 1, "hardswish", 1), (5, 240, 40, 1, "hardswish", 1)),
        *((5, 120, 48, 1, "hardswish", 1), (5, 144, 48, 1, "hardswish", 1)),
        *((5, 288, 96, 1, "hardswish", 2), (5, 576, 96, 1, "hardswish", 1), (5, 576, 96, 1, "hardswish", 1)),
    ),
    "large": (
        *((3, 16, 16, 0, "relu", 1), (3, 64, 24, 0, "relu", 2), (3, 72, 24, 0, "relu", 1)),
        *((5, 72, 40, 1, "relu", 2), (5, 120, 40, 1, "relu", 1), (5, 120, 40, 1, "relu", 1)),
        *((3, 240, 80, 0, "hardswish", 2), (3, 200, 80, 0, "hardswish", 1)),
        *((3, 184, 80, 0, "hardswish", 1), (3, 184, 80, 0, "hardswish", 1)),
        *((3, 480, 112, 1, "hardswish", 1), (3, 672, 112, 1, "hardswish", 1)),
        *((5, 672, 160, 1, "hardswish", 2), (5, 960, 160, 1, "hardswish", 1), (5, 960, 160, 1, "hardswish", 1)),
    ),
}
_V3_LAST = {"small": 1024, "large": 1280}


@dataclass(frozen=True)
class MobileNetV3(Picture):
    """`depth` repeats (or leaves out) the blocks that keep their input's shape."""

    kind: str = "small"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in _V3:
            raise UsageError(f"mobilenetv3: kind: found {self.kind!r}, wanted small or large")

    def pieces(self) -> tuple[Piece, ...]:
        made: list[Piece] = [Conv(self.wide(16), 3, 2, act="hardswish")]
        channels = self.wide(16)
        for rows in _runs(_V3[self.kind]):
            for place in range(self.times(len(rows))):
                kernel, wide, outputs, gated, act, stride = rows[min(place, len(rows) - 1)]
                wide, outputs = self.wide(wide), self.wide(outputs)
                squeeze = nearest(wide / 4) if gated else 0
                made.append(inverted(channels, wide, outputs, stride, act, kernel, squeeze))
                channels = outputs
        made.append(Conv(self.wide(_V3[self.kind][-1][1]), act="hardswish"))
        last = nearest(_V3_LAST[self.kind] * max(1.0, self.width))
        return (*made, Mean(), Dense(last, "hardswish"), Drop(self.dropout), Dense(self.classes))


def _runs(rows: Sequence[_Row]) -> list[list[_Row]]:
    """Each block that changes the shape, with those behind it that keep it."""
    made: list[list[_Row]] = []
    for row in rows:
        if made and row[5] == 1 and row[2] == made[-1][-1][2]:
            made[-1].append(row)
        else:
            made.append([row])
    return made


@dataclass(frozen=True)
class SqueezeNet(Picture):
    def __post_init__(self) -> None:
        super().__post_init__()
        self.paper()  # its pools leave nothing of a small picture

    def pieces(self) -> tuple[Piece, ...]:
        made: list[Piece] = [Conv(self.wide(64), 3, 2, norm=False), Pool()]
        stages = (((16, 64), (16, 64)), ((32, 128), (32, 128)), ((48, 192), (48, 192), (64, 256), (64, 256)))
        for number, stage in enumerate(stages):
            for place in range(self.times(len(stage))):
                few, half = stage[min(place, len(stage) - 1)]
                made.append(Fire(self.wide(few), self.wide(half)))
            made += [Pool()] if number < 2 else []
        return (*made, Drop(self.dropout), Conv(self.classes, act="", norm=False), Mean())


@dataclass(frozen=True)
class ShuffleNetV2(Picture):
    """Width 1 has 116, 232 and 464 channels in its stages."""

    def pieces(self) -> tuple[Piece, ...]:
        made: list[Piece] = [Conv(24, 3, 2), Pool()]
        for outputs, repeats in ((116, 4), (232, 8), (464, 4)):
            channels = nearest(outputs * self.width, 4)
            made += [Shuffle(channels, 2 if place == 0 else 1) for place in range(self.times(repeats))]
        return (*made, Conv(1024), *self.head())


@dataclass(frozen=True)
class EfficientLite(Picture):
    """First and last layers keep their width, first and last stages their depth, as in the lite versions."""

    @classmethod
    def compound(cls, phi: float, resolution: int = 224, **settings: Any) -> EfficientLite:
        """Depth, width and resolution made larger together, by 1.2, 1.1 and 1.15 to the power of `phi`."""
        side = round(resolution * 1.15**phi / 8) * 8
        return cls(width=1.1**phi, depth=1.2**phi, resolution=side, **settings)

    def pieces(self) -> tuple[Piece, ...]:
        made: list[Piece] = [Conv(32, 3, 2, act="relu6")]
        channels = 32
        early = ((1, 3, 16, 1, 1), (6, 3, 24, 2, 2), (6, 5, 40, 2, 2), (6, 3, 80, 3, 2), (6, 5, 112, 3, 1))
        table = (*early, (6, 5, 192, 4, 2), (6, 3, 320, 1, 1))
        for number, (expansion, kernel, outputs, repeats, stride) in enumerate(table):
            for place in range(repeats if number in (0, len(table) - 1) else self.times(repeats)):
                step, wide = stride if place == 0 else 1, channels * expansion
                made.append(inverted(channels, wide, self.wide(outputs), step, kernel=kernel))
                channels = self.wide(outputs)
        return (*made, Conv(1280, act="relu6"), *self.head())


@dataclass(frozen=True)
class DsCnn(Pieces):
    """Spectrograms (1, frames, bands): a convolution over time and frequency, then `depth` separable blocks of `width`
    channels. The defaults are the small one of the paper."""

    width: int = 64
    depth: int = 4
    frames: int = 49
    bands: int = 10
    classes: int = 12
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check_whole(self, ("width", "depth", "classes"), 1)
        check_whole(self, ("frames", "bands"), 4)
        check_shares(self, ("dropout",), 0, 0.9)

    @property
    def shape(self) -> tuple[int, int, int]:
        return 1, self.frames, self.bands

    def pieces(self) -> tuple[Piece, ...]:
        blocks = [separable(self.width, self.width) for _ in range(self.depth)]
        return (Conv(self.width, (10, 4), 2), *blocks, Mean(), Drop(self.dropout), Dense(self.classes))


BUILDERS: dict[str, type[Any]] = {
    "separable": Separable,
    "mobilenetv1": MobileNetV1,
    "mobilenetv2": MobileNetV2,
    "mobilenetv3": MobileNetV3,
    "squeezenet": SqueezeNet,
    "shufflenetv2": ShuffleNetV2,
    "efficientlite": EfficientLite,
    "dscnn": DsCnn,
    "transformer": Transformer,
}


def find_builder(name: str) -> type[Any]:
    """Raises UsageError with the closest names."""
    if name not in BUILDERS:
        raise UsageError(f"no architecture is called {name!r}{_closest(name, list(BUILDERS))}")
    return BUILDERS[name]


def make_builder(name: str, **settings: Any) -> Any:
    """The builder of that name with these settings, lists taken as tuples. Raises UsageError: an unknown name or
    setting, a setting out of range."""
    kind = find_builder(name)
    known = [one.name for one in fields(kind)]
    for one in settings:
        if one not in known:
            raise UsageError(f"{name}: no setting is called {one!r}{_closest(one, known)}")
    plain = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    return kind(**plain)


def _closest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.4)
    return f"; the closest are {', '.join(close)}" if close else f"; there are {', '.join(known)}"
