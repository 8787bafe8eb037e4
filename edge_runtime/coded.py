"""A coded file: an engine's own model file, ONNX or TFLite, with its weights entropy-coded. Decoding is exact.

    bytes 0-7      the letters EDGECODE
    8-9, 10-11     format version, 1; lanes (see lanes.py)      (unsigned, little-endian, as are all numbers)
    12-19          size of the model file
    20-51          SHA-256 of the model file
    52-115         of each of eight sections: its size when unpacked, and its size here, 32 bits each
    then           the sections, one after the other, nothing behind:
      ranges       of the model file, in its order, each cut out as weights: 48 bytes, see ranges.py
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

Memory: the model file once, as the bytes that the engine is given, and at most some 6 MiB more (measured: 6.2 for a
ResNet-18 of 42.6 MiB, 1.4 for a net of 0.05; `WORK_BYTES` is what the planner counts): the coded file is read in pieces
of 64 KiB, and weights are written a group of rows at a time. Nothing of the file is trusted: what it says of sizes is
checked against the size that the bundle declares before anything is allocated.
"""

from __future__ import annotations

import contextlib
import io
import struct
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from edge_runtime.digest import sha256
from edge_runtime.errors import BundleError
from edge_runtime.lanes import LIMIT, MAX_CLASSES, MAX_GROUP, MAX_LANES, Decoder, Levels, Reader, walk
from edge_runtime.ranges import (
    INT4,
    KINDS,
    MAX_TABLES,
    RANGE,
    TOP16,
    TOP32,
    WIDTHS,
    Range,
    complete,
    plans,
    write,
)

if TYPE_CHECKING:
    from edge_runtime.lanes import Array

MAGIC = b"EDGECODE"
VERSION = 1
FIXED = struct.Struct("<8sHHQ32s")
SIZES = struct.Struct("<16I")
SECTIONS = ("ranges", "classes", "maps", "tables", "values", "skeleton", "bits", "words")
DICTIONARY_BYTES = 1 << 20
LARGE_BYTES = 16 << 20
# How much higher the peak of a process is that decoded its model: 2.1 to 2.7 MiB in nets of 0.7 to 11 MiB on both
# engines. Decoding itself takes more, but gives it back before the engine loads, which takes more than that.
WORK_BYTES = 3 << 20


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
    planned = plans(ranges, small)
    # BytesIO gives its own buffer away as bytes, so that the model is in memory once
    whole = io.BytesIO()
    if size:
        whole.seek(size - 1)
        whole.write(b"\0")
    with whole.getbuffer() as view:
        out = np.frombuffer(view, np.uint8)
        decoder = Decoder(places["words"], header.lanes)
        levels = Levels(places["bits"])
        for plan in planned:
            decoder.tables = plan.tables()
            for first, tokens in walk(plan.range.shape, plan.contexts, header.lanes, decoder.step):
                write(out, plan, first, tokens, levels)
        skeleton = Packed(places["skeleton"], header.sections["skeleton"][1], decoder.tail())
        _fill(out, ranges, skeleton)
        for one in ranges:
            if one.kind in (TOP32, TOP16):
                complete(out, one, skeleton.take)
        del out
    made = whole.getvalue()
    if _digest(made) != header.sha256:
        raise BundleError("the decoded model is not the one that was coded: its SHA-256 does not match")
    return made


def _digest(model: bytes) -> bytes:
    """SHA-256, by OpenSSL where the model is so large that its 3.6 MiB (see digest.py) are worth its speed."""
    if len(model) >= LARGE_BYTES:
        with contextlib.suppress(ImportError):
            import hashlib

            return hashlib.sha256(model).digest()
    return sha256(model).digest()


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
            and abs(one.centre) <= LIMIT
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


def _fill(out: Array, ranges: list[Range], skeleton: Packed) -> None:
    """The bytes between the ranges."""
    import numpy as np

    starts = [0, *(one.offset + one.size for one in ranges)]
    ends = [*(one.offset for one in ranges), out.size]
    for start, end in zip(starts, ends, strict=True):
        for at in range(start, end, 1 << 16):
            part = skeleton.take(min(end - at, 1 << 16))
            out[at : at + len(part)] = np.frombuffer(part, np.uint8)
