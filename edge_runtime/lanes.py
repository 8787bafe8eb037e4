"""Thousands of entropy coders side by side: range ANS whose states are one numpy array, with contexts.

A tensor is coded as *tokens* in steps. A step takes up to LANES tokens, each from a coder (a lane) of its own, so that
numpy does for all of them together what a loop would do for one: about twenty operations a step. All tensors of a file
share the lanes, so their states are paid for once.

    token     a signed level: 112 + sign * t, where t is the magnitude below 16, and above counts eighths of octaves
              (the magnitude's low bits, which are as good as random, follow uncoded)
    state     32 bits, at least 2**16; takes 16 more bits from the stream when it falls below
    table     a distribution of tokens in 4096ths, by context

A context is what is known before a token is read: the class of its row (an output channel: a scale that was measured
by the encoder and is stored), and a forecast of its magnitude, from the mean of its column (the same input channel and
kernel position) over the rows already read, and from the positions already read of its own kernel. A stored map leads
from class and forecast to one of the file's tables. All of it is in whole numbers, so every machine reads the same.

Why our own coder: the one well-kept library, constriction, has no wheel for ARM, codes one lane, and asks for a model
of each symbol from Python; numpy is there already. The encoder is `compress/code.py`, for the workstation only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from edge_runtime.errors import BundleError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

BITS = 12
SLOTS = 1 << BITS
LOW = 1 << 16
MAX_LANES = 1 << 14
ZERO = 112
DIRECT = 16
LIMIT = 1 << 16  # magnitudes are below
FORECASTS = 16
DEPTH = 512
PRIOR_ROWS = 4
MAX_CLASSES = 16
# Symbols of one group of rows, which are in memory together: bounds what decoding needs beside its result.
MAX_GROUP = 1 << 18
CHUNK_BYTES = 1 << 16


class Shape(NamedTuple):
    """How a tensor is read: `rows` of `places` (kernel positions) of `columns` (input channels); `group` rows at once,
    place by place."""

    rows: int
    places: int
    columns: int
    group: int

    @property
    def size(self) -> int:
        return self.rows * self.places * self.columns

    def steps(self, lanes: int) -> int:
        """How many steps reading takes, at most."""
        return -(-self.rows // self.group) * self.places * -(-self.group * self.columns // lanes)


class Contexts(NamedTuple):
    """`weights`: (places, 3) int32, forecast = column mean (in 64ths) * w0 + sum over the kernel so far * w1 + w2, in
    256ths; `prior`: the column mean before the first row, in 64ths; `classes`: (rows,) uint8, or empty for one;
    `tables`: (classes * 512,) intp, what is passed to `step` for a class and a forecast."""

    weights: Array
    prior: int
    classes: Array
    tables: Array


Step = Callable[["Array"], "Array"]


def walk(shape: Shape, contexts: Contexts, lanes: int, step: Step) -> Iterator[tuple[int, Array]]:
    """Read a tensor: `step` is given the tables of up to `lanes` tokens (intp) and returns these tokens (uint8).

    Yields the number of the first row of each group with its tokens, (places, rows of the group, columns). The encoder
    walks too, with a step that knows the tokens, so both see the same contexts.
    """
    import numpy as np

    rows, places, columns, group = shape
    seen = np.zeros((places, columns), np.int64)
    table = contexts.tables
    own, near, constant = (contexts.weights[:, one].astype(np.intp) for one in range(3))
    follows = [int(one) for one in near]
    for first in range(0, rows, group):
        here = min(group, rows - first)
        mean = ((seen * 64 + contexts.prior * PRIOR_ROWS) // (first + PRIOR_ROWS)).astype(np.intp)
        fixed = own[:, None] * mean + constant[:, None]
        start: Any = 0
        if contexts.classes.size:
            start = (contexts.classes[first : first + here].astype(np.intp) * DEPTH)[:, None]
        around = np.zeros((here, columns), np.intp)
        tokens = np.empty((places, here, columns), np.uint8)
        for place in range(places):
            index = around * follows[place]
            index += fixed[place]
            index >>= 8
            np.minimum(index, DEPTH - 1, out=index)
            index += start
            wanted = table.take(index, mode="clip").reshape(-1)  # a forecast below 0 is only a worse context
            out = tokens[place].reshape(-1)
            for at in range(0, out.size, lanes):
                out[at : at + lanes] = step(wanted[at : at + lanes])
            magnitudes = np.abs(tokens[place].view(np.int8) - np.int8(ZERO))
            around += magnitudes
            seen[place] += np.add.reduce(magnitudes, 0, np.intp)
        yield first, tokens


class Reader:
    """A part of a seekable stream, read from its beginning in chunks, so that it is never in memory whole."""

    def __init__(self, stream: BinaryIO, start: int, length: int) -> None:
        self.stream, self.at, self.left = stream, start, length
        self.buffer: bytes = b""
        self.used = 0

    def take(self, count: int) -> memoryview:
        """Raises BundleError where there are not so many bytes."""
        if count > len(self.buffer) - self.used:
            self._fill(count)
        self.used += count
        return memoryview(self.buffer)[self.used - count : self.used]

    def _fill(self, count: int) -> None:
        rest = self.buffer[self.used :]
        wanted = min(self.left, max(CHUNK_BYTES, count - len(rest)))
        self.stream.seek(self.at)
        self.buffer, self.used = rest + self.stream.read(wanted), 0
        self.at, self.left = self.at + wanted, self.left - wanted
        if len(self.buffer) < count:
            raise BundleError("coded weights end before their last symbol")


class Decoder:
    """The lanes' states, and the stream that feeds them. Tables are rows of 4096 entries, see `slots`."""

    def __init__(self, words: Reader, lanes: int) -> None:
        import numpy as np

        self.words = words
        self.states = np.frombuffer(words.take(4 * lanes), "<u4").astype(np.uint32)
        self.tables = np.zeros(0, np.uint32)

    def step(self, table: Array) -> Array:
        """(n,) intp, the place in `tables` of the table of each of the first lanes -> their tokens, uint8."""
        import numpy as np

        count = table.size
        states = self.states[:count]
        entry = self.tables.take(table + (states & (SLOTS - 1)).view(np.int32), mode="clip")
        states >>= BITS
        share = entry >> 8
        share &= SLOTS - 1
        share += 1
        states *= share
        states += entry >> 20
        (low,) = (states < LOW).nonzero()
        if low.size:
            words = np.frombuffer(self.words.take(2 * low.size), "<u2")
            states[low] = (states[low] << 16) | words
        tokens: Array = entry.astype(np.uint8)
        return tokens

    def tail(self) -> bytes:
        """What the encoder put into the lanes' first states, once the last token is read."""
        import numpy as np

        if (self.states >> 16 != 1).any() or self.words.left or self.words.used != len(self.words.buffer):
            raise BundleError("coded weights do not end where their first symbols began")
        return (self.states - np.uint32(LOW)).astype("<u2").tobytes()


