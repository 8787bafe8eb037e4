"""Signatures in a bundle: where they stand, and the words that are signed. Whom to believe: trust.py.

A bundle of format 3 has, at the next multiple of 64 behind its last file, zeros between and nothing behind:

    8 bytes        the letters EDGESIGN
    4 bytes        how many follow, 1 to 8   (unsigned, little-endian)
    96 bytes each  the public key, 32, and its Ed25519 signature, 64; sorted by key, no key twice

The header, and so the bundle's digest, is as it was before it was signed: who holds a verdict of the unsigned bundle
finds the same digest in the signed one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

from edge_runtime.digest import sha256

MOST = 8
_MAGIC = b"EDGESIGN"
_HEAD = struct.Struct("<8sI")
_ONE = struct.Struct("<32s64s")
SIZES = tuple(_HEAD.size + _ONE.size * count for count in range(1, MOST + 1))
_DOMAIN = b"edge_runtime bundle signature 1\0"


class Signature(NamedTuple):
    """`key`: the 32 bytes of the public key that made `value`, as the bundle claims."""

    key: bytes
    value: bytes

    @property
    def key_id(self) -> str:
        return key_id(self.key)


def key_id(key: bytes) -> str:
    """What people compare keys by: 16 hexadecimal digits of the SHA-256 of the public key."""
    return str(sha256(key).hexdigest()[:16])


def message(digest: str, name: str, version: str) -> bytes:
    """What is signed. The digest binds the header, which binds names, sizes and digests of all files; the first words
    bind the purpose, so that a signature under anything else is none under a bundle."""
    texts = [text.encode(errors="surrogatepass") for text in (name, version)]
    return _DOMAIN + bytes.fromhex(digest) + b"".join(struct.pack("<I", len(text)) + text for text in texts)


def trailer(signatures: Iterable[Signature]) -> bytes:
    """The bytes of the section. A later signature of the same key takes the earlier one's place."""
    ordered = sorted({one.key: one for one in signatures}.values())
    return _HEAD.pack(_MAGIC, len(ordered)) + b"".join(_ONE.pack(*one) for one in ordered)


def parse(content: bytes) -> tuple[Signature, ...]:
    """Raises ValueError saying what was found and what was wanted."""
    if len(content) not in SIZES:
        raise ValueError(f"found {len(content)} bytes of signatures, wanted 1 to {MOST} of {_ONE.size} bytes each")
    magic, count = _HEAD.unpack_from(content)
    if magic != _MAGIC or SIZES[:count][-1:] != (len(content),):
        raise ValueError(f"found {magic!r} and a count of {count} behind the files, wanted {_MAGIC!r} and its count")
    found = tuple(Signature(*one) for one in _ONE.iter_unpack(content[_HEAD.size :]))
    keys = [one.key for one in found]
    if keys != sorted(set(keys)):
        raise ValueError("found signatures out of order or two of one key")
    return found
