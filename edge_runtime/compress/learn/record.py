"""Every architecture that was judged, as a line of JSON that is on the disk before the search goes on.

A search that was cut is started again with the same settings: what stands in the record is not done again. An
accuracy does not depend on the device, so searches for several devices share one record.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_runtime.errors import InputError

START = b'{"key": "'
"""Of every row."""


def _foreign(path: Path, number: int, line: bytes) -> InputError:
    return InputError(
        f"{path}: line {number}: found no row of a search: {line[:80]!r}, wanted a record or no file",
        hint=f"give another path, such as {path.with_suffix('.record.jsonl')}: this file stays as it is",
    )


class Record:
    """Rows by key; in memory only without a path. Raises InputError for a file that is no record."""

    def __init__(self, path: Path | None = None) -> None:
        self.path, self.rows = path, dict[str, dict[str, Any]]()
        if path is not None and path.is_file():
            self._read(path)

    def _read(self, path: Path) -> None:
        content = path.read_bytes()
        whole, rest = content[: content.rfind(b"\n") + 1], content[content.rfind(b"\n") + 1 :]
        number = 0
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                row = json.loads(line)
                self.rows[row["key"]] = row
            except (ValueError, KeyError, TypeError) as error:
                raise _foreign(path, number, line) from error
        if rest[: len(START)] != START[: len(rest)]:
            raise _foreign(path, number + 1, rest)
        if rest:  # cut while it was written
            with path.open("r+b") as file:
                file.truncate(len(whole))
                os.fsync(file.fileno())

    def get(self, key: str) -> dict[str, Any] | None:
        return self.rows.get(key)

    def put(self, key: str, row: Mapping[str, Any]) -> dict[str, Any]:
        """On the disk when this returns."""
        made = {"key": key, **row}
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fresh = not self.path.exists()
            with self.path.open("ab") as file:
                file.write(json.dumps(made).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            if fresh:
                folder = os.open(self.path.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
        self.rows[key] = made
        return made
