"""How much of a quantized model onnxruntime really runs in integers: it optimizes the model, the result is counted."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.compress.artifact import Artifact
from edge_runtime.errors import InputError

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
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    with tempfile.TemporaryDirectory(prefix="edge-runtime-") as folder:
        path = Path(folder, "model.onnx")
        settings.optimized_model_filepath = str(path)
        try:
            ort.InferenceSession(artifact.content, settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own family
            raise InputError(f"onnxruntime refuses the model: {(str(error).splitlines() or ['?'])[0][:300]}") from error
        graph = onnx.load(str(path)).graph
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
