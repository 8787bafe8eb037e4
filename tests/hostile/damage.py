"""Ways to spoil bytes, from a seeded generator: the same seed gives the same damage."""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random

Damage = Callable[[Random, bytes], bytes]
# What sizes, counts and offsets lie with.
NUMBERS = (0, 1, -1, 2, 255, 2**15, 2**16, 2**31 - 1, -(2**31), 2**32 - 1, 2**40, 2**62, 2**63 - 1, -(2**63))


def spoil(random: Random, content: bytes) -> tuple[str, bytes]:
    """One damage of many, and its name."""
    name = random.choice(sorted(_DAMAGES))
    return name, _DAMAGES[name](random, content)


def _cut(random: Random, content: bytes) -> bytes:
    return content[: random.randrange(len(content) + 1)]


def _flip(random: Random, content: bytes) -> bytes:
    made = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 8, 64))):
        made[random.randrange(len(made))] ^= 1 << random.randrange(8)
    return bytes(made)


def _bytes(random: Random, content: bytes) -> bytes:
    made = bytearray(content)
    at = random.randrange(len(made))
    made[at : at + 16] = random.randbytes(len(made[at : at + 16]))
    return bytes(made)


def _number(random: Random, content: bytes) -> bytes:
    """A number that lies, where numbers stand: at a multiple of four."""
    made = bytearray(content)
    width, code = random.choice(((4, "<i"), (8, "<q"), (2, "<h")))
    at = random.randrange(max(len(made) // 4, 1)) * 4
    bits = 8 * width
    value = (random.choice(NUMBERS) + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)
    made[at : at + width] = struct.pack(code, value)[: len(made) - at]
    return bytes(made)


def _zeros(random: Random, content: bytes) -> bytes:
    a, b = sorted(random.randrange(len(content) + 1) for _ in range(2))
    return content[:a] + bytes(b - a) + content[b:]


def _twice(random: Random, content: bytes) -> bytes:
    a, b = sorted(random.randrange(len(content) + 1) for _ in range(2))
    return content[:b] + content[a:]


def _without(random: Random, content: bytes) -> bytes:
    a = random.randrange(len(content) + 1)
    return content[:a] + content[a + random.randrange(1, 64) :]


def _more(random: Random, content: bytes) -> bytes:
    return content + random.randbytes(random.randrange(1, 4096))


def _noise(random: Random, content: bytes) -> bytes:
    return content[: random.choice((0, 4, 8, 16, 64))] + random.randbytes(random.randrange(2048))


_DAMAGES: dict[str, Damage] = {
    "cut": _cut,
    "flip": _flip,
    "bytes": _bytes,
    "number": _number,
    "zeros": _zeros,
    "twice": _twice,
    "without": _without,
    "more": _more,
    "noise": _noise,
}
