"""What the TFLite writer knows of each ONNX tensor, and in which orders of axes it exists already.

An order is a tuple of ONNX axes as they stand in the file, -1 for an axis of size 1 that ONNX does not have: an image
is (0, 2, 3, 1), a signal (0, -1, 2, 1). Operators ask for the order that they need; a TRANSPOSE is written only where
no operator has made that order yet, and an ONNX Transpose is none at all: it gives the same tensor other names of axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.compress.tflite_build import LiteFile, Quant, options
from edge_runtime.compress.tflite_read import Const, Graph, Node

if TYPE_CHECKING:
    from edge_runtime.tensors import Array

Order = tuple[int, ...]
_SMALL = 1024  # numbers; constants of fewer are not worth an operator


class Unsupported(Exception):
    """Why a node cannot be written: what was found and what is supported."""


class BatchIsFixed(Exception):
    """The file can only hold one size of batch."""


@dataclass
class Value:
    """`forms` are in steps where there is a `quant`; `reals` are the same made float."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    follows: tuple[int, ...] = ()  # axes that grow with the batch
    quant: Quant | None = None
    const: Const | None = None
    source: Value | None = None  # the same numbers in another shape; written down when asked for
    forms: dict[Order, int] = field(default_factory=dict)
    reals: dict[Order, int] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def plain(self) -> Order:
        return tuple(range(self.rank))

    @property
    def last(self) -> Order:
        """Channels last: what convolutions and pools take, always with four axes for rank 3 and 4."""
        return {4: (0, 2, 3, 1), 3: (0, -1, 2, 1)}.get(self.rank, self.plain)

    def order(self) -> Order:
        """The order in which it exists, the first made where there are several; or comes to exist most cheaply."""
        for order in self.forms:
            return order
        return carried(self.source, self)[1] if self.source else self.plain

    def sizes(self, order: Order) -> tuple[int, ...]:
        return tuple(1 if axis < 0 else self.shape[axis] for axis in order)

    def long(self, order: Order) -> list[int]:
        """The axes that matter for how numbers follow each other: those of size 1 may stand anywhere."""
        return [axis for axis in order if axis >= 0 and (self.shape[axis] != 1 or axis in self.follows)]

    def free(self, order: Order) -> tuple[int, ...]:
        """As `sizes`, with -1 for the axis that is the batch."""
        return tuple(-1 if axis in self.follows else 1 if axis < 0 else self.shape[axis] for axis in order)


