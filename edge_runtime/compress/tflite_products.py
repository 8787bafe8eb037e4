"""Convolutions and products with weights, from ONNX to TFLite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.compress.tflite_build import SAME, VALID, Quant, options
from edge_runtime.compress.tflite_read import Const, Node, Packed
from edge_runtime.compress.tflite_values import Order, Unsupported, Value, Writer

if TYPE_CHECKING:
    from edge_runtime.tensors import Array

Turn = Callable[["Array"], "Array"]


@dataclass(frozen=True)
class Window:
    """What slides over height and width (a signal has height 1): pairs of numbers, `after` as far as it is read."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    before: tuple[int, int]
    after: tuple[int, int]
    same: bool = False  # the padding is what TFLite calls SAME

    @classmethod
    def of(cls, node: Node, kernel: tuple[int, ...], x: Value, out: tuple[int, ...]) -> Window:
        """`out` is the output's shape. Raises Unsupported for more than two dimensions."""
        if x.rank not in (3, 4):
            raise Unsupported(f"found {x.rank - 2} spatial dimensions, wanted 1 or 2")
        size, width = x.rank - 2, (1,) * (4 - x.rank)
        strides = (*width, *node.attributes.get("strides", [1] * size))
        dilations = (*width, *node.attributes.get("dilations", [1] * size))
        kernel, inside, outside = (*width, *kernel), (*width, *x.shape[2:]), (*width, *out[2:])
        wide = [(one - 1) * step + 1 for one, step in zip(kernel, dilations, strict=True)]
        read = [(n - 1) * s + k - i for n, s, k, i in zip(outside, strides, wide, inside, strict=True)]
        auto = _text(node.attributes.get("auto_pad", "NOTSET"))
        if auto == "NOTSET":
            before = [*[0] * len(width), *node.attributes.get("pads", [0] * 2 * size)[:size]]
        elif auto == "VALID":
            before = [0, 0]
        else:
            before = [max(0, n) // 2 if auto == "SAME_UPPER" else (max(0, n) + 1) // 2 for n in read]
        after = [max(0, n - b) for n, b in zip(read, before, strict=True)]
        same = all(
            n == -(-i // s) and b == max((n - 1) * s + k - i, 0) // 2
            for n, i, s, b, k in zip(outside, inside, strides, before, wide, strict=True)
        )
        made: list[Any] = [tuple(int(n) for n in one) for one in (kernel, strides, dilations, before, after)]
        return cls(made[0], made[1], made[2], made[3], made[4], same)

    @property
    def padding(self) -> int:
        return SAME if self.same else VALID

    def bare(self) -> bool:
        return self.same or not any(self.before + self.after)

    def fields(self) -> dict[str, int]:
        return {"strideH": self.strides[0], "strideW": self.strides[1], "padding": self.padding}

    def pad(self, w: Writer, tensor: int, x: Value, order: Order, fill: float | None = None) -> int:
        """`tensor` with the explicit padding written out, where there is any; `fill` None: real zero."""
        if self.bare():
            return tensor
        pads = [(0, 0), *zip(self.before, self.after, strict=True), (0, 0)]
        shape = tuple(int(n) + sum(pair) for n, pair in zip(w.file.tensors[tensor].shape, pads, strict=True))
        quant = None if w.file.is_float(tensor) else x.quant
        table = w.file.constant(np.array(pads, np.int32))
        if fill is None:
            return w.step("PAD", [tensor, table], shape, options("Pad"), quant)
        value = w.file.step(np.iinfo(quant.dtype).min, quant) if quant else w.floats([fill])
        return w.step("PADV2", [tensor, table, value], shape, options("PadV2"), quant)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


# --- weights


def per_channel(packed: Packed | None, axis: int) -> bool:
    """Whether its scales stand along `axis` (or there is one), as TFLite can say it."""
    return bool(packed and not packed.block and (len(packed.scales) == 1 or packed.axis == axis))


def integer(const: Const | None, axis: int) -> bool:
    """Whether these weights can be used by integer arithmetic."""
    packed = const.packed if const else None
    return bool(packed and packed.bits == 8 and per_channel(packed, axis) and not packed.zeros.any())


def stored_weights(w: Writer, const: Const, turn: Turn, axes: tuple[int, int], whole: bool) -> int:
    """The tensor of weights: `turn` gives TFLite's order, `axes` are the output channels' in ONNX's and in TFLite's.

    `whole`: for integer arithmetic. Otherwise float32, or what is stored smaller followed by DEQUANTIZE; with the
    setting weights="dynamic" steps stand beside float activations, which the engine then quantizes as it runs.
    """
    packed = const.packed
    if const.half:
        half = w.file.constant(turn(const.array).astype(np.float16))
        return w.step("DEQUANTIZE", [half], tuple(w.file.tensors[half].shape), options("Dequantize"), version=3)
    if packed and packed.block and packed.steps.ndim == 2 and packed.axis != axes[0] and packed.bits in (4, 8):
        return _stored_blocks(w, packed, turn)
    if not packed or not per_channel(packed, axes[0]) or packed.bits not in (4, 8):
        return w.file.constant(turn(const.array).astype(np.float32))
    steps = turn(packed.steps)
    dtype = "int4" if packed.bits == 4 else "int8"
    depthwise = axes[1] == 3  # has no kernel for int4 beside floats
    scales, zeros = packed.scales, packed.zeros
    if depthwise and len(scales) == 1:  # LiteRT's kernel beside floats reads one scale a channel, whatever there is
        scales, zeros = np.repeat(scales, steps.shape[3]), np.repeat(zeros, steps.shape[3])
    number = w.file.constant(steps, "", scales, zeros, axes[1] if len(scales) > 1 else 0, dtype)
    if whole or (w.weights == "dynamic" and not zeros.any() and not (depthwise and dtype == "int4")):
        return number
    version = 6 if dtype == "int4" else 5 if len(scales) > 1 else 2
    return w.step("DEQUANTIZE", [number], steps.shape, options("Dequantize"), version=version)


def _stored_blocks(w: Writer, packed: Packed, turn: Turn) -> int:
    """Several scales a row [N, K]. "dynamic": as XNNPACK takes them, with scales of 16 bits. "float": a block is a
    channel of its own, made float32 and then put together."""
    steps, scales, zeros = turn(packed.steps), turn(packed.scales), turn(packed.zeros)
    (wide, deep), block = steps.shape, packed.block
    if deep % block:
        return w.file.constant((steps - _along(zeros, block, deep)) * _along(scales, block, deep))
    dtype = "int4" if packed.bits == 4 else "int8"
    if w.weights == "dynamic" and dtype == "int4" and block % 32 == 0 and not zeros.any():
        return w.file.blocks(steps, scales, block)
    parts = w.file.constant(steps.reshape(-1, block), "", scales.ravel(), zeros.ravel(), 0, dtype)
    version = 6 if dtype == "int4" else 5
    real = w.step("DEQUANTIZE", [parts], (wide * deep // block, block), options("Dequantize"), version=version)
    shape = np.array([wide, deep], np.int32)
    return w.step("RESHAPE", [real, w.file.constant(shape)], (wide, deep), options("Reshape", newShape=shape))


def _along(array: Array, block: int, deep: int) -> Array:
    return np.repeat(array, block, 1)[:, :deep].astype(np.float32)


def stored_bias(w: Writer, const: Const | None, size: int, x: Quant | None, weights: Const) -> int:
    """float32, or int32 (int64 for 16-bit activations) of scale s_in * s_weights."""
    array = np.zeros(size, np.float32) if const is None else np.broadcast_to(const.array.reshape(-1), (size,))
    if not x or not weights.packed:
        return w.file.constant(array.astype(np.float32))
    scales = np.float32(x.scale) * weights.packed.scales.astype(np.float32)
    packed = const.packed if const else None
    if packed and packed.bits == 32 and packed.steps.size == size and not packed.zeros.any() and _near(packed, scales):
        steps = packed.steps.reshape(-1).astype(np.int64)
    else:
        steps = np.rint(array.astype(np.float64) / scales.astype(np.float64)).astype(np.int64)
    if x.dtype == "int8":
        steps = np.clip(steps, -(2**31), 2**31 - 1).astype(np.int32)
    return w.file.constant(steps, "", scales)


def _near(packed: Packed, scales: Array) -> bool:
    return bool(np.allclose(packed.scales, scales, rtol=1e-3, atol=0))


def _given(w: Writer, node: Node, place: int) -> Const | None:
    if len(node.inputs) <= place or not node.inputs[place]:
        return None
    const = w.const(node.inputs[place])
    if const is None:
        raise Unsupported("found a bias that is not constant, wanted a constant one")
    return const


def _weights(w: Writer, node: Node) -> Const:
    const = w.const(node.inputs[1])
    if const is None:
        raise Unsupported("found weights that are not constant, wanted constant ones")
    return const


# --- operators


def convolve(w: Writer, node: Node) -> None:
    x, const, bias = w.value(node.inputs[0]), _weights(w, node), _given(w, node, 2)
    shape, channels = const.array.shape, x.shape[1]
    group = int(node.attributes.get("group", 1))
    window = Window.of(node, shape[2:], x, w.graph.shapes[node.outputs[0]])
    quant = w.wanted(node) if x.quant and integer(const, 0) else None
    y = w.new(node.outputs[0], quant)
    depthwise = group > 1 and shape[1] == 1 and group == channels
    order: Order = (1, 2, 3, 0) if depthwise else (0, 2, 3, 1)

    def turn(array: Array) -> Array:
        array = array[:, :, None] if array.ndim == 3 else array
        return array.transpose(order)

    weights = stored_weights(w, const, turn, (0, 3 if depthwise else 0), bool(quant))
    fields = window.fields() | {"dilationHFactor": window.dilations[0], "dilationWFactor": window.dilations[1]}
    if depthwise:
        fields["depthMultiplier"] = shape[0] // group
    name = "DepthwiseConv2D" if depthwise else "Conv2D"
    inputs = [
        window.pad(w, w.form(x, x.last) if quant else w.real(x, x.last), x, x.last),
        weights,
        stored_bias(w, bias, shape[0], x.quant if quant else None, const),
    ]
    kind = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
    w.emit(kind, inputs, y, y.last, options(name, act=node.act, **fields), _hybrid(w, inputs, kind, bool(quant)))


def _hybrid(w: Writer, inputs: list[int], kind: str, whole: bool) -> int:
    """The version for steps of weights beside float activations; 0 where they are not.

    12 of FULLY_CONNECTED: tflite-runtime 2.14 takes lower ones but reads the first scale alone.
    """
    if whole or w.file.is_float(inputs[1]):
        return 0
    four = w.file.is_int4(inputs[1])
    return {"CONV_2D": 7 if four else 5, "DEPTHWISE_CONV_2D": 7 if four else 6}.get(kind, 12)


def convolve_back(w: Writer, node: Node) -> None:
    """ConvTranspose. Written whole and then cut, where its padding is not TFLite's SAME."""
    x, const, bias = w.value(node.inputs[0]), _weights(w, node), _given(w, node, 2)
    shape, out = const.array.shape, w.graph.shapes[node.outputs[0]]
    steps = node.attributes.get("dilations", [1])
    if x.rank != 4 or int(node.attributes.get("group", 1)) != 1 or any(one != 1 for one in steps):
        raise Unsupported("found groups, dilations or a rank other than 4, wanted none")
    strides = [int(one) for one in node.attributes.get("strides", [1, 1])]
    whole = tuple((n - 1) * s + k for n, s, k in zip(x.shape[2:], strides, shape[2:], strict=True))
    before = _before(node, whole, out[2:])
    if any(b < 0 or b + n > size for b, n, size in zip(before, out[2:], whole, strict=True)):
        raise Unsupported("found output_padding beyond what the kernel reaches, wanted less")
    w.fix_batch()  # its output's size is a constant
    quant = w.wanted(node) if x.quant and integer(const, 1) else None
    y = w.new(node.outputs[0], quant)
    same = all(
        n == size * s and b == (full - n) // 2
        for n, size, s, b, full in zip(out[2:], x.shape[2:], strides, before, whole, strict=True)
    )
    inner = out[2:] if same else whole
    inputs = [
        w.ints([1, *inner, shape[1]]),
        stored_weights(w, const, lambda one: one.transpose(1, 2, 3, 0), (1, 0), bool(quant)),
        w.form(x, x.last) if quant else w.real(x, x.last),
        stored_bias(w, bias, shape[1], x.quant if quant else None, const),
    ]
    settings = options(
        "TransposeConv", padding=SAME if same else VALID, strideH=strides[0], strideW=strides[1], act=node.act
    )
    if inner == out[2:]:
        w.emit("TRANSPOSE_CONV", inputs, y, y.last, settings)
        return
    full = w.step("TRANSPOSE_CONV", inputs, (1, *inner, shape[1]), settings, quant)
    begin = [0, *before, 0]
    ends = [1, *(b + n for b, n in zip(before, out[2:], strict=True)), shape[1]]
    cut = [full, w.ints(begin), w.ints(ends), w.ints([1, 1, 1, 1])]
    w.emit("STRIDED_SLICE", cut, y, y.last, options("StridedSlice", beginMask=0, endMask=0))


def _before(node: Node, whole: tuple[int, ...], out: tuple[int, ...]) -> list[int]:
    auto = _text(node.attributes.get("auto_pad", "NOTSET"))
    over = [max(0, full - n) for full, n in zip(whole, out, strict=True)]
    if auto in ("NOTSET", "VALID") and "output_shape" not in node.attributes:
        return [int(one) for one in node.attributes.get("pads", [0] * 4)[:2]]
    return [(n + 1) // 2 if auto == "SAME_LOWER" else n // 2 for n in over]


def multiply(w: Writer, node: Node) -> None:
    """MatMul (with the bias that may have been fused into it as a third input) and Gemm."""
    x, const = w.value(node.inputs[0]), w.const(node.inputs[1])
    gemm = node.kind == "Gemm"
    turns = (bool(node.attributes.get("transA", 0)), bool(node.attributes.get("transB", 0))) if gemm else (False, False)
    bias = w.const(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
    late = len(node.inputs) > 2 and bool(node.inputs[2]) and bias is None  # a bias that is not constant
    width = w.graph.shapes[node.outputs[0]][-1] if w.graph.shapes[node.outputs[0]] else 0
    if bias and bias.array.size not in (1, width):
        bias, late = None, True
    if const and const.array.ndim == 2 and x.rank >= 2 and not turns[0] and not late:
        dense(w, node, x, _scaled(const, node.attributes.get("alpha", 1.0)), turns[1], bias)
        return
    if node.attributes.get("alpha", 1.0) != 1.0 or node.attributes.get("beta", 1.0) != 1.0 or min(x.rank, 9) < 2:
        raise Unsupported("found alpha, beta or vectors beside factors that are not constant, wanted matrices alone")
    _multiply_two(w, node, x, turns)


def _scaled(const: Const, alpha: float) -> Const:
    if alpha == 1.0:
        return const
    packed = const.packed._replace(scales=const.packed.scales * np.float32(alpha)) if const.packed else None
    return Const(const.array * np.float32(alpha), packed)


def dense(w: Writer, node: Node, x: Value, const: Const, transposed: bool, bias: Const | None) -> None:
    """`const` [K, N], or [N, K] where `transposed`."""
    channel = 0 if transposed else 1
    if bias and node.attributes.get("beta", 1.0) != 1.0:
        bias = Const(bias.array * np.float32(node.attributes["beta"]))
    quant = w.wanted(node) if x.quant and integer(const, channel) else None
    y = w.new(node.outputs[0], quant)
    # blocks run along the rows, which must then stay as they are
    rows, x, order = (None, x, x.plain) if const.packed and const.packed.block else _rows(x)

    def turn(array: Array) -> Array:
        array = array if transposed else array.T
        return array if rows is None else array[:, rows]

    weights = stored_weights(w, const, turn, (channel, 0), bool(quant))
    tensor = w.form(x, order) if quant else w.real(x, order)
    if rows is not None:
        flat = Value(f"{x.name}.flat", (y.shape[0], len(rows)), "float32", y.follows, quant and x.quant)
        tensor = w.reshape(tensor, flat.shape, flat.free(flat.plain), flat)
    inputs = [tensor, weights, stored_bias(w, bias, y.shape[-1], x.quant if quant else None, const)]
    settings = options("FullyConnected", act=node.act, keepNumDims=len(y.shape) > 2)
    w.emit("FULLY_CONNECTED", inputs, y, y.plain, settings, _hybrid(w, inputs, "", bool(quant)))


def _rows(x: Value) -> tuple[Array | None, Value, Order]:
    """Where `x` is a flattened image or signal that stands channels last: how its weights' rows go, that value and
    its order."""
    source = x.source
    if x.forms or not source or x.rank != 2 or source.rank not in (3, 4) or source.shape[0] != x.shape[0]:
        return None, x, x.plain
    if source.last not in source.forms or source.long(source.last) == source.long(source.plain):
        return None, x, x.plain
    rows = np.arange(x.shape[1]).reshape(source.shape[1:])
    rows = np.moveaxis(rows, 0, -1).ravel()
    return rows, source, source.last


def _multiply_two(w: Writer, node: Node, x: Value, turns: tuple[bool, bool]) -> None:
    factor = w.value(node.inputs[1])
    if factor.rank < 2:
        raise Unsupported("found a product with a vector, wanted matrices")
    late = len(node.inputs) > 2 and bool(node.inputs[2])
    quant = w.wanted(node) if x.quant and factor.quant and not late and not factor.const else None
    y = w.new(node.outputs[0], quant)
    turned = list(turns)
    orders = [x.plain, factor.plain]
    for place, value in enumerate((x, factor)):
        swapped = (*value.plain[:-2], value.plain[-1], value.plain[-2])
        if place == 1 and swapped in value.forms and value.plain not in value.forms:
            orders[place], turned[place] = swapped, not turned[place]
    tensors = [
        w.form(one, order) if quant else w.real(one, order) for one, order in zip((x, factor), orders, strict=True)
    ]
    settings = options("BatchMatMul", adjX=turned[0], adjY=turned[1])
    if not late and not node.act:
        w.emit("BATCH_MATMUL", tensors, y, y.plain, settings)
        return
    number = w.step("BATCH_MATMUL", tensors, y.shape, settings, quant)
    other = w.real(w.value(node.inputs[2])) if late else w.floats(0)
    w.emit("ADD", [number, other], y, y.plain, options("Add", act=node.act))


HANDLERS: dict[str, Callable[[Writer, Node], None]] = {
    "Conv": convolve,
    "ConvTranspose": convolve_back,
    "Gemm": multiply,
    "MatMul": multiply,
}
