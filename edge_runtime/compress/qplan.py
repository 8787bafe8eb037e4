"""Which nodes of a graph shall run in integers, which tensors they need as integers, and which of those share one
scale because the operator between them only moves values (a pool, a reshape, a concatenation)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edge_runtime.compress.layers import Layer, attribute, weighted

if TYPE_CHECKING:
    import onnx_ir as ir

SAME = (
    *("MaxPool", "AveragePool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Concat", "Slice"),
    *(
        "GlobalMaxPool",
        "Split",
        "Gather",
        "Identity",
        "Dropout",
        "DepthToSpace",
        "SpaceToDepth",
        "Pad",
        "Resize",
        "Expand",
        "Tile",
    ),
)
ELEMENTWISE = ("Add", "Mul")
OTHER = ("GlobalAveragePool", "Sigmoid", "Softmax", "LeakyRelu", "Relu", "Clip")
# what their answers can be at all, whatever the items: low, high; high is the integer after the last
FIXED = {"Sigmoid": (0.0, 1.0), "Softmax": (0.0, 1.0)}


@dataclass
class Plan:
    """`ends`: a quantized node -> where its answer is taken: after the Relu, Clip or bias that runs with it.
    `inside`: those. `group`: a tensor -> the name of the group whose scale it has."""

    layers: dict[ir.Node, Layer] = field(default_factory=dict)
    ends: dict[ir.Node, ir.Value] = field(default_factory=dict)
    inside: set[ir.Node] = field(default_factory=set)
    parents: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def group(self, value: ir.Value) -> ir.Value:
        while self.parents.setdefault(value, value) is not value:
            value = self.parents[value]
        return value

    def join(self, one: ir.Value, other: ir.Value) -> None:
        self.parents[self.group(one)] = self.group(other)

    def members(self) -> dict[ir.Value, list[ir.Value]]:
        made: dict[ir.Value, list[ir.Value]] = {}
        for value in list(self.parents):
            made.setdefault(self.group(value), []).append(value)
        return made

    def made_by(self) -> dict[ir.Value, ir.Node]:
        """Tensors that a quantized node answers with."""
        made = {end: node for node, end in self.ends.items()}
        for node in self.ends:
            made.update({one: node for one in node.outputs[1:] if node.op_type == "Split"})
        return made


def plan(model: ir.Model, keep: Collection[str] = ()) -> Plan:
    """`keep`: names of nodes that stay float."""
    made = Plan()
    made.layers = {one.node: one for one in weighted(model) if one.name not in keep and _plain(one)}
    for node in model.graph:
        if node in made.inside or node.name in keep or node.domain not in ("", "ai.onnx"):
            continue
        if _wanted(node, made):
            made.ends[node] = _end(node, made)
    _drop_useless(model, made)
    for node, end in made.ends.items():
        for value in data_inputs(node, made):
            made.group(value)
        made.group(end)
        if node.op_type in SAME:
            values = [*data_inputs(node, made), *node.outputs]
            for value in values[1:]:
                made.join(value, values[0])
    return made


def data_inputs(node: ir.Node, found: Plan) -> list[ir.Value]:
    """The activations that a quantized node reads."""
    if node in found.layers:
        places: tuple[int, ...] = (0,)
    elif node.op_type in ("Add", "Mul", "MatMul"):
        places = (0, 1)
    else:
        places = tuple(range(len(node.inputs))) if node.op_type == "Concat" else (0,)
    return [value for place in places if (value := node.inputs[place]) is not None]


def _plain(layer: Layer) -> bool:
    node = layer.node
    if node.op_type == "Gemm":
        plain = attribute(node, "alpha", 1.0) == 1 and attribute(node, "beta", 1.0) == 1
        return plain and not attribute(node, "transA", 0)
    # a transposed convolution with groups: scales by channel have no axis of their own in the weight
    return node.op_type != "ConvTranspose" or attribute(node, "group", 1) == 1


def _wanted(node: ir.Node, made: Plan) -> bool:
    known = made.made_by()
    if node in made.layers:
        return True
    inputs = [one for one in node.inputs if one is not None]
    if node.op_type == "MatMul":
        return all(one.const_value is None for one in inputs)
    if node.op_type in ELEMENTWISE:
        return all(one.const_value is None for one in inputs) and any(one in known for one in inputs)
    if node.op_type == "Concat":
        return all(one.const_value is None for one in inputs) and any(_integer(one, known) for one in inputs)
    if node.op_type == "Resize" and attribute(node, "mode", "nearest") != "nearest":
        return False
    if node.op_type == "Pad" and not _pads_zero(node):
        return False
    if node.op_type == "MaxPool" and len(node.outputs) > 1:
        return False
    if node.op_type in SAME or node.op_type in OTHER:
        return _integer(inputs[0], known)
    return False


def _integer(value: ir.Value, known: dict[ir.Value, ir.Node]) -> bool:
    return value in known or (value.is_graph_input() and value.dtype is not None and value.dtype.name == "FLOAT")


def _pads_zero(node: ir.Node) -> bool:
    given = node.inputs[2] if len(node.inputs) > 2 else None
    zero = given is None or (given.const_value is not None and not given.const_value.numpy().any())
    return zero and attribute(node, "mode", "constant") == "constant"


def _end(node: ir.Node, made: Plan) -> ir.Value:
    """Follow what engines run inside the node: the bias of a MatMul, then Relu or Clip."""
    end = node.outputs[0]
    if node.op_type == "MatMul" and (after := _alone(end)) and after.op_type == "Add":
        other = next((one for one in after.inputs if one is not end), None)
        if other is not None and other.const_value is not None and len(other.const_value.shape) == 1:
            made.inside.add(after)
            end = after.outputs[0]
    if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul", *ELEMENTWISE):
        after = _alone(end)
        if after is not None and after.op_type in ("Relu", "Clip") and _bounds_known(after):
            made.inside.add(after)
            end = after.outputs[0]
    return end


def _alone(value: ir.Value) -> ir.Node | None:
    """The one reader of a tensor that nothing else sees."""
    readers = value.consumers()
    return readers[0] if len(readers) == 1 and not value.is_graph_output() else None


def _bounds_known(node: ir.Node) -> bool:
    return all(one is None or one.const_value is not None for one in node.inputs[1:])


def _drop_useless(model: ir.Model, made: Plan) -> None:
    """Between float operators alone an Add or a Reshape in integers costs a conversion and accuracy, for nothing."""
    for node in reversed(list(model.graph)):
        if node not in made.ends or node in made.layers or node.op_type == "MatMul":
            continue
        ends = [made.ends[node], *node.outputs[1:]]
        used = any(one.is_graph_output() or any(each in made.ends for each in one.consumers()) for one in ends)
        if not used:
            end = made.ends.pop(node)
            while (maker := end.producer()) is not None and maker is not node:
                made.inside.discard(maker)
                end = maker.inputs[0]  # type: ignore[assignment]
