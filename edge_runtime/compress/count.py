"""What a graph costs for one item: multiplications with accumulation (MACs), and parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.layers import attribute
from edge_runtime.compress.shapes import Shapes, find_shapes

if TYPE_CHECKING:
    import onnx_ir as ir

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Counts:
    """`macs` by node name, of convolutions and matrix products, for one item; `parameters` numbers in floating or
    quantized weights; `zeros` of them are exactly 0."""

    by_layer: dict[str, int]
    parameters: int
    zeros: int

    @property
    def macs(self) -> int:
        return sum(self.by_layer.values())

    def __str__(self) -> str:
        share = self.zeros / max(self.parameters, 1)
        return f"{self.macs / 1e6:.2f} million MACs, {self.parameters} parameters ({share:.1%} zero)"


def count(artifact: Artifact) -> Counts:
    """For the ONNX forms. Raises InputError where onnxruntime cannot run the graph."""
    import numpy as np

    model, shapes = artifact.model(), find_shapes(artifact)
    by_layer = {node.name or "?": macs for node in model.graph if (macs := macs_of(node, shapes))}
    parameters = zeros = 0
    for value in model.graph.initializers.values():
        if value.const_value is None or not _is_weight(value):
            continue
        array = np.asarray(value.const_value.numpy())
        parameters += array.size
        zeros += int(array.size - np.count_nonzero(array))
    return Counts(by_layer, parameters, zeros)


def _is_weight(value: ir.Value) -> bool:
    """Numbers that a layer learned: not shapes and indices, not the scales and offsets of quantized ones."""
    uses = value.uses()
    if value.const_value is None or not value.const_value.size:
        return False
    if all(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node, _ in uses):
        return any(place == 0 for _, place in uses)
    return value.dtype is not None and value.dtype.is_floating_point()


def macs_of(node: ir.Node, shapes: Shapes) -> int:
    """0 for what is neither a convolution nor a matrix product."""
    from math import prod

    if node.op_type not in PRODUCTS or node.domain not in ("", "ai.onnx"):
        return 0
    first, weight = (_shape(one, shapes) for one in node.inputs[:2])
    result = _shape(node.outputs[0], shapes)
    if node.op_type == "Conv":
        return prod(result) * prod(weight[1:])
    if node.op_type == "ConvTranspose":
        return prod(first) * prod(weight[1:])
    if node.op_type == "Gemm":
        return prod(result) * first[0 if attribute(node, "transA", 0) else 1]
    return prod(result) * first[-1]


def _shape(value: ir.Value | None, shapes: Shapes) -> tuple[int, ...]:
    assert value is not None
    if value.name in shapes:
        return shapes[value.name]
    assert value.const_value is not None
    return tuple(value.const_value.shape.numpy())
