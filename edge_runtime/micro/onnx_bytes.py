"""ONNX files written byte by byte, for the few operators of the micro-models: a device has no onnx package.

Protocol buffers are numbered fields: a key (number and wire type), then a whole number or bytes with their length.
Field numbers are those of onnx.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_runtime.tensors import Array

Attribute = int | float | str | Sequence[int]
FLOAT, UINT8, INT8, INT32, INT64 = 1, 2, 3, 6, 7
_TYPES = {"float32": FLOAT, "uint8": UINT8, "int8": INT8, "int32": INT32, "int64": INT64}
_OPSET, _IR_VERSION = 17, 8


def _varint(number: int) -> bytes:
    made = bytearray()
    while number > 127:
        made.append(number & 127 | 128)
        number >>= 7
    return bytes(made + bytes([number]))


def _whole(field: int, number: int) -> bytes:
    return _varint(field << 3) + _varint(number)


def _bytes(field: int, content: bytes | str) -> bytes:
    content = content.encode() if isinstance(content, str) else content
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def tensor(name: str, array: Array) -> bytes:
    """A TensorProto; dtypes as in `_TYPES`."""
    dims = b"".join(_whole(1, size) for size in array.shape)
    return dims + _whole(2, _TYPES[array.dtype.name]) + _bytes(8, name) + _bytes(9, array.tobytes())


def value(name: str, dtype: str, shape: Sequence[int] | None = None) -> bytes:
    """A ValueInfoProto; without a shape the engine works it out."""
    dims = b"" if shape is None else _bytes(2, b"".join(_bytes(1, _whole(1, size)) for size in shape))
    return _bytes(1, name) + _bytes(2, _bytes(1, _whole(1, _TYPES[dtype]) + dims))


def _attribute(name: str, what: Attribute) -> bytes:
    if isinstance(what, float):
        return _bytes(1, name) + _varint(2 << 3 | 5) + struct.pack("<f", what) + _whole(20, 1)
    if isinstance(what, int):
        return _bytes(1, name) + _whole(3, what) + _whole(20, 2)
    if isinstance(what, str):
        return _bytes(1, name) + _bytes(4, what) + _whole(20, 3)
    return _bytes(1, name) + b"".join(_whole(8, number) for number in what) + _whole(20, 7)


def node(
    kind: str, inputs: Sequence[str], output: str, attributes: Mapping[str, Attribute] | None = None, domain: str = ""
) -> bytes:
    """A NodeProto with one output."""
    names = b"".join(_bytes(1, one) for one in inputs) + _bytes(2, output) + _bytes(4, kind)
    given = b"".join(_bytes(5, _attribute(name, what)) for name, what in (attributes or {}).items())
    return names + given + (_bytes(7, domain) if domain else b"")


def model(nodes: Sequence[bytes], tensors: Sequence[bytes], inputs: Sequence[bytes], outputs: Sequence[bytes]) -> bytes:
    """A ModelProto: the bytes of an .onnx file."""
    graph = b"".join(_bytes(1, one) for one in nodes) + _bytes(2, "micro")
    graph += b"".join(_bytes(5, one) for one in tensors)
    graph += b"".join(_bytes(11, one) for one in inputs) + b"".join(_bytes(12, one) for one in outputs)
    opsets = _bytes(8, _whole(2, _OPSET)) + _bytes(8, _bytes(1, "com.microsoft") + _whole(2, 1))
    return _whole(1, _IR_VERSION) + _bytes(2, "edge_runtime") + _bytes(7, graph) + opsets
