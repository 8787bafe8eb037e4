"""A disk's writes in their order, as QEMU's `blklogwrites` driver recorded them, and the disk as a power cut leaves it.

The log is that of Linux's dm-log-writes: a head, then for each write its place, its flags and its bytes. A cut after
the first N of them leaves what was flushed, and of the later ones whatever the drive had got to: each is there, gone,
or there up to some sector (`lossy`), or there as a whole (else).

Some writes are marks: they lie behind the file system's end, where nothing else writes, and carry what the program had
acknowledged. A mark is no flush, so it makes nothing else durable; it has its place in the log between the others.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD = 1, 2, 4
SECTOR_BYTES = 512  # what a drive writes as a whole
BLOCK_BYTES = 4096  # of the file system, of the log and of a mark
MARK = b"edge mark\n"


@dataclass(frozen=True)
class Entry:
    """`at`: where on the disk; `source`: where in the log its bytes lie; both, and `size`, in bytes."""

    at: int
    size: int
    flags: int
    source: int


@dataclass(frozen=True)
class WriteLog:
    """`end_bytes`: where the file system ends and the marks begin."""

    path: Path
    entries: tuple[Entry, ...]
    end_bytes: int

    def content(self, entry: Entry) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(entry.source)
            return file.read(entry.size)

    def is_mark(self, entry: Entry) -> bool:
        return bool(entry.size) and not entry.flags & DISCARD and entry.at >= self.end_bytes

    def marks(self) -> Iterator[tuple[int, Any]]:
        """(place in the log, what was acknowledged) of each mark, in order."""
        for place, entry in enumerate(self.entries):
            if self.is_mark(entry):
                content = self.content(entry)
                if not content.startswith(MARK):
                    raise ValueError(f"{self.path}: entry {place} lies behind the file system and is no mark")
                yield place, json.loads(content.removeprefix(MARK).rstrip(b"\0"))

    def count(self, flag: int) -> int:
        return sum(bool(entry.flags & flag) for entry in self.entries)


def mark(said: object) -> bytes:
    """The bytes to be written for a mark: whole blocks."""
    content = MARK + json.dumps(said).encode()
    return content + b"\0" * (-len(content) % BLOCK_BYTES)


def read_log(path: Path, end_bytes: int) -> WriteLog:
    """Raises ValueError for what is no such log, or one that was cut off."""
    entries = []
    with open(path, "rb") as file:
        head = file.read(28)
        if len(head) < 28:
            raise ValueError(f"{path}: found {len(head)} bytes, wanted a log of writes")
        magic, version, count, sector = struct.unpack("<QQQI", head)
        if (magic, version) != (MAGIC, 1):
            raise ValueError(f"{path}: found no log of writes of version 1 in it")
        place = sector
        for number in range(count):
            file.seek(place)
            about = file.read(32)
            if len(about) < 32:
                raise ValueError(f"{path}: found {number} entries, wanted {count}")
            at, length, flags, _ = struct.unpack("<QQQQ", about)
            entries.append(Entry(at * sector, length * sector, flags, place + sector))
            place += sector + (0 if flags & DISCARD else length * sector)
    return WriteLog(path, tuple(entries), end_bytes)


class Disk:
    """The disk as it goes through the log: `image` is a file with its start, changed in place up to a cut."""

    def __init__(self, log: WriteLog, image: Path) -> None:
        self.log = log
        self.image = image
        self.place = 0

    def forward(self, place: int) -> None:
        """To the state in which entries[:place] are written, all of them. Only forward."""
        with open(self.image, "r+b") as disk:
            for entry in self.log.entries[self.place : place]:
                self._write(disk, entry, entry.size)
        self.place = place

    def unflushed(self, place: int) -> tuple[int, int]:
        """The entries that a cut after entries[:place] may lose: from the last flush on."""
        last = max((one for one in range(place) if self.log.entries[one].flags & FLUSH), default=-1)
        return last + 1, place

    def write_some(self, image: Path, first: int, place: int, chance: random.Random | None) -> None:
        """Into `image`, which has entries[:first]: the rest as far as `place`, each of them kept, lost, or torn at a
        sector; without `chance` kept."""
        with open(image, "r+b") as disk:
            for entry in self.log.entries[first:place]:
                kept = entry.size
                if chance and not entry.flags & FUA:
                    fate = chance.random()
                    if fate < 0.5:
                        kept = 0 if fate < 0.4 else SECTOR_BYTES * chance.randrange(entry.size // SECTOR_BYTES + 1)
                self._write(disk, entry, kept)

    def _write(self, disk: Any, entry: Entry, kept: int) -> None:
        if kept and not entry.flags & DISCARD and not self.log.is_mark(entry):
            disk.seek(entry.at)
            disk.write(self.log.content(entry)[:kept])
