"""What a model holds in memory, read from its file as its engine runs it: weights, packed copies, activations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from edge_runtime.compress.graph_onnx import optimize
from edge_runtime.compress.graph_tflite import LiteGraph, open_tflite
from edge_runtime.footprint import Parts

if TYPE_CHECKING:
    from edge_runtime.tensors import Array

# operator -> where its weights stand among its inputs
_PACKED = {
    **dict.fromkeys(("Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul"), 1),
    **dict.fromkeys(
        ("FusedMatMul", "MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulNBits"), 1
    ),
    **dict.fromkeys(("QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger"), 3),
}
# They write over their input where nobody else wants it.
_IN_PLACE = {
    *("Relu", "Clip", "Add", "Mul", "Sub", "Div", "Sigmoid", "HardSwish", "HardSigmoid", "LeakyRelu", "Tanh", "Erf"),
    *(
        "Sqrt",
        "Pow",
        "Gelu",
        "Softmax",
        "QuickGelu",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Identity",
        "Dropout",
    ),
    *("BatchNormalization", "QLinearAdd", "QLinearMul", "Sum", "Neg", "Abs", "Exp"),
    *("ADD", "MUL", "SUB", "RELU", "RELU6", "LOGISTIC", "HARD_SWISH", "RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TANH"),
}


def read_parts(content: bytes, format_: str, arch: str) -> Parts:
    """`format_`: onnx or tflite. Raises InputError where the model cannot be read, EngineError where a package of the
    workstation is missing."""
    return _onnx(content, arch) if format_ == "onnx" else _tflite(content, arch)


def peak_live(steps: Iterable[tuple[str, list[str], list[str]]], sizes: Mapping[str, int], ends: Iterable[str]) -> int:
    """The most bytes of tensors that are alive together: (operator, inputs, outputs) in the order of execution;
    `sizes` of what is computed, in bytes; `ends` live to the end."""
    order = list(steps)
    last = dict.fromkeys(ends, len(order))
    for place, (_, inputs, _outputs) in enumerate(order):
        for name in inputs:
            last[name] = max(place, last.get(name, 0))
    live: dict[str, int] = {}
    most = 0
    for place, (kind, inputs, outputs) in enumerate(order):
        made = {name: sizes[name] for name in outputs if name in sizes}
        gone = [name for name in set(inputs) if name in live and last[name] <= place]
        if kind in _IN_PLACE and len(made) == 1:
            (size,) = made.values()
            same = next((name for name in gone if live[name] == size), None)
            if same is not None:
                del live[same]
                gone.remove(same)
        live |= made
        most = max(most, sum(live.values()))
        for name in [*gone, *(name for name in made if last.get(name, -1) <= place)]:
            live.pop(name, None)
    return most


def _onnx(content: bytes, arch: str) -> Parts:
    found = optimize(content, portable=arch != "x86_64")
    constants, tensors = found.constants, found.tensors
    packed: dict[str, str] = {}
    scratch = 0
    for node in found.nodes:
        place = _PACKED.get(node.op_type)
        if place is None or len(node.input) <= place or node.input[place] not in constants:
            continue
        name, weight = node.input[place], constants[node.input[place]]
        convolves = "Conv" in node.op_type
        packed[name] = ("conv" if convolves else "matrix") if weight.dtype.itemsize > 1 else "int8"
        if convolves:
            scratch = max(scratch, _scratch(weight, tensors[node.input[0]], tensors[node.output[0]]))
    sizes = {name: array.nbytes for name, array in tensors.items() if name not in constants}
    inputs = [sizes.pop(name) for name in found.inputs]
    steps = [(node.op_type, list(node.input), list(node.output)) for node in found.nodes]
    return _parts(
        len(content),
        {name: array.nbytes for name, array in constants.items()},
        packed,
        spread_bytes=0,
        input_bytes=sum(inputs),
        activation_bytes=peak_live(steps, sizes, found.outputs),
        scratch_bytes=scratch,
        operators=len(found.nodes),
    )


def _scratch(weight: Array, data: Array, out: Array) -> int:
    """Of a convolution in integers: where its window lies for each output, sums of 32 bits, its input turned. In float:
    its input written out as a matrix, by the group."""
    kernel = math.prod(weight.shape[2:])
    pixels = out.size // max(1, weight.shape[0])
    if weight.dtype.itemsize == 1:
        return (8 * kernel * pixels if kernel > 1 else 0) + 4 * out.size + data.nbytes + out.nbytes
    return 0 if kernel == 1 else kernel * int(weight.shape[1]) * pixels * weight.dtype.itemsize


def _parts(file_bytes: int, sizes: Mapping[Any, int], packed: Mapping[Any, str], **more: int) -> Parts:
    kinds = {kind: sum(sizes[name] for name, one in packed.items() if one == kind) for kind in _KINDS}
    rest = sum(size for name, size in sizes.items() if name not in packed)
    return Parts(file_bytes, kinds["conv"], kinds["matrix"], kinds["int8"], rest, **more)


_KINDS = ("conv", "matrix", "int8")
_LITE_PACKED = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 1, "TRANSPOSE_CONV": 1, "BATCH_MATMUL": 1}


def _tflite(content: bytes, arch: str) -> Parts:
    graph = open_tflite(content)
    packed: dict[int, str] = {}
    spread: set[int] = set()
    steps: list[tuple[str, list[str], list[str]]] = []
    for kind, inputs, outputs in graph.operators:
        if kind == "DEQUANTIZE" and inputs[0] in graph.constants:
            spread.add(outputs[0])  # weights that are stored smaller than they are computed with
            continue
        place = _LITE_PACKED.get(kind)
        if place is not None and len(inputs) > place and inputs[place] in graph.constants | spread:
            real = graph.types[inputs[place]] in ("float32", "float16")
            packed[inputs[place]] = ("conv" if "CONV" in kind else "matrix") if real else "int8"
        steps.append((kind, [str(one) for one in inputs], [str(one) for one in outputs]))
    fixed = graph.constants | spread
    sizes = {str(one): size for one, size in enumerate(graph.sizes) if one not in fixed and one not in graph.inputs}
    return _parts(
        len(content),
        {one: graph.sizes[one] for one in graph.constants | packed.keys()},
        packed,
        spread_bytes=sum(graph.sizes[one] for one in spread),
        input_bytes=sum(graph.sizes[one] for one in graph.inputs),
        activation_bytes=peak_live(steps, sizes, [str(one) for one in graph.outputs]),
        scratch_bytes=_windows(graph) if arch == "armv7l" else 0,
        operators=len(graph.operators),
    )


def _windows(graph: LiteGraph) -> int:
    """Bytes of the largest input of a convolution that is written out as a matrix, a row a window: so do TFLite's own
    kernels, which run where XNNPACK does not."""
    most = 0
    for kind, inputs, outputs in graph.operators:
        if kind == "CONV_2D" and len(graph.shapes[inputs[1]]) == 4:
            channels, *window = graph.shapes[inputs[1]]
            if window[:2] != [1, 1]:
                pixels = math.prod(graph.shapes[outputs[0]]) // max(1, channels)
                each = 1 if graph.types[inputs[0]] in ("int8", "uint8") else 4
                most = max(most, pixels * math.prod(window) * each)
    return most
