"""Digests without OpenSSL: `hashlib` maps 3.6 MiB of it, which the model's memory budget would pay for.

CPython carries both functions itself. SHA-256 is what people compare bundles by; items, which are many megabytes, have
BLAKE2b, several times faster where the CPU has no instructions for SHA.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import blake2b as blake2b
    from hashlib import sha256 as sha256
else:

    def _first(name: str, *homes: str):
        for home in homes:
            try:
                return getattr(import_module(home), name)
            except ImportError:
                continue
        raise ImportError(name)

    # from Python 3.12 on, in 3.11, and where it is built without them
    sha256 = _first("sha256", "_sha2", "_sha256", "hashlib")
    blake2b = _first("blake2b", "_blake2", "hashlib")
