"""Entropy-code a model's weights: what `edge_runtime/coded.py` decodes, and to what `pack` turns a variant with
`"coding": "entropy"`.

Nothing of the model changes, so what it costs is only seconds: a model grows small here because of what was done to it
before. Weights on a coarse grid, shared, or pruned to zeros take the bits that their distribution is worth; float32
weights as trained hardly anything less. For passes that make such weights:
- a grid's zeros are +0.0: np.rint(-0.3) * scale is -0.0, whose sign must be kept; `plain_zeros` clears it
- a weight is np.float32(level) * np.float32(scale), rounded once; a scale for each row costs about 3 bytes a row
- biases rounded to a grid of their own take two bytes less
"""

from __future__ import annotations

import io
import lzma
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.bundle import Decoded
from edge_runtime.coded import FIXED, MAGIC, SECTIONS, SIZES, VERSION, decode, filters
from edge_runtime.compress.code_contexts import MOST_A_FILE, MOST_A_TENSOR, Coded, fit, logarithms, merge
from edge_runtime.compress.code_find import Found, find_weights
from edge_runtime.compress.code_levels import Leveled, axes, level
from edge_runtime.digest import sha256
from edge_runtime.errors import InputError
from edge_runtime.lanes import BITS, FORECASTS, LOW, ZERO, frequencies, split
from edge_runtime.ranges import BYTE, KINDS, PIECE, RANGE, Range

if TYPE_CHECKING:
    from edge_runtime.lanes import Array

WASTE = 0.001  # bytes a weight that the lanes' first states may cost: about 0.3 % at 3 bits
LEAST_LANES = 16  # fewer save 10 bytes and take twice as long
MOST_LANES = 4096  # more are hardly faster, and leave a small processor's cache


