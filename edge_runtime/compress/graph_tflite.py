"""A TFLite file's operators: what is fused is fused in the file already."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from edge_runtime.errors import EngineError, InputError
from edge_runtime.operators import Node

_FREE = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS", "SHAPE", "FILL", "RANGE", "CAST")
_KINDS = {
    **dict.fromkeys(("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE", "POW", "PRELU"), "binary"),
    **dict.fromkeys(("RELU", "RELU6", "RELU_N1_TO_1", "LEAKY_RELU", "ABS", "NEG", "SQRT", "RSQRT", "SQUARE"), "relu"),
    **dict.fromkeys(("LOGISTIC", "TANH", "EXP", "ELU", "LOG", "SIN", "COS"), "sigmoid"),
    **dict.fromkeys(("CONCATENATION", "PAD", "PADV2", "MIRROR_PAD", "SLICE", "STRIDED_SLICE"), "copy"),
    **dict.fromkeys(("SPLIT", "SPLIT_V"), "copy"),
    **dict.fromkeys(("PACK", "UNPACK", "GATHER", "TILE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), "copy"),
    **dict.fromkeys(("TRANSPOSE", "DEPTH_TO_SPACE", "SPACE_TO_DEPTH"), "transpose"),
    "HARD_SWISH": "hardswish",
    "GELU": "gelu",
    "SOFTMAX": "softmax",
    "LOG_SOFTMAX": "softmax",
    "QUANTIZE": "quantize",
    "DEQUANTIZE": "dequantize",
}
_PLANES = ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN")


class LiteGraph(NamedTuple):
    """The first subgraph: operators as (kind, inputs, outputs), tensors as places in `sizes` (bytes), `types` and
    `shapes`; `constants`: those whose values are in the file."""

    operators: list[tuple[str, list[int], list[int]]]
    inputs: list[int]
    outputs: list[int]
    sizes: list[int]
    types: list[str]
    constants: set[int]
    shapes: list[tuple[int, ...]]


def open_tflite(content: bytes) -> LiteGraph:
    """Raises InputError for a file that cannot be read."""
    graph, model, names, types = _parse(content)
    try:
        codes = [max(one.builtinCode, one.deprecatedBuiltinCode) for one in model.operatorCodes]
        operators = [
            (
                names[codes[one.opcodeIndex]],
                [int(place) for place in one.inputs if place >= 0],
                [int(place) for place in one.outputs],
            )
            for one in graph.operators
        ]
        kinds = [types[one.type] for one in graph.tensors]
        shapes = [_shape(one) for one in graph.tensors]
        sizes = [_bytes(shape, kind) for shape, kind in zip(shapes, kinds, strict=True)]
        constants = {
            place
            for place, one in enumerate(graph.tensors)
            if model.buffers[one.buffer].data is not None or model.buffers[one.buffer].offset > 1
        }
        ends = [int(one) for one in graph.inputs], [int(one) for one in graph.outputs]
        return LiteGraph(operators, *ends, sizes, kinds, constants, shapes)
    except Exception as error:  # a damaged flatbuffer: whatever its offsets lead to
        raise InputError(f"the TFLite file cannot be read: {type(error).__name__}: {error}") from error


def _bytes(shape: tuple[int, ...], kind: str) -> int:
    bits = {"int4": 4, "bool": 8}.get(kind) or int("".join(filter(str.isdigit, kind)) or 8)
    return -(-math.prod(shape) * bits // 8)


def _parse(content: bytes) -> tuple[Any, Any, dict[int, str], dict[int, str]]:
    """The first subgraph, the model, names of operators and of types."""
    try:
        from ai_edge_litert import schema_py_generated as schema
    except ImportError as error:
        raise EngineError(f"ai_edge_litert cannot be imported: {error}", hint="pip install ai-edge-litert") from error
    if content[4:8] != b"TFL3":
        raise InputError("model: found no TFLite file, wanted one that begins with TFL3 at its fifth byte")
    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
    types = {number: name.lower() for name, number in vars(schema.TensorType).items() if isinstance(number, int)}
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
        return model.subgraphs[0], model, names, types
    except Exception as error:
        raise InputError(f"the TFLite file cannot be read: {type(error).__name__}: {error}") from error


def read_tflite(content: bytes) -> list[Node]:
    """Raises InputError for a file that cannot be read."""
    graph, model, names, types = _parse(content)
    try:
        codes = [max(one.builtinCode, one.deprecatedBuiltinCode) for one in model.operatorCodes]
        ends = [graph.tensors[place] for place in (*graph.inputs, *graph.outputs)]
        made = [_moved(one, types) for one in ends]
        for operator in graph.operators:
            inputs = [graph.tensors[place] for place in operator.inputs if place >= 0]
            data = [model.buffers[one.buffer].data is not None for one in inputs]
            out = graph.tensors[operator.outputs[0]]
            node = _node(names[codes[operator.opcodeIndex]], operator.builtinOptions, inputs, data, out, types)
            if node:
                made.append(node)
        return made
    except Exception as error:  # a damaged flatbuffer: whatever its offsets lead to
        raise InputError(f"the TFLite file cannot be read: {type(error).__name__}: {error}") from error


def _moved(tensor: Any, types: Any) -> Node:
    """The interpreter copies what goes in and what comes out."""
    shape = _shape(tensor)
    return Node("copy", types[tensor.type], math.prod(shape[:-1]), 1, shape[-1] if shape else 1, name="in or out")


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(max(1, int(size)) for size in (tensor.shape if tensor.shape is not None else ()))


def _text(tensor: Any) -> str:
    return tensor.name.decode(errors="replace") if isinstance(tensor.name, bytes) else str(tensor.name or "")


def _node(kind: str, options: Any, inputs: list[Any], constant: list[bool], out: Any, types: Any) -> Node | None:
    if kind in _FREE or all(constant):
        return None
    shape, first = _shape(out), _shape(inputs[0])
    dtype = types[inputs[0].type if kind == "DEQUANTIZE" else out.type]
    plain: dict[str, Any] = {"name": _text(out), "shape": shape}
    width = shape[-1] if shape else 1
    rows = math.prod(shape[:-1])
    if kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        weight = _shape(inputs[1])
        kernel, stride = weight[1] * weight[2], max(options.strideH, options.strideW)
        if kind == "DEPTHWISE_CONV_2D":
            return Node("depthwise", dtype, rows, kernel, width, kernel, stride, **plain)
        groups = max(1, first[-1] // weight[3])
        name = "conv1x1" if kernel == 1 else "conv"
        return Node(name, dtype, rows, kernel * weight[3], width // groups, kernel, stride, groups, **plain)
    if kind == "FULLY_CONNECTED":
        return Node("dense", dtype, rows, _shape(inputs[1])[-1], width, **plain)
    if kind == "BATCH_MATMUL":
        depth = first[-2] if options.adjX else first[-1]
        name = "dense" if constant[1] else "matmul"
        return Node(name, dtype, shape[-2], depth, width, count=math.prod(shape[:-2]), **plain)
    if kind in ("MAX_POOL_2D", "AVERAGE_POOL_2D"):
        kernel = options.filterHeight * options.filterWidth
        if rows > 1 or kernel < first[1] * first[2]:
            return Node("pool", dtype, rows, kernel, width, kernel, max(options.strideH, options.strideW), **plain)
    if kind in (*_PLANES, "MAX_POOL_2D", "AVERAGE_POOL_2D"):
        size = max(1, math.prod(shape))
        return Node("globalpool", dtype, max(1, math.prod(first) // size), 1, size, **plain)
    if kind.startswith("SPLIT"):
        rows = max(1, math.prod(first) // max(1, width))
    return Node(_KINDS.get(kind, kind), dtype, rows, 1, width, **plain)
