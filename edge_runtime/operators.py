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

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from edge_runtime.fields import Table, bad

VERSION = 1
DTYPES = ("float32", "uint8", "int8")
# Kinds of operators with their own points. `binary` adds or multiplies two tensors, `copy` moves bytes, `skipnorm`
# adds two tensors and normalizes rows.
KINDS = (
    *("conv", "conv1x1", "depthwise", "dense", "matmul", "binary", "relu", "sigmoid", "hardswish", "gelu", "softmax"),
    *("transpose", "norm", "skipnorm", "pool", "globalpool", "copy", "quantize", "dequantize"),
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
    if not isinstance(values, dict) or not values:
        raise bad(where, path, values, 'a table of lists of points, such as "conv.float32"')
    for name in values:
        kind, _, dtype = name.partition(".")
        if kind not in KINDS or dtype not in DTYPES:
            raise bad(where, path, name, f'an operator and a type such as "conv.float32", of {", ".join(DTYPES)}')
    return {name: _parse_rows(rows, where, f"{path}.{name}") for name, rows in values.items()}


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


# ------------------------------------------------------------------------------------------------------- prediction


@dataclass(frozen=True)
class Node:
    """An operator of a model as the engine runs it: sizes as of a Point, `count` times the same (groups, heads).

    `dtype` is that of the activations, `name` and `shape` (of the output) are for people.
    """

    kind: str
    dtype: str
    rows: int
    depth: int
    width: int
    kernel: int = 1
    stride: int = 1
    count: int = 1
    name: str = ""
    shape: tuple[int, ...] = ()

    @property
    def macs(self) -> int:
        return self.rows * self.depth * self.width * self.count if self.kind in _MULTIPLIES else 0

    @property
    def weight_bytes(self) -> int:
        stored = self.depth * self.width * self.count if self.kind in _WEIGHTED else 0
        return stored * _item_bytes(self.dtype)

    @property
    def activation_bytes(self) -> int:
        """Read and written, each number once."""
        return (
            round(_moved(self.rows, self.depth, self.width, self.kernel, self.stride, self.kind))
            * self.count
            * (_item_bytes(self.dtype))
        )


@dataclass(frozen=True)
class Forecast:
    """A latency estimated from an operator table. `unknown`: kinds that the table has no points for, whose operators
    are not in the sum; `parts_ms`: by kind."""

    latency_ms: float
    parts_ms: Mapping[str, float] = field(hash=False)
    unknown: tuple[str, ...] = ()


_MULTIPLIES = ("conv", "conv1x1", "depthwise", "dense", "matmul")
_WEIGHTED = ("conv", "conv1x1", "depthwise", "dense")
# Where a kind was not measured in a dtype, the kind whose points stand in for it.
_STAND_INS = {"relu": "binary", "hardswish": "sigmoid", "gelu": "sigmoid", "transpose": "copy", "conv1x1": "conv"}
_ELEMENTWISE = ("binary", "relu", "sigmoid", "hardswish", "gelu", "copy", "quantize", "dequantize")
_NEIGHBOURS = 4
_NEAR, _FAR = 0.2, 4.0


def predict(table: OperatorTable, nodes: Iterable[Node]) -> Forecast:
    """The latency of a model of these nodes at batch 1 on the engine and threads of the table."""
    parts: dict[str, float] = {"call": table.call_ns / 1e6}
    unknown: dict[str, None] = {}
    models: dict[str, _Kind] = {}
    for node in nodes:
        key = f"{node.kind}.{node.dtype}"
        if key not in models:
            points = table.points.get(key) or table.points.get(f"{_STAND_INS.get(node.kind)}.{node.dtype}")
            if not points:
                unknown[key] = None
                continue
            models[key] = _Kind(points, node.kind)
        point = Point(node.rows, node.depth, node.width, node.kernel, node.stride, 1)
        ns = models[key].ns(point)
        if node.count > 1:  # one call of the engine's operator for all groups or heads
            ns = node.count * max(ns - models[key].fixed_ns, 0.1 * ns) + models[key].fixed_ns
        parts[node.kind] = parts.get(node.kind, 0.0) + ns / 1e6
    return Forecast(sum(parts.values()), parts, tuple(unknown))


def node_ns(points: Sequence[Point], like: Point, kind: str = "globalpool") -> float:
    """Nanoseconds of one operator of that shape, from points of its kind."""
    return _Kind(points, kind).ns(like)


class _Kind:
    """Time of one kind in one dtype. First a plain law, t = fixed + work / speed + bytes / bandwidth, fitted to the
    points by relative error; then what the nearest points measured differ from it is carried over, as efficiency
    depends on channels and sizes in ways that no short formula has."""

    def __init__(self, points: Sequence[Point], kind: str) -> None:
        self._kind = kind
        self._places = [_place(p, kind) for p in points]
        rows = [self._terms(p) for p in points]
        self._law = _fit(rows, [float(p.ns) for p in points])
        self.fixed_ns = self._law[0]
        self._off = [math.log(p.ns / self._lawful(p)) for p in points]

    def _terms(self, p: Point) -> tuple[float, ...]:
        work = float(p.rows * p.depth * p.width)
        moved = _moved(p.rows, p.depth, p.width, p.kernel, p.stride, self._kind)
        weights = float(p.depth * p.width) if self._kind in _WEIGHTED else 0.0
        return 1.0, work, moved, weights

    def _lawful(self, p: Point) -> float:
        return max(1.0, sum(a * b for a, b in zip(self._law, self._terms(p), strict=True)))

    def ns(self, p: Point) -> float:
        place = _place(p, self._kind)
        near = sorted((math.dist(place, other), n) for n, other in enumerate(self._places))[:_NEIGHBOURS]
        weights = [(1 / (distance + _NEAR) ** 2, n) for distance, n in near]
        # far from every point the law stands alone
        total = sum(weight for weight, _ in weights) + 1 / _FAR**2
        return self._lawful(p) * math.exp(sum(weight * self._off[n] for weight, n in weights) / total)


def _place(p: Point, kind: str) -> tuple[float, ...]:
    """Where a shape lies, in doublings: shapes that are near have the same efficiency."""
    if kind in _ELEMENTWISE:
        return (math.log2(p.rows * p.width),)
    return (
        0.5 * math.log2(p.rows),
        math.log2(max(1, p.depth // p.kernel)),
        math.log2(p.width),
        0.5 * math.log2(p.kernel),
        math.log2(p.stride),
    )


def _moved(rows: int, depth: int, width: int, kernel: int, stride: int, kind: str) -> float:
    """Numbers read and written, each once, without weights."""
    if kind in ("conv", "conv1x1"):
        read = rows * stride**2 * max(1, depth // kernel)
    elif kind == "dense":
        read = rows * depth
    elif kind == "matmul":
        read = rows * depth + depth * width
    else:
        read = rows * stride**2 * width * (2 if kind == "binary" else 1)
    return float(read + (width if kind == "globalpool" else rows * width))


def _item_bytes(dtype: str) -> int:
    return 4 if dtype == "float32" else 1


def _fit(rows: Sequence[tuple[float, ...]], times: Sequence[float]) -> tuple[float, ...]:
    """Coefficients of at least zero that make the relative errors smallest in the sense of least squares: every
    choice of coefficients that are not zero is tried, there are few."""
    size = len(rows[0])
    best, least = (times[0], *(0.0 for _ in range(size - 1))), math.inf
    for mask in range(1, 2**size):
        chosen = [n for n in range(size) if mask >> n & 1]
        scaled = [[row[n] / time for n in chosen] for row, time in zip(rows, times, strict=True)]
        found = _solve(scaled)
        if found is None or min(found) < 0:
            continue
        loss = sum((1 - sum(a * b for a, b in zip(found, row, strict=True))) ** 2 for row in scaled)
        if loss < least - 1e-12:
            least = loss
            best = tuple(found[chosen.index(n)] if n in chosen else 0.0 for n in range(size))
    return best


def _solve(rows: Sequence[Sequence[float]]) -> list[float] | None:
    """Least squares of rows x = 1 by normal equations with unit columns, or None where they do not decide."""
    size = len(rows[0])
    norms = [math.sqrt(sum(row[n] ** 2 for row in rows)) for n in range(size)]
    if not all(norms):
        return None
    unit = [[row[n] / norms[n] for n in range(size)] for row in rows]
    left = [[sum(row[i] * row[j] for row in unit) for j in range(size)] for i in range(size)]
    right = [sum(row[i] for row in unit) for i in range(size)]
    for i in range(size):
        pivot = max(range(i, size), key=lambda n: abs(left[n][i]))
        if abs(left[pivot][i]) < 1e-9:
            return None
        left[i], left[pivot], right[i], right[pivot] = left[pivot], left[i], right[pivot], right[i]
        for j in range(i + 1, size):
            share = left[j][i] / left[i][i]
            left[j] = [a - share * b for a, b in zip(left[j], left[i], strict=True)]
            right[j] -= share * right[i]
    found = [0.0] * size
    for i in reversed(range(size)):
        found[i] = (right[i] - sum(left[i][j] * found[j] for j in range(i + 1, size))) / left[i][i]
    return [value / norm for value, norm in zip(found, norms, strict=True)]


# ---------------------------------------------------------------------------------------------------------- writing


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
