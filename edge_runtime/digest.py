"""SHA-256 without OpenSSL: `hashlib` maps 3.6 MiB of it, which the model's memory budget would pay for.

CPython carries a SHA-256 of its own, slower where OpenSSL has instructions for it; a bundle is small. Items, which
are not, are hashed in the parent with hashlib.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import sha256 as sha256
else:
    for _home in ("_sha2", "_sha256", "hashlib"):  # from Python 3.12 on, 3.11, and where it is built without
        try:
            sha256 = import_module(_home).sha256
            break
        except ImportError:
            continue
