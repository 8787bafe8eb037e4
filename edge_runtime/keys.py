"""Key files, and the library that signs and verifies: PyNaCl where it is installed, else cryptography.

A private key is what `openssl genpkey -algorithm ed25519` writes (PKCS #8, PEM), a public key what `openssl pkey
-pubout` makes of it. Both are read here, without a library: they are 32 bytes behind a fixed beginning. For the
computation two libraries are taken as they come, because no single one is everywhere: PyNaCl is small (1.2 MiB of
memory to verify, where cryptography takes 7.8; 6 MiB on disk, where that takes 17; measured on x86-64), but Termux has
cryptography only, and a Raspberry Pi may have that already. On 32-bit ARM both are Debian's.
"""

from __future__ import annotations

import base64
import binascii
import errno
import os
import stat
from pathlib import Path
from typing import NamedTuple

from edge_runtime.errors import TrustError
from edge_runtime.signatures import key_id

HINT = (
    "pip install 'edge-runtime[sign]'; on 32-bit ARM sudo apt install python3-nacl; "
    "in Termux pkg install python-cryptography"
)
_PUBLIC = bytes.fromhex("302a300506032b6570032100")
_PRIVATE = bytes.fromhex("302e020100300506032b657004220420")
_LIMIT_BYTES = 4096


class PublicKey(NamedTuple):
    """`name`: of its file. `key`: its 32 bytes."""

    name: str
    key: bytes

    @property
    def id(self) -> str:
        return key_id(self.key)

    def __str__(self) -> str:
        return f"{self.name} ({self.id})"


# ---------------------------------------------------------------- files


def make_key(path: Path) -> PublicKey:
    """A new private key in `path`, which only its owner may read, and the public one in `path`.pub. Neither is ever
    overwritten. Raises TrustError."""
    public = path.with_name(f"{path.name}.pub")
    for one in (path, public):
        if one.exists() or one.is_symlink():
            raise TrustError(f"{one}: found a file there, and a key is never overwritten", hint="give another name")
    seed = os.urandom(32)
    key = public_of(seed)
    try:
        _write_new(path, _pem("PRIVATE KEY", _PRIVATE + seed), 0o600)
        if _shared(path):
            path.unlink()
            raise TrustError(
                f"{path}: this file system keeps nothing from other users, wanted one that does",
                hint="edge-runtime keys make, in the home folder",
            )
        _write_new(public, _pem("PUBLIC KEY", _PUBLIC + key), 0o644)
    except OSError as error:
        raise TrustError(f"{error.filename or path}: {error.strerror}, wanted to write a key") from error
    return PublicKey(path.name, key)


def write_public(path: Path, key: bytes) -> None:
    """Whole or not at all: a device refuses everything while it has a key that it cannot read. Raises OSError,
    FileExistsError among them."""
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    _write_new(beside, _pem("PUBLIC KEY", _PUBLIC + key), 0o644)
    os.replace(beside, path)


def _shared(path: Path) -> int:
    """The mode, where others than its owner may read the file, else 0."""
    mode = stat.S_IMODE(path.stat().st_mode)
    return mode if os.name == "posix" and mode & 0o077 else 0


def _write_new(path: Path, text: str, mode: int) -> None:
    written = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with open(written, "w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(written)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def read_public(path: Path) -> PublicKey:
    """Raises TrustError."""
    name = path.name.removesuffix(".pub")
    return PublicKey(name, _read(path, "PUBLIC KEY", _PUBLIC, "the public key, FILE.pub, that `keys make` writes"))


def read_private(path: Path) -> bytes:
    """The 32 bytes that make a private key. Raises TrustError, also where others than its owner may read it."""
    seed = _read(path, "PRIVATE KEY", _PRIVATE, "the private key that `keys make` writes")
    if mode := _shared(path):
        raise TrustError(
            f"{path}: found mode {mode:o}, wanted 600: others could sign with it", hint=f"chmod 600 {path}"
        )
    return seed


def _read(path: Path, label: str, start: bytes, wanted: str) -> bytes:
    try:
        with path.open("rb") as stream:
            text = stream.read(_LIMIT_BYTES)
    except OSError as error:
        raise TrustError(f"{path}: {error.strerror}, wanted {wanted}", hint="edge-runtime keys make FILE") from error
    lines = text.decode("ascii", "replace").split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    if lines and "ENCRYPTED" in lines[0]:
        raise TrustError(
            f"{path}: found a key under a password, wanted one without", hint=f"openssl pkey -in {path} -out PLAIN-KEY"
        )
    try:
        content = base64.b64decode("".join(line.strip() for line in lines[1:-1]), validate=True)
    except (binascii.Error, ValueError):
        content = b""
    framed = [line.strip() for line in (lines[:1] + lines[-1:])] == [
        f"-----BEGIN {label}-----",
        f"-----END {label}-----",
    ]
    if not framed or len(content) != len(start) + 32 or not content.startswith(start):
        found = lines[0].strip()[:40] if lines else ""
        raise TrustError(f"{path}: found {found!r} at the start, wanted {wanted} (Ed25519, PEM)")
    return content[len(start) :]


def _pem(label: str, content: bytes) -> str:
    return f"-----BEGIN {label}-----\n{base64.b64encode(content).decode()}\n-----END {label}-----\n"


# ---------------------------------------------------------------- the library


def library() -> str | None:
    """The library that would be taken, with its version; None where there is none."""
    try:
        from nacl import __version__ as pynacl

        return f"PyNaCl {pynacl}"
    except ImportError:
        pass
    try:
        from cryptography import __version__ as other

        return f"cryptography {other}"
    except ImportError:
        return None


def public_of(seed: bytes) -> bytes:
    """The public key, 32 bytes, of a private one. Raises TrustError where there is no library."""
    try:
        from nacl.bindings import crypto_sign_seed_keypair

        return bytes(crypto_sign_seed_keypair(seed)[0])
    except ImportError:
        pass
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    except ImportError as error:
        raise _missing("keys are made") from error
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def sign(message: bytes, seed: bytes) -> bytes:
    """The signature, 64 bytes. Raises TrustError where there is no library."""
    try:
        from nacl.bindings import crypto_sign, crypto_sign_seed_keypair

        return bytes(crypto_sign(message, crypto_sign_seed_keypair(seed)[1])[:64])
    except ImportError:
        pass
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError as error:
        raise _missing("signatures are made") from error
    return Ed25519PrivateKey.from_private_bytes(seed).sign(message)


def verifies(message: bytes, signature: bytes, key: bytes) -> bool:
    """Whether `signature` is that of `key` under `message`. Raises TrustError where there is no library."""
    try:
        from nacl.bindings import crypto_sign_open
        from nacl.exceptions import BadSignatureError
    except ImportError:
        return _verifies_otherwise(message, signature, key)
    try:
        return bytes(crypto_sign_open(signature + message, key)) == message
    except BadSignatureError:
        return False


def _verifies_otherwise(message: bytes, signature: bytes, key: bytes) -> bool:
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as error:
        raise _missing("signatures are checked") from error
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
        return True
    except (InvalidSignature, ValueError):
        return False


def _missing(what: str) -> TrustError:
    return TrustError(f"found neither PyNaCl nor cryptography, wanted one of them: without, no {what}", hint=HINT)
