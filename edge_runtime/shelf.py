"""Where installed bundles lie, and which of a name is the current one. What changes them stands in store.py.

    FOLDER/NAME@DIGEST.edge     a bundle, whole and checked; its name is never given to anything else
    FOLDER/NAME.json            {schema, name, current{digest, version, size, installed}, previous{...} or null}
    FOLDER/keys/                what trust.py keeps: the keys that this device accepts
    FOLDER/.lock, .incoming-*   one change at a time, and a copy that is not finished

A bundle is installed from the moment that NAME.json says so, which is one rename. A file that no NAME.json speaks of is
a leftover. FOLDER is EDGE_RUNTIME_STORE, else edge_runtime/store in the user's data folder (XDG_DATA_HOME).
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any, NamedTuple

from edge_runtime.errors import StoreError
from edge_runtime.fields import UNPRINTABLE, show
from edge_runtime.regular import open_regular

SCHEMA = 1
KEYS = "keys"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
BUNDLE_FILE = re.compile(rf"({NAME.pattern})@([0-9a-f]{{64}})\.edge")
_INDEX_LIMIT_BYTES = 64 << 10


class Kept(NamedTuple):
    """One installed version. `size` in bytes, with its signatures; `installed` is UTC, ISO 8601."""

    digest: str
    version: str
    size: int
    installed: str


class Shelf(NamedTuple):
    """A name and the two versions of it that are kept."""

    name: str
    current: Kept
    previous: Kept | None = None

    @property
    def kept(self) -> tuple[Kept, ...]:
        return (self.current, self.previous) if self.previous else (self.current,)

    def to_json(self) -> dict[str, Any]:
        previous = self.previous._asdict() if self.previous else None
        return {"schema": SCHEMA, "name": self.name, "current": self.current._asdict(), "previous": previous}


def store_folder() -> Path:
    """It need not exist."""
    if folder := os.environ.get("EDGE_RUNTIME_STORE"):
        return Path(folder)
    data = os.environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local", "share")
    return Path(data, "edge_runtime", "store")


def bundle_file(folder: Path, name: str, digest: str) -> Path:
    return folder / f"{name}@{digest}.edge"


def index_file(folder: Path, name: str) -> Path:
    """Raises StoreError for what is no name: it could lead to a file outside of the folder."""
    if not NAME.fullmatch(name):
        raise StoreError(
            f"{name!r}: wanted the name of a bundle: lower-case letters, digits, . _ -", hint="edge-runtime store list"
        )
    return folder / f"{name}.json"


def read_shelf(folder: Path, name: str) -> Shelf | None:
    """None where nothing of that name is installed. Raises StoreError for an index that cannot be read."""
    path = index_file(folder, name)
    try:
        with open_regular(path) as stream:
            text = stream.read(_INDEX_LIMIT_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}", hint="give this user the right to read the store") from error
    try:
        plain = json.loads(text)
        if plain["schema"] != SCHEMA or plain["name"] != name:
            raise ValueError(f"schema {plain['schema']}, name {plain['name']!r}")
        return Shelf(name, _kept(plain["current"]), _kept(plain["previous"]) if plain["previous"] else None)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(
            f"{path}: found {error!s:.80}, wanted what `store` writes (schema {SCHEMA})",
            hint=f"edge-runtime store remove {name}, and install it again",
        ) from error


def _kept(plain: dict[str, Any]) -> Kept:
    digest, version, size, installed = (plain[key] for key in Kept._fields)
    if not (re.fullmatch(r"[0-9a-f]{64}", digest) and isinstance(size, int) and 0 <= size < 1 << 63):
        raise ValueError(f"digest {digest!r}, size {show(size)}")
    for text in (version, installed):
        if not isinstance(text, str) or UNPRINTABLE.search(text):
            raise ValueError(f"version {show(version)}, installed {show(installed)}")
    return Kept(digest, version, size, installed)


def installed_bundle(name: str, version: str | None = None) -> Path | None:
    """The file of `name` in this device's store: its current version, or the one asked for. Raises StoreError."""
    folder = store_folder()
    shelf = read_shelf(folder, name)
    if shelf is None:
        return None
    for one in shelf.kept:
        if version in (None, one.version):
            return bundle_file(folder, name, one.digest)
    there = " and ".join(one.version for one in shelf.kept)
    raise StoreError(f"{folder}: found {name} {there}, wanted {version}", hint="edge-runtime store list")


# ---------------------------------------------------------------- a bundle at work


def hold(path: Path) -> int:
    """A descriptor that tells the store that this file is in use, until it is closed or this process is gone; -1 where
    the system has no such thing. Held by a session, because its child reads the file again after a breach."""
    try:
        import fcntl

        held = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (ImportError, OSError):
        return -1
    for _ in range(50):
        try:
            fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
            break
        except BlockingIOError:  # the store is just asking
            time.sleep(0.01)
        except OSError:  # a file system without locks
            break
    return held


def in_use(path: Path) -> bool:
    """Whether a session holds it, here or in another process."""
    try:
        import fcntl

        held = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (ImportError, OSError):
        return False
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(held)
