"""The journal: every outcome in one SQLite file, on the disk before it is acknowledged.

`journal_mode=wal` with `synchronous=full`: a row that `add` has returned from survives a power cut. An item is known
by its name and the digest of its contents, and is recorded once; a slide photographed again under the same name is
another. An item that failed is recorded too, and is read again when its contents change or when it is asked for.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.errors import JournalError, UsageError

if TYPE_CHECKING:
    import sqlite3

    from edge_runtime.results import Outcome

# One list of statements a version; a file's user_version is how many of them it has had.
_MIGRATIONS = (
    (
        """CREATE TABLE outcomes (
            id INTEGER PRIMARY KEY,
            item TEXT NOT NULL,
            item_digest TEXT NOT NULL,
            fingerprint TEXT NOT NULL,
            recorded TEXT NOT NULL,
            verdict TEXT,
            error TEXT,
            outcome TEXT NOT NULL CHECK (json_valid(outcome)),
            UNIQUE (item, item_digest)
        )""",
        "CREATE INDEX outcomes_by_time ON outcomes (recorded)",
    ),
)
_BUSY_MS = 10_000


def _connect(path: Path, create: bool) -> sqlite3.Connection:
    import sqlite3

    if create:
        return sqlite3.connect(path, timeout=_BUSY_MS / 1e3, isolation_level=None)
    # For reading. A medium that cannot be written has no room for the files beside a WAL database: there it is
    # opened as one that nobody writes.
    last = None
    log = path.with_name(f"{path.name}-wal")
    for mode in ("mode=ro", "immutable=1"):
        if mode == "immutable=1" and log.exists() and log.stat().st_size:
            raise JournalError(
                f"{path}: found rows that are still in {log.name}, and no right to write beside it, which reading "
                "them takes",
                hint=f"copy {path.name} and {log.name} to a folder that can be written, and read them there",
            )
        db = None
        try:
            uri = f"{path.absolute().as_uri()}?{mode}"
            db = sqlite3.connect(uri, timeout=_BUSY_MS / 1e3, uri=True, isolation_level=None)
            db.execute("PRAGMA user_version").fetchone()
            return db
        except sqlite3.OperationalError as error:
            if db:
                db.close()
            last = error
    raise last or sqlite3.OperationalError("cannot be opened")


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

    `create`: to record, the file is made where there is none. Without, it is only read, also from read-only media.
    """

    def __init__(self, path: str | os.PathLike[str], *, create: bool = True) -> None:
        import sqlite3

        self.path = Path(path)
        if not _check_place(self.path) and not create:
            hint = "edge-runtime loop BUNDLE FOLDER --journal FILE"
            raise JournalError(f"{self.path}: found no journal there", hint=hint)
        # what a damaged file is called in may not be UTF-8 either
        self._sqlite_error = (sqlite3.Error, UnicodeDecodeError)
        connection = None
        try:
            connection = _connect(self.path, create)
            if create:
                connection.execute("PRAGMA journal_mode=wal")
                connection.execute("PRAGMA synchronous=full")
            self._migrate(connection, create)
        except self._sqlite_error as error:
            if connection:
                connection.close()
            raise JournalError(f"{self.path}: cannot be used as a journal: {error}") from error
        except BaseException:
            if connection:
                connection.close()
            raise
        self._db = connection

    def _migrate(self, db: sqlite3.Connection, write: bool) -> None:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > len(_MIGRATIONS):
            raise JournalError(
                f"{self.path}: found journal version {version}, this version writes {len(_MIGRATIONS)}",
                hint="install a newer edge-runtime",
            )
        if version == len(_MIGRATIONS):
            return
        if not write:
            raise JournalError(f"{self.path}: found no journal in it (version {version}), wanted one that `loop` wrote")
        db.execute("BEGIN IMMEDIATE")
        (version,) = db.execute("PRAGMA user_version").fetchone()  # another process may have been first
        for statements in _MIGRATIONS[version:]:
            for statement in statements:
                db.execute(statement)
        db.execute(f"PRAGMA user_version={len(_MIGRATIONS)}")
        db.execute("COMMIT")

    def knows(
        self, item: str, *, fingerprint: str | None = None, digest: str | None = None, failed: bool = True
    ) -> bool:
        """Whether this item is recorded with these contents, asked by the cheap mark or by the sure one; with neither,
        whether anything is recorded under its name.

        `failed`: one that was recorded with an error counts as known.
        """
        if fingerprint is digest is None:
            return self._execute("SELECT 1 FROM outcomes WHERE item=? LIMIT 1", (item,)).fetchone() is not None
        query = "SELECT 1 FROM outcomes WHERE item=? AND (fingerprint=? OR item_digest=?) AND (error IS NULL OR ?)"
        return self._execute(f"{query} LIMIT 1", (item, fingerprint, digest, failed)).fetchone() is not None

    def add(self, outcome: Outcome, fingerprint: str = "") -> bool:
        """Record an outcome; on the disk when this returns. It takes the place of an error recorded for the same
        contents, and of nothing else: False where the item was recorded before."""
        plain = outcome.to_json()
        row = (
            outcome.item,
            outcome.item_digest,
            fingerprint,
            outcome.when,
            plain.get("verdict"),
            outcome.error.message if outcome.error else None,
            json.dumps(plain, ensure_ascii=False),
        )
        query = (
            "INSERT INTO outcomes (item, item_digest, fingerprint, recorded, verdict, error, outcome) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (item, item_digest) DO UPDATE SET "
            "fingerprint=excluded.fingerprint, recorded=excluded.recorded, verdict=excluded.verdict, "
            "error=excluded.error, outcome=excluded.outcome WHERE outcomes.error IS NOT NULL"
        )
        return self._execute(query, row).rowcount == 1

    def touch(self, item: str, digest: str, fingerprint: str) -> None:
        """Remember a new cheap mark of known contents (the files were copied again), so that they need no digest."""
        self._execute("UPDATE outcomes SET fingerprint=? WHERE item=? AND item_digest=?", (fingerprint, item, digest))

    def outcomes(self, since: str | None = None) -> Iterator[dict[str, Any]]:
        """Recorded outcomes, oldest first, as documented in results.py. `since` as in `parse_since`.

        Raises JournalError where the file is damaged; of rows that are, after all others were given.
        """
        # as bytes: text that is not UTF-8 would end the whole query
        query = "SELECT id, CAST(outcome AS BLOB) FROM outcomes WHERE recorded >= ? ORDER BY id"
        damaged: list[str] = []
        for number, content in self._rows(query, (parse_since(since),)):
            try:
                yield _outcome(content)
            except (ValueError, RecursionError):
                damaged.append(str(number))
        if damaged:
            rows = ", ".join(damaged[:10]) + (" ..." if len(damaged) > 10 else "")
            raise JournalError(f"{self.path}: found {len(damaged)} damaged rows, wanted outcomes: {rows}")

    def __len__(self) -> int:
        return sum(int(count) for (count,) in self._rows("SELECT count(*) FROM outcomes", ()))

    def _rows(self, query: str, values: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        """Damage may show at any row."""
        found = self._execute(query, values)
        while True:
            try:
                row = found.fetchone()
            except self._sqlite_error as error:
                raise JournalError(f"{self.path}: {error}") from error
            if row is None:
                return
            yield row

    def _execute(self, query: str, values: tuple[Any, ...]) -> sqlite3.Cursor:
        try:
            return self._db.execute(query, values)
        except self._sqlite_error as error:
            raise JournalError(f"{self.path}: {error}") from error

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
