"""Whether a file is still being written, by its name and by its end.

A pause in copying can last longer than any settle time: a phone that falls asleep, a card reader that is pulled out. A
file whose own format says that more must come is waited for. It is a reason to wait and never one to refuse: for what
is in a file, the decoder has the last word.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import BinaryIO

from edge_runtime.regular import open_regular

# As browsers, rsync, WinSCP, Syncthing, Android's media store and others call what is not finished.
_ENDINGS = (".part", ".partial", ".tmp", ".temp", ".crdownload", ".download", ".opdownload", ".filepart", "~")
_STARTS = ("~", ".pending-", ".syncthing.", ".goutputstream-")
_RSYNC = re.compile(r"\..+\.[A-Za-z0-9]{6}")
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_JPEG_END = b"\xff\xd9"
_MOST_PARTS = 100_000
_STEP_BYTES = 1 << 20


def is_temporary(name: str) -> bool:
    """By its name: what a copying program writes to before the file gets its own name."""
    lower = name.lower()
    return lower.endswith(_ENDINGS) or lower.startswith(_STARTS) or bool(_RSYNC.fullmatch(name))


def is_unfinished(path: Path) -> bool:
    """By its contents: empty, room set aside that is not filled, or an image whose end is missing. False for what is no
    image, and for what cannot be read."""
    try:
        with open_regular(path, buffering=0) as file:
            return _is_unfinished(file, os.fstat(file.fileno()).st_size)
    except OSError:
        return False


def _is_unfinished(file: BinaryIO, size: int) -> bool:
    head = file.read(12)
    if len(head) < 12 or not head.strip(b"\0"):
        return True
    if head.startswith(b"\xff\xd8"):
        return not _jpeg_ends(file, size)
    if head.startswith(_PNG):
        return not _png_ends(file, size)
    if head[:4] == b"RIFF" and head[8:] == b"WEBP":
        return int.from_bytes(head[4:8], "little") + 8 > size
    if head[:2] == b"BM":
        return int.from_bytes(head[2:6], "little") > size
    if head[:4] in (b"II*\0", b"MM\0*"):  # its table of contents often comes last
        table = int.from_bytes(head[4:8], "little" if head[:1] == b"I" else "big")
        return not 0 < table < size
    return False


def _ends_with(file: BinaryIO, size: int, end: bytes) -> bool:
    file.seek(max(size - len(end), 0))
    return file.read(len(end)) == end


def _png_ends(file: BinaryIO, size: int) -> bool:
    if _ends_with(file, size, _PNG_END):
        return True
    place = len(_PNG)
    for _ in range(_MOST_PARTS):  # something may stand behind the end
        file.seek(place)
        part = file.read(12)
        if part[4:8] == b"IEND":
            return part == _PNG_END
        place += 12 + int.from_bytes(part[:4], "big")
        if place >= size:
            return False
    return True


def _jpeg_ends(file: BinaryIO, size: int) -> bool:
    """Whether its end stands behind its first scan: phones put whole films behind it, and small pictures before it."""
    if _ends_with(file, size, _JPEG_END):
        return True
    place = 2
    for _ in range(_MOST_PARTS):
        file.seek(place)
        part = file.read(4)
        if not part.strip(b"\0") or len(part) < 4:
            return False
        if part[0] != 0xFF:
            return True  # damaged: for the decoder to say
        if part[1] == 0xDA:
            return _holds(file, place + 4, _JPEG_END)
        fill = part[1] == 0xFF
        place += 1 if fill else 2 + int.from_bytes(part[2:], "big")
    return True


def _holds(file: BinaryIO, place: int, wanted: bytes) -> bool:
    file.seek(place)
    last = b""
    while found := file.read(_STEP_BYTES):
        if wanted in last + found:
            return True
        last = found[-1:]
    return False
