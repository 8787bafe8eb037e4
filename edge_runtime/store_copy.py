"""A bundle copied into the store: read from a stick that may be pulled, written to a card that may be full or bad."""

from __future__ import annotations

import contextlib
import errno
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from edge_runtime.bundle import demand, read_bundle
from edge_runtime.errors import BudgetError, BundleError, StoreError, TrustError
from edge_runtime.shelf import Kept, bundle_file
from edge_runtime.units import format_bytes

if TYPE_CHECKING:
    from edge_runtime.bundle import Bundle

RESERVE_BYTES, RESERVE_MOST_BYTES = 16 << 20, 256 << 20
INCOMING = ".incoming-"
_CHUNK_BYTES = 1 << 20
FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


def copy_bundle(offered: Bundle, folder: Path, trust: Path | None) -> Kept:
    """Copy, sync, read back, check, rename. Raises BundleError, StoreError, BudgetError; then nothing is left of it."""
    beside = folder / f"{INCOMING}{os.getpid()}"
    target = bundle_file(folder, offered.name, offered.digest)
    try:
        with beside.open("xb") as stream:
            _pour(offered, stream)
            stream.flush()
            os.fsync(stream.fileno())
            if hasattr(os, "posix_fadvise"):  # so that it is read from the medium, not from what we remember writing
                with contextlib.suppress(OSError):
                    os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        _check_copy(offered, beside, trust)
        os.replace(beside, target)
        sync_folder(folder)
    except OSError as error:
        if error.errno in FULL:
            raise BudgetError(
                f"storage: {folder}: {error.strerror} while {offered.path} was copied; what was installed before stays",
                hint=f"edge-runtime store list --store {folder}; edge-runtime store remove NAME",
                predicted_bytes=offered.size,
            ) from error
        raise
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
    return Kept(offered.digest, offered.version, offered.size, datetime.now(UTC).isoformat(timespec="seconds"))


def _pour(offered: Bundle, stream: BinaryIO) -> None:
    done = 0
    try:
        with offered.path.open("rb") as source:
            while part := _read_source(source, offered.path):
                stream.write(part)
                done += len(part)
                if done > offered.size:
                    break
    except FileNotFoundError as error:
        raise StoreError(f"{offered.path}: {error.strerror}: it was there when this began") from error
    if done != offered.size:
        raise StoreError(
            f"{offered.path}: found {format_bytes(done)}, wanted the {format_bytes(offered.size)} that were there when "
            "this began",
            hint="put the stick back in, and run the command again",
        )


def _read_source(source: BinaryIO, path: Path) -> bytes:
    try:
        return source.read(_CHUNK_BYTES)
    except OSError as error:
        raise StoreError(
            f"{path}: {error.strerror} while it was copied", hint="put the stick back in, and run the command again"
        ) from error


def _check_copy(offered: Bundle, beside: Path, trust: Path | None) -> None:
    """The copy itself: the digest that was accepted, every byte under it, and its signature once more."""
    try:
        copy = read_bundle(beside)
        if (copy.digest, copy.signatures) != (offered.digest, offered.signatures):
            raise BundleError(f"{beside}: the bundle was changed while it was copied")
        copy.verify()
        demand_both(copy, trust)
    except BundleError as error:
        raise type(error)(error.message.replace(str(beside), str(offered.path)), hint=error.hint) from error


def demand_both(bundle: Bundle, trust: Path | None) -> None:
    """As this device demands, and besides by a key in the folder `trust`. Raises TrustError."""
    demand(bundle)
    if trust is not None:
        from edge_runtime.trust import demand as demand_of

        if not trust.is_dir():
            raise TrustError(f"{trust}: found no folder there, wanted one with the public keys to accept, NAME.pub")
        demand_of(str(bundle.path), bundle.digest, bundle.name, bundle.version, bundle.signatures, trust)


def sync_folder(folder: Path) -> None:
    """So that a rename or an unlink in it survives a power cut."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that has no such thing
            raise
    finally:
        os.close(opened)


def space(folder: Path) -> tuple[int, int]:
    """Bytes free to this user on the file system of `folder`, and its reserve by the rule."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        status = os.statvfs(there)
    except OSError as error:
        raise StoreError(f"{there}: {error.strerror}") from error
    whole = status.f_blocks * status.f_frsize
    return status.f_bavail * status.f_frsize, min(max(RESERVE_BYTES, whole // 100), RESERVE_MOST_BYTES)
