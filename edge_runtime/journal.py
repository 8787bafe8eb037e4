"""The journal: every outcome in one SQLite file, on the disk before it is acknowledged.

`journal_mode=wal` with `synchronous=full`: a row that `add` has returned from survives a power cut. An item is known
by its name and the digest of its contents, and is recorded once; a slide photographed again under the same name is
another. An item that failed is recorded too, and is read again when its contents change or when it is asked for.

Rows are entries of a chain that only grows, each with a hash over all before it (journal_file.py has the form): what
was recorded cannot be changed without a trace. An outcome that comes in the place of an error leaves the error where it
is: `outcomes` shows the newest, `history` all.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edge_runtime.errors import JournalError, UsageError
from edge_runtime.journal_file import GENESIS, append, as_content, in_words, open_file, transaction

if TYPE_CHECKING:
    from edge_runtime.results import Outcome

# Clocks without a battery start where they stopped: what is less than this is a second rounded.
_CLOCK_BACK_S = 2
_FIRST_DAY = "2026-01-01"  # no journal is older


class Head(NamedTuple):
    """The last entry: noted elsewhere, it proves later that nothing was cut off. (0, zeros) where there is none."""

    number: int
    hash: str


def _check_place(path: Path) -> bool:
    """Whether there is a file. SQLite opens what it is given, and waits for ever where that is a pipe, or where one
    stands beside it under the names that SQLite uses. Raises JournalError."""
    there = False
    for suffix in ("-wal", "-shm", "-journal", ""):
        one = f"{path}{suffix}"
        try:
            there = stat.S_ISREG(os.stat(one).st_mode)
        except FileNotFoundError:
            there = False
            continue
        except (OSError, ValueError) as error:
            said = getattr(error, "strerror", None) or error
            raise JournalError(f"{one}: cannot be used as a journal: {said}") from error
        if not there:
            what = "a folder" if os.path.isdir(one) else "a pipe or a device"
            raise JournalError(f"{one}: cannot be used as a journal: found {what}, wanted a file")
    return there


class Journal:
    """Open for as long as it is needed; close it, or use it in `with`. Safe for several processes.

    `create`: to record, the file is made where there is none. Without, it is only read, also from read-only media and
    where an older version wrote it.
    """

    def __init__(self, path: str | os.PathLike[str], *, create: bool = True) -> None:
        import sqlite3

        self.path = Path(path)
        if not _check_place(self.path) and not create:
            hint = "edge-runtime loop BUNDLE FOLDER --journal FILE"
            raise JournalError(f"{self.path}: found no journal there", hint=hint)
        # in a damaged file names may not be UTF-8 either, and numbers may end
        self._sqlite_error = (sqlite3.Error, UnicodeDecodeError, OverflowError)
        self._db, self.version = open_file(self.path, create)
        self._file = self.path.absolute()
        self._writes = create
        self._write_back()
        self._files = self._seen_files()

    def knows(
        self, item: str, *, fingerprint: str | None = None, digest: str | None = None, failed: bool = True
    ) -> bool:
        """Whether this item is recorded with these contents, asked by the cheap mark or by the sure one; with neither,
        whether anything is recorded under its name.

        `failed`: one that was recorded with an error counts as known.
        """
        if fingerprint is digest is None:
            return next(self._rows("SELECT 1 FROM items WHERE item=? LIMIT 1", item), None) is not None
        query = "SELECT 1 FROM items WHERE item=? AND (fingerprint=? OR item_digest=?) AND (NOT failed OR ?) LIMIT 1"
        return next(self._rows(query, item, fingerprint, digest, failed), None) is not None

    def add(self, outcome: Outcome, fingerprint: str = "") -> bool:
        """Record an outcome; on the disk when this returns. It comes in the place of an error recorded for the same
        contents, or for none that could be read, and of nothing else: False where the item was recorded before.

        Raises JournalError (a full disk, a card that fails): then nothing of it is recorded.
        """
        plain = outcome.to_json()
        key = (outcome.item, outcome.item_digest)
        failed = outcome.error is not None
        try:
            with transaction(self._db):
                self._check_there()
                known = self._one("SELECT failed, entry FROM items WHERE item=? AND item_digest=?", *key)
                if known and not known[0]:
                    return False
                number, recorded, last = self._one(
                    "SELECT number, recorded, hash FROM entries ORDER BY number DESC LIMIT 1"
                ) or (0, "", GENESIS)
                plain |= self._about(outcome, known, recorded)
                entry, _ = append(self._db, "outcome", outcome.when, as_content(plain), (number, last))
                if outcome.item_digest:
                    self._db.execute("DELETE FROM items WHERE item=? AND item_digest=''", (outcome.item,))
                values = (*key, fingerprint, failed, entry)
                self._db.execute("INSERT OR REPLACE INTO items VALUES (?, ?, ?, ?, ?)", values)
        except self._sqlite_error as error:
            raise in_words(self.path, error) from error
        self._write_back()
        return True

    def _write_back(self) -> None:
        """From the log beside it into the file itself, after every row: people copy, rename and send the file alone.
        What is committed is safe without it, so that what stands in its way (a reader, a full disk) is no error."""
        if self._writes:
            with contextlib.suppress(*self._sqlite_error):
                self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def _seen_files(self) -> list[tuple[int, int] | None]:
        """What stands under the names of the journal and of its log: None for nothing."""
        found: list[tuple[int, int] | None] = []
        for path in (self._file, self._file.with_name(f"{self._file.name}-wal")):
            try:
                about = os.stat(path)
                found.append((about.st_dev, about.st_ino))
            except OSError:
                found.append(None)
        return found

    def _check_there(self) -> None:
        """SQLite would write on to a file that has no name any more, and the rows would go with it."""
        now = self._seen_files()
        if self._files[1] is None:
            self._files[1] = now[1]  # the log is made at the first row, where another program had closed it before
        if now != self._files:
            raise JournalError(
                f"{self.path}: the journal, or the {self.path.name}-wal beside it, was moved, replaced or deleted, or "
                "its card pulled out, while it was open; this was not recorded, and what was recorded before is where "
                "the journal went",
                hint="bring it back, and run the same command again: it goes on where it stopped",
            )

    def _about(self, outcome: Outcome, known: Any, recorded: str) -> dict[str, Any]:
        """What the journal itself knows of an outcome: see results.py."""
        found: dict[str, Any] = {}
        item, digest = outcome.item, outcome.item_digest
        if digest and not known:
            known = self._one("SELECT failed, entry FROM items WHERE item=? AND item_digest=''", item)
        if known:
            found["replaces"] = known[1]
        elif earlier := self._one("SELECT max(entry) FROM items WHERE item=?", item)[0]:
            found["earlier_entry"] = earlier
        same = "SELECT entry, item FROM items WHERE item_digest=? AND item<>? AND NOT failed ORDER BY entry LIMIT 1"
        if digest and not outcome.error and (other := self._one(same, digest, item)):
            found["same_contents_as"] = {"entry": other[0], "item": other[1]}
        back_s = _seconds(recorded) - _seconds(outcome.when)
        if back_s >= _CLOCK_BACK_S:
            found["clock_back_s"] = round(back_s)
        return found

    def _one(self, query: str, *values: Any) -> Any:
        return self._db.execute(query, values).fetchone()

    def touch(self, item: str, digest: str, fingerprint: str) -> None:
        """Remember a new cheap mark of known contents (the files were copied again), so that they need no digest."""
        values = (fingerprint, item, digest)
        for _ in self._rows("UPDATE items SET fingerprint=? WHERE item=? AND item_digest=?", *values):
            pass

    def outcomes(self, since: str | None = None, item: str | None = None) -> Iterator[dict[str, Any]]:
        """Recorded outcomes, oldest first, as documented in results.py, one at a time: memory does not grow with their
        number. `since` as in `parse_since`; `item`: a name, or a pattern such as "ward-2-*".

        Raises JournalError where the file is damaged; for entries that are, after all others were given."""
        return self._entries(parse_since(since), item, "JOIN items AS i ON i.entry = e.number")

    def history(self, since: str | None = None, item: str | None = None) -> Iterator[dict[str, Any]]:
        """Like `outcomes`, with the errors that later outcomes came in the place of."""
        return self._entries(parse_since(since), item, "")

    def _entries(self, since: str, item: str | None, join: str) -> Iterator[dict[str, Any]]:
        # content as bytes: text that is not UTF-8 would end the whole query
        if self.version == 1:
            query = "SELECT id, '', CAST(outcome AS BLOB) FROM outcomes WHERE recorded >= ? ORDER BY id"
        else:
            query = "SELECT number, hash, CAST(content AS BLOB) FROM entries AS e"
            query += f" {join} WHERE kind='outcome' AND recorded >= ? ORDER BY number"
        damaged: list[str] = []
        for number, found, content in self._rows(query, since):
            try:
                plain = _outcome(content)
            except (ValueError, RecursionError):
                damaged.append(str(number))
                continue
            if item is None or plain["item"] == item or _matches(plain["item"], item):
                yield plain | ({"entry": number, "entry_hash": found} if found else {})
        if damaged:
            rows = ", ".join(damaged[:10]) + (" ..." if len(damaged) > 10 else "")
            raise JournalError(
                f"{self.path}: {len(damaged)} entries are no outcomes as recorded: {rows}",
                hint=f"edge-runtime journal {self.path} --verify",
            )

    def misdated(self, since: str) -> int:
        """How many outcomes `since` leaves out by a date that cannot be right: before this software was there, or
        before an entry that was recorded earlier. Clocks without a battery start anywhere."""
        if self.version == 1:
            return 0
        query = "SELECT count(*) FROM entries AS e JOIN items AS i ON i.entry = e.number WHERE recorded < ? AND "
        query += "(recorded < ? OR number > (SELECT min(number) FROM entries WHERE recorded >= ?))"
        from_time = parse_since(since)
        return sum(int(count) for (count,) in self._rows(query, from_time, _FIRST_DAY, from_time))

    def head(self) -> Head:
        """The last entry's number and hash."""
        found = None
        if self.version > 1:
            found = next(self._rows("SELECT number, hash FROM entries ORDER BY number DESC LIMIT 1"), None)
        return Head(*(found or (0, GENESIS)))

    def __len__(self) -> int:
        (count,) = next(self._rows(f"SELECT count(*) FROM {'items' if self.version > 1 else 'outcomes'}"))
        return int(count)

    def _rows(self, query: str, *values: Any) -> Iterator[Any]:
        """The rows one at a time, errors in words: damage in the middle of a file shows when it is reached."""
        try:
            yield from self._db.execute(query, values)
        except self._sqlite_error as error:
            raise in_words(self.path, error) from error

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _outcome(content: object) -> dict[str, Any]:
    """Raises ValueError for what `add` did not write."""
    plain = json.loads(content) if isinstance(content, bytes) else None
    error = plain.get("error") if isinstance(plain, dict) else None
    if (
        not isinstance(plain, dict)
        or not all(isinstance(plain.get(key), str) for key in ("item", "when"))
        or not (error is None or (isinstance(error, dict) and isinstance(error.get("message"), str)))
        or not (error or isinstance(plain.get("kind"), str))
    ):
        raise ValueError("not an outcome")
    return plain


def _matches(name: str, pattern: str) -> bool:
    from fnmatch import fnmatchcase

    return fnmatchcase(name, pattern)


def _seconds(when: str) -> float:
    """0 for what is no time: a note about the clock is not worth an error."""
    try:
        return datetime.fromisoformat(when).timestamp()
    except ValueError:
        return 0.0


def parse_since(text: str | None) -> str:
    """'today', 'yesterday', '7d', '12h' or an ISO date or time, to ISO 8601 in UTC. Raises UsageError."""
    if text is None:
        return ""
    now = datetime.now().astimezone()
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    named = {"today": midnight, "yesterday": midnight - timedelta(days=1)}
    try:
        if text in named:
            when = named[text]
        elif text[-1:] in ("d", "h") and text[:-1].isdecimal():
            when = now - timedelta(**{"days" if text[-1] == "d" else "hours": int(text[:-1])})
        else:
            when = datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError) as error:
        raise UsageError(f"since: found {text!r}, wanted today, yesterday, 7d, 12h or 2026-11-30") from error
    return when.astimezone(UTC).isoformat(timespec="seconds")