@dataclass
class Writer:
    graph: Graph
    weights: str = "float"
    free_batch: bool = True
    file: LiteFile = field(default_factory=LiteFile)
    values: dict[str, Value] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)

    # --- values

    def value(self, name: str) -> Value:
        if name not in self.values:
            self.values[name] = self.new(name)
        return self.values[name]

    def new(self, name: str, quant: Quant | None = None) -> Value:
        """A value of the sizes that the graph's tensor `name` has; also that of `name` from now on."""
        const = self.graph.constants.get(name)
        if const and name in self.graph.unsteady:
            self.fix_batch()
        shape, dtype = self.graph.shapes[name], self.graph.dtypes[name]
        if self.free_batch and len(self.graph.doubles.get(name, shape)) != len(shape):
            self.fix_batch()  # a Squeeze of whatever has size 1
        follows = self.graph.follows(name) if self.free_batch and not const else ()
        if const and const.packed and const.packed.bits == 8 and len(const.packed.scales) == 1:
            quant = Quant(float(const.packed.scales[0]), int(const.packed.zeros[0]))
        made = self.values[name] = Value(name, shape, "float32" if quant else dtype, follows, quant, const)
        return made

    def fix_batch(self) -> None:
        if self.free_batch:
            raise BatchIsFixed

    def const(self, name: str) -> Const | None:
        return self.graph.constants.get(name)

    # --- tensors

    def tensor(self, name: str, shape: tuple[int, ...], dtype: str, quant: Quant | None = None) -> int:
        base, number = name, 1
        while name in self._names:
            number += 1
            name = f"{base}.{number}"
        self._names.add(name)
        return self.file.tensor(name, shape, dtype, quant)

    def make(self, value: Value, order: Order, write: Callable[[int], None], real: bool = False) -> int:
        """A tensor for `value` in `order`, filled by what `write` adds; kept as one of its forms."""
        quant = None if real else value.quant
        dtype = quant.dtype if quant else value.dtype
        number = self.tensor(value.name, value.sizes(order), dtype, quant)
        write(number)
        (value.reals if real else value.forms)[order] = number
        return number

    def emit(
        self, kind: str, inputs: list[int], value: Value, order: Order, settings: Any = None, version: int = 0
    ) -> int:
        """One operator that makes `value` in `order`."""
        return self.make(value, order, lambda number: self.file.operator(kind, inputs, [number], settings, version))

    def step(
        self,
        kind: str,
        inputs: list[int],
        shape: tuple[int, ...],
        settings: Any = None,
        quant: Quant | None = None,
        dtype: str = "float32",
        version: int = 0,
    ) -> int:
        """One operator whose output has no name in the ONNX graph."""
        number = self.tensor(f"step{len(self.file.tensors)}", shape, quant.dtype if quant else dtype, quant)
        self.file.operator(kind, inputs, [number], settings, version)
        return number

    def ints(self, numbers: Any) -> int:
        return self.file.constant(np.asarray(numbers, np.int32))

    def floats(self, numbers: Any) -> int:
        return self.file.constant(np.asarray(numbers, np.float32))

    # --- forms

    def form(self, value: Value, order: Order | None = None) -> int:
        """The tensor as it is stored: steps where it has a quantization. Default: plain order."""
        order = value.plain if order is None else order
        if order not in value.forms:
            if value.const:
                value.forms[order] = self._constant(value, order)
            elif value.source and not value.forms:
                self._reshape(value, value.source)
        if order in value.forms:
            return value.forms[order]
        base = next(iter(value.forms))
        number = self.turn(value.forms[base], value, base, order)
        value.forms[order] = number
        return number

    def real(self, value: Value, order: Order | None = None) -> int:
        """The tensor as float32."""
        order = value.plain if order is None else order
        if not value.quant:
            return self.form(value, order)
        if order not in value.reals:
            steps = self.form(value, order)
            settings = options("Dequantize")
            self.make(value, order, lambda one: self.file.operator("DEQUANTIZE", [steps], [one], settings), real=True)
        return value.reals[order]

    def _constant(self, value: Value, order: Order) -> int:
        const = value.const or Const(np.zeros(0))
        array, packed = const.array, const.packed
        if value.quant and packed:
            return self.file.constant(turned(packed.steps, order), "", packed.scales, packed.zeros)
        if const.half and array.size > _SMALL:
            half = self.file.constant(turned(array, order).astype(np.float16))
            return self.step("DEQUANTIZE", [half], value.sizes(order), options("Dequantize"), version=3)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        return self.file.constant(turned(array, order))

    def _reshape(self, value: Value, source: Value) -> None:
        """Write down what was only said to be the same numbers in another shape."""
        order, made = carried(source, value)
        value.forms[made] = self.reshape(self.form(source, order), value.sizes(made), value.free(made), value)

    def reshape(self, tensor: int, shape: tuple[int, ...], free: tuple[int, ...], value: Value) -> int:
        """RESHAPE to `shape`; `free` is the same with -1 for the batch. `value` says name, dtype and quantization."""
        if free.count(-1) > 1:
            self.fix_batch()
        number = self.tensor(value.name, shape, value.quant.dtype if value.quant else value.dtype, value.quant)
        settings = options("Reshape", newShape=np.array(free, np.int32))
        self.file.operator("RESHAPE", [tensor, self.ints(free)], [number], settings)
        return number

    def turn(self, tensor: int, value: Value, base: Order, order: Order) -> int:
        """`tensor` holds `value` in the order `base`: the same in `order`."""
        if value.long(base) == value.long(order):
            return self.reshape(tensor, value.sizes(order), value.free(order), value)
        bare, wanted = (tuple(axis for axis in one if axis >= 0) for one in (base, order))
        if bare != base:
            tensor = self.reshape(tensor, value.sizes(bare), value.free(bare), value)
        perm = [bare.index(axis) for axis in wanted]
        number = self.tensor(
            value.name, value.sizes(wanted), value.quant.dtype if value.quant else value.dtype, value.quant
        )
        self.file.operator("TRANSPOSE", [tensor, self.ints(perm)], [number], options("Transpose"))
        if wanted != order:
            number = self.reshape(number, value.sizes(order), value.free(order), value)
        return number

    # --- quantization

    def wanted(self, node: Node, place: int = 0) -> Quant | None:
        """The quantization that all users of an output give it; None where any wants it real."""
        name = node.outputs[place]
        users = self.graph.users.get(name, [])
        if name in self.graph.outputs or not users or any(one.kind != "QuantizeLinear" for one in users):
            return None
        found = {quant_of(self.graph, one) for one in users}
        return found.pop() if len(found) == 1 else None

    def convert(self, value: Value, quant: Quant, made: Value) -> None:
        """Fill `made`, of the same shape, with `value` in the steps of `quant`."""
        order = value.order()
        self.emit("QUANTIZE", [self.real(value, order)], made, order, options("Quantize"))

    def requantized(self, value: Value, quant: Quant, order: Order) -> int:
        """The tensor of `value` in `order` with the steps of `quant`.

        By way of float32: QUANTIZE from int8 to int8 is one step off for 6 to 18 % of the values in XNNPACK (2.3).
        """
        if value.quant == quant:
            return self.form(value, order)
        number = self.real(value, order)
        return self.step("QUANTIZE", [number], value.sizes(order), options("Quantize"), quant)


