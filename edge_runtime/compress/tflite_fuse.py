"""Patterns of ONNX nodes that TFLite has one operator for."""

from __future__ import annotations

import math

from edge_runtime.compress.tflite_ops import limits
from edge_runtime.compress.tflite_read import Graph, Node
from edge_runtime.compress.tflite_values import Unsupported

_WITH_ACTIVATION = (
    "Conv",
    "Gemm",
    "MatMul",
    "Add",
    "Sub",
    "Mul",
    "Div",
    "MaxPool",
    "AveragePool",
    "BatchNormalization",
)


def fuse(graph: Graph) -> None:
    """Rewrites `graph` in place."""
    for one in (_fuse_gelu, _fuse_hard_swish, _fuse_bias, _fuse_activation):
        for node in list(graph.nodes):
            one(graph, node)
        graph.recount()


def _drop(graph: Graph, node: Node) -> None:
    graph.nodes = [one for one in graph.nodes if one is not node]
    graph.recount()


def _number(graph: Graph, name: str) -> float | None:
    const = graph.constants.get(name)
    return float(const.array.reshape(-1)[0]) if const and const.array.size == 1 else None


def _close(found: float | None, wanted: float) -> bool:
    return found is not None and abs(found - wanted) <= 1e-4 * abs(wanted)


def _maker(graph: Graph, name: str) -> Node | None:
    return next((node for node in graph.nodes if name in node.outputs), None)


def _scaled(graph: Graph, node: Node | None, factor: float) -> str | None:
    """The tensor that `node` multiplies by `factor` (or divides by its inverse)."""
    if not node or node.kind not in ("Mul", "Div"):
        return None
    for here, other in ((0, 1), (1, 0)):
        number = _number(graph, node.inputs[other])
        if node.kind == "Mul" and _close(number, factor):
            return node.inputs[here]
        if node.kind == "Div" and here == 0 and _close(number, 1 / factor):
            return node.inputs[here]
    return None


def _fuse_gelu(graph: Graph, node: Node) -> None:
    """x * 0.5 * (1 + erf(x / sqrt 2)), whichever two of the three factors are multiplied first."""
    if node.kind != "Erf":
        return
    inner = _maker(graph, node.inputs[0])
    x = _scaled(graph, inner, math.sqrt(0.5))
    plus = graph.sole_user(node.outputs[0])
    if not x or not plus or plus.kind != "Add" or not any(_close(_number(graph, one), 1) for one in plus.inputs):
        return
    last = graph.sole_user(plus.outputs[0])
    if not last or last.kind != "Mul":
        return
    other = next((one for one in last.inputs if one != plus.outputs[0]), "")
    gone = [node, plus]
    half = _maker(graph, other)
    if _scaled(graph, half, 0.5) == x and half:  # (x * 0.5) * (1 + erf)
        gone += [half] if graph.sole_user(half.outputs[0]) else []
    elif other == x or _close(_number(graph, other), 0.5):  # (x * (1 + erf)) * 0.5, ((1 + erf) * 0.5) * x
        first, last = last, graph.sole_user(last.outputs[0])
        rest = _scaled(graph, last, 0.5) if other == x else None
        if not last or (other == x and rest != first.outputs[0]):
            return
        if other != x and (last.kind != "Mul" or x not in last.inputs):
            return
        gone.append(first)
    else:
        return
    gone += [inner] if inner and graph.sole_user(inner.outputs[0]) else []
    last.kind, last.inputs, last.attributes = "Gelu", [x], {}
    for one in gone:
        _drop(graph, one)


def _fuse_hard_swish(graph: Graph, node: Node) -> None:
    """x * HardSigmoid(x) with alpha 1/6 and beta 1/2."""
    if node.kind != "HardSigmoid" or not _close(float(node.attributes.get("alpha", 0.2)), 1 / 6):
        return
    user = graph.sole_user(node.outputs[0])
    if not _close(float(node.attributes.get("beta", 0.5)), 0.5) or not user or user.kind != "Mul":
        return
    if set(user.inputs) == {node.inputs[0], node.outputs[0]}:
        user.kind, user.inputs = "HardSwish", [node.inputs[0]]
        _drop(graph, node)


def _fuse_bias(graph: Graph, node: Node) -> None:
    """MatMul with weights, then Add of a vector."""
    user = graph.sole_user(node.outputs[0]) if node.kind == "MatMul" else None
    weights = graph.constants.get(node.inputs[1]) if user else None
    if not user or user.kind != "Add" or not weights or weights.array.ndim != 2:
        return
    other = next((one for one in user.inputs if one != node.outputs[0]), "")
    bias = graph.constants.get(other)
    width = weights.array.shape[1]
    if bias and bias.array.size == width and bias.array.shape[-1:] == (width,):
        node.inputs = [*node.inputs[:2], other]
        node.outputs = user.outputs
        _drop(graph, user)


def _fuse_activation(graph: Graph, node: Node) -> None:
    """Relu and Clip to 0..6 or -1..1 are part of what stands before them."""
    if node.kind not in ("Relu", "Clip"):
        return
    maker = _maker(graph, node.inputs[0])
    if not maker or maker.kind not in _WITH_ACTIVATION or maker.act or not graph.sole_user(maker.outputs[0]):
        return
    if maker.kind == "MatMul" and maker.inputs[1] not in graph.constants:
        return
    if graph.dtypes[node.inputs[0]] != "float32":
        return
    try:
        found = limits(graph.constants, node) if node.kind == "Clip" else (0.0, math.inf)
    except Unsupported:
        return  # said when the Clip itself is written
    act = {(0.0, 6.0): "RELU6", (0.0, math.inf): "RELU", (-1.0, 1.0): "RELU_N1_TO_1"}.get(found)
    if act:
        maker.act, maker.outputs = act, [node.outputs[0], *maker.outputs[1:]]
        _drop(graph, node)
