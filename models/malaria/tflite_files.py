"""The network as TFLite flatbuffers, written operation by operation: no TensorFlow, and op versions of 2019-2020.

Input `image` is NHWC: float32 [1,64,64,3] in 0-1, or int8 with scale 1/255 and zero point -128 (a pixel minus 128).
Output `logit` is float32 [1,1] in both. The batch can be resized. Old op versions matter: the engine of 32-bit ARM is
tflite-runtime 2.14.0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from layers import Folded, IntNet

SIZE = 64
Kind, Code, Options = schema.TensorType, schema.BuiltinOperator, schema.BuiltinOptions
Fused = schema.ActivationFunctionType


@dataclass
class _File:
    """A flatbuffer model in the making: tensors and operators get their numbers in order."""

    buffers: list[Any] = field(default_factory=lambda: [schema.BufferT()])  # buffer 0 is empty by convention
    tensors: list[Any] = field(default_factory=list)
    codes: list[tuple[int, int]] = field(default_factory=list)
    operators: list[Any] = field(default_factory=list)

    def tensor(
        self, name: str, shape: tuple[int, ...], kind: int, data: np.ndarray | None = None,
        scales: Any = None, zero: int = 0, axis: int = 0,
    ) -> int:  # fmt: skip
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, np.array(shape, np.int32), kind, 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            self.buffers.append(buffer)
            tensor.buffer = len(self.buffers) - 1
        elif len(shape) > 1:
            tensor.shapeSignature = np.array((-1, *shape[1:]), np.int32)
        if scales is not None:
            quantization = schema.QuantizationParametersT()
            quantization.scale = np.atleast_1d(np.asarray(scales, np.float32))
            quantization.zeroPoint = np.full(len(quantization.scale), zero, np.int64)
            quantization.quantizedDimension = axis
            tensor.quantization = quantization
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def operator(
        self, code: int, version: int, inputs: list[int], output: int, kind: int = 0, options: Any = None
    ) -> int:
        if (code, version) not in self.codes:
            self.codes.append((code, version))
        operator = schema.OperatorT()
        operator.opcodeIndex = self.codes.index((code, version))
        operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        operator.builtinOptionsType, operator.builtinOptions = kind, options
        self.operators.append(operator)
        return output

    def save(self, path: Path, image: int, logit: int) -> None:
        graph = schema.SubGraphT()
        graph.name, graph.tensors, graph.operators = "malaria", self.tensors, self.operators
        graph.inputs, graph.outputs = np.array([image], np.int32), np.array([logit], np.int32)
        model = schema.ModelT()
        model.version, model.description = 3, "edge_runtime"
        model.operatorCodes, model.subgraphs, model.buffers = [], [graph], self.buffers
        for code, version in self.codes:
            entry = schema.OperatorCodeT()
            entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = code, code, version
            model.operatorCodes.append(entry)
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        path.write_bytes(bytes(builder.Output()))


def _convolution(file: _File, inputs: list[int], output: int, stride: int, depthwise: bool, integer: bool) -> int:
    options = schema.DepthwiseConv2DOptionsT() if depthwise else schema.Conv2DOptionsT()
    options.padding, options.strideH, options.strideW = schema.Padding.SAME, stride, stride
    options.dilationHFactor = options.dilationWFactor = 1
    options.fusedActivationFunction = Fused.RELU
    if depthwise:
        options.depthMultiplier = 1
    code = Code.DEPTHWISE_CONV_2D if depthwise else Code.CONV_2D
    kind = Options.DepthwiseConv2DOptions if depthwise else Options.Conv2DOptions
    return file.operator(code, 3 if integer else 1, inputs, output, kind, options)


def _pool(file: _File, code: int, source: int, side: int, channels: int) -> int:
    options = schema.Pool2DOptionsT()
    options.padding, options.strideH, options.strideW = schema.Padding.VALID, side, side
    options.filterHeight = options.filterWidth = side
    options.fusedActivationFunction = Fused.NONE
    output = file.tensor(f"pool{code}", (1, 1, 1, channels), Kind.FLOAT32)
    return file.operator(code, 1, [source], output, Options.Pool2DOptions, options)


def _head(file: _File, source: int, side: int, head: np.ndarray, bias: float) -> int:
    channels = len(head) // 2
    average = _pool(file, Code.AVERAGE_POOL_2D, source, side, channels)
    maximum = _pool(file, Code.MAX_POOL_2D, source, side, channels)
    concat = schema.ConcatenationOptionsT()
    concat.axis, concat.fusedActivationFunction = 3, Fused.NONE
    pooled = file.tensor("pooled", (1, 1, 1, 2 * channels), Kind.FLOAT32)
    file.operator(Code.CONCATENATION, 1, [average, maximum], pooled, Options.ConcatenationOptions, concat)
    dense = schema.FullyConnectedOptionsT()
    dense.fusedActivationFunction = Fused.NONE
    weight = file.tensor("head", (1, 2 * channels), Kind.FLOAT32, head[None].astype(np.float32))
    offset = file.tensor("head_bias", (1,), Kind.FLOAT32, np.array([bias], np.float32))
    logit = file.tensor("logit", (1, 1), Kind.FLOAT32)
    return file.operator(Code.FULLY_CONNECTED, 1, [pooled, weight, offset], logit, Options.FullyConnectedOptions, dense)


def _ordered(weight: np.ndarray, depthwise: bool) -> np.ndarray:
    """(O,I,k,k) to TFLite's (O,k,k,I), or (1,k,k,O) where every channel has its own filter."""
    return weight.transpose(1, 2, 3, 0) if depthwise else weight.transpose(0, 2, 3, 1)


