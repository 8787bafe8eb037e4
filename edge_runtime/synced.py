"""What was read is on the disk: files that a copying program wrote may be in memory alone for half a minute.

A slide whose last files a power cut took is another slide when the loop starts again, and would be counted again. One
that was counted before its verdict was safe must therefore be as safe as the verdict.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from edge_runtime.errors import InputError
from edge_runtime.regular import open_regular

# Each file on its own is a wait for the disk, also where nothing is left to be written: from here on, one for all of
# the file system (1,000 files of 10 kB on a PC: 0.4 s one by one, 0.08 s asked again; 0.2 s and 0.5 ms at once).
_MANY = 16
# Not all systems can; EBADF where only a file that is open for writing is synced.
_CANNOT = {errno.EINVAL, errno.EROFS, errno.EBADF, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


def sync(files: list[Path], folders: Iterable[Path]) -> None:
    """Wait until the files and their names in the folders are on the disk. What cannot be opened, or has gone, is
    passed over. Raises InputError where the disk did not take them."""
    paths = [*files, *folders]
    if len(files) < _MANY or not _sync_whole(paths):
        for path in paths:
            _sync(path)


def _sync(path: Path) -> None:
    with _opened(path) as fd, _failures(path):
        if fd is not None:
            os.fsync(fd)


def _sync_whole(paths: list[Path]) -> bool:
    """The file systems that they are on; False where the system has no such call."""
    try:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        syncfs = libc.syncfs
    except (ImportError, AttributeError, OSError, TypeError):
        return False
    devices: dict[int, Path] = {}
    for path in paths:
        with contextlib.suppress(OSError):
            devices.setdefault(os.stat(path).st_dev, path)
    for path in devices.values():
        with _opened(path) as fd, _failures(path):
            if fd is None:
                return False
            if syncfs(fd):
                number = ctypes.get_errno()
                if number in _CANNOT:
                    return False
                raise OSError(number, os.strerror(number))
    return True


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int | None]:
    """A descriptor for reading; None where there is none."""
    stack = contextlib.ExitStack()
    fd = None
    try:
        if os.path.isdir(path):
            fd = os.open(path, os.O_RDONLY)
            stack.callback(os.close, fd)
        else:
            fd = stack.enter_context(open_regular(path, buffering=0)).fileno()
    except OSError:
        pass
    with stack:
        yield fd


@contextlib.contextmanager
def _failures(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _CANNOT:
            raise InputError(
                f"{path}: {error.strerror}: the disk did not take it, and its verdict was not recorded",
                hint="look at the card's health (dmesg) and its room (df), and run the same command again",
            ) from error
