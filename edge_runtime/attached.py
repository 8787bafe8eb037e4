"""Files attached behind a model: a TFLite file with metadata is a ZIP too, whose members are mostly lists of labels.

Standard library only. What the ZIP says of itself is not trusted: it is read where it is small, and no further than
the limits below; a damaged one has no labels, and the model in front of it is as good as before.
"""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import BinaryIO

MAX_MEMBERS = 64
MAX_LIST_BYTES = 1 << 20  # of one member unpacked, and of the ZIP's directory
_END = struct.Struct("<4s4H2LH")
_TAIL_BYTES = _END.size + 0xFFFF


def read_labels(model: bytes | str | Path) -> tuple[str, ...]:
    """The lines of the text file behind a model: the one whose name has "label" in it, else the only one; () where
    there is none, or where it cannot be told which."""
    if isinstance(model, bytes):
        # most models have nothing behind them: no copy for those
        return _read(io.BytesIO(model)) if model.rfind(b"PK\5\6", -_TAIL_BYTES) >= 0 else ()
    with open(model, "rb") as stream:
        return _read(stream)


def _read(stream: BinaryIO) -> tuple[str, ...]:
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(size - _TAIL_BYTES, 0))
    tail = stream.read(_TAIL_BYTES)
    at = tail.rfind(b"PK\5\6")
    if not 0 <= at <= len(tail) - _END.size:
        return ()
    members, directory_bytes = _END.unpack_from(tail, at)[4:6]
    if members > MAX_MEMBERS or directory_bytes > MAX_LIST_BYTES:
        return ()
    import zipfile  # and what it loads, only for those who need it

    try:
        with zipfile.ZipFile(stream) as archive:
            texts = [one for one in archive.infolist()[:MAX_MEMBERS] if one.filename.lower().endswith(".txt")]
            named = [one for one in texts if "label" in one.filename.lower()]
            (chosen,) = named or texts
            with archive.open(chosen) as member:
                content = member.read(MAX_LIST_BYTES + 1)
            if len(content) > MAX_LIST_BYTES:
                return ()
            return tuple(line.strip() for line in content.decode().strip().splitlines())
    except Exception:  # none, several; damaged, encrypted, packed in a way that this Python does not know
        return ()
