"""Follow channels through an ONNX graph: a rule for each kind of operator; what has no rule keeps its channels whole.

The walk is forward, each layer's outputs are new channels, and a rule says where an operator puts those of its inputs:
a sum joins them place by place, a concatenation lines them up, a flattening repeats them, a product over attention
heads joins heads. The idea is that of dependency graphs (Fang et al., DepGraph, 2023), on tensors instead of modules.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from edge_runtime.compress import trace_layout
from edge_runtime.compress.channels import Channels, Fix, Label, Mark
from edge_runtime.compress.layers import array_of, attribute
from edge_runtime.compress.shapes import Shapes

if TYPE_CHECKING:
    import onnx_ir as ir

    from edge_runtime.compress.channels import Ids

UNARY = frozenset(
    (
        *("Abs", "Cast", "Celu", "Ceil", "Clip", "Cos", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid"),
        *("HardSwish", "Identity", "LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu"),
        *("Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Tanh", "ThresholdedRelu"),
    )
)
ELEMENTWISE = frozenset(
    (
        *("Add", "And", "Div", "Equal", "Greater", "Less", "Max", "Mean", "Min", "Mul", "Or", "Pow", "PRelu"),
        *("Sub", "Sum", "Where"),
    )
)
PLANES = frozenset(("AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool"))


class Trace:
    """The walk's state. `labels` by name of a computed tensor; a tensor without one has no channels that may go."""

    def __init__(self, model: ir.Model, shapes: Shapes) -> None:
        self.shapes = shapes
        self.channels = Channels()
        self.labels: dict[str, Label] = {}
        self.marks: list[Mark] = []
        self.fixes: list[Fix] = []
        self.products: list[tuple[int, Ids]] = []  # node, ids: a product of two computed tensors shrinks with them
        self.nodes = list(model.graph)
        self.number = 0
        for number, node in enumerate(self.nodes):
            self.number = number
            self._step(node)
        for value in model.graph.outputs:
            if label := self.labels.get(value.name or ""):
                self.channels.freeze(label.ids, f"output {value.name!r} of the model")
        self._settle_marks(model)

    def shape(self, value: ir.Value) -> tuple[int, ...]:
        if value.name in self.shapes:
            return self.shapes[value.name]
        return tuple(array_of(value).shape)

    def label(self, value: ir.Value | None) -> Label | None:
        return None if value is None else self.labels.get(value.name or "")

    def set(self, value: ir.Value, label: Label | None) -> None:
        if label is not None:
            self.labels[value.name or ""] = label

    def freeze(self, label: Label | None, node: ir.Node, why: str = "") -> None:
        if label is not None:
            self.channels.freeze(label.ids, f"{node.op_type} {node.name!r}{why and ': ' + why}")

    def mark(self, value: ir.Value | None, place: int, axis: int, role: str, ids: Ids) -> None:
        if value is not None:
            self.marks.append(Mark(value.name or "", axis, self.number, place, role, ids))

    def fix(self, kind: str, place: int, axis: int, *parts: Ids) -> None:
        self.fixes.append(Fix(kind, self.number, place, axis, parts))

    def _step(self, node: ir.Node) -> None:
        if not any(self.label(value) for value in node.inputs) and node.op_type not in LAYERS:
            return
        rule = RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if rule is not None:
            rule(self, node)
            return
        for value in node.inputs:
            self.freeze(self.label(value), node)

    def _settle_marks(self, model: ir.Model) -> None:
        """An initializer that several nodes read shrinks only as all of them shrink it."""
        by_value: dict[str, list[Mark]] = {}
        for mark in self.marks:
            by_value.setdefault(mark.value, []).append(mark)
        for name, marks in by_value.items():
            uses = {(self.nodes.index(node), place) for node, place in model.graph.initializers[name].uses()}
            for axis in {mark.axis for mark in marks}:
                same = [mark for mark in marks if mark.axis == axis]
                for mark in same[1:]:
                    self.channels.join(same[0].ids, mark.ids)
                if {(mark.node, mark.place) for mark in same} != uses:
                    self.channels.freeze(same[0].ids, f"weight {name!r}: read by several nodes, not by all alike")


def same(trace: Trace, node: ir.Node) -> None:
    trace.set(node.outputs[0], trace.label(node.inputs[0]))


def elementwise(trace: Trace, node: ir.Node) -> None:
    result = trace.shape(node.outputs[0])
    inputs = [(place, value) for place, value in enumerate(node.inputs) if value is not None]
    found: list[tuple[int, Ids]] = []
    plain = []
    for place, value in inputs:
        label, lead = trace.label(value), len(result) - len(trace.shape(value))
        if label is None:
            plain.append((place, value, lead))
        elif len(label.ids) != result[label.axis + lead]:
            trace.freeze(label, node, "one channel spread over many")
        else:
            found.append((label.axis + lead, label.ids))
    if len({axis for axis, _ in found}) != 1:
        for axis, ids in found:
            trace.freeze(Label(axis, ids), node, "channels along different axes")
        return
    axis, ids = found[0]
    for _, other in found[1:]:
        trace.channels.join(ids, other)
    for place, value, lead in plain:
        if axis < lead or trace.shape(value)[axis - lead] == 1:
            continue
        if value.is_initializer():
            trace.mark(value, place, axis - lead, "along", ids)
        else:
            trace.freeze(Label(axis, ids), node, f"meets {value.name!r}, whose channels stay")
    trace.set(node.outputs[0], Label(axis, ids))


def planes(trace: Trace, node: ir.Node) -> None:
    label = trace.label(node.inputs[0])
    if label is not None and label.axis != 1:
        trace.freeze(label, node)
    else:
        same(trace, node)


