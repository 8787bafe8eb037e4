"""The journal's SQLite file: opened so that a power cut takes nothing, brought to the version of today, and its errors
in words.

Version 2:

    entries   append-only: number (1, 2, 3 ... without a gap), recorded (UTC), kind, content (JSON), hash
    items     what the loop asks: which contents of which item are known, their cheap mark, their newest entry

    hash = SHA-256 of "HASH-OF-THE-ENTRY-BEFORE NUMBER KIND\\nCONTENT", UTF-8; before the first entry, 64 zeros

A hash binds an entry's text and all that stands before it: a later edit, deletion or insertion does not fit the next
hash. Whoever can write the file can also work out every hash anew, and rows cut off at the end leave no trace: for
that, the head (the last number and hash) must be noted elsewhere. Kinds:

    start     the first entry: {"journal": a random id, "when", "edge_runtime", "from_version", "taken_over"}; the
              `taken_over` entries after it were recorded by an older version, without hashes, and chained then
    outcome   one outcome, as results.py documents it
    lost      entries that journal_rescue.py could not read, from number "from" to its own; "from" is absent for one.
              `start` has then also "lost" (first and last of each), "changed" (entries whose hash did not fit), and
              "old_head"

`items` is an index: it may lose marks (the digest is then worked out again), and `verify` compares the rest of it with
the entries. The marks are not in the chain: who can write the file can set one to that of another slide's files, which
the loop then passes over. Written for SQLite 3.34 and newer (Debian 11, Android's Python).
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.digest import sha256
from edge_runtime.errors import JournalError
from edge_runtime.version import __version__

if TYPE_CHECKING:
    import sqlite3

VERSION = 2
GENESIS = "0" * 64
BUSY_MS = 10_000
_TABLES = (
    """CREATE TABLE entries (
        number INTEGER PRIMARY KEY,
        recorded TEXT NOT NULL,
        kind TEXT NOT NULL,
        content TEXT NOT NULL,
        hash TEXT NOT NULL
    )""",
    "CREATE INDEX entries_by_time ON entries (recorded)",
    "CREATE TRIGGER entries_stay BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'entries are not changed'); END",
    "CREATE TRIGGER entries_last BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'entries are not deleted'); END",
    """CREATE TABLE items (
        item TEXT NOT NULL,
        item_digest TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        failed INTEGER NOT NULL,
        entry INTEGER NOT NULL UNIQUE,
        PRIMARY KEY (item, item_digest)
    ) WITHOUT ROWID""",
    "CREATE INDEX items_by_digest ON items (item_digest)",
)


def entry_hash(previous: str, number: int, kind: str, content: str) -> str:
    """The hash of an entry, 64 hexadecimal digits, given that of the entry before it."""
    return sha256(f"{previous} {number} {kind}\n{content}".encode()).hexdigest()


def as_content(plain: dict[str, Any]) -> str:
    """The text that is stored and hashed: JSON on one line, in UTF-8 that has no lone surrogates."""
    text = json.dumps(plain, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace").decode() if not text.isascii() else text


def append(db: sqlite3.Connection, kind: str, recorded: str, content: str, last: tuple[int, str]) -> tuple[int, str]:
    """Add an entry after `last`, (number, hash), inside the transaction that read it. Returns its own."""
    number = last[0] + 1
    found = entry_hash(last[1], number, kind, content)
    db.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", (number, recorded, kind, content, found))
    return number, found


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing. Others wait: what is read inside is still so when it is written."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # a full disk has ended it already
            db.execute("ROLLBACK")
        raise


# ---------------------------------------------------------------- opening


def open_file(path: Path, create: bool) -> tuple[sqlite3.Connection, int]:
    """The connection and the version of the file: of today's version where it may be written (`create`); also an older
    one where it is only read. Raises JournalError."""
    import sqlite3

    db = None
    try:
        new = create and not path.exists()
        db = connect_to_write(path) if create else connect_to_read(path)
        version = _migrate(db, path, create)
        if new:
            sync_folder(path.parent)
        return db, version
    except (sqlite3.Error, UnicodeDecodeError) as error:
        if db:
            db.close()
        raise in_words(path, error, "cannot be used as a journal: ") from error
    except BaseException:
        if db:
            db.close()
        raise


def connect_to_write(path: Path) -> sqlite3.Connection:
    """What has been committed on it survives a power cut."""
    import sqlite3

    db = sqlite3.connect(path, timeout=BUSY_MS / 1e3, isolation_level=None)
    try:
        mode = _to_wal(db)
        # Where a file system cannot share memory (some network shares, some cards under Android) SQLite stays with its
        # older way of writing; `extra` makes that one as safe, for more syncs a row.
        db.execute(f"PRAGMA synchronous={'full' if mode == 'wal' else 'extra'}")
    except BaseException:
        db.close()
        raise
    return db


def _to_wal(db: sqlite3.Connection) -> str:
    """The mode that it is in then. Of two programs that make a journal at the same moment SQLite tells one at once that
    the other is at it, and does not wait: so this waits."""
    import sqlite3

    end = time.monotonic() + BUSY_MS / 1e3
    while True:
        try:
            return str(db.execute("PRAGMA journal_mode=wal").fetchone()[0])
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.02)


def connect_to_read(path: Path) -> sqlite3.Connection:
    """A medium that cannot be written has no room for the files beside a WAL database: there it is opened as one that
    nobody writes."""
    import sqlite3

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
            db = sqlite3.connect(uri, timeout=BUSY_MS / 1e3, uri=True, isolation_level=None)
            db.execute("PRAGMA user_version").fetchone()
            return db
        except sqlite3.OperationalError as error:
            if db:
                db.close()
            last = error
    raise last or sqlite3.OperationalError("cannot be opened")


@contextlib.contextmanager
def create_file(path: Path) -> Iterator[sqlite3.Connection]:
    """A new journal with empty tables, filled inside the block in one transaction. Raises sqlite3.Error."""
    db = connect_to_write(path)
    try:
        with transaction(db):
            for statement in _TABLES:
                db.execute(statement)
            yield db
            db.execute(f"PRAGMA user_version={VERSION}")
        sync_folder(path.parent)
    finally:
        db.close()


def copy_file(path: Path, new: Path) -> None:
    """All that is recorded at one moment, while others record, as one file: `path` alone lacks what is still in the
    log beside it. Raises JournalError, where there is a file `new` also."""
    import sqlite3

    if os.path.lexists(new):
        raise JournalError(f"{new}: found a file there, which is left as it is", hint="give another name")
    partial = new.with_name(f".{new.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        old = open_file(path, create=False)[0]
        try:
            copy = sqlite3.connect(partial, isolation_level=None)
            try:
                old.backup(copy)
                copy.execute("PRAGMA journal_mode=delete")  # a stick that cannot be written is read without a log
            finally:
                copy.close()
        finally:
            old.close()
        partial.replace(new)
        sync_folder(new.parent)
    except sqlite3.Error as error:
        raise in_words(new, error) from error
    except OSError as error:
        raise JournalError(f"{new}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """A file's name is safe when its folder is synced. Not all systems can: what they cannot is passed over."""
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


