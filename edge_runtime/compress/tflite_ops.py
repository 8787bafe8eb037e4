"""Operators on each number and along rows (activations, arithmetic, softmax, normalization), from ONNX to TFLite."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.compress.tflite_build import Quant, options
from edge_runtime.compress.tflite_read import Node
from edge_runtime.compress.tflite_values import Order, Unsupported, Value, Writer, spread, turned

if TYPE_CHECKING:
    from edge_runtime.tensors import Array

# ONNX operator -> TFLite operator and the name of its options
_BINARY = {
    "Add": ("ADD", "Add"),
    "Sub": ("SUB", "Sub"),
    "Mul": ("MUL", "Mul"),
    "Div": ("DIV", "Div"),
    "Pow": ("POW", "Pow"),
    "Min": ("MINIMUM", "MaximumMinimum"),
    "Max": ("MAXIMUM", "MaximumMinimum"),
    "Equal": ("EQUAL", "Equal"),
    "Greater": ("GREATER", "Greater"),
    "Less": ("LESS", "Less"),
    "And": ("LOGICAL_AND", "LogicalAnd"),
    "Or": ("LOGICAL_OR", "LogicalOr"),
    "GreaterOrEqual": ("GREATER_EQUAL", "GreaterEqual"),
    "LessOrEqual": ("LESS_EQUAL", "LessEqual"),
}
_FUSING = ("ADD", "SUB", "MUL", "DIV")
_UNARY = {
    "Tanh": "TANH",
    "Sqrt": "SQRT",
    "Neg": "NEG",
    "Abs": "ABS",
    "Exp": "EXP",
    "Log": "LOG",
    "Relu": "RELU",
    "Sigmoid": "LOGISTIC",
    "HardSwish": "HARD_SWISH",
    "Floor": "FLOOR",
    "Ceil": "CEIL",
    "Sin": "SIN",
    "Cos": "COS",
    "Elu": "ELU",
    "Not": "LOGICAL_NOT",
    "Sign": "SIGN",
    "Round": "ROUND",
}
_OPTIONS = {"NEG": "Neg", "ABS": "Abs", "EXP": "Exp", "HARD_SWISH": "HardSwish", "COS": "Cos", "SIGN": "Sign"}
# What the interpreters ask of the output's quantization: for int8 and for int16.
_FIXED = {
    "LOGISTIC": (Quant(1 / 256, -128), Quant(1 / 32768, 0, "int16")),
    "SOFTMAX": (Quant(1 / 256, -128), Quant(1 / 32768, 0, "int16")),
    "TANH": (Quant(1 / 128, 0), Quant(1 / 32768, 0, "int16")),
}
_WHOLE = ("RELU", "HARD_SWISH", "LOGISTIC", "TANH")


def _answer(w: Writer, node: Node, kind: str, x: Value) -> Quant | None:
    """The quantization of the output where the operator can run in integers."""
    wanted = w.wanted(node) if x.quant else None
    if wanted and kind in _FIXED:
        return _FIXED[kind][wanted.dtype == "int16"]
    if wanted and wanted.dtype == "int16" and kind == "HARD_SWISH":
        return None
    return wanted


def unary(w: Writer, node: Node) -> None:
    x, kind = w.value(node.inputs[0]), _UNARY[node.kind]
    if kind == "ELU" and node.attributes.get("alpha", 1.0) != 1.0:
        raise Unsupported(f"found alpha {node.attributes['alpha']}, wanted 1")
    quant = _answer(w, node, kind, x) if kind in _WHOLE else None
    order = x.order()
    tensor = w.form(x, order) if quant else w.real(x, order)
    settings = options(_OPTIONS[kind]) if kind in _OPTIONS else None
    w.emit(kind, [tensor], w.new(node.outputs[0], quant), order, settings)


def clip(w: Writer, node: Node) -> None:
    x = w.value(node.inputs[0])
    low, high = limits(w.graph.constants, node)
    order = x.order()
    kind = {(0.0, 6.0): "RELU6", (0.0, math.inf): "RELU", (-1.0, 1.0): "RELU_N1_TO_1"}.get((low, high))
    if kind and x.dtype == "float32":
        quant = w.wanted(node) if x.quant and kind != "RELU_N1_TO_1" else None
        tensor = w.form(x, order) if quant else w.real(x, order)
        w.emit(kind, [tensor], w.new(node.outputs[0], quant), order)
        return
    y, tensor = w.new(node.outputs[0]), w.real(x, order)
    settings = options("MaximumMinimum")
    if math.isfinite(high):
        top = w.file.constant(np.array(high, x.dtype))
        if not math.isfinite(low):
            w.emit("MINIMUM", [tensor, top], y, order, settings)
            return
        tensor = w.step("MINIMUM", [tensor, top], x.sizes(order), settings, dtype=x.dtype)
    w.emit("MAXIMUM", [tensor, w.file.constant(np.array(max(low, -3e38), x.dtype))], y, order, settings)


def limits(constants: Any, node: Node) -> tuple[float, float]:
    """What a Clip keeps to. Raises Unsupported where that is not constant."""
    found = [float(node.attributes.get("min", -math.inf)), float(node.attributes.get("max", math.inf))]
    for place, name in enumerate(node.inputs[1:3]):
        if name and name not in constants:
            raise Unsupported("found limits that are not constant, wanted constant ones")
        if name:
            found[place] = float(constants[name].array.reshape(-1)[0])
    return found[0], found[1]


def leaky(w: Writer, node: Node) -> None:
    x = w.value(node.inputs[0])
    quant, order = _answer(w, node, "LEAKY_RELU", x), x.order()
    tensor = w.form(x, order) if quant else w.real(x, order)
    settings = options("LeakyRelu", alpha=float(node.attributes.get("alpha", 0.01)))
    w.emit("LEAKY_RELU", [tensor], w.new(node.outputs[0], quant), order, settings)


def prelu(w: Writer, node: Node) -> None:
    x, slope = w.value(node.inputs[0]), w.const(node.inputs[1])
    if slope is None:
        raise Unsupported("found slopes that are not constant, wanted constant ones")
    order = x.order()
    alpha = turned(spread(slope.array, x.rank), order)
    if alpha.shape[0] != 1:
        raise Unsupported("found slopes that differ along the batch, wanted them alike")
    w.emit("PRELU", [w.real(x, order), w.floats(alpha[0])], w.new(node.outputs[0]), order)


def hard_sigmoid(w: Writer, node: Node) -> None:
    """As min(max(6 alpha x + 6 beta, 0), 6) / 6: the limits of 0 and 6 come with the addition."""
    x, order = w.value(node.inputs[0]), w.value(node.inputs[0]).order()
    alpha, beta = float(node.attributes.get("alpha", 0.2)), float(node.attributes.get("beta", 0.5))
    number = w.real(x, order)
    if abs(alpha * 6 - 1) > 1e-6:
        number = w.step("MUL", [number, w.floats(6 * alpha)], x.sizes(order), options("Mul", act=""))
    number = w.step("ADD", [number, w.floats(6 * beta)], x.sizes(order), options("Add", act="RELU6"))
    w.emit("MUL", [number, w.floats(1 / 6)], w.new(node.outputs[0]), order, options("Mul", act=""))


def gelu(w: Writer, node: Node) -> None:
    x, order = w.value(node.inputs[0]), w.value(node.inputs[0]).order()
    near = node.attributes.get("approximate", "none") in ("tanh", b"tanh")
    w.emit("GELU", [w.real(x, order)], w.new(node.outputs[0]), order, options("Gelu", approximate=near))


def erf(w: Writer, node: Node) -> None:
    """TFLite has none: Abramowitz and Stegun 7.1.26, within 1.5e-7."""
    x, order = w.value(node.inputs[0]), w.value(node.inputs[0]).order()
    shape, number = x.sizes(order), w.real(x, order)

    def step(kind: str, *inputs: int) -> int:
        return w.step(
            kind, list(inputs), shape, options(kind.capitalize()) if kind in (*_FUSING, "ABS", "NEG") else None
        )

    size = step("ABS", number)
    part = step("ADD", step("MUL", size, w.floats(0.3275911)), w.floats(1))
    t = w.step("DIV", [w.floats(1), part], shape, options("Div"))
    total = step("MUL", t, w.floats(1.061405429))
    for factor in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        total = step("MUL", step("ADD", total, w.floats(factor)), t)
    fall = step("EXP", step("NEG", step("MUL", number, number)))
    rest = w.step("SUB", [w.floats(1), step("MUL", total, fall)], shape, options("Sub"))
    sign = step("DIV", number, w.step("MAXIMUM", [size, w.floats(1e-30)], shape, options("MaximumMinimum")))
    w.emit("MUL", [rest, sign], w.new(node.outputs[0]), order, options("Mul"))


def reciprocal(w: Writer, node: Node) -> None:
    x, order = w.value(node.inputs[0]), w.value(node.inputs[0]).order()
    w.emit("DIV", [w.floats(1), w.real(x, order)], w.new(node.outputs[0]), order, options("Div", act=""))


# --- two and more inputs


def _orders(parts: list[Value], rank: int) -> Order:
    """The order for operators that take all of `parts`: that of the first which is not in ONNX's own."""
    whole = [one for one in parts if one.rank == rank and not one.const]
    orders = [one.order() for one in whole]
    plain = tuple(range(rank))
    return next((one for one in orders if one != plain), plain)


