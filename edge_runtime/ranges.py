"""The weights in a coded file (see coded.py): what each range of the model file is, and its bytes from levels."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from edge_runtime.errors import BundleError
from edge_runtime.lanes import (
    DIRECT,
    FORECASTS,
    SLOTS,
    ZERO,
    Contexts,
    Levels,
    Shape,
    frequencies,
    slots,
    spread_tables,
)

if TYPE_CHECKING:
    from edge_runtime.lanes import Array

RANGE = struct.Struct("<QIIHIIBBiIIIBBH")
MAX_TABLES = 255
PIECE = 1 << 15

KINDS = ("int8", "int4", "int16", "grid32", "book32", "book16", "byte", "top32", "top16")
INT8, INT4, INT16, GRID32, BOOK32, BOOK16, BYTE, TOP32, TOP16 = range(len(KINDS))
# bits of one value in the model file
WIDTHS = (8, 4, 16, 32, 32, 16, 8, 32, 16)


class Range(NamedTuple):
    """`number` values from byte `offset` of the model file on, read as `rows` x `places` x `columns`, the last row
    padded; `swapped`: they lie there as rows x columns x places. `values`: how many scales or codebook entries; value n
    of the range has scale (n // block) % values. `classes`: of rows, 0 for none; `prior`: see lanes.py; `tables`: how
    many of the file's tables its map uses; `contexts`: 1 where forecasts are used."""

    offset: int
    number: int
    rows: int
    places: int
    columns: int
    group: int
    swapped: int
    kind: int
    centre: int
    block: int
    values: int
    prior: int
    classes: int
    contexts: int
    tables: int

    @property
    def shape(self) -> Shape:
        return Shape(self.rows, self.places, self.columns, self.group)

    @property
    def size(self) -> int:
        """Bytes in the model file."""
        return (self.number * WIDTHS[self.kind] + 7) // 8


class Plan(NamedTuple):
    """How one range is read."""

    range: Range
    contexts: Contexts
    values: Array
    frequencies: list[tuple[int, Array]]

    @property
    def low_bits(self) -> bool:
        """Whether any of its tokens has low bits."""
        last = max(first + each.size - 1 for first, each in self.frequencies)
        return min(first for first, _ in self.frequencies) <= ZERO - DIRECT or last >= ZERO + DIRECT

    def tables(self) -> Array:
        import numpy as np

        return np.concatenate([slots(first, each) for first, each in self.frequencies])


def plans(ranges: list[Range], small: dict[str, bytes]) -> Iterator[Plan]:
    """Each range with its part of the sections."""
    import numpy as np

    tables = _tables(small.get("tables", b""))
    classes, maps = _Bytes(small.get("classes", b"")), _Bytes(small.get("maps", b""))
    planes = np.frombuffer(small.get("values", b""), np.uint8)
    if planes.size % 4:
        raise BundleError("found scales that are not of four bytes each")
    values = np.ascontiguousarray(planes.reshape(4, -1).T).view("<u4").reshape(-1)
    used = 0
    for one in ranges:
        of_rows = classes.take(one.rows, np.uint8) if one.classes else np.zeros(0, np.uint8)
        weights, limits = np.zeros((one.places, 3), np.int32), np.zeros(0, np.uint16)
        if one.contexts:
            weights = maps.take(one.places * 3, np.dtype("<i4")).reshape(-1, 3)
            limits = maps.take(FORECASTS - 1, np.dtype("<u2"))
        ids = maps.take(one.tables, np.uint8)
        place = np.zeros(max(1, one.classes) * FORECASTS, np.uint8)
        if one.tables > 1:
            place = maps.take(place.size, np.uint8)
        if (of_rows.size and int(of_rows.max()) >= one.classes) or int(place.max()) >= one.tables:
            raise BundleError("found a context outside the map")
        if int(ids.max()) >= len(tables) or used + one.values > values.size or (np.diff(limits.astype(int)) < 0).any():
            raise BundleError("found a table, scale or limit that there is not")
        contexts = Contexts(weights, one.prior, of_rows, spread_tables(limits, place) * SLOTS)
        yield Plan(one, contexts, values[used : used + one.values], [tables[int(each)] for each in ids])
        used += one.values


class _Bytes:
    """Arrays, one after the other."""

    def __init__(self, content: bytes) -> None:
        self.content, self.used = content, 0

    def take(self, count: int, dtype: Any) -> Array:
        import numpy as np

        size = count * np.dtype(dtype).itemsize
        if self.used + size > len(self.content):
            raise BundleError("found fewer contexts than its weights need")
        self.used += size
        return np.frombuffer(self.content, dtype, count, self.used - size)


def _tables(content: bytes) -> list[tuple[int, Array]]:
    """Each table: its first token, how many tokens, the logarithm of each one's frequency."""
    import numpy as np

    made, at = [], 0
    while at + 2 <= len(content):
        first, count = content[at], content[at + 1]
        stored = np.frombuffer(content, np.uint8, min(count, len(content) - at - 2), at + 2)
        if not 0 < stored.size == count <= 256 - first:
            raise BundleError("found a table of tokens that there are not")
        made.append((first, frequencies(stored)))
        at += 2 + count
    if at != len(content) or len(made) > MAX_TABLES:
        raise BundleError(f"found tables of {len(content)} bytes, wanted at most {MAX_TABLES} whole ones")
    return made


# ---------------------------------------------------------------- the engine's bytes


def write(out: Array, plan: Plan, first: int, tokens: Array, levels: Levels) -> None:
    """`tokens`: (places, rows of a group, columns), of the group whose first row is `first`."""
    import numpy as np

    one = plan.range
    axes = (1, 2, 0) if one.swapped else (1, 0, 2)
    begin = first * one.places * one.columns
    if one.kind >= BYTE or not plan.low_bits:  # turned while they are single bytes
        flat = np.ascontiguousarray(tokens.transpose(axes)).reshape(-1)[: one.number - begin].astype(np.int32)
        flat += one.centre - (ZERO if one.kind < BYTE else 0)
    else:
        flat = np.ascontiguousarray(levels.of(tokens).transpose(axes)).reshape(-1)[: one.number - begin]
        flat += np.int32(one.centre)
    made = _engine_bytes(plan, begin, flat)
    at = one.offset + begin * WIDTHS[one.kind] // 8
    out[at : at + made.size] = made


def _engine_bytes(plan: Plan, begin: int, flat: Array) -> Array:
    """`flat`: int32 levels with the centre, of the values from `begin` on. Returns uint8."""
    import numpy as np

    kind = plan.range.kind
    if kind in (INT8, BYTE):
        return flat.astype(np.uint8)
    if kind == INT4:
        return nibbles(flat)
    if kind == INT16:
        return flat.astype("<u2").view(np.uint8)
    if kind == GRID32:
        scales = spread(plan.values.view("<f4"), plan.range.block, begin, flat.size)
        with np.errstate(all="ignore"):  # a hostile file's scales; an overflow is only another wrong model
            return (flat.astype(np.float32) * scales).astype("<f4").view(np.uint8)
    if kind in (BOOK32, BOOK16):
        if flat.size and not 0 <= int(flat.min()) <= int(flat.max()) < plan.values.size:
            raise BundleError("found a weight outside its codebook")
        return plan.values.take(flat).astype("<u4" if kind == BOOK32 else "<u2").view(np.uint8)
    wide = "<u4" if kind == TOP32 else "<u2"
    return (flat.astype(wide) << (WIDTHS[kind] - 8)).view(np.uint8)  # completed when everything else is there


def nibbles(flat: Array) -> Array:
    """Two values a byte, the first in the low half."""
    import numpy as np

    padded = np.zeros(flat.size + flat.size % 2, np.uint8)
    padded[: flat.size] = flat & 15
    made: Array = padded[::2] | (padded[1::2] << 4)
    return made


def spread(scales: Array, block: int, begin: int, count: int) -> Array:
    """The scale of each of `count` values from number `begin` on."""
    import numpy as np

    first, last = begin // block, (begin + count - 1) // block
    if first == last or scales.size == 1:
        return scales[first % scales.size : first % scales.size + 1]
    some = scales.take(np.arange(first, last + 1) % scales.size)
    return np.repeat(some, block)[begin - first * block :][:count] if block > 1 else some


def complete(out: Array, one: Range, take: Callable[[int], bytes]) -> None:
    """Floats from their exponents, which are there, and their other bytes in planes, which `take` gives: rotated left
    by one bit, a float has its exponent in the first byte and its sign in the last bit."""
    import numpy as np

    wide = np.dtype("<u4" if one.kind == TOP32 else "<u2")
    for first in range(0, one.number, PIECE):
        count = min(PIECE, one.number - first)
        planes = np.frombuffer(take(count * (wide.itemsize - 1)), np.uint8).reshape(-1, count)
        place = slice(one.offset + first * wide.itemsize, one.offset + (first + count) * wide.itemsize)
        turned = out[place].copy().view(wide)
        for number, plane in enumerate(planes[::-1]):
            turned |= plane.astype(wide) << wide.type(8 * number)
        out[place] = ((turned >> wide.type(1)) | (turned << wide.type(8 * wide.itemsize - 1))).view(np.uint8)
