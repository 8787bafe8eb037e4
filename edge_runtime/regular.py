"""Opening what should be a file and may be anything: opening a pipe waits for its writer, and a device has no end."""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO

_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_KINDS = {
    stat.S_IFIFO: "found a pipe",
    stat.S_IFCHR: "found a device",
    stat.S_IFBLK: "found a disk",
    stat.S_IFSOCK: "found a socket",
}


def open_regular(path: str | os.PathLike[str], buffering: int = -1) -> BinaryIO:
    """For reading bytes. Raises OSError, also for a name that cannot be one and for what is no regular file."""
    try:
        fd = os.open(path, _FLAGS)
    except ValueError as error:
        raise OSError(errno.EINVAL, f"found a name that no file has ({error})") from error
    try:
        kind = stat.S_IFMT(os.fstat(fd).st_mode)
        if kind == stat.S_IFDIR:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if kind != stat.S_IFREG:
            raise OSError(errno.EINVAL, f"{_KINDS.get(kind, 'found something else')}, wanted a file")
        return os.fdopen(fd, "rb", buffering)
    except BaseException:
        os.close(fd)
        raise