def slots(first: int, frequencies: Array) -> Array:
    """A table to read with: (4096,) uint32, of each slot the token in 8 bits, its frequency - 1 in 12, and the slot's
    distance from the token's first in 12. `frequencies` of the tokens from `first` on sum to 4096."""
    import numpy as np

    tokens = np.repeat(np.arange(first, first + frequencies.size, dtype=np.uint32), frequencies)
    starts = np.repeat(np.cumsum(frequencies) - frequencies, frequencies).astype(np.uint32)
    each = np.repeat(frequencies - 1, frequencies).astype(np.uint32)
    made: Array = tokens | (each << 8) | ((np.arange(SLOTS, dtype=np.uint32) - starts) << 20)
    return made


# 256 * 2**(n / 16), rounded: frequencies are stored as logarithms, a 16th of an octave apart (a loss of about 0.0003
# bits a symbol), and every machine must come to the same whole numbers.
_SIXTEENTHS = (256, 267, 279, 292, 304, 318, 332, 347, 362, 378, 395, 412, 431, 450, 470, 490)


def frequencies(logarithms: Array) -> Array:
    """Stored (n,) uint8, 0 for a token that never comes, to n frequencies that sum to 4096, int64.

    Raises BundleError where that cannot be."""
    import numpy as np

    stored = logarithms.astype(np.int64)
    steps = np.asarray(_SIXTEENTHS, np.int64)
    weights = np.where(stored > 0, steps[(stored - 1) & 15] << ((stored - 1) >> 4), 0)
    total, present = int(weights.sum()), int(np.count_nonzero(weights))
    if not 0 < present <= 256:
        raise BundleError("coded weights have a table without symbols")
    made = np.where(weights > 0, np.maximum(1, weights * SLOTS // total), 0)
    while over := int(made.sum()) - SLOTS:  # the largest give or take: at most a few rounds
        largest = int(made.argmax())
        made[largest] -= min(over, int(made[largest]) // 2)
    return made


def spread_tables(limits: Array, tables: Array) -> Array:
    """(classes * 16,) tables of forecasts between up to 15 ascending `limits` -> (classes * 512,) of all forecasts."""
    import numpy as np

    between = np.searchsorted(limits, np.arange(DEPTH), side="right")
    return tables.reshape(-1, FORECASTS)[:, between].reshape(-1).astype(np.intp)


# ---------------------------------------------------------------- tokens and levels


def token_tables() -> tuple[Array, Array]:
    """Of each of 256 tokens: the smallest magnitude with its sign (int32), and how many low bits follow (uint8)."""
    import numpy as np

    token = np.arange(256)
    size = np.abs(token - ZERO)
    octave = np.maximum(0, (size - DIRECT) // 8 + 1)
    magnitude = np.where(size < DIRECT, size, (8 + (size - DIRECT) % 8) << octave)
    widths = np.where(size < DIRECT, 0, octave)
    return (np.sign(token - ZERO) * magnitude).astype(np.int32), widths.astype(np.uint8)


class Levels:
    """Tokens to levels; the low bits of the large ones come from `bits`."""

    def __init__(self, bits: Reader) -> None:
        self.bits = bits
        self.least, self.widths = token_tables()

    def of(self, tokens: Array) -> Array:
        """Any shape of uint8 -> int32, the same shape. Low bits stand by width, then in order, each width from a new
        byte on."""
        import numpy as np

        levels = self.least.take(tokens)
        if not self.bits.left and self.bits.used == len(self.bits.buffer):
            if self.widths.take(tokens).any():
                raise BundleError("coded weights end before their last low bit")
            return levels
        flat, widths = levels.reshape(-1), self.widths.take(tokens).reshape(-1)
        for width in np.flatnonzero(np.bincount(widths, minlength=1)[1:]) + 1:
            places = np.flatnonzero(widths == width)
            packed = np.frombuffer(self.bits.take(-(-places.size * int(width) // 8)), np.uint8)
            each = np.unpackbits(packed, count=places.size * int(width)).reshape(-1, width).astype(np.int32)
            low = each @ (1 << np.arange(width, dtype=np.int32)[::-1])
            flat[places] += np.where(flat[places] < 0, -low, low)
        return levels


def split(levels: Array) -> tuple[Array, Array, Array]:
    """Levels of magnitudes below 2**16 -> tokens (uint8), widths (uint8) and low bits (int64): what `Levels` undoes."""
    import numpy as np

    size = np.abs(levels.astype(np.int64))
    octave = np.maximum(0, np.frexp(size.astype(np.float64))[1] - 4)
    token = np.where(size < DIRECT, size, DIRECT + (octave - 1) * 8 + ((size >> octave) & 7))
    tokens = (ZERO + np.sign(levels).astype(np.int64) * token).astype(np.uint8)
    widths = np.where(size < DIRECT, 0, octave).astype(np.uint8)
    low = size & ((1 << widths.astype(np.int64)) - 1)
    return tokens, widths, low
