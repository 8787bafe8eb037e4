"""Where in a model file its weights lie: byte ranges, found by reading the file's own structure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from edge_runtime.errors import EngineError, InputError, UsageError

# TensorProto.DataType and TFLite's TensorType, those whose bytes are coded; "float8" is sign and magnitude.
_ONNX = {1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 10: "float16", 16: "bfloat16"}
_ONNX |= {17: "float8", 18: "float8", 19: "float8", 20: "float8", 21: "uint4", 22: "int4"}
_TFLITE = {0: "float32", 1: "float16", 3: "uint8", 7: "int16", 9: "int8", 17: "int4"}
BITS = {"float32": 32, "int4": 4, "uint4": 4, **dict.fromkeys(("uint8", "int8", "float8"), 8)}
BITS |= dict.fromkeys(("uint16", "int16", "float16", "bfloat16"), 16)


class Found(NamedTuple):
    """A tensor's `length` bytes from `offset` on; `layout` says what its axes are: "onnx" has kernel positions last,
    "tflite" in the middle."""

    name: str
    offset: int
    length: int
    dtype: str
    shape: tuple[int, ...]
    layout: str

    @property
    def number(self) -> int:
        return self.length * 8 // BITS[self.dtype]


def find_weights(model: bytes, format_: str) -> list[Found]:
    """In the order of the file, none overlapping. Raises InputError for a file that cannot be read."""
    if format_ == "onnx":
        found = list(_onnx(model))
    elif format_ == "tflite":
        found = list(_tflite(model))
    else:
        raise UsageError(f"model: found the format {format_!r}, wanted onnx or tflite")
    made: list[Found] = []
    for one in sorted(found, key=lambda one: (one.offset, one.name)):
        size = 1
        for each in one.shape:
            size *= each
        if (not made or one.offset >= made[-1].offset + made[-1].length) and one.length == (
            size * BITS[one.dtype] + 7
        ) // 8:
            made.append(one)
    return made


# ---------------------------------------------------------------- ONNX: protobuf's wire format


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise InputError("the ONNX file is damaged: a number does not end")


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(field number, value or 0, start and end of the bytes) of a message."""
    while at < end:
        key, at = _varint(data, at, end)
        wire, value, start = key & 7, 0, at
        if wire == 0:
            value, at = _varint(data, at, end)
        elif wire == 2:
            length, start = _varint(data, at, end)
            at = start + length
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise InputError(f"the ONNX file is damaged: found a field of wire type {wire}")
        if at > end:
            raise InputError("the ONNX file is damaged: a field is longer than what it stands in")
        yield key >> 3, value, start, at


def _onnx(data: bytes) -> Iterator[Found]:
    for field, _, start, end in _fields(data, 0, len(data)):
        if field == 7:
            yield from _graph(data, start, end, 0)


def _graph(data: bytes, at: int, stop: int, depth: int) -> Iterator[Found]:
    if depth > 16:
        raise InputError("the ONNX file has graphs within graphs, more than 16 deep")
    for field, _, start, end in _fields(data, at, stop):
        if field == 5:
            yield from _tensor(data, start, end)
        elif field == 1:  # a node: constants and graphs are among its attributes
            for inner, _, first, last in _fields(data, start, end):
                if inner != 5:
                    continue
                for kind, _, low, high in _fields(data, first, last):
                    if kind == 5:
                        yield from _tensor(data, low, high)
                    elif kind in (6, 11):
                        yield from _graph(data, low, high, depth + 1)


def _tensor(data: bytes, at: int, stop: int) -> Iterator[Found]:
    shape: list[int] = []
    kind, name, raw = 0, "", (0, 0)
    for field, value, start, end in _fields(data, at, stop):
        if field == 1 and value:
            shape.append(value)
        elif field == 1:
            while start < end:
                one, start = _varint(data, start, end)
                shape.append(one)
        elif field == 2:
            kind = value
        elif field == 8:
            name = data[start:end].decode(errors="replace")
        elif field == 9 or (field == 4 and end - start > 4):  # raw_data, or float_data, which is packed just so
            raw = (start, end)
    if kind in _ONNX and raw[1] > raw[0]:
        yield Found(name, raw[0], raw[1] - raw[0], _ONNX[kind], tuple(shape), "onnx")


# ---------------------------------------------------------------- TFLite: its flatbuffer


def _tflite(data: bytes) -> Iterator[Found]:
    try:
        from ai_edge_litert import schema_py_generated as schema
    except ImportError as error:
        raise EngineError(f"ai_edge_litert cannot be imported: {error}", hint="pip install ai-edge-litert") from error
    if data[4:8] != b"TFL3":
        raise InputError("model: found no TFLite file, wanted one that begins with TFL3 at its fifth byte")
    try:
        model: Any = schema.Model.GetRootAs(data, 0)
        for number in range(model.SubgraphsLength()):
            graph = model.Subgraphs(number)
            for place in range(graph.TensorsLength()):
                tensor = graph.Tensors(place)
                buffer = model.Buffers(tensor.Buffer())
                field = buffer._tab.Offset(4)
                if tensor.Type() in _TFLITE and field and buffer.DataLength():
                    shape = tuple(int(tensor.Shape(axis)) for axis in range(tensor.ShapeLength()))
                    name = (tensor.Name() or b"").decode(errors="replace")
                    start = buffer._tab.Vector(field)
                    yield Found(name, start, buffer.DataLength(), _TFLITE[tensor.Type()], shape, "tflite")
    except Exception as error:  # a damaged flatbuffer: whatever its offsets lead to
        raise InputError(f"the TFLite file cannot be read: {type(error).__name__}: {error}") from error