@dataclass(frozen=True)
class TensorReport:
    """`stored_bytes`: its share of the file, estimated; `entropy_bits`: of a weight, from one table for the tensor;
    `bits`: of a weight, as it is coded. `grid`: how scales are shared out, where there are any."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    kind: str
    grid: str
    number: int
    before_bytes: int
    stored_bytes: int
    bits: float
    entropy_bits: float
    zeros: float

    def to_json(self) -> dict[str, Any]:
        return {**self.__dict__, "shape": list(self.shape)}


@dataclass(frozen=True)
class CodedModel:
    """`content`: the coded file; `size` and `sha256`: of what it decodes to; `sections`: bytes of each part."""

    content: bytes
    size: int
    sha256: str
    sections: dict[str, int]
    tensors: tuple[TensorReport, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "size": self.size,
            "sha256": self.sha256,
            "stored": len(self.content),
            "sections": dict(self.sections),
            "tensors": [one.to_json() for one in self.tensors],
        }


@dataclass
class _Tensor:
    found: Found
    leveled: Leveled
    swapped: bool
    coded: Coded
    low_bits: int
    place: Array  # the file's table of each cell
    bits: float = 0.0


def encode(model: bytes, format_: str) -> CodedModel:
    """`format_`: onnx or tflite. The result is decoded and compared before it is returned.

    Raises InputError for a file that cannot be read, EngineError where a package of the workstation is missing."""
    parts: dict[str, io.BytesIO] = {name: io.BytesIO() for name in SECTIONS}
    tensors = []
    for found in find_weights(model, format_):
        leveled = level(found, model)
        if leveled is not None:
            tensors.append(_tensor(found, leveled, parts))
    tables = _tables(tensors)
    end = 0
    for one in tensors:
        _describe(one, parts)
        parts["skeleton"].write(model[end : one.found.offset])
        end = one.found.offset + one.found.length
    parts["skeleton"].write(model[end:])
    for one in tensors:
        for start in range(0, one.leveled.low.shape[-1] if one.leveled.low.size else 0, PIECE):
            parts["skeleton"].write(np.ascontiguousarray(one.leveled.low[:, start : start + PIECE]).tobytes())
    for first, stored in tables:
        parts["tables"].write(bytes([first, stored.size]) + stored.tobytes())
    content, sections = _assemble(model, tensors, tables, parts)
    if decode(io.BytesIO(content), 0, len(content), len(model)) != model:
        raise InputError("the coded model does not decode to what it was: please report this file")
    return CodedModel(
        content, len(model), sha256(model).hexdigest(), sections, tuple(_report(one, model) for one in tensors)
    )


def plain_zeros(model: bytes, format_: str) -> bytes:
    """The same model with 0.0 for every -0.0 among its float weights: the same numbers, and cheaper to code."""
    made = bytearray(model)
    for one in find_weights(model, format_):
        if one.dtype in ("float32", "float16", "bfloat16"):
            kind = np.uint32 if one.dtype == "float32" else np.uint16
            bits = np.frombuffer(made, kind, one.number, one.offset)
            bits[bits == kind(1 << (bits.itemsize * 8 - 1))] = 0
    return bytes(made)


# ---------------------------------------------------------------- tensors


def _tensor(found: Found, leveled: Leveled, parts: dict[str, io.BytesIO]) -> _Tensor:
    """Tokens with their contexts; what follows them, low bits and planes, is written to its section."""
    shape, swapped = axes(found)
    direct = leveled.kind >= BYTE
    tokens, widths, low = split(leveled.levels)
    if direct:
        tokens, widths = leveled.levels.astype(np.uint8), np.zeros_like(widths)
    padding = shape.size - tokens.size
    before = parts["bits"].tell()
    coded = fit(shape, _turned(tokens, shape, swapped, padding, ZERO))
    if widths.any():
        _write_low(
            coded, _turned(widths, shape, swapped, padding, 0), _turned(low, shape, swapped, padding, 0), parts["bits"]
        )
    return _Tensor(found, leveled, swapped, coded, 8 * (parts["bits"].tell() - before), np.zeros(0, np.int64))


def _turned(plain: Array, shape: Any, swapped: bool, padding: int, fill: int) -> Array:
    """As it lies in the model -> (rows, places, columns)."""
    whole = np.concatenate([plain, np.full(padding, fill, plain.dtype)])
    if swapped:
        return np.ascontiguousarray(whole.reshape(shape.rows, shape.columns, shape.places).transpose(0, 2, 1))
    return whole.reshape(shape.rows, shape.places, shape.columns)


def _write_low(coded: Coded, widths: Array, low: Array, out: io.BytesIO) -> None:
    """Low bits of each group of rows, by width, each width from a new byte on."""
    for first in range(0, coded.shape.rows, coded.shape.group):
        some = slice(first, first + coded.shape.group)
        flat_widths = widths[some].transpose(1, 0, 2).reshape(-1)
        flat_low = low[some].transpose(1, 0, 2).reshape(-1)
        for width in np.unique(flat_widths[flat_widths > 0]):
            each = flat_low[flat_widths == width]
            bits = (each[:, None] >> np.arange(int(width))[::-1]) & 1
            out.write(np.packbits(bits.astype(np.uint8).reshape(-1)).tobytes())


def _histograms(one: _Tensor) -> Array:
    """(cells, 256): how often each token comes in each context."""
    cells = max(1, int(one.coded.contexts.classes.max(initial=0)) + 1) * FORECASTS
    counts = np.bincount(one.coded.cells.astype(np.int64) * 256 + one.coded.tokens, minlength=cells * 256)
    return counts.reshape(cells, 256)


def _tables(tensors: list[_Tensor]) -> list[tuple[int, Array]]:
    """The file's tables, as they are stored; each tensor is told which one each of its contexts has."""
    sums: list[Array] = []
    owners: list[tuple[Array, int]] = []
    for one in tensors:
        counts = _histograms(one)
        cluster = merge(counts, MOST_A_TENSOR)
        some = np.zeros((int(cluster.max()) + 1, 256), np.int64)
        np.add.at(some, cluster, counts)
        owners.append((cluster, sum(len(each) for each in sums)))
        sums.append(some)
        one.bits = float(counts.sum())
    if not tensors:
        return []
    counts = np.concatenate(sums)
    cluster = merge(counts, MOST_A_FILE)
    for one, (own, start) in zip(tensors, owners, strict=True):
        one.place = cluster[own + start]
    total = np.zeros((int(cluster.max()) + 1, 256), np.int64)
    np.add.at(total, cluster, counts)
    made = []
    for each in total:
        present = np.flatnonzero(each)
        first, last = int(present[0]), int(present[-1])
        made.append((first, logarithms(each[first : last + 1])[: last + 1 - first]))
    return made


def _describe(one: _Tensor, parts: dict[str, io.BytesIO]) -> None:
    contexts, shape = one.coded.contexts, one.coded.shape
    ids, place = np.unique(one.place, return_inverse=True)
    forecasts = bool(one.coded.limits.size)
    classes = int(contexts.classes.max(initial=0)) + 1 if contexts.classes.size else 0
    if classes:
        parts["classes"].write(contexts.classes.tobytes())
    if forecasts:
        parts["maps"].write(contexts.weights.astype("<i4").tobytes() + one.coded.limits.astype("<u2").tobytes())
    parts["maps"].write(ids.astype(np.uint8).tobytes())
    if ids.size > 1:
        parts["maps"].write(place.astype(np.uint8).tobytes())
    values = one.leveled.values if one.leveled.values.size else np.zeros(1, np.uint32)
    parts["values"].write(values.astype("<u4").tobytes())
    fields = Range(
        offset=one.found.offset,
        number=one.found.number,
        rows=shape.rows,
        places=shape.places,
        columns=shape.columns,
        group=shape.group,
        swapped=int(one.swapped),
        kind=one.leveled.kind,
        centre=one.leveled.centre,
        block=one.leveled.block,
        values=values.size,
        prior=contexts.prior,
        classes=classes,
        contexts=int(forecasts),
        tables=ids.size,
    )
    parts["ranges"].write(RANGE.pack(*fields))


# ---------------------------------------------------------------- the lanes


