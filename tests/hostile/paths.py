"""What is given as a path and is none, or is another thing than the function wants: to every public function."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import edge_runtime as edge
from edge_runtime.items import find_items

Use = tuple[Callable[[str], Any], str]


def _watch(path: str) -> None:
    list(edge.watch(path, once=True, settle_s=0, poll_s=0))


def _read(path: str) -> None:
    for item in find_items([path]):
        item.digest()


def _session(path: str) -> None:
    edge.open_session(path, "raspberry-pi-4b", engine="null").close()


def _journal(path: str) -> None:
    with edge.Journal(path, create=False) as journal:
        list(journal.outcomes())


FUNCTIONS: dict[str, Callable[[str], Any]] = {
    "load_bundle": edge.load_bundle,
    "open_session": _session,
    "open_program .onnx": lambda path: edge.open_program(path + ".onnx", guard=False).close(),
    "open_program .tflite": lambda path: edge.open_program(path + ".tflite", guard=False).close(),
    "open_program .null": lambda path: edge.open_program(path + ".null", guard=False).close(),
    "load_profile": lambda path: edge.load_profile(Path(path)),
    "Journal": _journal,
    "Journal to write": lambda path: edge.Journal(path + ".none/x.db").close(),
    "find_items": _read,
    "watch": _watch,
}


def paths(folder: Path) -> Iterator[tuple[str, Use]]:
    made: dict[str, str] = {
        "empty": "",
        "null byte": "a\0b",
        "long name": "n" * 300,
        "long path": "d/" * 3000 + "x",
        "surrogate": "a\udcff",
        "lone surrogate": "a\ud800",
        "newline": "a\nb",
        "nothing there": str(folder / "nothing"),
        "below a file": str(folder / "file" / "x"),
        "a device": "/dev/null",
        "zeros": "/dev/zero",
        "a process": "/proc/self/mem",
        "the kernel's": "/proc/self/maps",
    }
    (folder / "file").write_bytes(b"hello" * 99)
    for ending in ("", ".onnx", ".tflite", ".null"):
        at = str(folder / "x")
        os.mkfifo(f"{at}-fifo{ending}")
        Path(f"{at}-folder{ending}").mkdir()
        Path(f"{at}-loop{ending}").symlink_to(f"x-loop{ending}")
        Path(f"{at}-text{ending}").write_bytes(b"hello" * 99)
        Path(f"{at}-empty{ending}").touch()
        with open(f"{at}-sparse{ending}", "wb") as stream:
            stream.truncate(8 << 30)
        with open(f"{at}-sparse lie{ending}", "wb") as stream:
            stream.write(b"\x1c\0\0\0TFL3EDGEBNDL" if "tflite" in ending else b"EDGEBNDL\1\0\0\0\xff\xff\0\0")
            stream.truncate(8 << 30)
        made |= {name: f"{at}-{name}" for name in ("fifo", "folder", "loop", "text", "empty", "sparse", "sparse lie")}
    for name, path in made.items():
        for said, function in FUNCTIONS.items():
            yield f"{said} of {name}", (function, path)


def use(function: Callable[[str], Any], path: str) -> None:
    function(path)