def operand(w: Writer, value: Value, rank: int, order: Order, whole: bool) -> int:
    """`value` broadcast to `rank` axes, in `order`; `whole`: as steps."""
    const = value.const
    if const and not (value.quant and (whole or const.packed)):
        array = const.array.astype(np.float32) if const.array.dtype == np.float64 else const.array
        return w.file.constant(array if array.ndim == 0 else turned(spread(array, rank), order))
    if value.rank != rank:
        shape = (1,) * (rank - value.rank) + value.shape
        follows = tuple(axis + rank - value.rank for axis in value.follows)
        value = Value(value.name, shape, value.dtype, follows, value.quant, const and _spread(const, rank), value)
    return w.form(value, order) if whole else w.real(value, order)


def _spread(const: Any, rank: int) -> Any:
    packed = const.packed._replace(steps=spread(const.packed.steps, rank)) if const.packed else None
    return type(const)(spread(const.array, rank), packed)


def binary(w: Writer, node: Node) -> None:
    kind, name = _BINARY[node.kind]
    parts = [w.value(one) for one in node.inputs]
    rank = len(w.graph.shapes[node.outputs[0]])
    if len(parts) == 1:
        w.values[node.outputs[0]] = parts[0]
        return
    order = _orders(parts, rank)
    if kind == "POW" and parts[1].const and bool((parts[1].const.array == 2).all()) and parts[1].const.array.size == 1:
        tensor = operand(w, parts[0], rank, order, False)
        w.emit("MUL", [tensor, tensor], w.new(node.outputs[0]), order, options("Mul", act=""))
        return
    whole = kind in ("ADD", "SUB", "MUL") and all(one.quant for one in parts)
    quant = w.wanted(node) if whole else None
    y = w.new(node.outputs[0], quant)
    tensors = [operand(w, one, rank, order, bool(quant)) for one in parts]
    settings = options(name, act=node.act) if kind in _FUSING else options(name)
    if kind == "POW" and y.dtype != "float32":
        raise Unsupported(f"found {y.dtype}, wanted float32")
    for tensor in tensors[1:-1]:
        tensors[0] = w.step(kind, [tensors[0], tensor], y.sizes(order), settings, dtype=y.dtype)
    w.emit(kind, [tensors[0], tensors[-1]], y, order, settings)


