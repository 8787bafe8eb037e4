"""A coded file: an engine's own model file, ONNX or TFLite, with its weights entropy-coded. Decoding is exact.

    bytes 0-7      the letters EDGECODE
    8-9, 10-11     format version, 1; lanes (see lanes.py)      (unsigned, little-endian, as are all numbers)
    12-19          size of the model file
    20-51          SHA-256 of the model file
    52-115         of each of eight sections: its size when unpacked, and its size here, 32 bits each
    then           the sections, one after the other, nothing behind:
      ranges       of the model file, in its order, each cut out as weights: 48 bytes, see `Range`
      classes      rows' scales, a byte a row       maps      contexts: forecasts, limits, tables
      tables       distributions of tokens          values    scales and codebooks, as four planes of bytes
      skeleton     the model file without the ranges, then the low bytes of weights that lie on no grid
      bits         low bits of large levels         words     the lanes' stream

All but the last two are packed with LZMA2, with a dictionary of 1 MiB (a fixed one: a file cannot ask for more). The
lanes' first states, 16 bits each that any rANS coder pays for, carry the last bytes of the packed skeleton.

A range is coded as whole numbers, levels, around a centre; its kind says how the engine's bytes come from them:
8- and 16-bit integers and packed 4-bit ones as they are; float32 as level * scale, rounded once, with a scale for each
block of so many values, over and over; float32 and float16 by a codebook; and where nothing of that holds, sign and
mantissa of a float as stored bytes and its exponent as the level.

Memory: the model file once, as the bytes that the engine is given, and about 4 MiB more whatever the model's size
(`WORK_BYTES`): the coded file is read in pieces of 64 KiB and the weights are written row by row. Nothing of it is
trusted: what a file says of sizes is checked against the size that the bundle declares before anything is allocated.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from edge_runtime.digest import sha256
from edge_runtime.errors import BundleError
from edge_runtime.lanes import (
    FORECASTS,
    MAX_CLASSES,
    MAX_GROUP,
    MAX_LANES,
    SLOTS,
    Contexts,
    Decoder,
    Levels,
    Reader,
    Shape,
    frequencies,
    slots,
    spread_tables,
    walk,
)

if TYPE_CHECKING:
    from edge_runtime.lanes import Array

MAGIC = b"EDGECODE"
VERSION = 1
FIXED = struct.Struct("<8sHHQ32s")
SIZES = struct.Struct("<16I")
SECTIONS = ("ranges", "classes", "maps", "tables", "values", "skeleton", "bits", "words")
RANGE = struct.Struct("<QIIHIIBBiIIIBBH")
MAX_TABLES = 255
DICTIONARY_BYTES = 1 << 20
PIECE = 1 << 15
# What decoding takes beside the model file: lanes, tables, a group of rows, LZMA's dictionary.
WORK_BYTES = 12 << 20

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


def filters() -> list[dict[str, int]]:
    import lzma

    return [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": DICTIONARY_BYTES}]


class Packed:
    """A packed section, unpacked in order and no further than is asked for. `tail`: what follows its stored bytes."""

    def __init__(self, source: Reader, stored: int, tail: bytes = b"") -> None:
        import lzma

        self.source, self.stored, self.tail = source, stored, tail
        self.unpacker = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters())
        self.error = lzma.LZMAError

    def take(self, count: int) -> bytes:
        """Raises BundleError where there are not so many bytes."""
        parts, wanted = [], count
        try:
            while wanted:
                fresh = b""
                if self.unpacker.needs_input:
                    piece = min(self.stored, 1 << 16)
                    self.stored -= piece
                    fresh = bytes(self.source.take(piece)) if piece else self.tail
                    if not piece:
                        self.tail = b""
                    if not fresh:
                        raise BundleError("a packed section ends too early")
                if self.unpacker.eof:
                    raise BundleError("a packed section ends too early")
                part = self.unpacker.decompress(fresh, wanted)
                parts.append(part)
                wanted -= len(part)
        except self.error as error:
            raise BundleError(f"a packed section is damaged: {error}") from error
        return b"".join(parts) if len(parts) != 1 else parts[0]


class Header(NamedTuple):
    """What the first bytes of a coded file say, checked: `sections` are (size when unpacked, size here)."""

    lanes: int
    size: int
    sha256: bytes
    sections: dict[str, tuple[int, int]]


def read_header(stream: BinaryIO, start: int, length: int, size: int) -> Header:
    """`stream` has the coded file in the `length` bytes from `start` on; `size` is what it must decode to."""
    stream.seek(start)
    fixed = stream.read(min(length, FIXED.size + SIZES.size))
    if len(fixed) < FIXED.size + SIZES.size or not fixed.startswith(MAGIC):
        raise BundleError(f"found {fixed[:8]!r} at the start, wanted coded weights ({MAGIC!r})")
    _, version, lanes, found, digest = FIXED.unpack_from(fixed)
    if version != VERSION:
        raise BundleError(f"found coding {version}, this version reads {VERSION}", hint="install a newer edge-runtime")
    if found != size or not 1 <= lanes <= MAX_LANES:
        raise BundleError(f"found {found} bytes in {lanes} lanes, wanted {size} in at most {MAX_LANES}")
    numbers = SIZES.unpack_from(fixed, FIXED.size)
    sections = dict(zip(SECTIONS, zip(numbers[::2], numbers[1::2], strict=True), strict=True))
    if FIXED.size + SIZES.size + sum(numbers[1::2]) != length:
        raise BundleError(
            f"found {length} bytes, its sections describe another size: truncated, or something is behind"
        )
    # each value has at most one scale or entry, each row one class; maps and tables are small
    if sum(sections[name][0] for name in SECTIONS[:5]) > 2 * size + (1 << 18) or sections["skeleton"][0] > size:
        raise BundleError("its sections would unpack to more than the model file has")
    return Header(lanes, size, digest, sections)


def decode(stream: BinaryIO, start: int, length: int, size: int, digest: str = "") -> bytes:
    """The model file, of `size` bytes, from the coded file in the `length` bytes of `stream` from `start` on. `digest`:
    the model file's SHA-256, in hexadecimal, where another than the coded file itself states it.

    Raises BundleError for anything that is not as `encode` writes it; the model's SHA-256 is checked."""
    import numpy as np

    header = read_header(stream, start, length, size)
    if digest and digest != header.sha256.hex():
        raise BundleError("it decodes to another model than the bundle says: their SHA-256 differ")
    places, at = {}, start + FIXED.size + SIZES.size
    for name, (_, stored) in header.sections.items():
        places[name] = Reader(stream, at, stored)
        at += stored
    small = {
        name: Packed(places[name], header.sections[name][1]).take(header.sections[name][0])
        for name in SECTIONS[:5]
        if header.sections[name][0]
    }
    ranges = _ranges(small.get("ranges", b""), header)
    plans = _plans(ranges, small)
    # BytesIO gives its own buffer away as bytes, so that the model is in memory once
    whole = io.BytesIO()
    if size:
        whole.seek(size - 1)
        whole.write(b"\0")
    with whole.getbuffer() as view:
        out = np.frombuffer(view, np.uint8)
        decoder = Decoder(places["words"], header.lanes)
        levels = Levels(places["bits"])
        for plan in plans:
            decoder.tables = plan.tables()
            for first, tokens in walk(plan.range.shape, plan.contexts, header.lanes, decoder.step):
                plain = tokens.astype(np.int32) if plan.range.kind >= BYTE else levels.of(tokens)
                _write(out, plan, first, plain)
        skeleton = Packed(places["skeleton"], header.sections["skeleton"][1], decoder.tail())
        _fill(out, ranges, skeleton)
        for one in ranges:
            if one.kind in (TOP32, TOP16):
                _complete(out, one, skeleton)
        del out
    made = whole.getvalue()
    if sha256(made).digest() != header.sha256:
        raise BundleError("the decoded model is not the one that was coded: its SHA-256 does not match")
    return made


