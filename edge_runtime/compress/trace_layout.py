"""Where operators that only move numbers put channels: reshapes, transpositions, concatenations, slices, reductions."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.compress.channels import Label
from edge_runtime.compress.layers import array_of, attribute

if TYPE_CHECKING:
    import onnx_ir as ir

    from edge_runtime.compress.trace import Trace


def blocks(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Axes of two shapes of equal size, taken together as few as hold the same numbers; axes of size 1 left out.

    (2, 3, 4) and (6, 4) give [([0, 1], [0]), ([2], [1])].
    """
    left = [axis for axis, size in enumerate(before) if size != 1]
    right = [axis for axis, size in enumerate(after) if size != 1]
    made = []
    while left and right:
        one, other = [left.pop(0)], [right.pop(0)]
        while (a := prod(before[each] for each in one)) != (b := prod(after[each] for each in other)):
            (one if a < b else other).append((left if a < b else right).pop(0))
        made.append((one, other))
    return made


def remap(trace: Trace, label: Label, before: tuple[int, ...], after: tuple[int, ...]) -> Label | None:
    """The label after a reshape; None where its channels cannot be followed."""
    for one, other in blocks(before, after):
        if label.axis not in one:
            continue
        if len(other) == 1:
            place = one.index(label.axis)
            outer, inner = prod(before[axis] for axis in one[:place]), prod(before[axis] for axis in one[place + 1 :])
            return Label(other[0], np.tile(np.repeat(label.ids, inner), outer))
        if len(one) > 1:
            return None
        # (queries keys values, heads, width): heads. An image's channels shuffled: the last. (heads, width): heads.
        chosen = 1 if len(other) == 3 else len(other) - 1 if len(after) == 5 else 0
        kept = np.moveaxis(label.ids.reshape([after[axis] for axis in other]), chosen, 0)
        kept = kept.reshape(len(kept), -1)
        for column in kept.T[1:]:
            trace.channels.join(kept[:, 0], column)
        return Label(other[chosen], kept[:, 0])
    return None


def reshape(trace: Trace, node: ir.Node) -> None:
    label, value = trace.label(node.inputs[0]), node.inputs[0]
    if label is None or value is None:
        return
    made = remap(trace, label, trace.shape(value), trace.shape(node.outputs[0]))
    if made is None:
        trace.freeze(label, node, "its channels are spread over several axes")
        return
    if node.op_type == "Reshape":
        stated = _stated(node.inputs[1], len(trace.shape(node.outputs[0])))
        if stated is None or (stated[made.axis] is None):
            trace.freeze(label, node, "its shape is computed")
            return
        if stated[made.axis] > 0:
            trace.fix("sizes", 1, made.axis, made.ids)
    trace.set(node.outputs[0], made)


def _stated(value: ir.Value | None, rank: int) -> list[Any] | None:
    """The sizes that a Reshape is given: constants, or None for each that is computed; None where nothing is known."""
    if value is None:
        return None
    if value.const_value is not None:
        return [int(one) for one in array_of(value).ravel()]
    made: list[Any] = []
    node = value.producer()
    if node is None or node.op_type != "Concat":
        return None
    for part in node.inputs:
        if part is not None and part.const_value is not None:
            made += [None if int(one) > 0 else int(one) for one in array_of(part).ravel()]
        else:
            made.append(None)
    return made if len(made) == rank else None


def transpose(trace: Trace, node: ir.Node) -> None:
    label = trace.label(node.inputs[0])
    if label is not None:
        rank = len(trace.shape(node.outputs[0]))
        order = attribute(node, "perm", tuple(reversed(range(rank))))
        trace.set(node.outputs[0], Label(order.index(label.axis), label.ids))


def concat(trace: Trace, node: ir.Node) -> None:
    rank = len(trace.shape(node.outputs[0]))
    axis = attribute(node, "axis") % rank
    values = [value for value in node.inputs if value is not None]
    labels = [trace.label(value) for value in values]
    found = [one for one in labels if one is not None]
    if any(one.axis != found[0].axis for one in found):
        for one in found:
            trace.freeze(one, node, "channels along different axes")
        return
    if found[0].axis == axis:
        parts = []
        for value, each in zip(values, labels, strict=True):
            ids = each.ids if each is not None else trace.channels.fresh(trace.shape(value)[axis])
            if each is None:
                trace.channels.freeze(ids, f"{value.name!r}, whose channels stay")
            parts.append(ids)
        trace.set(node.outputs[0], Label(axis, np.concatenate(parts)))
        return
    for place, (value, each) in enumerate(zip(values, labels, strict=True)):
        if each is not None:
            trace.channels.join(found[0].ids, each.ids)
        elif value.is_initializer():
            trace.mark(value, place, found[0].axis, "along", found[0].ids)
        else:
            trace.freeze(found[0], node, f"beside {value.name!r}, whose channels stay")
    trace.set(node.outputs[0], found[0])