def convolution(trace: Trace, node: ir.Node) -> None:
    given, weight = node.inputs[0], node.inputs[1]
    label, bias = trace.label(given), node.inputs[2] if len(node.inputs) > 2 else None
    if weight is None or not weight.is_initializer() or (bias is not None and not bias.is_initializer()):
        trace.freeze(label, node, "its weights are computed")
        return
    if label is not None and label.axis != 1:
        trace.freeze(label, node)
        label = None
    shape, groups = trace.shape(weight), attribute(node, "group", 1)
    turned = node.op_type == "ConvTranspose"
    across = shape[1] * groups if turned else shape[0]
    into, outward = (0, 1) if turned else (1, 0)
    if groups > 1 and shape[1] == 1 and (not turned or shape[0] == groups):
        if label is None:
            return
        ids = np.repeat(label.ids, across // groups)
        trace.mark(weight, 1, 0, "both", ids)
        trace.fix("group", 0, 1, label.ids)
    elif groups > 1 and turned:
        trace.freeze(label, node, "groups in a transposed convolution")
        return
    else:
        # channels of the same place within each group go together, so that all groups stay alike
        if label is not None:
            rows = label.ids.reshape(groups, -1)
            for row in rows[1:]:
                trace.channels.join(rows[0], row)
            trace.mark(weight, 1, into, "in", rows[0])
        ids = np.tile(trace.channels.fresh(across // groups), groups)
        trace.mark(weight, 1, outward, "out", ids)
    trace.mark(bias, 2, 0, "along", ids)
    trace.set(node.outputs[0], Label(1, ids))


def gemm(trace: Trace, node: ir.Node) -> None:
    given, weight = node.inputs[0], node.inputs[1]
    label, bias = trace.label(given), node.inputs[2] if len(node.inputs) > 2 else None
    plain = weight is not None and weight.is_initializer() and not attribute(node, "transA", 0)
    if not plain or weight is None or (bias is not None and not bias.is_initializer()):
        for value in node.inputs:
            trace.freeze(trace.label(value), node, "its weights are computed")
        return
    turned = attribute(node, "transB", 0)
    if label is not None and label.axis == 1:
        trace.mark(weight, 1, 1 if turned else 0, "in", label.ids)
    else:
        trace.freeze(label, node)
    width = trace.shape(weight)[0 if turned else 1]
    ids = trace.channels.fresh(width)
    trace.mark(weight, 1, 0 if turned else 1, "out", ids)
    if bias is not None and (sizes := trace.shape(bias)) and sizes[-1] == width:
        trace.mark(bias, 2, len(sizes) - 1, "along", ids)
    trace.set(node.outputs[0], Label(1, ids))


def matmul(trace: Trace, node: ir.Node) -> None:
    first, second = node.inputs[0], node.inputs[1]
    assert first is not None and second is not None
    one, rank = trace.label(first), len(trace.shape(first))
    if not second.is_initializer() or len(trace.shape(second)) != 2:
        _product(trace, node)
        return
    if one is not None and one.axis == rank - 1:
        trace.mark(second, 1, 0, "in", one.ids)
    else:
        trace.freeze(one, node, "channels beside those that it sums")
    ids = trace.channels.fresh(trace.shape(second)[1])
    trace.mark(second, 1, 1, "out", ids)
    trace.set(node.outputs[0], Label(len(trace.shape(node.outputs[0])) - 1, ids))


def _product(trace: Trace, node: ir.Node) -> None:
    """Of two computed tensors, as attention has it: heads, on an axis that both share, stay one to one."""
    values = [value for value in node.inputs if value is not None]
    labels = [trace.label(value) for value in values]
    rank = len(trace.shape(node.outputs[0]))
    found = [one for one in labels if one is not None]
    if len(found) == 2 and found[0].axis == found[1].axis < rank - 2 and len(trace.shape(values[0])) == rank:
        trace.channels.join(found[0].ids, found[1].ids)
        trace.products.append((trace.number, found[0].ids))
        trace.set(node.outputs[0], Label(found[0].axis, found[0].ids))
        return
    for one in found:
        trace.freeze(one, node, "a product of computed tensors")


def normalization(trace: Trace, node: ir.Node) -> None:
    label = trace.label(node.inputs[0])
    assert label is not None
    if node.op_type == "LayerNormalization":
        axis, rank = attribute(node, "axis", -1), len(trace.shape(node.outputs[0]))
        if label.axis >= axis % rank:
            trace.freeze(label, node, "it counts over all channels")
            return
    elif label.axis == 1:
        for place, value in enumerate(node.inputs[1:], 1):
            trace.mark(value, place, 0, "along", label.ids)
    else:
        trace.freeze(label, node)
        return
    trace.set(node.outputs[0], label)


def softmax(trace: Trace, node: ir.Node) -> None:
    label, rank = trace.label(node.inputs[0]), len(trace.shape(node.outputs[0]))
    if label is not None and label.axis == attribute(node, "axis", -1) % rank:
        trace.freeze(label, node, "it counts over all channels")
    else:
        trace.set(node.outputs[0], label)


LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
Rule = Callable[[Trace, "ir.Node"], None]
RULES: dict[str, Rule] = {
    **dict.fromkeys(UNARY, same),
    **dict.fromkeys(ELEMENTWISE, elementwise),
    **dict.fromkeys(PLANES, planes),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), softmax),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization", "LayerNormalization"), normalization),
    "Conv": convolution,
    "ConvTranspose": convolution,
    "Gemm": gemm,
    "MatMul": matmul,
    **trace_layout.RULES,
}
