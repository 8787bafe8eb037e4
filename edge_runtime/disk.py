"""How fast the storage of a folder is: written, synced and read for some two seconds, a few MiB, nothing left behind.

A journal waits for fsync at every row, a bundle is read once: both figures differ by a factor of a hundred between an
old card and a desk machine, and no system file tells them.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

CHUNK_BYTES = 1 << 20
MOST_BYTES = 8 << 20
ROW_BYTES = 4096
WRITE_S, SYNC_S, READ_S = 0.8, 0.5, 0.5
_SPARE_BYTES = 64 << 20


@dataclass(frozen=True)
class DiskSpeed:
    """`write` includes fsync after each MiB; `fsync` is of 4 KiB appended, what a row of a journal waits for.

    `cached` is true when the file was read from the system's page cache and not from the storage, None where the
    system does not tell. None figures were not measured; `why` says what stood in the way.
    """

    folder: str
    free_bytes: int | None
    write_bytes_per_s: float | None = None
    read_bytes_per_s: float | None = None
    cached: bool | None = None
    fsync_ms: float | None = None
    fsync_worst_ms: float | None = None
    why: str = ""


def measure_disk(folder: Path) -> DiskSpeed:
    """Measure the storage behind `folder`. Whatever fails (read-only, full, not there) is told in `why`."""
    try:
        status = os.statvfs(folder) if hasattr(os, "statvfs") else None
        free = status.f_bavail * status.f_frsize if status else None
    except OSError as error:
        return DiskSpeed(str(folder), None, why=f"{folder}: {error.strerror}")
    if free is not None and free < _SPARE_BYTES:
        return DiskSpeed(str(folder), free, why="too little is free to write a few MiB for the measurement")
    try:
        # without a name wherever the system can: however this process ends, nothing is left
        with tempfile.TemporaryFile(prefix="edge-runtime-", dir=folder, buffering=0) as file:
            return _measure(str(folder), free, file.fileno())
    except OSError as error:
        return DiskSpeed(str(folder), free, why=f"{folder}: {error.strerror or error}")


def _measure(folder: str, free: int | None, fd: int) -> DiskSpeed:
    block = os.urandom(CHUNK_BYTES)  # storage that compresses must not see zeros
    written, took = 0, 0.0
    while written < MOST_BYTES and took < WRITE_S:
        start = time.perf_counter()
        _write(fd, block)
        os.fsync(fd)
        took += time.perf_counter() - start
        written += CHUNK_BYTES
    syncs: list[float] = []
    while len(syncs) < 3 or (len(syncs) < 50 and sum(syncs) < SYNC_S):
        start = time.perf_counter()
        _write(fd, block[:ROW_BYTES])
        os.fsync(fd)
        syncs.append(time.perf_counter() - start)
        if syncs[-1] > 4 * SYNC_S:
            break
    read, read_s, cached = _read_back(fd, written)
    return DiskSpeed(
        folder,
        free,
        written / took,
        read / read_s if read_s else None,
        cached,
        1e3 * statistics.median(syncs),
        1e3 * max(syncs),
    )


def _write(fd: int, block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[os.write(fd, view) :]


def _read_back(fd: int, length: int) -> tuple[int, float, bool | None]:
    """Bytes read, seconds, and whether they came from the page cache after all, as the kernel itself says."""
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    cached = _is_cached(fd, length // 2)
    os.lseek(fd, 0, os.SEEK_SET)
    read, start = 0, time.perf_counter()
    while read < length and time.perf_counter() - start < READ_S:
        found = os.read(fd, min(CHUNK_BYTES, length - read))
        if not found:
            break
        read += len(found)
    return read, time.perf_counter() - start, cached


def _is_cached(fd: int, offset: int) -> bool | None:
    """Whether the byte there can be had without waiting for the storage; None where the kernel (before 4.14) or the
    file system does not tell."""
    if not hasattr(os, "RWF_NOWAIT"):
        return None
    try:
        return os.preadv(fd, [bytearray(1)], offset, os.RWF_NOWAIT) > 0
    except BlockingIOError:
        return False
    except OSError:
        return None
