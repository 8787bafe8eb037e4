"""How much of a quantized model onnxruntime really runs in integers: it optimizes the model, the result is counted."""

from __future__ import annotations

from dataclasses import dataclass

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.prepare import optimized

_INTEGER = ("ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QGemm", "MatMulNBits")
_FLOAT = ("Conv", "FusedConv", "ConvTranspose", "Gemm", "MatMul", "FusedMatMul", "FusedGemm", "NhwcFusedConv")


@dataclass(frozen=True)
class Count:
    """Layers with products (convolutions, matrix products) that run in integers and in float; the conversions between
    the two; names of the layers in float."""

    integer_layers: int
    float_layers: int
    conversions: int
    other_integer: int
    float_names: tuple[str, ...]


def count_integers(artifact: Artifact) -> Count:
    """Raises InputError for a model that onnxruntime refuses."""
    import onnx

    graph = onnx.load_from_string(optimized(artifact.content, "EXTENDED")).graph
    kinds = [node.op_type for node in graph.node]
    products = ("QLinearConv", "QLinearMatMul")
    whole = sum(kind in _INTEGER or kind in products for kind in kinds)
    floats = tuple(node.name or node.op_type for node in graph.node if node.op_type in _FLOAT)
    return Count(
        whole,
        len(floats),
        sum(kind in ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear") for kind in kinds),
        sum(kind.startswith("QLinear") and kind not in products for kind in kinds),
        floats,
    )
