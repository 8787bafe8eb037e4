"""A network on coarse grids as ONNX and TFLite files of few bytes: the same integers in both.

What a small net's file costs beside its weights is names, scales and offsets. So a scale belongs to a whole layer, all
activations share one, tensors have one letter or no name, zero points are one constant, and scales of the flatbuffer
that say the same are stored once. The operators are those of onnx_files.py and tflite_files.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from tflite_files import Code, Fused, Kind, Options, schema

SIZE, OPSET, IR_VERSION = 64, 13, 8
LETTERS = "abcdefghjkmnpqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"  # without i, l, o: image, logit and clarity


@dataclass(frozen=True)
class TinyLayer:
    """weight int8 (O,I/groups,k,k) by `scale`; bias int32 (O,) in steps of input scale * `scale`."""

    weight: npt.NDArray[np.int8]
    scale: float
    bias: npt.NDArray[np.int32]
    stride: int
    depthwise: bool


@dataclass(frozen=True)
class TinyNet:
    """Activations are uint8 times `step`, the picture's 1/255; `head` is levels (2C,) times `head_scale`."""

    layers: tuple[TinyLayer, ...]
    step: float
    head: npt.NDArray[np.int8]
    head_scale: float
    head_bias: float

    @property
    def head_weights(self) -> npt.NDArray[np.float32]:
        """Without -0.0, whose sign would have to be stored."""
        return self.head.astype(np.float32) * np.float32(self.head_scale)

    @property
    def parameters(self) -> int:
        return sum(one.weight.size + one.bias.size for one in self.layers) + self.head.size + 1


# ---------------------------------------------------------------- ONNX


def _nodes(net: TinyNet, constants: list[onnx.TensorProto]) -> Iterator[onnx.NodeProto]:
    names = iter(LETTERS)

    def constant(value: npt.NDArray[Any]) -> str:
        name = next(names)
        constants.append(numpy_helper.from_array(value, name))
        return name

    zero, flat = constant(np.array(0, np.uint8)), constant(np.array(0, np.int8))
    image, step = constant(np.array(1 / 255, np.float32)), constant(np.array(net.step, np.float32))
    last = next(names)
    yield helper.make_node("QuantizeLinear", ["image", image, zero], [last])
    for place, layer in enumerate(net.layers):
        inputs = [last, image if place == 0 else step, zero, constant(layer.weight)]
        inputs += [constant(np.array(layer.scale, np.float32)), flat, step, zero, constant(layer.bias)]
        options: dict[str, Any] = {"group": len(layer.weight)} if layer.depthwise else {}
        if layer.stride == 2:
            options |= {"strides": [2, 2]}
        if layer.weight.shape[-1] > 1:
            options |= {"auto_pad": "SAME_UPPER"}
        last = next(names)
        yield helper.make_node("QLinearConv", inputs, [last], **options)
    real, average, maximum, pooled, row = (next(names) for _ in range(5))
    yield helper.make_node("DequantizeLinear", [last, step, zero], [real])
    yield helper.make_node("GlobalAveragePool", [real], [average])
    yield helper.make_node("GlobalMaxPool", [real], [maximum])
    yield helper.make_node("Concat", [average, maximum], [pooled], axis=1)
    yield helper.make_node("Flatten", [pooled], [row])
    head, bias = constant(net.head_weights[:, None]), constant(np.array([net.head_bias], np.float32))
    yield helper.make_node("Gemm", [row, head, bias], ["logit"])


def write_onnx(net: TinyNet, path: Path) -> None:
    constants: list[onnx.TensorProto] = []
    nodes = list(_nodes(net, constants))
    graph = helper.make_graph(
        nodes,
        "m",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logit", TensorProto.FLOAT, ["N", 1])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


# ---------------------------------------------------------------- TFLite


class _Builder(flatbuffers.Builder):  # type: ignore[misc]
    """Stores equal scales and zero points once."""

    def __init__(self) -> None:
        super().__init__(1024)
        self.stored: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: npt.NDArray[Any]) -> int:
        if x.dtype == np.int32:  # beside its table a short vector codes better than an offset to it
            place: int = super().CreateNumpyVector(x)
            return place
        key = (x.dtype.str, x.tobytes())
        if key not in self.stored:
            self.stored[key] = super().CreateNumpyVector(x)
        return self.stored[key]


class _Once:
    """A table that several others point to."""

    def __init__(self, table: Any) -> None:
        self.table, self.place = table, 0

    def Pack(self, builder: Any) -> int:
        if not self.place:
            self.place = self.table.Pack(builder)
        return self.place


