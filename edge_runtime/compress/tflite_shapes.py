"""Operators that move numbers without changing them, from ONNX to TFLite; quantized ones keep their quantization."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.compress.tflite_build import options
from edge_runtime.compress.tflite_read import Node
from edge_runtime.compress.tflite_values import Order, Unsupported, Value, Writer, quant_of

if TYPE_CHECKING:
    from edge_runtime.tensors import Array


def same(w: Writer, node: Node) -> None:
    w.values[node.outputs[0]] = w.value(node.inputs[0])


def cast(w: Writer, node: Node) -> None:
    x, name = w.value(node.inputs[0]), node.outputs[0]
    found, wanted = w.graph.dtypes[node.inputs[0]], w.graph.dtypes[name]
    if found == wanted:
        w.values[name] = x
        return
    known = ("float32", "int32", "int64", "bool", "int8", "uint8")
    if found not in known or wanted not in known:
        raise Unsupported(f"found {found} to {wanted}, wanted one of {', '.join(known)}")
    y, order = w.new(name), x.order()
    w.emit("CAST", [w.real(x, order)], y, order, options("Cast"))


def quantize(w: Writer, node: Node) -> None:
    x = w.value(node.inputs[0])
    quant = quant_of(w.graph, node)
    w.values[node.outputs[0]] = x if x.quant == quant else _requantized(w, x, node.outputs[0], quant)


def _requantized(w: Writer, x: Value, name: str, quant: Any) -> Value:
    if x.source and not x.forms:  # before it got its present shape, so that a Gemm still sees the image behind it
        source = x.source
        if source.quant != quant:
            source = Value(name, source.shape, "float32", source.follows, quant)
            w.convert(x.source, quant, source)
        return Value(name, x.shape, "float32", x.follows, quant, source=source)
    made = Value(name, x.shape, "float32", x.follows, quant)
    w.convert(x, quant, made)
    return made


def dequantize(w: Writer, node: Node) -> None:
    x = w.value(node.inputs[0])
    if not x.quant and x.dtype == "int8" and (scales := _column_scales(w, node, x)) is not None:
        y = w.new(node.outputs[0])
        real = w.step("CAST", [w.form(x, x.plain)], y.shape, options("Cast"))
        w.emit("MUL", [real, w.file.constant(scales)], y, y.plain, options("Mul", act=""))
        return
    quant = quant_of(w.graph, node)
    if x.quant != quant:
        raise Unsupported(f"found steps of {x.quant or x.dtype}, wanted those of the QuantizeLinear before it")
    w.values[node.outputs[0]] = x


def _column_scales(w: Writer, node: Node, x: Value) -> Array | None:
    """float32 (columns,) of rows that were looked up in a table stored as int8 with a scale for each column; None for
    anything else."""
    scale = w.graph.constants.get(node.inputs[1])
    axis = int(node.attributes.get("axis", 1))
    zero = w.graph.constants.get(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
    if scale is None or scale.array.ndim != 1 or axis % x.rank != x.rank - 1 or node.attributes.get("block_size"):
        return None
    return scale.array.astype(np.float32) if zero is None or not zero.array.any() else None


def transpose(w: Writer, node: Node) -> None:
    """No operator at all: the same tensors with other names of axes."""
    x = w.value(node.inputs[0])
    perm = [int(one) for one in node.attributes.get("perm", range(x.rank)[::-1])]
    if not x.forms:
        w.form(x, x.order())
    y = w.new(node.outputs[0])
    y.quant, y.dtype = x.quant, x.dtype

    def renamed(order: Order) -> Order:
        return tuple(-1 if axis < 0 else perm.index(axis) for axis in order)

    y.forms = {renamed(order): tensor for order, tensor in x.forms.items()}
    y.reals = {renamed(order): tensor for order, tensor in x.reals.items()}


def reshape(w: Writer, node: Node) -> None:
    """Reshape, Flatten, Squeeze, Unsqueeze: written down when an operator asks for it."""
    x = w.value(node.inputs[0])
    y = w.new(node.outputs[0])
    y.quant, y.dtype = x.quant, x.dtype
    y.source = x.source if x.source and not x.forms else x
    if len(y.follows) > 1 or (x.follows and not y.follows):
        w.fix_batch()


def squeeze(w: Writer, node: Node) -> None:
    """The axis that goes becomes one that ONNX does not have; Unsqueeze gives such an axis a name again."""
    x = w.value(node.inputs[0])
    rank = max(x.rank, len(w.graph.shapes[node.outputs[0]]))
    axes = [one % rank for one in _numbers(w, node, 1, "axes") or [a for a, size in enumerate(x.shape) if size == 1]]
    reshape(w, node)
    kept, orders = [axis for axis in range(rank) if axis not in axes], {}
    for order in x.forms:
        if node.kind == "Squeeze":
            orders[order] = tuple(kept.index(axis) if axis in kept else -1 for axis in order)
        elif order.count(-1) >= len(axes):
            named = iter([*axes, *[-1] * order.count(-1)])
            orders[order] = tuple(next(named) if axis < 0 else kept[axis] for axis in order)
    y = w.value(node.outputs[0])
    y.forms = {new: x.forms[old] for old, new in orders.items()}


def concat(w: Writer, node: Node) -> None:
    parts = [w.value(name) for name in node.inputs if w.graph.shapes[name] and 0 not in w.graph.shapes[name]]
    axis = int(node.attributes["axis"]) % parts[0].rank
    orders = [one.order() for one in parts if not one.const]
    order = next((one for one in orders if one != parts[0].plain), parts[0].plain)
    quant = None
    if all(one.quant for one in parts):
        quant = w.wanted(node) or (parts[0].quant if len({one.quant for one in parts}) == 1 else None)
    y = w.new(node.outputs[0], quant)
    tensors = [w.requantized(one, quant, order) if quant else w.real(one, order) for one in parts]
    if len(tensors) == 1:
        y.forms[order] = tensors[0]
        return
    w.emit("CONCATENATION", tensors, y, order, options("Concatenation", axis=order.index(axis), act=""))


def _numbers(w: Writer, node: Node, place: int, key: str) -> list[int] | None:
    """What stands in an attribute (old opsets) or a constant input; None where it is left out."""
    if key in node.attributes:
        return [int(one) for one in node.attributes[key]]
    if len(node.inputs) <= place or not node.inputs[place]:
        return None
    const = w.const(node.inputs[place])
    if const is None:
        raise Unsupported(f"found {key} that are not constant, wanted constant ones")
    return [int(one) for one in np.atleast_1d(const.array)]


def slice_(w: Writer, node: Node) -> None:
    x = w.value(node.inputs[0])
    starts, ends = _numbers(w, node, 1, "starts") or [], _numbers(w, node, 2, "ends") or []
    axes = [one % x.rank for one in _numbers(w, node, 3, "axes") or range(len(starts))]
    steps = _numbers(w, node, 4, "steps") or [1] * len(starts)
    cuts = {}
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        cuts[axis] = (*slice(start, max(end, -(2**40)), step).indices(x.shape[axis]), step)
    y = w.new(node.outputs[0])
    y.quant, y.dtype = x.quant, x.dtype
    cut(w, x, {axis: one[:3] for axis, one in cuts.items()}, y)


def cut(w: Writer, x: Value, cuts: dict[int, tuple[int, int, int]], y: Value) -> None:
    """`cuts`: axis -> begin, end, step, as Python's slice.indices gives them. Other axes stay whole."""
    order = x.order()
    begin, end, step, whole_begin, whole_end = [], [], [], 0, 0
    for place, axis in enumerate(order):
        size = 1 if axis < 0 else x.shape[axis]
        first, last, pace = cuts.get(axis, (0, size, 1)) if axis >= 0 else (0, 1, 1)
        if axis in x.follows and axis in cuts and (first, last, pace) != (0, size, 1):
            w.fix_batch()
        begin.append(first)
        end.append(last)
        step.append(pace)
        whole_begin |= (first == 0 and pace > 0) << place
        whole_end |= (last < 0 or (last == size and pace > 0)) << place
    settings = options("StridedSlice", beginMask=whole_begin, endMask=whole_end)
    w.emit("STRIDED_SLICE", [w.form(x, order), w.ints(begin), w.ints(end), w.ints(step)], y, order, settings)