def split(trace: Trace, node: ir.Node) -> None:
    label = trace.label(node.inputs[0])
    assert label is not None
    axis = attribute(node, "axis", 0) % len(trace.shape(node.outputs[0]))
    if axis != label.axis:
        for value in node.outputs:
            trace.set(value, label)
        return
    sizes = [trace.shape(value)[axis] for value in node.outputs]
    parts = np.split(label.ids, np.cumsum(sizes)[:-1])
    trace.fix("split", 1, axis, *parts)
    for value, ids in zip(node.outputs, parts, strict=True):
        trace.set(value, Label(axis, ids))


def slice_(trace: Trace, node: ir.Node) -> None:
    label, value = trace.label(node.inputs[0]), node.inputs[0]
    assert label is not None and value is not None
    before, after = trace.shape(value), trace.shape(node.outputs[0])
    constants = [None if one is None or one.const_value is None else array_of(one).ravel() for one in node.inputs[1:]]
    starts, ends = constants[:2]
    if starts is None or ends is None or any(one is None for one in constants):
        trace.freeze(label, node, "its bounds are computed")
        return
    axes = constants[2] if len(constants) > 2 and constants[2] is not None else np.arange(len(starts))
    steps = constants[3] if len(constants) > 3 and constants[3] is not None else np.ones(len(starts))
    places = [place for place, axis in enumerate(axes) if int(axis) % len(before) == label.axis]
    if not places:
        trace.set(node.outputs[0], label)
        return
    first, step = int(starts[places[0]]), int(steps[places[0]])
    first = max(first + before[label.axis], 0) if first < 0 else first
    if step != 1:
        trace.freeze(label, node, "it takes every few channels")
        return
    last = first + after[label.axis]
    ids = label.ids[first:last]
    trace.fix("slice", places[0], label.axis, label.ids[:first], ids)
    trace.set(node.outputs[0], Label(label.axis, ids))


def reduce_(trace: Trace, node: ir.Node) -> None:
    label, value = trace.label(node.inputs[0]), node.inputs[0]
    assert label is not None and value is not None
    rank = len(trace.shape(value))
    given = node.inputs[1] if len(node.inputs) > 1 else None
    if given is not None and given.const_value is None:
        trace.freeze(label, node, "its axes are computed")
        return
    stated = attribute(node, "axes") if given is None else array_of(given).ravel().tolist()
    axes = [int(axis) % rank for axis in (stated or range(rank))]
    if label.axis in axes:
        trace.freeze(label, node, "it counts over all channels")
        return
    gone = 0 if attribute(node, "keepdims", 1) else sum(axis < label.axis for axis in axes)
    trace.set(node.outputs[0], Label(label.axis - gone, label.ids))


def pad(trace: Trace, node: ir.Node) -> None:
    label, value = trace.label(node.inputs[0]), node.inputs[0]
    assert label is not None and value is not None
    if trace.shape(value)[label.axis] != trace.shape(node.outputs[0])[label.axis]:
        trace.freeze(label, node, "it adds channels")
    else:
        trace.set(node.outputs[0], label)


def resize(trace: Trace, node: ir.Node) -> None:
    pad(trace, node)
    label = trace.label(node.outputs[0])
    if label is None or len(node.inputs) < 4 or node.inputs[3] is None:
        return
    if node.inputs[3].const_value is None:
        trace.freeze(label, node, "its sizes are computed")
    elif not attribute(node, "axes"):
        trace.fix("sizes", 3, label.axis, label.ids)


def gather(trace: Trace, node: ir.Node) -> None:
    label, value, chosen = trace.label(node.inputs[0]), node.inputs[0], node.inputs[1]
    assert value is not None and chosen is not None
    axis = attribute(node, "axis", 0) % len(trace.shape(value))
    if label is None or label.axis == axis or trace.label(chosen) is not None:
        for one in node.inputs:
            trace.freeze(trace.label(one), node)
        return
    moved = len(trace.shape(chosen)) - 1 if label.axis > axis else 0
    trace.set(node.outputs[0], Label(label.axis + moved, label.ids))


def forget(trace: Trace, node: ir.Node) -> None:
    """Its answer is no channel: a shape follows by itself."""


RULES: dict[str, Callable[[Any, Any], None]] = {
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), reshape),
    "Transpose": transpose,
    "Concat": concat,
    "Split": split,
    "Slice": slice_,
    **dict.fromkeys(("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL2", "ReduceSumSquare"), reduce_),
    "Pad": pad,
    "Resize": resize,
    "Gather": gather,
    "Shape": forget,
}
