"""What a network costs, on paper: parameters, MACs and the activations that are alive together, for one item.

An architecture writes its operators on a sheet as onnxruntime runs them after its own fusions: a convolution with its
normalisation and most activations is one operator, the hard swish is two. No PyTorch, ONNX or engine is needed, so a
search can count thousands of candidates. compress/count.py and compress/footprint_read.py count the exported file; the
tests hold that both say the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

from edge_runtime.compress.footprint_read import peak_live
from edge_runtime.errors import UsageError
from edge_runtime.footprint import Parts
from edge_runtime.operators import Node

FLOAT_BYTES = 4
FUSED = ("relu", "relu6", "hardsigmoid")
"""Activations that an engine computes within the operator before them."""


class Spot(NamedTuple):
    """A tensor of one item, the batch left out: channels first."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class Paper:
    """Of an architecture at its resolution, for one item in float32.

    parameters             numbers in the exported file, each normalisation folded into the layer before it
    trained                numbers that training moves
    macs                   multiplications with accumulation of convolutions and matrix products
    peak_activation_bytes  the most that is alive together, in the order of execution; the input is not among it
    input_bytes            what a caller gives
    conv_numbers, matrix_numbers, other_numbers
                           the parameters by what an engine keeps of them: packed weights, and the rest
    scratch_bytes          the largest that one convolution needs besides
    nodes                  the operators, for a latency from a device's operator table
    operators              their number, with those that no table lists
    """

    parameters: int
    trained: int
    macs: int
    peak_activation_bytes: int
    input_bytes: int
    conv_numbers: int
    matrix_numbers: int
    other_numbers: int
    scratch_bytes: int
    operators: int
    nodes: tuple[Node, ...] = field(default=(), repr=False)

    def parts(self, file_bytes: int) -> Parts:
        """For edge_runtime.footprint.predict, of a float file."""
        return Parts(
            file_bytes,
            conv_bytes=FLOAT_BYTES * self.conv_numbers,
            matrix_bytes=FLOAT_BYTES * self.matrix_numbers,
            rest_bytes=FLOAT_BYTES * self.other_numbers,
            input_bytes=self.input_bytes,
            activation_bytes=self.peak_activation_bytes,
            scratch_bytes=self.scratch_bytes,
            operators=self.operators,
        )