def split(w: Writer, node: Node) -> None:
    x = w.value(node.inputs[0])
    order = x.order()
    axis = int(node.attributes.get("axis", 0)) % x.rank
    place = order.index(axis)
    sizes = [w.graph.shapes[name][axis] for name in node.outputs]
    outputs = []
    for name in node.outputs:
        y = w.new(name)
        y.quant, y.dtype = x.quant, x.dtype
        y.forms[order] = w.tensor(name, y.sizes(order), x.quant.dtype if x.quant else x.dtype, x.quant)
        outputs.append(y.forms[order])
    tensor, count = w.form(x, order), len(outputs)
    if len(set(sizes)) == 1:
        w.file.operator("SPLIT", [w.ints(place), tensor], outputs, options("Split", numSplits=count))
    else:
        inputs = [tensor, w.ints(sizes), w.ints(place)]
        w.file.operator("SPLIT_V", inputs, outputs, options("SplitV", numSplits=count))


def pad(w: Writer, node: Node) -> None:
    x, mode = w.value(node.inputs[0]), node.attributes.get("mode", "constant")
    mode = mode.decode() if isinstance(mode, bytes) else mode
    amounts = _numbers(w, node, 1, "pads") or []
    axes = [one % x.rank for one in _numbers(w, node, 3, "axes") or range(x.rank)]
    if mode not in ("constant", "reflect") or any(one < 0 for one in amounts):
        raise Unsupported(f"found mode {mode} or negative amounts, wanted constant or reflect and no less than 0")
    pairs = dict(zip(axes, zip(amounts[: len(axes)], amounts[len(axes) :], strict=True), strict=True))
    if any(sum(pairs.get(axis, (0, 0))) for axis in x.follows):
        w.fix_batch()
    fill = w.const(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
    value = float(fill.array.reshape(-1)[0]) if fill else float(node.attributes.get("value", 0.0))
    order = x.order()
    table = w.file.constant(np.array([pairs.get(axis, (0, 0)) if axis >= 0 else (0, 0) for axis in order], np.int32))
    y = w.new(node.outputs[0])
    y.quant, y.dtype = x.quant, x.dtype
    tensor = w.form(x, order)
    if mode == "reflect":
        w.emit("MIRROR_PAD", [tensor, table], y, order, options("MirrorPad", mode=0))
    elif value == 0:
        w.emit("PAD", [tensor, table], y, order, options("Pad"))
    else:
        w.emit("PADV2", [tensor, table, _filling(w, x, value)], y, order, options("PadV2"))


def _filling(w: Writer, x: Value, value: float) -> int:
    quant = x.quant
    if not quant:
        return w.file.constant(np.array([max(value, float(np.finfo(np.float32).min))]).astype(x.dtype))
    limits = np.iinfo(quant.dtype)
    return w.file.step(int(np.clip(np.rint(value / quant.scale) + quant.zero, limits.min, limits.max)), quant)


def gather(w: Writer, node: Node) -> None:
    x, where = w.value(node.inputs[0]), w.const(node.inputs[1])
    axis = int(node.attributes.get("axis", 0)) % x.rank
    if where and where.array.ndim == 0 and not x.const:
        place = int(where.array) % x.shape[axis]
        y = w.new(node.outputs[0])
        shape = tuple(1 if at == axis else size for at, size in enumerate(x.shape))
        part = Value(f"{y.name}.part", shape, x.dtype, tuple(one for one in x.follows if one != axis), x.quant)
        cut(w, x, {axis: (place, place + 1, 1)}, part)
        y.quant, y.dtype, y.source = x.quant, x.dtype, part
        return
    indices = w.ints(where.array % x.shape[axis]) if where else w.form(w.value(node.inputs[1]))
    y = w.new(node.outputs[0])
    settings = options("Gather", axis=axis, batchDims=0)
    if x.const and x.const.half:
        rows = w.step("GATHER", [w.file.constant(x.const.array.astype(np.float16)), indices], y.shape, settings,
                      dtype="float16")  # fmt: skip
        w.emit("DEQUANTIZE", [rows], y, y.plain, options("Dequantize"), 3)
        return
    packed = x.const.packed if x.const else None
    if packed and packed.bits == 8 and not x.quant and packed.axis == axis == 0 and not packed.block:
        _gather_rows(w, packed, indices, y)
        return
    y.quant, y.dtype = x.quant, x.dtype
    w.emit("GATHER", [w.form(x), indices], y, y.plain, settings)


def _gather_rows(w: Writer, packed: Any, indices: int, y: Value) -> None:
    """An embedding whose rows have a scale each stays as small as it is stored."""
    rows = w.file.constant(packed.steps)
    scales = w.file.constant(packed.scales.astype(np.float32).reshape(-1, *[1] * (packed.steps.ndim - 1)))
    zeros: Array = packed.zeros.astype(np.float32).reshape(-1, *[1] * (packed.steps.ndim - 1))
    settings = options("Gather", axis=0, batchDims=0)
    shape = (*y.shape[: y.rank - packed.steps.ndim + 1], *[1] * (packed.steps.ndim - 1))
    steps = w.step("GATHER", [rows, indices], y.shape, settings, dtype="int8")
    real = w.step("CAST", [steps], y.shape, options("Cast"))
    if zeros.any():
        zero = w.step("GATHER", [w.file.constant(zeros), indices], shape, settings)
        real = w.step("SUB", [real, zero], y.shape, options("Sub", act=""))
    scale = w.step("GATHER", [scales, indices], shape, settings)
    w.emit("MUL", [real, scale], y, y.plain, options("Mul", act=""))


def tile(w: Writer, node: Node) -> None:
    x, times = w.value(node.inputs[0]), _numbers(w, node, 1, "repeats")
    if times is None:
        raise Unsupported("found repeats left out, wanted them")
    order = x.order()
    y = w.new(node.outputs[0])
    y.quant, y.dtype = x.quant, x.dtype
    w.emit("TILE", [w.form(x, order), w.ints([1 if axis < 0 else times[axis] for axis in order])], y, order)


def expand(w: Writer, node: Node) -> None:
    """Adding zeros broadcasts, and the batch stays free."""
    x, y = w.value(node.inputs[0]), w.new(node.outputs[0])
    inside = (1,) * (y.rank - x.rank) + x.shape
    follows = {axis + y.rank - x.rank for axis in x.follows}
    if set(y.follows) - follows:
        w.fix_batch()
    grown = [
        n if n != i and axis not in follows else 1 for axis, (i, n) in enumerate(zip(inside, y.shape, strict=True))
    ]
    if all(one == 1 for one in grown) and x.rank == y.rank:
        w.values[node.outputs[0]] = x
        return
    zeros = w.file.constant(np.zeros(grown, "float32" if x.quant else x.dtype))
    if x.dtype == "bool":
        w.emit("LOGICAL_OR", [w.form(x), zeros], y, y.plain, options("LogicalOr"))
    else:
        w.emit("ADD", [w.real(x), zeros], y, y.plain, options("Add", act=""))


def depth_to_space(w: Writer, node: Node) -> None:
    x, mode = w.value(node.inputs[0]), node.attributes.get("mode", "DCR")
    if node.kind == "DepthToSpace" and mode not in ("DCR", b"DCR"):
        raise Unsupported(f"found mode {mode}, wanted DCR")
    y = w.new(node.outputs[0])
    y.quant, y.dtype = x.quant, x.dtype
    kind = "DEPTH_TO_SPACE" if node.kind == "DepthToSpace" else "SPACE_TO_DEPTH"
    w.emit(kind, [w.form(x, x.last)], y, y.last, options(node.kind, blockSize=int(node.attributes["blocksize"])))


HANDLERS: dict[str, Callable[[Writer, Node], None]] = {
    **dict.fromkeys(("Identity", "Dropout"), same),
    **dict.fromkeys(("Reshape", "Flatten"), reshape),
    **dict.fromkeys(("Squeeze", "Unsqueeze"), squeeze),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), depth_to_space),
    "Cast": cast,
    "Concat": concat,
    "DequantizeLinear": dequantize,
    "Expand": expand,
    "Gather": gather,
    "Pad": pad,
    "QuantizeLinear": quantize,
    "Slice": slice_,
    "Split": split,
    "Tile": tile,
    "Transpose": transpose,
}
