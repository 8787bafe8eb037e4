"""The pieces (pieces.py) as PyTorch modules, and the network that is put together from them."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from edge_runtime.compress.learn import pieces
from edge_runtime.compress.learn.sheet import Sheet, Spot

_ACTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "": lambda x: x,
    "relu": functional.relu,
    "relu6": functional.relu6,
    "hardsigmoid": functional.hardsigmoid,
    "hardswish": functional.hardswish,
}


class Conv(nn.Module):
    """SAME padding: none is more than half a kernel, and what is odd goes below and to the right."""

    def __init__(self, piece: pieces.Conv, inputs: int) -> None:
        super().__init__()
        self.kernel, self.strides, self.act = piece.area, piece.strides, piece.act
        groups = inputs if piece.each else 1
        self.conv = nn.Conv2d(inputs, piece.channels, piece.area, piece.strides, groups=groups, bias=not piece.norm)
        self.norm = nn.BatchNorm2d(piece.channels) if piece.norm else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right, above, below = same_padding(tuple(x.shape[2:]), self.kernel, self.strides)
        even = (left, above) == (right, below)
        if not even:
            x = functional.pad(x, [left, right, above, below])
        conv, padding = self.conv, (above, left) if even else (0, 0)
        x = functional.conv2d(x, conv.weight, conv.bias, conv.stride, padding, conv.dilation, conv.groups)
        return _ACTS[self.act](self.norm(x))


def same_padding(sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int]) -> list[int]:
    """Left, right, above, below, as functional.pad takes them."""
    made: list[int] = []
    for size, window, step in zip(reversed(sizes), reversed(kernel), reversed(strides), strict=True):
        whole = max(0, (-(-size // step) - 1) * step + window - size)
        made += [whole // 2, whole - whole // 2]
    return made


class Added(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class Gate(nn.Module):
    def __init__(self, piece: pieces.Gate, inputs: int) -> None:
        super().__init__()
        self.squeeze, self.widen = nn.Conv2d(inputs, piece.few, 1), nn.Conv2d(piece.few, inputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = functional.relu(self.squeeze(x.mean(dim=(2, 3), keepdim=True)))
        return x * functional.hardsigmoid(self.widen(gate))


class Fire(nn.Module):
    def __init__(self, piece: pieces.Fire, inputs: int) -> None:
        super().__init__()
        self.squeeze = Conv(pieces.Conv(piece.few, norm=False), inputs)
        self.small, self.large = (Conv(pieces.Conv(piece.half, kernel, norm=False), piece.few) for kernel in (1, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.squeeze(x)
        return torch.cat([self.small(x), self.large(x)], dim=1)


class Shuffle(nn.Module):
    def __init__(self, piece: pieces.Shuffle, shape: tuple[int, ...]) -> None:
        super().__init__()
        split = piece.stride == 1
        self.branch = module(piece.branch, (shape[0] // 2, *shape[1:]) if split else shape)
        self.beside = None if split else module(piece.beside(shape[0]), shape)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept, rest = x.chunk(2, dim=1) if self.beside is None else (self.beside(x), x)
        x = torch.cat([kept, self.branch(rest)], dim=1)
        count, channels, height, width = x.shape
        return x.reshape(count, 2, channels // 2, height, width).transpose(1, 2).reshape(x.shape)


class Mean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(2, 3))


class MeanAndMost(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)


def module(piece: Any, shape: tuple[int, ...]) -> nn.Module:
    """The module of a piece for inputs of (channels, height, width)."""
    match piece:
        case pieces.Conv():
            return Conv(piece, shape[0])
        case pieces.Chain():
            return nn.Sequential(*modules(piece.parts, shape))
        case pieces.Added():
            return Added(module(piece.body, shape))
        case pieces.Gate():
            return Gate(piece, shape[0])
        case pieces.Fire():
            return Fire(piece, shape[0])
        case pieces.Shuffle():
            return Shuffle(piece, shape)
        case pieces.Pool():
            return nn.MaxPool2d(piece.kernel, piece.stride)
        case pieces.Shrink():
            return nn.AvgPool2d(piece.side)
        case pieces.Mean():
            return Mean()
        case pieces.MeanAndMost():
            return MeanAndMost()
        case pieces.Drop():
            return nn.Dropout(piece.share)
        case pieces.Dense():
            dense = nn.Linear(shape[-1], piece.outputs)
            return nn.Sequential(dense, nn.Hardswish()) if piece.act == "hardswish" else dense
    raise TypeError(f"found {piece!r}, wanted one of the pieces of edge_runtime.compress.learn.pieces")


def modules(parts: Sequence[Any], shape: tuple[int, ...]) -> list[nn.Module]:
    made = []
    for one in parts:
        made.append(module(one, shape))
        shape = one.write(Sheet(), Spot("x", shape)).shape
    return made


class Network(nn.Module):
    """Pieces in a row, from float32 (N, channels, height, width) to logits. It takes other heights and widths than
    those it was built for."""

    def __init__(self, parts: Sequence[Any], shape: tuple[int, ...]) -> None:
        super().__init__()
        self.body = nn.ModuleList(modules(parts, shape))
        start(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for one in self.body:
            x = one(x)
        return x

    def forward_parts(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Also the maps after each block, as features.0 and on."""
        found: dict[str, torch.Tensor] = {}
        for one in self.body:
            x = one(x)
            if x.ndim == 4:
                found[f"features.{len(found)}"] = x
        return found | {"logits": x}


def start(net: nn.Module) -> None:
    """He's starting weights by fan-out for what a ReLU follows; the last layer starts small."""
    last: Any = None
    for one in net.modules():
        if isinstance(one, nn.Conv2d | nn.Linear):
            fan = one.weight[0].numel() if one.bias is not None else one.weight.numel() // one.weight.shape[1]
            if isinstance(one, nn.Conv2d) and one.groups > 1:
                fan = one.weight[0].numel()
            nn.init.normal_(one.weight, std=(2 / fan) ** 0.5)
            if one.bias is not None:
                nn.init.zeros_(one.bias)
            last = one
    if last is not None:
        nn.init.normal_(last.weight, std=0.01)
