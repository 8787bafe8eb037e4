"""What can still be read of a damaged journal, into a new one.

Not left to `sqlite3 .recover`: devices have no such command, and that of Debian 12 is built without it. Entries keep
their text and their numbers; where some are lost, one entry of kind "lost" stands for all of them, under the number of
the last. The new chain begins now, and its first entry says so, with what was lost, whose hash did not fit, and the
head of the old one.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edge_runtime.errors import JournalError
from edge_runtime.journal_file import GENESIS, append, as_content, connect_to_read, create_file, entry_hash, in_words
from edge_runtime.version import __version__

if TYPE_CHECKING:
    import sqlite3

# A damaged page takes a few entries with it, one of the tree above it some hundreds.
_MOST_LOST = 100_000
_LEAST_BYTES = 64  # of an entry: its hash alone has more, and version 1 had its outcome. Larger numbers are damage.
_ROWS = {
    1: "SELECT id + 1, recorded, 'outcome', outcome, '' FROM outcomes",
    2: "SELECT number, recorded, kind, content, hash FROM entries",
}
_NUMBER = {1: "id + 1", 2: "number"}


class Rescued(NamedTuple):
    """How many outcomes were saved; the entries that are lost, as (first, last); those that do not fit their hash."""

    saved: int
    lost: list[tuple[int, int]]
    changed: list[int]


class _Row(NamedTuple):
    number: int
    recorded: str
    kind: str
    content: str
    hash: str


def rescue(path: Path, new: Path) -> Rescued:
    """Write a journal `new` with all that can be read of `path`, which is only read. Stop the loop before.

    Raises JournalError: where there is a file `new`, or nothing can be read.
    """
    import sqlite3

    if os.path.lexists(new):
        raise JournalError(f"{new}: found a file there, which is left as it is", hint="give another name")
    if not path.exists():
        raise JournalError(f"{path}: found no journal there")
    try:
        old = connect_to_read(path)
    except sqlite3.Error as error:
        raise JournalError(f"{path}: nothing in it can be read: {error}") from error
    try:
        version, rows = _survivors(old, _most(path))
        if not rows:
            raise JournalError(f"{path}: no entry in it can be read")
        done = _judge(rows, version)
        _write(new, version, rows, done)
        return done
    finally:
        old.close()


def _most(path: Path) -> int:
    """How many entries there may be in a file of its size."""
    sizes = [one.stat().st_size for one in (path, path.with_name(f"{path.name}-wal")) if one.exists()]
    return sum(sizes) // _LEAST_BYTES


def _survivors(db: sqlite3.Connection, most: int) -> tuple[int, dict[int, _Row]]:
    """By number: up to the first damage, down to the last, and one by one between them."""
    import sqlite3

    version = 2
    with contextlib.suppress(sqlite3.Error):
        version = 1 if db.execute("PRAGMA user_version").fetchone()[0] == 1 else 2
    rows, number = _ROWS[version], _NUMBER[version]
    found: dict[int, _Row] = {}
    if version > 1:  # what one entry stands for has no room in the file
        most += sum(row.number - _first(row) for row in _until_damage(db, f"{rows} WHERE kind='lost'"))
        most = min(most, 1 << 53)
    for order in ("ASC", "DESC"):
        for row in _until_damage(db, f"{rows} WHERE {number} <= {most} ORDER BY {number} {order}"):
            if row.number in found:
                return version, found
            found[row.number] = row
    edges = sorted(found)
    gaps = [(low, high) for low, high in zip([1, *edges], edges, strict=False) if high > low + 1]
    low, high = max(gaps, key=lambda gap: gap[1] - gap[0], default=(max(edges, default=0), 0))
    failed = 0
    for one in range(low + 1, high or low + _MOST_LOST):
        rows_there = list(_until_damage(db, f"{rows} WHERE {number}={one}"))
        failed = 0 if rows_there else failed + 1
        found |= {row.number: row for row in rows_there}
        if failed > _MOST_LOST:
            break
    return version, found


def _until_damage(db: sqlite3.Connection, query: str) -> Iterator[_Row]:
    import sqlite3

    with contextlib.suppress(sqlite3.Error, UnicodeDecodeError):
        for row in db.execute(query):
            if [type(one) for one in row] == [int, str, str, str, str] and row[0] > 0 and _is_known(*row[2:4]):
                yield _Row(*row)


def _is_known(kind: str, content: str) -> bool:
    try:
        plain = json.loads(content)
        return kind != "outcome" or all(isinstance(plain[key], str) for key in ("item", "item_digest", "when"))
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


def _first(row: _Row) -> int:
    """The first of the entries that it stands for."""
    first = _plain(row).get("from") if row.kind == "lost" else None
    return first if isinstance(first, int) and 1 < first <= row.number else row.number


def _plain(row: _Row) -> dict[str, Any]:
    plain = json.loads(row.content)
    return plain if isinstance(plain, dict) else {}


def _judge(rows: dict[int, _Row], version: int) -> Rescued:
    lost, changed = [], []
    last, last_hash = 0, GENESIS  # the last that is kept; the hash that the next one follows, "" where it is lost
    kept = 0
    for number in sorted(rows):
        row = rows[number]
        follows = last_hash if _first(row) == last + 1 else ""
        if version > 1 and follows and entry_hash(follows, number, row.kind, row.content) != row.hash:
            changed.append(number)
        last, last_hash = number, row.hash
        if row.kind == "outcome":
            if number > max(kept, 1) + 1:
                lost.append((max(kept, 1) + 1, number - 1))
            kept = number
    if last > max(kept, 1):
        lost.append((max(kept, 1) + 1, last))
    if version > 1 and 1 in rows:  # it may have been rescued before, with numbers as they are now
        before = _plain(rows[1]).get("changed")
        changed += [one for one in before if isinstance(one, int)] if isinstance(before, list) else []
    return Rescued(sum(row.kind == "outcome" for row in rows.values()), lost, sorted(set(changed)))


def _write(new: Path, version: int, rows: dict[int, _Row], done: Rescued) -> None:
    import sqlite3

    now = datetime.now(UTC).isoformat(timespec="seconds")
    start: dict[str, Any] = {"journal": os.urandom(16).hex(), "when": now, "edge_runtime": __version__}
    start |= {"from_version": version, "taken_over": max(rows) - 1, "lost": done.lost, "changed": done.changed}
    if version > 1:
        start["old_head"] = {"entry": max(rows), "hash": rows[max(rows)].hash}
    if 1 in rows and version > 1:
        start["before"] = json.loads(rows[1].content)
    try:
        with create_file(new) as db:
            last = append(db, "start", now, as_content(start), (0, GENESIS))
            ends = {end: first for first, end in done.lost}
            for number in sorted({*ends, *rows} - {1}):
                if number in ends:
                    content = as_content({"when": now, "from": ends[number]})
                    last = append(db, "lost", now, content, (number - 1, last[1]))
                if number not in rows or rows[number].kind != "outcome":
                    continue
                row = rows[number]
                last = append(db, "outcome", row.recorded, row.content, last)
                plain = json.loads(row.content)
                key = (plain["item"], plain["item_digest"])
                if key[1]:
                    db.execute("DELETE FROM items WHERE item=? AND item_digest=''", key[:1])
                # without its mark: the loop works out the digest once, and remembers
                values = (*key, "", plain.get("error") is not None, last[0])
                db.execute("INSERT OR REPLACE INTO items VALUES (?, ?, ?, ?, ?)", values)
    except sqlite3.Error as error:
        for name in (new.name, f"{new.name}-wal", f"{new.name}-shm"):
            new.with_name(name).unlink(missing_ok=True)
        raise in_words(new, error) from error