# ---------------------------------------------------------------- versions


def _migrate(db: sqlite3.Connection, path: Path, write: bool) -> int:
    """Returns the version that the file has now."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    _check_version(db, path, version, write)
    if version == VERSION or not write:
        return int(version)
    with transaction(db):
        (version,) = db.execute("PRAGMA user_version").fetchone()  # another process may have been first
        if version < VERSION:
            for statement in _TABLES:
                db.execute(statement)
            _fill(db, version)
            db.execute(f"PRAGMA user_version={VERSION}")
    return VERSION


def _check_version(db: sqlite3.Connection, path: Path, version: int, write: bool) -> None:
    if version > VERSION:
        raise JournalError(
            f"{path}: found journal version {version}, this version writes {VERSION}",
            hint="install a newer edge-runtime",
        )
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type='table'")}
    wanted = {1: {"outcomes"}, 2: {"entries", "items"}}.get(version, set())
    if wanted - tables or (version == 0 and tables):
        found = f"a database with the tables {', '.join(sorted(tables)) or '(none)'}"
        raise JournalError(f"{path}: found {found}, wanted a journal", hint="give another file: this one is left alone")
    if version == 0 and not write:
        raise JournalError(f"{path}: found no journal in it (version 0), wanted one that `loop` wrote")


def _fill(db: sqlite3.Connection, version: int) -> None:
    """The first entry; then every row of an older version, in its order and with its text as it was."""
    old = "SELECT item, item_digest, fingerprint, recorded, error IS NOT NULL, outcome FROM outcomes ORDER BY id"
    count = db.execute("SELECT count(*) FROM outcomes").fetchone()[0] if version else 0
    now = datetime.now(UTC).isoformat(timespec="seconds")
    start = {"journal": os.urandom(16).hex(), "when": now, "edge_runtime": __version__}
    content = as_content(start | {"from_version": version, "taken_over": count})
    last = append(db, "start", now, content, (0, GENESIS))
    if not version:
        return
    for item, digest, mark, recorded, failed, text in db.execute(old):
        last = append(db, "outcome", recorded, text, last)
        db.execute("INSERT INTO items VALUES (?, ?, ?, ?, ?)", (item, digest, mark, failed, last[0]))
    db.execute("DROP TABLE outcomes")


# ---------------------------------------------------------------- errors


def in_words(path: Path, error: sqlite3.Error | UnicodeDecodeError | OverflowError, about: str = "") -> JournalError:
    """What SQLite says, as one clear error with the next command."""
    name = (
        "SQLITE_CORRUPT"
        if isinstance(error, UnicodeDecodeError | OverflowError)
        else getattr(error, "sqlite_errorname", "")
    )
    said = f"{path}: {about}"
    if name == "SQLITE_FULL" or (name.startswith("SQLITE_IOERR") and _is_full(path)):
        return JournalError(
            f"{said}no room is left for it; this was not recorded, and what was recorded before is kept",
            hint=f"make room (df -h {path.parent}), and run the same command again: it goes on where it stopped",
        )
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return JournalError(
            f"{said}{error}: the file is damaged, or is no journal",
            hint=f"stop the loop, then: edge-runtime journal {path} --rescue NEW.db",
        )
    if name.startswith("SQLITE_IOERR"):
        hint = "look at the card's health (dmesg), and copy the journal and its -wal file elsewhere"
        return JournalError(f"{said}the storage failed: {error} ({name})", hint=hint)
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        hint = "end the other program, or wait, and run the same command again"
        return JournalError(f"{said}another program has held it for {BUSY_MS // 1000} seconds: {error}", hint=hint)
    if name.startswith("SQLITE_READONLY"):
        return JournalError(f"{said}may not be written: {error}", hint=f"ls -ld {path} {path.parent}")
    if name.startswith("SQLITE_CANTOPEN"):
        why = "it is a folder" if path.is_dir() else "" if path.parent.is_dir() else f"there is no folder {path.parent}"
        return JournalError(f"{said}{why or error}", hint=f"ls -ld {path.parent}")
    return JournalError(f"{said}{error}")


def _is_full(path: Path) -> bool:
    try:
        about = os.statvfs(path.parent)
    except (OSError, AttributeError):
        return False
    return about.f_bavail * about.f_frsize < 1 << 20
