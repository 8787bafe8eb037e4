"""Which channels of a graph depend on each other, in groups that a person can print, and the graph without some.

A unit is what goes or stays as one: a channel with all that shares it (the convolutions around a residual sum), an
attention head, a neuron. A group is the units that stand in the same places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.channels import Fix, Mark
from edge_runtime.compress.count import macs_of
from edge_runtime.compress.layers import add_array, array_of, set_array
from edge_runtime.compress.shapes import Shapes, find_shapes, settle
from edge_runtime.compress.trace import Trace

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    from edge_runtime.compress.channels import Ids

    Keep = NDArray[np.bool_]


@dataclass(frozen=True)
class Group:
    """`units` are numbers that `Dependencies.cut` knows; each is `width` outputs of the first layer that makes it."""

    number: int
    units: tuple[int, ...]
    width: int
    makers: tuple[str, ...]
    readers: tuple[str, ...]

    def __str__(self) -> str:
        each = "channels" if self.width == 1 else f"units of {self.width} channels"
        return (
            f"group {self.number}: {len(self.units)} {each}, made by {', '.join(self.makers)}, "
            f"read by {', '.join(self.readers) or 'nothing'}"
        )


@dataclass(frozen=True)
class Dependencies:
    """`left`: layers whose outputs stay whole, with the reason. `root`: the unit of each channel number."""

    artifact: Artifact
    shapes: Shapes
    groups: tuple[Group, ...]
    left: dict[str, str]
    marks: tuple[Mark, ...]
    fixes: tuple[Fix, ...]
    products: tuple[tuple[int, Ids], ...]
    root: Ids

    def __str__(self) -> str:
        stay = [f"whole: {name}: {reason}" for name, reason in self.left.items()]
        return "\n".join([*map(str, self.groups), *stay])

    def everything(self) -> Keep:
        return np.ones(len(self.root), np.bool_)

    def kept(self, keep: Keep, ids: Ids) -> Keep:
        return keep[self.root[ids]]

    def cut(self, keep: Keep) -> Artifact:
        """The graph without the units where `keep`, bool by unit number, is false."""
        model = self.artifact.model()
        nodes = list(model.graph)
        for (name, axis), ids in _by_axis(self.marks).items():
            value = model.graph.initializers[name]
            chosen = np.flatnonzero(self.kept(keep, ids))
            if len(chosen) < len(ids):
                set_array(value, np.ascontiguousarray(np.take(array_of(value), chosen, axis)))
        for fix in self.fixes:
            _apply(model, nodes[fix.node], fix, [self.kept(keep, ids) for ids in fix.parts])
        return settle(model)

    def macs(self, keep: Keep, costs: Costs) -> int:
        return round(sum(each * self._share(keep, parts) for each, parts in costs.macs))

    def parameters(self, keep: Keep, costs: Costs) -> int:
        return round(sum(each * self._share(keep, parts) for each, parts in costs.parameters))

    def _share(self, keep: Keep, parts: Sequence[Ids]) -> float:
        share = 1.0
        for ids in parts:
            share *= float(self.kept(keep, ids).mean())
        return share

    def costs(self) -> Costs:
        model = self.artifact.model()
        axes: dict[str, list[Ids]] = {}
        for (name, _), ids in _by_axis(self.marks).items():
            axes.setdefault(name, []).append(ids)
        computed = dict(self.products)
        macs, parameters = [], []
        for number, node in enumerate(model.graph):
            if each := macs_of(node, self.shapes):
                weight = node.inputs[1]
                assert weight is not None
                parts = [computed[number]] if number in computed else axes.get(weight.name or "", [])
                macs.append((each, tuple(parts)))
        for name, value in model.graph.initializers.items():
            if value.dtype is not None and value.dtype.is_floating_point() and value.const_value is not None:
                parameters.append((int(value.const_value.size), tuple(axes.get(name, []))))
        return Costs(tuple(macs), tuple(parameters))


@dataclass(frozen=True)
class Costs:
    """What the whole graph takes, part by part, each with the channels that it shrinks with."""

    macs: tuple[tuple[int, tuple[Any, ...]], ...]
    parameters: tuple[tuple[int, tuple[Any, ...]], ...]


def find_groups(artifact: Artifact) -> Dependencies:
    """For the form onnx. Raises InputError where onnxruntime cannot run the graph."""
    model = artifact.model()
    shapes = find_shapes(artifact)
    trace = Trace(model, shapes)
    root, frozen = trace.channels.roots(), trace.channels.frozen()
    names = [node.name or "?" for node in trace.nodes]
    places: dict[int, list[int]] = {}
    for number, mark in enumerate(trace.marks):
        for unit in np.unique(root[mark.ids]).tolist():
            places.setdefault(unit, []).append(number)
    by_place: dict[tuple[int, ...], list[int]] = {}
    left: dict[str, str] = {}
    for unit, numbers in sorted(places.items()):
        if unit in frozen:
            for number in numbers:
                if trace.marks[number].role == "out":
                    left.setdefault(names[trace.marks[number].node], frozen[unit])
            continue
        if any(trace.marks[number].role == "out" for number in numbers):
            by_place.setdefault(tuple(numbers), []).append(unit)
    groups: list[Group] = []
    for standing, units in by_place.items():
        marks = [trace.marks[number] for number in standing]
        maker = next(mark for mark in marks if mark.role == "out")
        groups.append(
            Group(
                len(groups) + 1,
                tuple(units),
                int((root[maker.ids] == units[0]).sum()),
                tuple(dict.fromkeys(names[mark.node] for mark in marks if mark.role in ("out", "both"))),
                tuple(dict.fromkeys(names[mark.node] for mark in marks if mark.role == "in")),
            )
        )
    return Dependencies(
        artifact, shapes, tuple(groups), left, tuple(trace.marks), tuple(trace.fixes), tuple(trace.products), root
    )


def _by_axis(marks: Sequence[Mark]) -> dict[tuple[str, int], Ids]:
    """An initializer that several nodes read is cut once."""
    made: dict[tuple[str, int], Ids] = {}
    for mark in marks:
        made.setdefault((mark.value, mark.axis), mark.ids)
    return made


def _apply(model: ir.Model, node: ir.Node, fix: Fix, kept: Sequence[Keep]) -> None:
    import onnx_ir as ir

    counts = [int(part.sum()) for part in kept]
    if all(part.all() for part in kept):
        return
    if fix.kind == "group":
        node.attributes["group"] = ir.AttrInt64("group", counts[0])
    elif fix.kind == "sizes":
        _change(model, node, fix.place, fix.axis, counts[0])
    elif fix.kind == "slice":
        before, inside = counts
        _change(model, node, 1, fix.place, before)
        _change(model, node, 2, fix.place, before + inside)
    elif len(node.inputs) > 1 and node.inputs[1] is not None:
        for place, size in enumerate(counts):
            _change(model, node, 1, place, size)
    else:
        node.attributes.pop("num_outputs", None)
        node.resize_inputs(2)
        node.replace_input_with(1, add_array(model, f"{node.name}_sizes", np.array(counts, np.int64)))


def _change(model: ir.Model, node: ir.Node, place: int, index: int, size: int) -> None:
    """A constant of its own for this node, as others may read the same one."""
    value = node.inputs[place]
    assert value is not None
    if value.const_value is None:
        return  # a computed shape that states -1 there follows by itself
    array = np.array(array_of(value))
    array.flat[index] = size
    node.replace_input_with(place, add_array(model, f"{node.name}_{value.name}", array))
