"""FlatBuffers written byte by byte: tables, vectors, strings. The engine of 32-bit ARM comes without that package.

A table is a dict of field number -> value: a `Scalar` stands in the table itself, all else is reached by an offset.
What refers comes before what it refers to, as offsets only point forward.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Scalar:
    """`code` is struct's: b B h i q f."""

    code: str
    number: float


@dataclass(frozen=True)
class Vector:
    """Numbers packed as bytes, `count` of them, aligned to `align` bytes."""

    content: bytes
    count: int
    align: int = 4


Value = Any  # Scalar | Vector | str | dict (a table) | list (a vector of tables or strings)


def vector(code: str, numbers: Any) -> Vector:
    """Whole numbers or floats of struct's `code`."""
    found = list(numbers)
    return Vector(struct.pack(f"<{len(found)}{code}", *found), len(found), max(4, struct.calcsize(code)))


def flatbuffer(root: dict[int, Value], identifier: bytes) -> bytes:
    """A whole file with `root` as its root table."""
    out = bytearray(struct.pack("<I", 0) + identifier)
    at = _put(out, root)
    struct.pack_into("<I", out, 0, at)
    return bytes(out)


def _pad(out: bytearray, align: int, ahead: int = 0) -> None:
    out.extend(bytes(-(len(out) + ahead) % align))


def _put(out: bytearray, value: Value) -> int:
    """Append `value`, give where it begins."""
    if isinstance(value, dict):
        return _put_table(out, value)
    if isinstance(value, list):
        _pad(out, 4)
        at = len(out)
        out.extend(struct.pack("<I", len(value)) + bytes(4 * len(value)))
        for place, one in enumerate(value):
            _link(out, at + 4 + 4 * place, one)
        return at
    if isinstance(value, str):
        value = Vector(value.encode() + b"\0", len(value.encode()))
    _pad(out, value.align, 4)
    at = len(out)
    out.extend(struct.pack("<I", value.count) + value.content)
    return at


def _link(out: bytearray, place: int, value: Value) -> None:
    struct.pack_into("<I", out, place, _put(out, value) - place)


def _put_table(out: bytearray, fields: dict[int, Value]) -> int:
    slots = max(fields, default=-1) + 1
    offsets, size = {}, 4
    for number, value in fields.items():
        width = struct.calcsize(value.code) if isinstance(value, Scalar) else 4
        size += -size % width
        offsets[number] = size
        size += width
    _pad(out, 4)
    out.extend(struct.pack("<HH", 4 + 2 * slots, size))
    out.extend(b"".join(struct.pack("<H", offsets.get(slot, 0)) for slot in range(slots)))
    table = len(out) - 4 - 2 * slots
    _pad(out, 8)
    at = len(out)
    out.extend(bytes(size))
    struct.pack_into("<i", out, at, at - table)
    for number, value in fields.items():
        if isinstance(value, Scalar):
            number_ = value.number if value.code in "fd" else int(value.number)
            struct.pack_into(f"<{value.code}", out, at + offsets[number], number_)
        else:
            _link(out, at + offsets[number], value)
    return at
