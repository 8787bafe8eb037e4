"""What a long run keeps for the next: whole or not at all, and of the same settings."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """A place to write to, which becomes `file` at the end: a run that is cut leaves no half of it, and two processes
    that make the same do not read each other's."""
    fresh = file.with_name(f"{os.getpid()}-{file.name}")
    try:
        yield fresh
        fresh.replace(file)
    finally:
        fresh.unlink(missing_ok=True)


def check_settings(work: Path, settings: Any) -> None:
    """Ends the program where `work` holds networks of other settings: their figures would be told as these'."""
    file, words = work / "settings.json", json.dumps(settings, indent=1, sort_keys=True)
    if not file.is_file():
        with whole(file) as fresh:
            fresh.write_text(words)
    elif file.read_text() != words:
        raise SystemExit(
            f"{work}: found networks of other settings than the code's ({file}), wanted none; rm -r {work}"
        )