class Sheet:
    """The operators so far. Each method writes one layer down and returns its output."""

    def __init__(self) -> None:
        self._steps: list[tuple[str, list[str], list[str]]] = []
        self._sizes: dict[str, int] = {}
        self._nodes: list[Node] = []
        self._given: list[tuple[str, int]] = []
        self._numbers = {"conv": 0, "matrix": 0, "other": 0}
        self._macs = self._trained = self._scratch = 0

    def take(self, shape: tuple[int, ...], item_bytes: int = FLOAT_BYTES) -> Spot:
        """An input of the network."""
        spot = Spot(f"input{len(self._given)}", shape)
        self._given.append((spot.name, item_bytes * spot.size))
        return spot

    def add(self, kind: str, inputs: Sequence[Spot], shape: tuple[int, ...], node: Node | None = None) -> Spot:
        """An operator of one output; `node` where an operator table can know it."""
        return self.split(kind, inputs, [shape], node)[0]

    def split(
        self, kind: str, inputs: Sequence[Spot], shapes: Sequence[tuple[int, ...]], node: Node | None = None
    ) -> list[Spot]:
        """An operator of several outputs."""
        spots = [Spot(f"t{len(self._sizes) + place}", shape) for place, shape in enumerate(shapes)]
        self._sizes |= {one.name: FLOAT_BYTES * one.size for one in spots}
        self._steps.append((kind, [one.name for one in inputs], [one.name for one in spots]))
        if node:
            self._nodes.append(node)
        return spots

    def number(self, kind: str, deployed: int, trained: int) -> None:
        """Parameters of one layer: `kind` is conv, matrix or other."""
        self._numbers[kind] += deployed
        self._trained += trained

    def convolve(
        self, x: Spot, channels: int, kernel: tuple[int, int], strides: tuple[int, int], groups: int, act: str
    ) -> Spot:
        """Padded as TensorFlow's SAME, with a bias."""
        area, depth = prod(kernel), x.shape[0] // groups
        height, width = (-(-size // step) for size, step in zip(x.shape[1:], strides, strict=True))
        shape = (channels, height, width)
        plain: dict[str, Any] = {"kernel": area, "stride": max(strides)}
        if groups > 1 and depth == 1:
            node = Node("depthwise", "float32", height * width, area, channels, **plain)
        else:
            kind = "conv1x1" if area == 1 else "conv"
            node = Node(kind, "float32", height * width, area * depth, channels // groups, count=groups, **plain)
        self._macs += prod(shape) * area * depth
        if area > 1:
            self._scratch = max(self._scratch, FLOAT_BYTES * area * depth * height * width)
        y = self.add("FusedConv" if act in FUSED else "Conv", [x], shape, node)
        return y if act in ("", *FUSED) else self.activate(y, act)

    def activate(self, x: Spot, act: str) -> Spot:
        """An activation that no operator has taken in."""
        if act != "hardswish":
            return self.add({"relu": "Relu", "relu6": "Clip"}[act], [x], x.shape, self.flat("relu", x.shape))
        gate = self.add("HardSigmoid", [x], x.shape, self.flat("relu", x.shape))
        return self.add("Mul", [x, gate], x.shape, self.flat("binary", x.shape))

    def unary(self, kind: str, x: Spot) -> Spot:
        """With a constant."""
        return self.add(kind, [x], x.shape, self.flat("binary", x.shape))

    def pair(self, kind: str, x: Spot, y: Spot, shape: tuple[int, ...]) -> Spot:
        """A product of two computed tensors, one for each of the first axis."""
        self._macs += prod(shape) * x.shape[-1]
        return self.add(
            kind, [x, y], shape, Node("matmul", "float32", shape[-2], x.shape[-1], shape[-1], count=shape[0])
        )

    def plus(self, x: Spot, y: Spot, kind: str = "Add") -> Spot:
        return self.add(kind, [x, y], x.shape, self.flat("binary", x.shape))

    def join(self, parts: Sequence[Spot]) -> Spot:
        """Along the channels."""
        shape = (sum(one.shape[0] for one in parts), *parts[0].shape[1:])
        return self.add("Concat", parts, shape, self.flat("copy", shape))

    def halve(self, x: Spot) -> list[Spot]:
        """Along the channels."""
        half = (x.shape[0] // 2, *x.shape[1:])
        return self.split("Split", [x], [half, half], Node("copy", "float32", x.size // half[0], 1, half[0]))

    def turn(self, x: Spot, shape: tuple[int, ...]) -> Spot:
        """The same numbers in another order of axes."""
        node = Node("transpose", "float32", max(1, x.size // shape[-1]), 1, shape[-1])
        return self.add("Transpose", [x], shape, node)

    def average(self, x: Spot) -> Spot:
        """Over height and width, which stay as sizes of 1."""
        node = Node("globalpool", "float32", prod(x.shape[1:]), 1, x.shape[0])
        return self.add("GlobalAveragePool", [x], (x.shape[0], 1, 1), node)

    def highest(self, x: Spot) -> Spot:
        node = Node("globalpool", "float32", prod(x.shape[1:]), 1, x.shape[0])
        return self.add("ReduceMax", [x], (x.shape[0],), node)

    def pool(self, x: Spot, kernel: int, stride: int, kind: str = "MaxPool") -> Spot:
        """The largest (or the mean) of each window that lies whole in the picture."""
        height, width = ((size - kernel) // stride + 1 for size in x.shape[1:])
        if height < 1 or width < 1:
            raise UsageError(
                f"found a map of {x.shape[1]} x {x.shape[2]} before a window of {kernel} x {kernel}, wanted one at "
                "least as large",
                hint="a higher resolution, or fewer stages",
            )
        node = Node("pool", "float32", height * width, kernel**2, x.shape[0], kernel**2, stride)
        return self.add(kind, [x], (x.shape[0], height, width), node)

    def product(self, x: Spot, columns: int, kind: str = "Gemm") -> Spot:
        """With weights; the last axis is the one that is summed up."""
        rows = prod(x.shape[:-1])
        self._macs += rows * x.shape[-1] * columns
        node = Node("dense", "float32", rows, x.shape[-1], columns)
        return self.add(kind, [x], (*x.shape[:-1], columns), node)

    @staticmethod
    def flat(kind: str, shape: tuple[int, ...]) -> Node:
        """An operator on each number by itself. Its width is the channels of images, of everything else the last
        axis."""
        width = shape[0] if len(shape) == 3 else shape[-1]
        return Node(kind, "float32", max(1, prod(shape) // width), 1, width)

    def paper(self, ends: Sequence[Spot]) -> Paper:
        """`ends`: the network's outputs."""
        return Paper(
            parameters=sum(self._numbers.values()),
            trained=self._trained,
            macs=self._macs,
            peak_activation_bytes=peak_live(self._steps, self._sizes, [one.name for one in ends]),
            input_bytes=sum(size for _, size in self._given),
            conv_numbers=self._numbers["conv"],
            matrix_numbers=self._numbers["matrix"],
            other_numbers=self._numbers["other"],
            scratch_bytes=self._scratch,
            operators=len(self._steps),
            nodes=tuple(self._nodes),
        )
