"""A TFLite file in the making: tensors, constants and operators get their numbers in order, so bytes are deterministic.

Operator versions are the oldest that hold what is asked for, as tflite-runtime 2.14 refuses newer ones. Constants are
aligned to 16 bytes and stored once each, however often they are used.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
from ai_edge_litert import schema_py_generated as schema

if TYPE_CHECKING:
    from edge_runtime.tensors import Array

Code, Options, Kind = schema.BuiltinOperator, schema.BuiltinOptions, schema.TensorType
ACTIVATIONS = {"": 0, "RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}
SAME, VALID = 0, 1
KINDS = {
    "float32": Kind.FLOAT32,
    "float16": Kind.FLOAT16,
    "float64": Kind.FLOAT64,
    "bool": Kind.BOOL,
    "int4": Kind.INT4,
    "int8": Kind.INT8,
    "uint8": Kind.UINT8,
    "int16": Kind.INT16,
    "int32": Kind.INT32,
    "int64": Kind.INT64,
}
# operator -> versions for float32, int8 and int16 activations; 1, 1, 1 where it is not listed
_VERSIONS = {
    **dict.fromkeys(("ADD", "SUB"), (1, 2, 3)),
    **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D", "CONCATENATION", "PAD", "PADV2", "MEAN", "SUM"), (1, 2, 3)),
    **dict.fromkeys(("SOFTMAX", "LOGISTIC", "TANH", "RELU", "RELU6", "REDUCE_MAX", "REDUCE_MIN"), (1, 2, 3)),
    **dict.fromkeys(("MAXIMUM", "MINIMUM", "BATCH_MATMUL", "MIRROR_PAD"), (1, 2, 3)),
    **dict.fromkeys(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), (3, 3, 3)),
    **dict.fromkeys(("LEAKY_RELU", "GELU", "DIV", "SPLIT_V", "GATHER", "TILE", "SPLIT", "EQUAL"), (1, 2, 2)),
    "CONV_2D": (1, 3, 4),
    "DEPTHWISE_CONV_2D": (2, 3, 5),
    "DEQUANTIZE": (2, 2, 4),
    "FULLY_CONNECTED": (1, 4, 7),
    "MUL": (1, 2, 4),
    "SPLIT_V": (1, 2, 2),
    "STRIDED_SLICE": (1, 2, 4),
    "TRANSPOSE": (1, 2, 4),
    "TRANSPOSE_CONV": (3, 3, 3),
}


class Quant(NamedTuple):
    """real = scale * (steps - zero); `dtype` is int8 or int16, as TFLite wants them."""

    scale: float
    zero: int
    dtype: str = "int8"


class _Buffer(schema.BufferT):  # type: ignore[misc]
    """The schema's own writer knows nothing of `force_align: 16`."""

    def Pack(self, builder: Any) -> Any:
        place = None
        if self.data is not None:
            content = self.data
            builder.StartVector(1, len(content), 16)
            builder.head -= len(content)
            builder.Bytes[builder.head : builder.head + len(content)] = content
            place = builder.EndVector()
        schema.BufferStart(builder)
        if place is not None:
            schema.BufferAddData(builder, place)
        return schema.BufferEnd(builder)