def _ranges(content: bytes, header: Header) -> list[Range]:
    """The checked ranges."""
    if len(content) % RANGE.size:
        raise BundleError(f"found ranges in {len(content)} bytes, wanted {RANGE.size} for each")
    ranges = [Range(*fields) for fields in RANGE.iter_unpack(content)]
    end = steps = symbols = 0
    for number, one in enumerate(ranges):
        row = one.places * one.columns
        good = (
            one.kind < len(KINDS)
            and one.offset >= end
            and one.number > 0
            and one.rows * row > 0
            and 0 <= one.rows * row - one.number < row
            and 0 < one.group * row <= MAX_GROUP
            and (one.kind != INT4 or one.group * row % 2 == 0)
            and one.block > 0
            and one.classes <= MAX_CLASSES
            and one.swapped <= 1
            and one.contexts <= 1
            and 0 < one.tables <= MAX_TABLES
            and 0 < one.values <= one.number + 1
        )
        if not good or one.offset + one.size > header.size:
            raise BundleError(f"weights {number}: found {one}, wanted a range inside the model, behind the one before")
        end = one.offset + one.size
        symbols += one.rows * row
        steps += one.shape.steps(header.lanes)
    late = sum(one.number * (WIDTHS[one.kind] // 8 - 1) for one in ranges if one.kind in (TOP32, TOP16))
    if header.size - sum(one.size for one in ranges) + late != header.sections["skeleton"][0]:
        raise BundleError("its skeleton and its weights are not as long as the model file together")
    # A step costs as much as some hundred symbols: a file must not ask for many small ones.
    if steps > 4096 + symbols // 64:
        raise BundleError(f"found {steps} steps for {symbols} weights, wanted fewer")
    return ranges


class _Plan(NamedTuple):
    """How one range is read."""

    range: Range
    contexts: Contexts
    values: Array
    frequencies: list[tuple[int, Array]]

    def tables(self) -> Array:
        import numpy as np

        return np.concatenate([slots(first, each) for first, each in self.frequencies])


def _plans(ranges: list[Range], small: dict[str, bytes]) -> Iterator[_Plan]:
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
        yield _Plan(one, contexts, values[used : used + one.values], [tables[int(each)] for each in ids])
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


def _write(out: Array, plan: _Plan, first: int, levels: Array) -> None:
    """`levels`: (places, rows of a group, columns), of the group whose first row is `first`."""
    import numpy as np

    one = plan.range
    lying = levels.transpose(1, 2, 0) if one.swapped else levels.transpose(1, 0, 2)
    begin = first * one.places * one.columns
    flat = np.ascontiguousarray(lying).reshape(-1)[: one.number - begin]
    flat += np.int32(one.centre)
    made = _engine_bytes(plan, begin, flat)
    at = one.offset + begin * WIDTHS[one.kind] // 8
    out[at : at + made.size] = made


def _engine_bytes(plan: _Plan, begin: int, flat: Array) -> Array:
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


def _fill(out: Array, ranges: list[Range], skeleton: Packed) -> None:
    """The bytes between the ranges."""
    import numpy as np

    starts = [0, *(one.offset + one.size for one in ranges)]
    ends = [*(one.offset for one in ranges), out.size]
    for start, end in zip(starts, ends, strict=True):
        for at in range(start, end, 1 << 16):
            part = skeleton.take(min(end - at, 1 << 16))
            out[at : at + len(part)] = np.frombuffer(part, np.uint8)


def _complete(out: Array, one: Range, skeleton: Packed) -> None:
    """Floats from their exponents, which are there, and their other bytes in planes: rotated left by one bit, a float
    has its exponent in the first byte and its sign in the last bit."""
    import numpy as np

    wide = np.dtype("<u4" if one.kind == TOP32 else "<u2")
    for first in range(0, one.number, PIECE):
        count = min(PIECE, one.number - first)
        planes = np.frombuffer(skeleton.take(count * (wide.itemsize - 1)), np.uint8).reshape(-1, count)
        place = slice(one.offset + first * wide.itemsize, one.offset + (first + count) * wide.itemsize)
        turned = out[place].copy().view(wide)
        for number, plane in enumerate(planes[::-1]):
            turned |= plane.astype(wide) << wide.type(8 * number)
        out[place] = ((turned >> wide.type(1)) | (turned << wide.type(8 * wide.itemsize - 1))).view(np.uint8)