def where(w: Writer, node: Node) -> None:
    parts = [w.value(one) for one in node.inputs]
    y = w.new(node.outputs[0])
    order = _orders(parts, y.rank)
    tensors = [operand(w, one, y.rank, order, False) for one in parts]
    w.emit("SELECT_V2", tensors, y, order, options("SelectV2"))


def softmax(w: Writer, node: Node) -> None:
    x = w.value(node.inputs[0])
    axis = int(node.attributes.get("axis", -1)) % x.rank
    kind = "SOFTMAX" if node.kind == "Softmax" else "LOG_SOFTMAX"
    orders = [order for order in x.forms if order[-1] == axis]
    order = orders[0] if orders else (*(one for one in x.plain if one != axis), axis)
    quant = _answer(w, node, kind, x) if kind == "SOFTMAX" else None
    tensor = w.form(x, order) if quant else w.real(x, order)
    settings = options("Softmax", beta=1.0) if kind == "SOFTMAX" else options("LogSoftmax")
    w.emit(kind, [tensor], w.new(node.outputs[0], quant), order, settings)


def arg_max(w: Writer, node: Node) -> None:
    x = w.value(node.inputs[0])
    axis = int(node.attributes.get("axis", 0)) % x.rank
    if node.attributes.get("select_last_index", 0):
        raise Unsupported("found select_last_index, wanted the first")
    kept = tuple(size for place, size in enumerate(x.shape) if place != axis)
    follows = tuple(one - (one > axis) for one in x.follows if one != axis)
    y, bare = w.new(node.outputs[0]), Value(f"{node.outputs[0]}.bare", kept, "int64", follows)
    made = y if not node.attributes.get("keepdims", 1) else bare
    kind = "ARG_MAX" if node.kind == "ArgMax" else "ARG_MIN"
    settings = options("ArgMax" if kind == "ARG_MAX" else "ArgMin", outputType=4)  # int64
    w.emit(kind, [w.real(x), w.ints([axis])], made, made.plain, settings)
    if made is bare:
        y.source = bare


