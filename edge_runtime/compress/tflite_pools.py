"""Pools, reductions and resizing, from ONNX to TFLite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.compress.tflite_build import Quant, options
from edge_runtime.compress.tflite_products import Window
from edge_runtime.compress.tflite_read import Node
from edge_runtime.compress.tflite_values import Order, Unsupported, Value, Writer

if TYPE_CHECKING:
    from edge_runtime.tensors import Array

_LOWEST = float(np.finfo(np.float32).min)


def max_pool(w: Writer, node: Node) -> None:
    """Its output has the quantization of its input: TFLite asks for that, and nothing is lost."""
    x = w.value(node.inputs[0])
    window = Window.of(node, tuple(node.attributes["kernel_shape"]), x, w.graph.shapes[node.outputs[0]])
    if window.dilations != (1, 1) or any(node.outputs[1:]):
        raise Unsupported("found dilations or an output of indices, wanted neither")
    y = w.new(node.outputs[0], x.quant)
    # zeros serve as well where nothing is below them, and XNNPACK knows PAD but not PADV2
    tensor = window.pad(w, w.form(x, x.last), x, x.last, None if _positive(w, x) else _LOWEST)
    w.emit("MAX_POOL_2D", [tensor], y, y.last, _pool(window, node.act))


def _positive(w: Writer, x: Value) -> bool:
    """Whether it can have no number below 0: steps that begin at 0, or the output of a RELU."""
    if x.quant:
        return x.quant.zero == np.iinfo(x.quant.dtype).min
    maker = next((node for node in w.graph.nodes if x.name in node.outputs), None)
    return bool(maker and (maker.act in ("RELU", "RELU6") or maker.kind in ("Relu", "Sigmoid")))


def _pool(window: Window, act: str) -> Any:
    return options("Pool2D", filterHeight=window.kernel[0], filterWidth=window.kernel[1], act=act, **window.fields())


def average_pool(w: Writer, node: Node) -> None:
    x = w.value(node.inputs[0])
    window = Window.of(node, tuple(node.attributes["kernel_shape"]), x, w.graph.shapes[node.outputs[0]])
    if window.dilations != (1, 1):
        raise Unsupported("found dilations, wanted none")
    counts = _counts(node, window, x, w.graph.shapes[node.outputs[0]])
    whole = float(np.prod(window.kernel))
    if window.same and np.array_equal(counts, _inside(window, x, counts.shape)):
        factors = np.ones(1)
    else:
        window = replace(window, same=False)
        factors = whole / counts
    plain = bool((factors == 1).all())
    y = w.new(node.outputs[0], x.quant if plain else None)
    tensor = window.pad(w, w.form(x, x.last) if plain else w.real(x, x.last), x, x.last)
    if plain:
        w.emit("AVERAGE_POOL_2D", [tensor], y, y.last, _pool(window, node.act))
        return
    mean = w.step("AVERAGE_POOL_2D", [tensor], y.sizes(y.last), _pool(window, ""))
    w.emit("MUL", [mean, w.floats(factors[None, :, :, None])], y, y.last, options("Mul", act=node.act))


def _counts(node: Node, window: Window, x: Value, out: tuple[int, ...]) -> Array:
    """By how many numbers ONNX divides, [height, width] of the output."""
    pads = [0, 0, *node.attributes.get("pads", [0] * 2 * (x.rank - 2))]
    size = x.rank - 2
    same = _text(node, "auto_pad", "NOTSET").startswith("SAME")
    after = list(window.after) if same else [0] * (2 - size) + list(pads[-size:])
    include = bool(node.attributes.get("count_include_pad", 0))
    sides = (1,) * (4 - x.rank)
    inside, outside = (*sides, *x.shape[2:]), (*sides, *out[2:])
    lines = []
    for axis in range(2):
        low = -window.before[axis] if include else 0
        high = inside[axis] + (after[axis] if include else 0)
        begin = np.arange(outside[axis]) * window.strides[axis] - window.before[axis]
        lines.append(np.minimum(begin + window.kernel[axis], high) - np.maximum(begin, low))
    return np.outer(*lines).astype(np.float64)


def _inside(window: Window, x: Value, shape: tuple[int, ...]) -> Array:
    """By how many numbers TFLite divides where it pads itself."""
    inside = ((1,) * (4 - x.rank) + x.shape[2:])[-2:]
    lines = []
    for axis in range(2):
        begin = np.arange(shape[axis]) * window.strides[axis] - window.before[axis]
        lines.append(np.minimum(begin + window.kernel[axis], inside[axis]) - np.maximum(begin, 0))
    return np.outer(*lines).astype(np.float64)


def global_pool(w: Writer, node: Node) -> None:
    x = w.value(node.inputs[0])
    if x.rank not in (3, 4):
        raise Unsupported(f"found {x.rank} axes, wanted 3 or 4")
    if node.kind == "GlobalAveragePool":
        reduce(w, node, tuple(range(2, x.rank)), True)
        return
    y = w.new(node.outputs[0], x.quant)
    _, high, wide, _ = x.sizes(x.last)
    window = Window((high, wide), (high, wide), (1, 1), (0, 0), (0, 0))
    w.emit("MAX_POOL_2D", [w.form(x, x.last)], y, y.last, _pool(window, node.act))


_REDUCTIONS = {"ReduceMean": "MEAN", "ReduceSum": "SUM", "ReduceMax": "REDUCE_MAX", "ReduceMin": "REDUCE_MIN"}


def reduction(w: Writer, node: Node) -> None:
    x = w.value(node.inputs[0])
    found: Any = node.attributes.get("axes")
    if found is None and len(node.inputs) > 1 and node.inputs[1]:
        const = w.const(node.inputs[1])
        if const is None:
            raise Unsupported("found axes that are not constant, wanted constant ones")
        found = const.array.tolist()
    if not found and node.attributes.get("noop_with_empty_axes", 0):
        w.values[node.outputs[0]] = x
        return
    axes = tuple(int(one) % x.rank for one in found) if found else tuple(range(x.rank))
    reduce(w, node, axes, bool(node.attributes.get("keepdims", 1)))


def reduce(w: Writer, node: Node, axes: tuple[int, ...], keep: bool) -> None:
    x = w.value(node.inputs[0])
    kind = _REDUCTIONS.get(node.kind, "MEAN")
    quant: Quant | None = None
    if x.quant and kind in ("MEAN", "SUM"):
        quant = w.wanted(node)
    elif x.quant:
        quant = x.quant
    y = w.new(node.outputs[0], quant)
    order = x.last if x.rank == 4 and axes == (2, 3) else x.order()
    places = [place for place, axis in enumerate(order) if axis in axes]
    tensor = w.form(x, order) if quant else w.real(x, order)
    left = sorted(set(range(x.rank)) - set(axes))
    made: Order = order if keep else tuple(-1 if a < 0 else left.index(a) for a in order if a not in axes)
    w.emit(kind, [tensor, w.ints(places)], y, made, options("Reducer", keepDims=keep))


def norm_l2(w: Writer, node: Node) -> None:
    """ReduceL2: the root of a sum of squares."""
    x = w.value(node.inputs[0])
    const = w.const(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] else None
    found: Any = node.attributes.get("axes") or (const.array.tolist() if const else range(x.rank))
    axes, keep = [int(one) % x.rank for one in found], bool(node.attributes.get("keepdims", 1))
    y, tensor = w.new(node.outputs[0]), w.real(x)
    squares = w.step("MUL", [tensor, tensor], x.shape, options("Mul"))
    total = w.step("SUM", [squares, w.ints(axes)], y.shape, options("Reducer", keepDims=keep))
    w.emit("SQRT", [total], y, y.plain)


# --- resize


def resize(w: Writer, node: Node) -> None:
    """Nearest and linear over height and width, where TFLite's rule gives the same sources as ONNX's."""
    x, out = w.value(node.inputs[0]), w.graph.shapes[node.outputs[0]]
    mode = _text(node, "mode", "nearest")
    if x.rank != 4 or out[:2] != x.shape[:2] or mode not in ("nearest", "linear"):
        raise Unsupported(f"found mode {mode} from {x.shape} to {out}, wanted nearest or linear of height and width")
    way = _text(node, "coordinate_transformation_mode", "half_pixel")
    if node.attributes.get("antialias", 0) or way == "tf_crop_and_resize":
        raise Unsupported(f"found antialias or {way}, wanted neither")
    scales = _scales(w, node, x, out)
    theirs = [_sources(way, size, wide, scale) for size, wide, scale in zip(x.shape[2:], out[2:], scales, strict=True)]
    for corners, half in ((False, True), (False, False), (True, False)):
        ours = [_ours(size, wide, corners, half, mode) for size, wide in zip(x.shape[2:], out[2:], strict=True)]
        if all(_equal(a, b, n, mode, node) for a, b, n in zip(theirs, ours, x.shape[2:], strict=True)):
            break
    else:
        raise Unsupported(f"found the coordinates {way}, which TFLite has no rule for at these sizes")
    # what is blended in steps would be rounded twice where the answer has steps of its own
    quant = x.quant if mode == "nearest" or w.wanted(node) == x.quant else None
    y = w.new(node.outputs[0], quant)
    tensor = w.form(x, x.last) if quant else w.real(x, x.last)
    name = "ResizeNearestNeighbor" if mode == "nearest" else "ResizeBilinear"
    kind = "RESIZE_NEAREST_NEIGHBOR" if mode == "nearest" else "RESIZE_BILINEAR"
    settings = options(name, alignCorners=corners, halfPixelCenters=half)
    w.emit(kind, [tensor, w.ints(out[2:])], y, y.last, settings)


def _text(node: Node, key: str, default: str) -> str:
    value = node.attributes.get(key, default)
    return value.decode() if isinstance(value, bytes) else str(value)


def _scales(w: Writer, node: Node, x: Value, out: tuple[int, ...]) -> list[float]:
    given = w.const(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
    if given and given.array.size == 4:
        return [float(one) for one in given.array[2:]]
    return [wide / size for size, wide in zip(x.shape[2:], out[2:], strict=True)]


def _sources(way: str, size: int, wide: int, scale: float) -> Array:
    """Where ONNX reads for each of `wide` outputs."""
    at = np.arange(wide, dtype=np.float64)
    if way == "align_corners":
        return at * (size - 1) / (wide - 1) if wide > 1 else at * 0
    if way == "asymmetric":
        return at / scale
    if way == "pytorch_half_pixel" and wide == 1:
        return at * 0
    if way == "half_pixel_symmetric":
        return size / 2 * (1 - wide / (scale * size)) + (at + 0.5) / scale - 0.5
    return (at + 0.5) / scale - 0.5


def _ours(size: int, wide: int, corners: bool, half: bool, mode: str) -> Array:
    """Where TFLite reads; for nearest the number of the pixel."""
    scale = (size - 1) / (wide - 1) if corners and wide > 1 else size / wide
    at = np.arange(wide, dtype=np.float64)
    if mode == "nearest":
        found = (at + (0.5 if half else 0)) * scale
        return np.clip(np.floor(found + 0.5) if corners else np.floor(found), 0, size - 1)
    return (at + 0.5) * scale - 0.5 if half else at * scale


def _equal(theirs: Array, ours: Array, size: int, mode: str, node: Node) -> bool:
    if mode == "linear":
        return bool(np.allclose(np.clip(theirs, 0, size - 1), np.clip(ours, 0, size - 1), atol=1e-6))
    rule = _text(node, "nearest_mode", "round_prefer_floor")
    rounded = {
        "floor": np.floor(theirs),
        "ceil": np.ceil(theirs),
        "round_prefer_ceil": np.floor(theirs + 0.5),
    }.get(rule, np.ceil(theirs - 0.5))
    return bool(np.array_equal(np.clip(rounded, 0, size - 1), ours))


HANDLERS: dict[str, Callable[[Writer, Node], None]] = {
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": global_pool,
    "GlobalMaxPool": global_pool,
    **dict.fromkeys(_REDUCTIONS, reduction),
    "ReduceL2": norm_l2,
    "Resize": resize,
}