def write_float(net: Folded, path: Path) -> None:
    file, side = _File(), SIZE
    image = last = file.tensor("image", (1, SIZE, SIZE, 3), Kind.FLOAT32)
    for place, layer in enumerate(net.layers):
        side //= layer.stride
        kernel = _ordered(layer.weight, layer.depthwise)
        weight = file.tensor(f"w{place}", kernel.shape, Kind.FLOAT32, kernel)
        bias = file.tensor(f"b{place}", layer.bias.shape, Kind.FLOAT32, layer.bias)
        output = file.tensor(f"r{place}", (1, side, side, len(layer.bias)), Kind.FLOAT32)
        last = _convolution(file, [last, weight, bias], output, layer.stride, layer.depthwise, False)
    file.save(path, image, _head(file, last, side, net.head, net.head_bias))


def write_int8(net: IntNet, path: Path) -> None:
    file, side = _File(), SIZE
    image = last = file.tensor("image", (1, SIZE, SIZE, 3), Kind.INT8, scales=net.layers[0].input_scale, zero=-128)
    for place, layer in enumerate(net.layers):
        side //= layer.stride
        kernel, axis = _ordered(layer.weight, layer.depthwise), 3 if layer.depthwise else 0
        weight = file.tensor(f"w{place}", kernel.shape, Kind.INT8, kernel, layer.scales, axis=axis)
        fine = layer.scales * np.float32(layer.input_scale)
        bias = file.tensor(f"b{place}", layer.bias.shape, Kind.INT32, layer.bias, fine)
        shape = (1, side, side, len(layer.bias))
        output = file.tensor(f"r{place}", shape, Kind.INT8, scales=layer.output_scale, zero=-128)
        last = _convolution(file, [last, weight, bias], output, layer.stride, layer.depthwise, True)
    real = file.tensor("map", (1, side, side, len(net.head) // 2), Kind.FLOAT32)
    file.operator(Code.DEQUANTIZE, 2, [last], real, Options.DequantizeOptions, schema.DequantizeOptionsT())
    file.save(path, image, _head(file, real, side, net.head, net.head_bias))
