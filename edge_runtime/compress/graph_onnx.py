"""An ONNX model's operators after onnxruntime's own fusions: it optimizes the model, and what it made of it is read.

Shapes are those that a run gives: onnx's shape inference does not know the fused operators.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edge_runtime.engine import find_engine
from edge_runtime.errors import EngineError, InputError
from edge_runtime.operators import Node

if TYPE_CHECKING:
    from edge_runtime.tensors import Array

_FREE = {
    *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Shape", "Constant", "ConstantOfShape"),
    *("Cast", "Size", "Range"),
}
_KINDS = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Sum", "Max", "Min", "Pow", "Where", "BatchNormalization"), "binary"),
    **dict.fromkeys(("QLinearAdd", "QLinearMul", "PRelu", "Equal", "Greater", "Less", "Mod", "And", "Or"), "binary"),
    **dict.fromkeys(("Relu", "Clip", "LeakyRelu", "HardSigmoid", "Neg", "Abs", "Sqrt", "Reciprocal", "Floor"), "relu"),
    **dict.fromkeys(("Sigmoid", "Tanh", "Exp", "Erf", "Log", "Softplus", "Elu", "QuickGelu"), "sigmoid"),
    **dict.fromkeys(("QLinearSigmoid", "QLinearLeakyRelu", "Sin", "Cos"), "sigmoid"),
    **dict.fromkeys(("Gelu", "FastGelu", "BiasGelu"), "gelu"),
    **dict.fromkeys(("Softmax", "LogSoftmax", "QLinearSoftmax"), "softmax"),
    **dict.fromkeys(("LayerNormalization", "InstanceNormalization"), "norm"),
    **dict.fromkeys(("SimplifiedLayerNormalization", "GroupNorm", "LRN"), "norm"),
    **dict.fromkeys(("Concat", "QLinearConcat", "Slice", "Pad", "Split", "Gather", "Tile", "Expand"), "copy"),
    **dict.fromkeys(("Resize", "Upsample", "ReorderInput", "ReorderOutput"), "copy"),
    **dict.fromkeys(("Transpose", "DepthToSpace", "SpaceToDepth"), "transpose"),
    **dict.fromkeys(("QuantizeLinear", "DynamicQuantizeLinear"), "quantize"),
    "DequantizeLinear": "dequantize",
    "SkipLayerNormalization": "skipnorm",
}
_PLANES = ("GlobalAveragePool", "GlobalMaxPool", "QLinearGlobalAveragePool", "ReduceMean", "ReduceMax", "ReduceSum")
_WINDOWS = ("MaxPool", "NhwcMaxPool", "AveragePool", "QLinearAveragePool")
# operator -> the places of data and weights among its inputs
_CONVOLUTIONS = {"Conv": (0, 1), "FusedConv": (0, 1), "QLinearConv": (0, 3), "NhwcFusedConv": (0, 1)}
_PRODUCTS = {
    **dict.fromkeys(("Gemm", "MatMul", "FusedMatMul", "FusedGemm", "MatMulInteger"), (0, 1)),
    **dict.fromkeys(("QLinearMatMul", "QGemm", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"), (0, 3)),
    "DynamicQuantizeMatMul": (0, 1),
    "MatMulIntegerToFloat": (0, 1),
}


class Optimized(NamedTuple):
    """A model as onnxruntime made it: its nodes in their order, every tensor of one run by name (constants too)."""

    nodes: Sequence[Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, Array]
    tensors: Mapping[str, Array]


def optimize(content: bytes, portable: bool = False) -> Optimized:
    """`portable`: without the layouts that belong to x86-64 only.

    Raises InputError for a model that onnxruntime refuses or whose sizes are not fixed."""
    try:
        import onnx
    except ImportError as error:
        raise EngineError(f"onnx cannot be imported: {error}", hint="pip install 'edge-runtime[compress]'") from error
    reason = find_engine("onnxruntime").missing()
    if reason:
        raise EngineError(f"onnxruntime is needed to read a model as it runs it: {reason}", hint="edge-runtime doctor")
    with tempfile.TemporaryDirectory(prefix="edge-runtime-") as folder:
        optimized = Path(folder, "optimized.onnx")
        try:
            _session(content, optimized, portable)
            model = onnx.load(str(optimized))
            known = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
            outputs = tuple(one.name for one in model.graph.output)
            tensors = known | _run_all(model, onnx)
        except InputError:
            raise
        except Exception as error:  # onnxruntime's own family, protobuf's, UnicodeDecodeError of damaged names
            raise InputError(f"onnxruntime cannot run the model: {str(error).splitlines()[0][:300]}") from error
    inputs = tuple(one.name for one in model.graph.input if one.name not in known)
    return Optimized(model.graph.node, inputs, outputs, known, tensors)


def read_onnx(content: bytes, arch: str) -> list[Node]:
    """Raises as `optimize`."""
    import onnx

    found = optimize(content, portable=arch != "x86_64")
    made = []
    for node in found.nodes:
        attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        known = _node(node, attributes, found.tensors, set(found.constants))
        if known and not (node.op_type.startswith("Reorder") and arch != "x86_64"):
            made.append(known)
    return made


def _session(content: bytes, save: Path | None, portable: bool = False) -> Any:
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    settings.intra_op_num_threads = 1
    if save is None:
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    else:
        settings.optimized_model_filepath = str(save)
        if portable:
            settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    return ort.InferenceSession(content, settings, providers=["CPUExecutionProvider"])


def _run_all(model: Any, onnx: Any) -> dict[str, Array]:
    """Every tensor of one run on zeros, batch 1."""
    import numpy as np

    given = {one.name for one in model.graph.output}
    names = [name for node in model.graph.node for name in node.output if name and name not in given]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    session = _session(model.SerializeToString(), None)
    feeds = {}
    for one in session.get_inputs():
        free = [place for place, size in enumerate(one.shape) if not isinstance(size, int)]
        if free not in ([], [0]):
            raise InputError(f"input {one.name!r}: found {one.shape}, wanted fixed sizes after the first (the batch)")
        kind = {"float": "float32", "double": "float64"}.get(one.type[7:-1], one.type[7:-1])
        feeds[one.name] = np.zeros([size if isinstance(size, int) else 1 for size in one.shape], kind)
    outputs = [one.name for one in session.get_outputs()]
    return feeds | dict(zip(outputs, session.run(outputs, feeds), strict=True))


def _node(node: Any, attributes: Mapping[str, Any], tensors: Mapping[str, Array], constant: set[str]) -> Node | None:
    kind = node.op_type
    if kind in _FREE or all(name in constant for name in node.input):
        return None
    out = tensors[node.output[0]]
    if kind in _CONVOLUTIONS:
        data, weight = (tensors[node.input[place]] for place in _CONVOLUTIONS[kind])
        return _convolution(node.name, attributes, data, weight, out)
    if kind in _PRODUCTS:
        data, factor = (node.input[place] for place in _PRODUCTS[kind])
        depth = tensors[data].shape[0 if attributes.get("transA") else -1]
        return _product(node.name, tensors[data].dtype.name, depth, out.shape, factor in constant)
    first = tensors[node.input[0]]
    if kind in _PLANES:
        rows = max(1, first.size // max(1, out.size))
        return Node("globalpool", out.dtype.name, rows, 1, out.size, name=node.name, shape=out.shape)
    planes = out.ndim == 4 and not (kind.startswith("Nhwc") or attributes.get("channels_last"))
    width = max(1, out.shape[1] if planes else math.prod(out.shape[-1:]))
    rows = max(1, out.size // width)
    if kind in _WINDOWS:
        kernel, stride = math.prod(attributes["kernel_shape"]), max(attributes.get("strides", [1]))
        return Node("pool", out.dtype.name, rows, kernel, width, kernel, stride, name=node.name, shape=out.shape)
    if kind == "Split":
        rows = max(1, first.size // width)
    known = _KINDS.get(kind, kind)
    dtype = first.dtype.name if known == "dequantize" else out.dtype.name
    return Node(known, dtype, rows, 1, width, name=node.name, shape=out.shape)


def _convolution(name: str, attributes: Mapping[str, Any], data: Array, weight: Array, out: Array) -> Node:
    kernel = math.prod(weight.shape[2:])
    strides = attributes.get("strides", [1])
    group = attributes.get("group", 1)
    last = attributes.get("channels_last", 0)
    width = int(weight.shape[0])
    rows = math.prod(out.shape[1:-1] if last else out.shape[2:]) * out.shape[0]
    plain: dict[str, Any] = {"name": name, "shape": out.shape, "kernel": kernel, "stride": max(strides)}
    if group > 1 and weight.shape[1] == 1:
        return Node("depthwise", data.dtype.name, rows, kernel, width, **plain)
    kind = "conv1x1" if kernel == 1 else "conv"
    depth = math.prod(weight.shape[1:])
    return Node(kind, data.dtype.name, rows, depth, max(1, width // group), count=group, **plain)


def _product(name: str, dtype: str, depth: int, shape: tuple[int, ...], weights: bool) -> Node:
    if weights:
        return Node("dense", dtype, max(1, math.prod(shape[:-1])), depth, shape[-1], name=name, shape=shape)
    rows = shape[-2] if len(shape) > 1 else 1
    return Node("matmul", dtype, rows, depth, shape[-1], count=max(1, math.prod(shape[:-2])), name=name, shape=shape)