class _File:
    """A flatbuffer in the making: tensors, operators and what they share."""

    def __init__(self) -> None:
        self.buffers: list[Any] = [schema.BufferT()]  # buffer 0 is empty by convention
        self.tensors: list[Any] = []
        self.operators: list[Any] = []
        self.codes: list[tuple[int, int]] = []
        self.shared: dict[Any, _Once] = {}

    def grid(self, scale: float, zero: int) -> _Once:
        if (scale, zero) not in self.shared:
            table = schema.QuantizationParametersT()
            table.scale, table.zeroPoint = np.array([scale], np.float32), np.array([zero], np.int64)
            self.shared[scale, zero] = _Once(table)
        return self.shared[scale, zero]

    def tensor(
        self, shape: tuple[int, ...], kind: int, data: npt.NDArray[Any] | None = None, grid: Any = None, name: str = ""
    ) -> int:
        tensor = schema.TensorT()
        tensor.shape, tensor.type, tensor.quantization, tensor.buffer = np.array(shape, np.int32), kind, grid, 0
        tensor.name = name or None
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            self.buffers.append(buffer)
            tensor.buffer = len(self.buffers) - 1
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def operator(self, code: int, version: int, inputs: list[int], output: int, kind: int, options: Any) -> int:
        if (code, version) not in self.codes:
            self.codes.append((code, version))
        operator = schema.OperatorT()
        operator.opcodeIndex = self.codes.index((code, version))
        operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        key = (kind, tuple(sorted(vars(options).items())))
        operator.builtinOptionsType = kind
        operator.builtinOptions = self.shared.setdefault(key, _Once(options))
        self.operators.append(operator)
        return output

    def bytes(self, image: int, logit: int) -> bytes:
        for one in (image, logit):
            self.tensors[one].shapeSignature = np.array((-1, *self.tensors[one].shape[1:]), np.int32)
        graph = schema.SubGraphT()
        graph.tensors, graph.operators = self.tensors, self.operators
        graph.inputs, graph.outputs = np.array([image], np.int32), np.array([logit], np.int32)
        model = schema.ModelT()
        model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [], [graph], self.buffers
        for code, version in self.codes:
            entry = schema.OperatorCodeT()
            entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = code, code, version
            model.operatorCodes.append(entry)
        builder = _Builder()
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def _conv(file: _File, layer: TinyLayer, source: int, side: int, fine: float, step: float) -> int:
    options = schema.DepthwiseConv2DOptionsT() if layer.depthwise else schema.Conv2DOptionsT()
    options.padding, options.strideH, options.strideW = schema.Padding.SAME, layer.stride, layer.stride
    options.dilationHFactor = options.dilationWFactor = 1
    options.fusedActivationFunction = Fused.RELU
    if layer.depthwise:
        options.depthMultiplier = 1
    code = Code.DEPTHWISE_CONV_2D if layer.depthwise else Code.CONV_2D
    kind = Options.DepthwiseConv2DOptions if layer.depthwise else Options.Conv2DOptions
    kernel = layer.weight.transpose((1, 2, 3, 0) if layer.depthwise else (0, 2, 3, 1))
    weight = file.tensor(kernel.shape, Kind.INT8, kernel, file.grid(layer.scale, 0))
    bias = file.tensor(layer.bias.shape, Kind.INT32, layer.bias, file.grid(fine, 0))
    output = file.tensor((1, side, side, len(layer.bias)), Kind.INT8, None, file.grid(step, -128))
    return file.operator(code, 3, [source, weight, bias], output, kind, options)


def _pool(file: _File, code: int, source: int, side: int, channels: int) -> int:
    options = schema.Pool2DOptionsT()
    options.padding, options.strideH, options.strideW = schema.Padding.VALID, side, side
    options.filterHeight = options.filterWidth = side
    options.fusedActivationFunction = Fused.NONE
    output = file.tensor((1, 1, 1, channels), Kind.FLOAT32)
    return file.operator(code, 1, [source], output, Options.Pool2DOptions, options)


def write_tflite(net: TinyNet, path: Path) -> None:
    file, side = _File(), SIZE
    image = last = file.tensor((1, SIZE, SIZE, 3), Kind.INT8, None, file.grid(1 / 255, -128), "image")
    before = np.float32(1 / 255)
    for layer in net.layers:
        side //= layer.stride
        last = _conv(file, layer, last, side, float(before * np.float32(layer.scale)), net.step)
        before = np.float32(net.step)
    channels = len(net.head) // 2
    real = file.tensor((1, side, side, channels), Kind.FLOAT32)
    file.operator(Code.DEQUANTIZE, 2, [last], real, Options.DequantizeOptions, schema.DequantizeOptionsT())
    pools = [_pool(file, code, real, side, channels) for code in (Code.AVERAGE_POOL_2D, Code.MAX_POOL_2D)]
    concat = schema.ConcatenationOptionsT()
    concat.axis, concat.fusedActivationFunction = 3, Fused.NONE
    pooled = file.tensor((1, 1, 1, 2 * channels), Kind.FLOAT32)
    file.operator(Code.CONCATENATION, 1, pools, pooled, Options.ConcatenationOptions, concat)
    dense = schema.FullyConnectedOptionsT()
    dense.fusedActivationFunction = Fused.NONE
    weight = file.tensor((1, 2 * channels), Kind.FLOAT32, net.head_weights[None])
    offset = file.tensor((1,), Kind.FLOAT32, np.array([net.head_bias], np.float32))
    logit = file.tensor((1, 1), Kind.FLOAT32, name="logit")
    file.operator(
        Code.FULLY_CONNECTED, 1, [pooled, weight, offset], logit, Options.FullyConnectedOptions, dense
    )  # fmt: skip
    path.write_bytes(file.bytes(image, logit))