@dataclass
class LiteFile:
    buffers: list[Any] = field(default_factory=lambda: [_Buffer()])  # buffer 0 is empty by convention
    tensors: list[Any] = field(default_factory=list)
    codes: list[tuple[int, int]] = field(default_factory=list)
    operators: list[Any] = field(default_factory=list)
    _constants: dict[Any, int] = field(default_factory=dict)
    _contents: dict[bytes, int] = field(default_factory=dict)

    def tensor(self, name: str, shape: tuple[int, ...], dtype: str, quant: Quant | None = None) -> int:
        """A tensor that an operator or the user fills."""
        made = schema.TensorT()
        made.name, made.shape, made.type, made.buffer = name, np.array(shape, np.int32), KINDS[dtype], 0
        made.hasRank = bool(shape)
        if quant:
            made.quantization = _parameters(np.array([quant.scale]), np.array([quant.zero]), 0)
        self.tensors.append(made)
        return len(self.tensors) - 1

    def constant(
        self,
        array: Array,
        name: str = "",
        scales: Array | None = None,
        zeros: Array | None = None,
        axis: int = 0,
        dtype: str = "",
        own: int = 0,
    ) -> int:
        """`array` as it is stored; for dtype int4 it is int8 and two steps go into a byte. `own`: a number that no
        other has gives a tensor of its own."""
        array = np.ascontiguousarray(array).reshape(array.shape)
        dtype = dtype or array.dtype.name
        content = _packed_by_two(array) if dtype == "int4" else array.tobytes()
        if zeros is None and scales is not None:
            zeros = np.zeros(len(scales), np.int64)
        key = (
            *(content, array.shape, dtype, axis, own),
            *(None if one is None else np.asarray(one).tobytes() for one in (scales, zeros)),
        )
        if key in self._constants:
            return self._constants[key]
        number = self.tensor(name or f"constant{len(self.tensors)}", array.shape, dtype)
        if scales is not None:
            self.tensors[number].quantization = _parameters(scales, zeros, axis)
        if content not in self._contents:
            buffer = _Buffer()
            buffer.data = content
            self.buffers.append(buffer)
            self._contents[content] = len(self.buffers) - 1
        self.tensors[number].buffer = self._contents[content]
        self._constants[key] = number
        return number

    def blocks(self, steps: Array, scales: Array, block: int) -> int:
        """int4 weights [N, K] with a scale of 16 bits for each `block` steps of a row."""
        found = schema.BlockwiseQuantizationT()
        found.scales, found.zeroPoints, found.blockSize = self.constant(scales.astype(np.float16)), -1, block
        number = self.constant(steps, f"blocks{len(self.tensors)}", dtype="int4", own=len(self.tensors))
        made = schema.QuantizationParametersT()
        made.detailsType, made.details = schema.QuantizationDetails.BlockwiseQuantization, found
        self.tensors[number].quantization = made
        return number

    def step(self, step: int, quant: Quant) -> int:
        """One number as it stands in a tensor of `quant`."""
        return self.constant(np.array([step], quant.dtype), "", np.array([quant.scale]), np.array([quant.zero]))

    def operator(
        self,
        name: str,
        inputs: list[int],
        outputs: list[int],
        options: Any = None,
        version: int = 0,
    ) -> None:
        """`options` is the schema's own object (its class names the kind); version 0: the oldest that will do."""
        real = next((self.tensors[one] for one in inputs if one >= 0), self.tensors[outputs[0]])
        column = {Kind.INT8: 1, Kind.INT16: 2}.get(real.type, 0)
        entry = (getattr(Code, name), version or _VERSIONS.get(name, (1, 1, 1))[column])
        if entry not in self.codes:
            self.codes.append(entry)
        made = schema.OperatorT()
        made.opcodeIndex = self.codes.index(entry)
        made.inputs, made.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        if options is not None:
            made.builtinOptionsType = getattr(Options, type(options).__name__.removesuffix("T"))
            made.builtinOptions = options
        self.operators.append(made)

    def sign(self, number: int, free: tuple[int, ...]) -> None:
        """`free`: the tensor's shape with -1 for what the user may resize."""
        self.tensors[number].shapeSignature = np.array(free, np.int32)

    def is_float(self, number: int) -> bool:
        return bool(self.tensors[number].type == Kind.FLOAT32)

    def is_int4(self, number: int) -> bool:
        return bool(self.tensors[number].type == Kind.INT4)

    def finish(self, inputs: list[int], outputs: list[int]) -> bytes:
        graph = schema.SubGraphT()
        graph.name, graph.tensors, graph.operators = "main", self.tensors, self.operators
        graph.inputs, graph.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        model = schema.ModelT()
        model.version, model.description = 3, "edge_runtime"
        model.operatorCodes, model.subgraphs, model.buffers = [], [graph], self.buffers
        for code, version in self.codes:
            entry = schema.OperatorCodeT()
            entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = code, min(code, 127), version
            model.operatorCodes.append(entry)
        model.signatureDefs = [self._signature(inputs, outputs)]
        size = sum(len(one.data or b"") for one in self.buffers)
        builder = flatbuffers.Builder(size + (1 << 16))
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _signature(self, inputs: list[int], outputs: list[int]) -> Any:
        """Tensors by name, which the newer interfaces of LiteRT and its quantizer ask for."""
        made = schema.SignatureDefT()
        made.signatureKey, made.subgraphIndex = "serving_default", 0
        made.inputs, made.outputs = ([self._map(place) for place in places] for places in (inputs, outputs))
        return made

    def _map(self, place: int) -> Any:
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = self.tensors[place].name, place
        return entry


def options(kind: str, **fields: Any) -> Any:
    """The schema's object `kind`OptionsT with `fields` set; `act` is the name of a fused activation."""
    made = getattr(schema, f"{kind}OptionsT")()
    if "act" in fields:
        fields["fusedActivationFunction"] = ACTIVATIONS[fields.pop("act")]
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def _parameters(scales: Array, zeros: Array | None, axis: int) -> Any:
    made = schema.QuantizationParametersT()
    made.scale = np.asarray(scales, np.float32)
    made.zeroPoint = np.asarray(zeros, np.int64)
    made.quantizedDimension = axis
    return made


def _packed_by_two(array: Array) -> bytes:
    """int8 steps of -8 to 7, row after row, the first in the low half of a byte."""
    flat = array.ravel().astype(np.int8).view(np.uint8) & 15
    flat = np.concatenate([flat, np.zeros(len(flat) % 2, np.uint8)])
    return bytes((flat[0::2] | flat[1::2] << 4).tobytes())
