"""The operator table of a device: what single operators take on an engine, measured, and models predicted from it.

A table is a part of a device profile (`doctor --calibrate --write-profile`): for each engine the time of one empty
call, and points. A point is one shape of one kind of operator in one dtype with its nanoseconds, measured in a chain
of equal ones, so that calling the engine and bringing the data is not in it. A prediction adds up the operators of a
model; each is interpolated between the points of its kind. Standard library only: it runs on the device.

In a profile:

    [operators]
    version = 1

    [operators.onnxruntime]
    engine_version = "1.32.0"
    arch = "x86_64"
    threads = 1
    when = "2026-11-25T02:50:00+00:00"
    call_ns = 9000                         # one call of the engine for a model that does nothing

    [operators.onnxruntime.points]
    "conv.float32" = [
      [3136, 576, 64, 9, 1, 2310000],      # rows, depth, width, kernel, stride, nanoseconds
    ]

rows     positions of the output: height x width for images, rows for matrices
depth    products summed up for one output number: kernel area x input channels (without channels for depthwise)
width    channels or columns of the output
kernel   the area of the window, 1 where there is none
stride   of the window, 1 where there is none
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from edge_runtime.fields import Table, bad

VERSION = 1
DTYPES = ("float32", "uint8", "int8")
# Kinds of operators with their own points. `binary` adds or multiplies two tensors, `copy` moves bytes.
KINDS = (
    *("conv", "conv1x1", "depthwise", "dense", "matmul", "binary", "relu", "sigmoid", "hardswish", "gelu", "softmax"),
    *("norm", "pool", "globalpool", "copy", "quantize", "dequantize"),
)
MAX_POINTS = 128
_MOST = 2**53
_FIELDS = ("rows", "depth", "width", "kernel", "stride", "ns")
_VERSION_TEXT = re.compile(r"[\w.+ -]{1,60}")


@dataclass(frozen=True)
class Point:
    rows: int
    depth: int
    width: int
    kernel: int
    stride: int
    ns: int


@dataclass(frozen=True)
class OperatorTable:
    """What was measured on one engine. `points` has "kind.dtype" as keys; `when` is UTC, ISO 8601."""

    engine: str
    engine_version: str
    arch: str
    threads: int
    when: str
    call_ns: int
    points: Mapping[str, tuple[Point, ...]] = field(hash=False)


def parse_operators(values: object, where: str, engines: tuple[str, ...], arch: str) -> tuple[OperatorTable, ...]:
    """The table `[operators]` of a profile. Raises ProfileError naming file and field."""
    top = Table(values, where, "operators", ("version",), engines)
    if top.count("version", 1, 2**31) != VERSION:
        raise top.bad("version", f"{VERSION}: this package reads no other; upgrade it, or calibrate again")
    found = [name for name in engines if name in top.values]
    if not found:
        raise bad(where, "operators", values, f"a table of one of {', '.join(engines)}")
    return tuple(_parse_engine(top.values[name], where, name, arch) for name in found)


def _parse_engine(values: object, where: str, engine: str, arch: str) -> OperatorTable:
    path = f"operators.{engine}"
    table = Table(values, where, path, ("engine_version", "arch", "threads", "when", "call_ns", "points"), ())
    version = table.text("engine_version", 60)
    if not _VERSION_TEXT.fullmatch(version):
        raise table.bad("engine_version", "letters, digits and . + - _")
    if table.text("arch") != arch:
        raise table.bad("arch", f"{arch}, as the profile's: a table holds for the architecture it was measured on")
    return OperatorTable(
        engine=engine,
        engine_version=version,
        arch=arch,
        threads=table.count("threads", 1, 64),
        when=parse_when(table, "when"),
        call_ns=table.count("call_ns", 1, _MOST),
        points=_parse_points(table.values["points"], where, f"{path}.points"),
    )


def parse_when(table: Table, name: str) -> str:
    """An ISO 8601 time with its offset. Raises ProfileError."""
    text = table.text(name, 40)
    try:
        known = datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        known = False
    if not known:
        raise table.bad(name, 'a time such as "2026-11-25T02:50:00+00:00"')
    return text


def _parse_points(values: object, where: str, path: str) -> dict[str, tuple[Point, ...]]:
    names = [f"{kind}.{dtype}" for kind in KINDS for dtype in DTYPES]
    table = Table(values, where, path, (), names)
    if not table.values:
        raise bad(where, path, values, "at least one list of points")
    return {name: _parse_rows(rows, where, f"{path}.{name}") for name, rows in table.values.items()}


def _parse_rows(rows: object, where: str, path: str) -> tuple[Point, ...]:
    if not isinstance(rows, list) or not 1 <= len(rows) <= MAX_POINTS:
        raise bad(where, path, rows, f"a list of 1 to {MAX_POINTS} points")
    for number, row in enumerate(rows):
        whole = isinstance(row, list) and all(isinstance(n, int) and not isinstance(n, bool) for n in row)
        if not whole or len(row) != len(_FIELDS) or not all(1 <= n <= _MOST for n in row):
            raise bad(where, f"{path}[{number}]", row, f"whole numbers from 1 for {', '.join(_FIELDS)}")
    if len({tuple(row[:-1]) for row in rows}) != len(rows):
        raise bad(where, path, rows, "each shape only once")
    return tuple(Point(*row) for row in rows)


def format_operators(tables: tuple[OperatorTable, ...]) -> str:
    """The tables as the text of a profile; empty where there is none. `parse_operators` reads it back."""
    if not tables:
        return ""
    lines = ["[operators]", f"version = {VERSION}"]
    for one in tables:
        lines += [
            "",
            f"[operators.{one.engine}]",
            f'engine_version = "{one.engine_version}"',
            f'arch = "{one.arch}"',
            f"threads = {one.threads}",
            f'when = "{one.when}"',
            f"call_ns = {one.call_ns}",
            "",
            f"[operators.{one.engine}.points]  # {', '.join(_FIELDS)}",
        ]
        for name, points in one.points.items():
            rows = (f"[{p.rows}, {p.depth}, {p.width}, {p.kernel}, {p.stride}, {p.ns}]" for p in points)
            lines += [f'"{name}" = [', *(f"  {row}," for row in rows), "]"]
    return "\n".join(lines) + "\n"


def to_json(table: OperatorTable) -> dict[str, Any]:
    """Plain: points as lists in the order of a profile."""
    points = {name: [[getattr(p, f) for f in _FIELDS] for p in rows] for name, rows in table.points.items()}
    plain = {name: getattr(table, name) for name in ("engine", "engine_version", "arch", "threads", "when", "call_ns")}
    return plain | {"points": points}
