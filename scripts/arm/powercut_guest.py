"""In the emulated machine: the loop on a disk whose writes are recorded. See scripts/arm/powercut.

    python3 powercut_guest.py PLAN.json

The loop is the program's own, in this process; only its standard output is another one. Each outcome that it prints
becomes a mark on the same disk, behind the end of the file system, past the page cache and without a flush: so the
print has a place in the recorded order of the disk's writes.
"""

from __future__ import annotations

import ctypes
import io
import json
import mmap
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from write_log import mark

HERE = Path("/data/records")


class Marks(io.TextIOBase):
    """Standard output that writes each line as a mark, and ends the loop (SIGTERM) after the `until`th."""

    def __init__(self, device: str, at_bytes: int) -> None:
        self.file = os.open(device, os.O_WRONLY | os.O_DIRECT)
        self.at, self.count, self.until = at_bytes, 0, 0
        self.rest = ""

    def write(self, text: str) -> int:
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            content = mark(json.loads(line))
            with mmap.mmap(-1, len(content)) as page:  # whole pages: what O_DIRECT wants
                page[:] = content
                os.pwrite(self.file, page, self.at)
            self.at += len(content)
            self.count += 1
            if self.count == self.until:
                os.kill(os.getpid(), signal.SIGTERM)
        return len(text)


def without_inputs() -> None:
    """A control: the verdicts are flushed, and what was read is not."""
    from edge_runtime import Item

    Item.sync = lambda _: None  # type: ignore[method-assign]


def without_sync() -> None:
    """A control: the same program, where nothing asks the disk to keep anything."""
    import sqlite3

    class Connection(sqlite3.Connection):
        def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
            if statement.lower().replace(" ", "").startswith("pragmasynchronous="):
                statement = "PRAGMA synchronous=off"
            return super().execute(statement, *values)

    connect = sqlite3.connect

    def connect_so(*words: Any, **named: Any) -> sqlite3.Connection:
        db = connect(*words, **{**named, "factory": Connection})
        sqlite3.Connection.execute(db, "PRAGMA synchronous=off")
        return db

    sqlite3.connect = connect_so  # type: ignore[assignment]
    os.fsync = os.fdatasync = lambda _: None  # type: ignore[assignment]


def system(number: int) -> None:
    if number:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def main() -> int:
    plan = json.loads(Path(sys.argv[1]).read_text())
    {"loop": lambda: None, "control": without_sync, "unsynced": without_inputs}[plan["program"]]()
    (device,) = (
        f"/dev/{one.name}" for one in Path("/sys/block").iterdir()
        if (one / "serial").exists() and (one / "serial").read_text() == "records"
    )  # fmt: skip
    HERE.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    system(libc.mount(device.encode(), str(HERE).encode(), b"ext4", 0, None))
    incoming = HERE / "incoming"
    from edge_runtime.cli import main as edge_runtime

    marks = Marks(device, plan["marks_at_bytes"])
    print_to, sys.stdout = sys.stdout, marks
    try:
        for until in plan["sessions"]:
            marks.until = until
            fresh = [name for name in plan["slides"][:until] if not (incoming / name).exists()]
            feeder = subprocess.Popen([sys.executable, __file__, "--feed", *fresh])
            words = ["loop", plan["bundle"], str(incoming), "--journal", str(HERE / "clinic.db"), "--json"]
            code = edge_runtime([*words, "--settle", "1s", "--poll", "500ms", *plan["options"]])
            if code or feeder.wait():
                return code or 1
    finally:
        sys.stdout = print_to
    system(libc.umount2(str(HERE).encode(), 0))
    print(json.dumps({"acknowledged": marks.count}))
    return 0


def feed(names: list[str]) -> None:
    """As careful programs copy: under a hidden name first, one slide after the other. Nothing is flushed."""
    for name in names:
        hidden = HERE / "incoming" / f".{name}"
        hidden.mkdir()
        for path in Path("/data/slides", name).iterdir():
            shutil.copyfile(path, hidden / path.name)
        hidden.rename(HERE / "incoming" / name)
        time.sleep(0.2)


if __name__ == "__main__":
    if sys.argv[1] == "--feed":
        feed(sys.argv[2:])
    else:
        sys.exit(main())
