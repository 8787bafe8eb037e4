"""What a tensor's bytes are as whole numbers: levels around a centre, and how its axes are read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edge_runtime.lanes import LIMIT, MAX_GROUP, Shape
from edge_runtime.ranges import BOOK16, BOOK32, BYTE, GRID32, INT4, INT8, INT16, TOP16, TOP32

if TYPE_CHECKING:
    from edge_runtime.compress.code_find import Found
    from edge_runtime.lanes import Array

MIN_COUNT = 64
MIN_RAW_COUNT = 256
MAX_BOOK = 4096
FLAT_COLUMNS = 1024
LANES_A_STEP = 4096
BLOCKS = (256, 128, 64, 32, 16)


class Leveled(NamedTuple):
    """`levels`: (count,) int32, without the centre (of the kinds from BYTE on: the tokens). `values`: (n,) uint32,
    scales or codebook entries as bits; value i has scale (i // block) % n. `low`: (1 or 3, count) uint8, the bytes that
    are stored as they are. `grid`: how scales are shared out."""

    kind: int
    centre: int
    levels: Array
    values: Array
    block: int
    low: Array
    grid: str


_NONE: Any = np.zeros(0, np.uint32)
_NO_LOW: Any = np.zeros((0, 0), np.uint8)


def level(found: Found, model: bytes) -> Leveled | None:
    """None where the tensor is better left in the skeleton."""
    raw = np.frombuffer(model, np.uint8, found.length, found.offset)
    if found.number < MIN_COUNT:
        return None
    if found.dtype in ("int4", "uint4"):
        halves = np.empty(2 * raw.size, np.int32)
        halves[::2], halves[1::2] = raw & 15, raw >> 4
        if math.prod(found.shape) % 2 and halves[-1]:
            return None  # the half that is not used holds something
        return _centred(INT4, halves, 16, found.dtype == "int4")
    if found.dtype in ("int8", "uint8"):
        return _centred(INT8, raw.astype(np.int32), 256, found.dtype == "int8")
    if found.dtype in ("int16", "uint16"):
        return _centred(INT16, raw.view("<u2").astype(np.int32), 1 << 16, found.dtype == "int16")
    if found.dtype == "float32":
        return _grid(found, raw.view("<f4")) or _book(BOOK32, raw.view("<u4")) or _split(TOP32, raw.view("<u4"))
    if found.dtype in ("float16", "bfloat16"):
        return _book(BOOK16, raw.view("<u2")) or _split(TOP16, raw.view("<u2"))
    return Leveled(BYTE, 0, raw.astype(np.int32), _NONE, 1, _NO_LOW, "")


def _centred(kind: int, plain: Array, span: int, signed: bool) -> Leveled:
    """`plain`: unsigned. Levels around the commonest value."""
    if signed:
        plain = np.where(plain >= span // 2, plain - span, plain)
    low = int(plain.min())
    centre = int(np.bincount(plain - low).argmax()) + low
    return Leveled(kind, centre, plain - centre, _NONE, 1, _NO_LOW, "")


def _book(kind: int, bits: Array) -> Leveled | None:
    """A codebook, in the order of the numbers, so that neighbours are alike."""
    if np.unique(bits[:: max(1, bits.size // 8192)]).size > MAX_BOOK:
        return None
    values, places = np.unique(bits, return_inverse=True)
    if values.size > min(MAX_BOOK, bits.size // 8):
        return None
    numbers = values.view("<f4" if kind == BOOK32 else "<f2")
    order = np.lexsort((values, np.where(np.isnan(numbers), np.inf, numbers)))
    rank = np.empty(values.size, np.int32)
    rank[order] = np.arange(values.size, dtype=np.int32)
    made = _centred(kind, rank[places], 1 << 30, False)
    return made._replace(values=values[order].astype(np.uint32))


def _split(kind: int, bits: Array) -> Leveled | None:
    """Exponents as levels, the rest stored."""
    if bits.size < MIN_RAW_COUNT:
        return None
    width = bits.dtype.itemsize
    turned = (bits << 1) | (bits >> (8 * width - 1))
    planes = np.ascontiguousarray(turned.astype(f">u{width}")).view(np.uint8).reshape(-1, width).T
    return Leveled(kind, 0, planes[0].astype(np.int32), _NONE, 1, planes[1:], "")


# ---------------------------------------------------------------- grids


def _ways(shape: tuple[int, ...], count: int) -> Iterator[tuple[str, int, int]]:
    """(name, block, number of scales) of the ways in which scales are shared out."""
    yield "a tensor", count, 1
    if len(shape) > 1:
        yield "a row", count // shape[0], shape[0]
        yield "a column", 1, shape[-1]
        yield "a channel of axis 1", math.prod(shape[2:]), shape[1]
    for block in BLOCKS:
        if count % block == 0 and count > block:
            yield f"a block of {block}", block, count // block


def _grid(found: Found, values: Array) -> Leveled | None:
    """float32(level) * scale, exactly, with the fewest scales that do."""
    if not np.isfinite(values).all() or np.signbit(values[values == 0]).any():
        return None
    for name, block, scales in _ways(found.shape, found.number):
        if scales > 1 and found.number // scales < 4:
            continue
        lines = values.reshape(-1, scales, block).transpose(1, 0, 2).reshape(scales, -1)
        busiest = np.argsort(-np.abs(lines).max(axis=1))[:3]
        if scales > 3 and not all(_step(lines[one]) for one in busiest):
            continue
        steps = np.zeros(scales, np.float32)
        for number in range(scales):
            if not (step := _step(lines[number])):
                break
            steps[number] = step
        else:
            each = np.repeat(np.tile(steps, found.number // (scales * block)), block)
            levels = np.rint(values.astype(np.float64) / each).astype(np.int32)
            if (levels.astype(np.float32) * each).tobytes() == values.tobytes():
                return Leveled(GRID32, 0, levels, steps.view(np.uint32), block, _NO_LOW, f"a scale for {name}")
    return None


def _step(line: Array) -> float:
    """The float32 scale of which all values are whole multiples (rounded once), or 0."""
    sizes = np.unique(np.abs(line)).astype(np.float64)
    sizes = sizes[sizes > 0]
    if not sizes.size:
        return 1.0
    gap = float(np.diff(sizes, prepend=0.0).min())
    if gap <= 0 or sizes[-1] / gap > LIMIT or sizes.size > LIMIT:
        return 0.0
    for part in (1, 2, 3, 4, 5):
        step = gap / part
        few = sizes[sizes / step < 512]
        step = float(few[-1] / np.rint(few[-1] / step)) if few.size else step
        levels = np.rint(sizes / step)
        if levels[-1] >= LIMIT or np.abs(sizes / step - levels).max() > 0.02:
            continue
        guess = np.float32(sizes[-1] / levels[-1])
        exact = levels[np.log2(levels) % 1 == 0]
        guesses = [np.float32(sizes[levels == exact[0]][0] / exact[0])] if exact.size else []
        guesses += [np.nextafter(guess, np.float32(np.inf)), guess, np.nextafter(guess, np.float32(0))]
        for one in guesses:
            if one > 0 and (levels.astype(np.float32) * one == sizes.astype(np.float32)).all():
                return float(one)
    return 0.0


# ---------------------------------------------------------------- axes


def axes(found: Found) -> tuple[Shape, bool]:
    """How its axes are read, and whether kernel positions lie last."""
    shape, count = found.shape, found.number
    rows, places, columns, swapped = -(-count // FLAT_COLUMNS), 1, min(count, FLAT_COLUMNS), False
    if math.prod(shape) == count and len(shape) > 1:
        if len(shape) == 2:
            rows, places, columns = shape[0], 1, shape[1]
        elif found.layout == "onnx":
            rows, places, columns, swapped = shape[0], math.prod(shape[2:]), shape[1], True
        elif shape[0] > 1:
            rows, places, columns = shape[0], math.prod(shape[1:-1]), shape[-1]
        else:
            rows, places, columns = math.prod(shape[:-1]), 1, shape[-1]
    wanted = LANES_A_STEP if count >= 1 << 18 else max(256, count // 64)
    group = min(rows, max(1, wanted // columns))
    made = Shape(rows, places, columns, group)
    odd = found.dtype in ("int4", "uint4") and group * places * columns % 2
    if group * places * columns > MAX_GROUP or odd or made.steps(LANES_A_STEP) > 16 + made.size // 128:
        columns = min(count + count % 2, FLAT_COLUMNS)
        return Shape(-(-count // columns), 1, columns, max(1, min(count // 64, LANES_A_STEP) // columns)), False
    return made, swapped