# --- normalization


def batch_norm(w: Writer, node: Node) -> None:
    """Where it was not folded into what stands before it: one product and one sum a channel."""
    x = w.value(node.inputs[0])
    given = [w.const(name) for name in node.inputs[1:5]]
    if node.attributes.get("training_mode", 0):
        raise Unsupported("found training mode, wanted inference")
    arrays = [one.array.astype(np.float64) for one in given if one]
    if len(arrays) != 4:
        raise Unsupported("found parameters that are not constant, wanted constant ones")
    gain, bias, mean, variance = arrays
    factor = gain / np.sqrt(variance + float(node.attributes.get("epsilon", 1e-5)))
    order = x.order()

    def along(array: Array) -> int:
        shape = [-1 if axis == min(1, x.rank - 1) else 1 for axis in range(x.rank)]
        return w.floats(turned(array.reshape(shape), order))

    product = w.step("MUL", [w.real(x, order), along(factor)], x.sizes(order), options("Mul", act=""))
    total = [product, along(bias - mean * factor)]
    w.emit("ADD", total, w.new(node.outputs[0]), order, options("Add", act=node.act))


def layer_norm(w: Writer, node: Node) -> None:
    x = w.value(node.inputs[0])
    axis = int(node.attributes.get("axis", -1)) % x.rank
    axes = list(range(axis, x.rank))
    _normalize(w, node, x, axes, node.inputs[1:3], 0)


def instance_norm(w: Writer, node: Node) -> None:
    x = w.value(node.inputs[0])
    _normalize(w, node, x, list(range(2, x.rank)), node.inputs[1:3], x.rank - 2)


def _normalize(w: Writer, node: Node, x: Value, axes: list[int], names: list[str], behind: int) -> None:
    """(x - mean) / sqrt(variance + epsilon) * gain + bias; `behind`: axes that follow those of gain and bias."""
    if any(node.outputs[1:]):
        raise Unsupported("found outputs of mean or deviation, wanted one output")
    number, small = w.real(x), tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))
    keep = options("Reducer", keepDims=True)
    mean = w.step("MEAN", [number, w.ints(axes)], small, keep)
    rest = w.step("SUB", [number, mean], x.shape, options("Sub", act=""))
    squares = w.step("MUL", [rest, rest], x.shape, options("Mul", act=""))
    variance = w.step("MEAN", [squares, w.ints(axes)], small, keep)
    epsilon = w.floats(float(node.attributes.get("epsilon", 1e-5)))
    root = w.step("RSQRT", [w.step("ADD", [variance, epsilon], small, options("Add", act=""))], small)
    gains = [w.const(name) for name in names if name]
    if any(one is None for one in gains):
        raise Unsupported("found a gain or bias that is not constant, wanted constant ones")
    y, result = w.new(node.outputs[0]), [("MUL", root)]
    for kind, const in zip(("MUL", "ADD"), gains, strict=False):
        if const:
            array = const.array.reshape(const.array.shape + (1,) * behind)
            result.append((kind, w.floats(array)))
    for kind, factor in result[:-1]:
        rest = w.step(kind, [rest, factor], x.shape, options(kind.capitalize(), act=""))
    kind, factor = result[-1]
    w.emit(kind, [rest, factor], y, y.plain, options(kind.capitalize(), act=""))


HANDLERS: dict[str, Callable[[Writer, Node], None]] = {
    **dict.fromkeys(_BINARY, binary),
    **dict.fromkeys(_UNARY, unary),
    **dict.fromkeys(("Softmax", "LogSoftmax"), softmax),
    **dict.fromkeys(("ArgMax", "ArgMin"), arg_max),
    "BatchNormalization": batch_norm,
    "Clip": clip,
    "Erf": erf,
    "Gelu": gelu,
    "HardSigmoid": hard_sigmoid,
    "InstanceNormalization": instance_norm,
    "LayerNormalization": layer_norm,
    "LeakyRelu": leaky,
    "PRelu": prelu,
    "Reciprocal": reciprocal,
    "Where": where,
}