def quant_of(graph: Graph, node: Node) -> Quant:
    """What a QuantizeLinear or DequantizeLinear says. Raises Unsupported where it is not per tensor."""
    scale = graph.constants.get(node.inputs[1])
    zero = graph.constants.get(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
    if not scale or scale.array.size != 1 or (len(node.inputs) > 2 and node.inputs[2] and not zero):
        raise Unsupported("found scales that are not one constant, wanted activations quantized per tensor")
    dtype = zero.array.dtype.name if zero else "uint8"
    shift = {"int8": 0, "uint8": 128, "int16": 0, "uint16": 32768}.get(dtype)
    if shift is None:
        raise Unsupported(f"found {dtype} activations, wanted uint8, int8 or int16")
    number = (int(zero.array.reshape(-1)[0]) if zero else 0) - shift
    wide = dtype.endswith("16")
    if wide and number:
        raise Unsupported(f"found 16-bit activations with zero point {number + shift}, wanted {shift} (symmetric)")
    return Quant(float(np.float32(scale.array.reshape(-1)[0])), number, "int16" if wide else "int8")


def carried(source: Value, value: Value) -> tuple[Order, Order]:
    """Orders of `source` and of `value`, whose numbers it shares, in which a RESHAPE makes one of the other.

    A RESHAPE splits axes and merges neighbours: channels into groups, height and width into places. The order of
    `source` is the one that it has, if what is to be merged stands together there; else it is put where its last axis
    stands, which is where the heads of an attention belong.
    """
    groups, order = _groups(source, value), source.order()
    rest = source.long(order)
    if groups is None:
        return order if rest == sorted(rest) else source.plain, value.plain
    wanted, found = list[int](), list[int]()
    while rest:
        ours, theirs = next(one for one in groups if rest[-1] in one[0])
        wanted, found = ours + wanted, theirs + found
        rest = [axis for axis in rest if axis not in ours]
    if wanted != source.long(order):
        order = _with_ones(source, wanted)
    return order, value.plain if found == sorted(found) else _with_ones(value, found)


def _with_ones(value: Value, axes: list[int]) -> Order:
    return (*axes[:1], *(axis for axis in value.plain if axis not in axes), *axes[1:])


def _groups(source: Value, value: Value) -> list[tuple[list[int], list[int]]] | None:
    """Runs of axes of both that hold the same numbers; axes of size 1 are left out."""
    left, right = source.long(source.plain), value.long(value.plain)
    groups = []
    while left and right:
        ours, theirs = [left.pop(0)], [right.pop(0)]
        while (pair := (_amount(source, ours), _amount(value, theirs)))[0] != pair[1]:
            rest = left if pair[0] < pair[1] else right
            if not rest:
                return None
            (ours if pair[0] < pair[1] else theirs).append(rest.pop(0))
        groups.append((ours, theirs))
    return None if left or right else groups


def _amount(value: Value, axes: list[int]) -> int:
    # the batch counts as a number that no other product is
    return math.prod(1_000_003 if axis in value.follows else value.shape[axis] for axis in axes)


def turned(array: Array, order: Order) -> Array:
    """An array in ONNX's order, in `order`."""
    bare = [axis for axis in order if axis >= 0]
    array = array.transpose(bare)
    for place, axis in enumerate(order):
        if axis < 0:
            array = np.expand_dims(array, place)
    return array


def spread(array: Array, rank: int) -> Array:
    """As numpy broadcasts: axes of size 1 in front until it has `rank`."""
    return array.reshape((1,) * (rank - array.ndim) + array.shape)