def _assemble(
    model: bytes, tensors: list[_Tensor], tables: list[tuple[int, Array]], parts: dict[str, io.BytesIO]
) -> tuple[bytes, dict[str, int]]:
    """The file, and how many bytes each section takes."""
    plain = {name: part.getvalue() for name, part in parts.items()}
    four = np.frombuffer(plain["values"], np.uint8).reshape(-1, 4)
    plain["values"] = np.ascontiguousarray(four.T).tobytes()
    stored = {name: lzma.compress(content, lzma.FORMAT_RAW, filters=filters()) for name, content in plain.items()}
    stored["bits"] = plain["bits"]
    symbols = sum(one.coded.tokens.size for one in tensors)
    lanes = 1
    while lanes < min(MOST_LANES, symbols) and (
        lanes < LEAST_LANES or _states(2 * lanes, len(stored["skeleton"])) <= WASTE * symbols
    ):
        lanes *= 2
    carried = stored["skeleton"][max(0, len(stored["skeleton"]) - 2 * lanes) :]
    stored["skeleton"] = stored["skeleton"][: len(stored["skeleton"]) - len(carried)]
    stored["words"] = _words(tensors, tables, lanes, carried + bytes(2 * lanes - len(carried)))
    sizes = []
    for name in SECTIONS:
        if name not in ("skeleton", "words") and not plain[name]:
            stored[name] = b""
        sizes += [len(stored[name]) if name in ("bits", "words") else len(plain[name]), len(stored[name])]
    head = FIXED.pack(MAGIC, VERSION, lanes, len(model), sha256(model).digest()) + SIZES.pack(*sizes)
    return head + b"".join(stored[name] for name in SECTIONS), {name: len(stored[name]) for name in SECTIONS}


def _states(lanes: int, skeleton: int) -> int:
    """What so many lanes cost: a state is four bytes of which two carry the skeleton, where there is so much of it, and
    one, on average, tokens: its size lies anywhere between what it begins with and what makes it give a word away."""
    return lanes + 2 * max(0, lanes - skeleton // 2)


def _words(tensors: list[_Tensor], tables: list[tuple[int, Array]], lanes: int, carried: bytes) -> bytes:
    """rANS, the last token first: lane states as the decoder begins with them, then what feeds them."""
    states = np.frombuffer(carried, "<u2").astype(np.uint32) + np.uint32(LOW)
    share = np.zeros((len(tables), 256), np.uint32)
    start = np.zeros((len(tables), 256), np.uint32)
    for number, (first, stored) in enumerate(tables):
        found = frequencies(stored)
        share[number, first : first + found.size] = found
        start[number, first : first + found.size] = np.cumsum(found) - found
    words: list[Array] = []
    for one in reversed(tensors):
        which = one.place.take(one.coded.cells) * 256 + one.coded.tokens
        shares, starts = share.reshape(-1).take(which), start.reshape(-1).take(which)
        one.bits = (float((BITS - np.log2(shares)).sum()) + one.low_bits) / one.found.number
        end = shares.size
        for block in reversed(one.coded.blocks):
            begin = end - block
            for at in reversed(range(begin, end, lanes)):
                some = slice(at, min(at + lanes, end))
                words.append(_push(states, shares[some], starts[some]))
            end = begin
    return states.astype("<u4").tobytes() + b"".join(one.astype("<u2").tobytes() for one in reversed(words))


def _push(states: Array, shares: Array, starts: Array) -> Array:
    """Put a token into each of the first lanes; returns the words that had to leave, in the order of the lanes."""
    mine = states[: shares.size]
    (full,) = ((mine >> (32 - BITS)) >= shares).nonzero()
    out: Array = (mine[full] & 0xFFFF).astype(np.uint16)
    mine[full] >>= 16
    whole, rest = np.divmod(mine, shares)
    mine[:] = (whole << BITS) + starts + rest
    return out


def _report(one: _Tensor, model: bytes) -> TensorReport:
    counts = _histograms(one).sum(axis=0)
    share = counts[counts > 0] / counts.sum()
    extra = one.low_bits + 8 * one.leveled.low.size
    bits = one.bits + 8 * one.leveled.low.size / one.found.number
    return TensorReport(
        name=one.found.name,
        shape=one.found.shape,
        dtype=one.found.dtype,
        kind=KINDS[one.leveled.kind],
        grid=one.leveled.grid,
        number=one.found.number,
        before_bytes=one.found.length,
        stored_bytes=round(bits * one.found.number / 8) + 3 * one.leveled.values.size,
        bits=round(bits, 4),
        entropy_bits=round(float(-(share * np.log2(share)).sum()) + extra / one.found.number, 4),
        zeros=round(float((one.leveled.levels + one.leveled.centre == 0).mean()), 4),
    )


@lru_cache(maxsize=4)  # a run asks for the bytes when it judges, and again when it packs
def for_bundle(model: bytes, format_: str) -> tuple[bytes, Decoded]:
    """What `packing.pack_folder` wants: the coded file, and what it decodes to."""
    made = encode(model, format_)
    return made.content, Decoded(made.size, made.sha256)
