"""Installed bundles under a storage quota: install, list, remove, roll back, verify. The files of a store: shelf.py.

What holds, whatever happens in the middle (a full disk, a stick that is pulled, a kill, a power cut):

- A name has its current version, whole and checked, or the one that it had before. The copy is written beside, synced,
  read back from the medium and checked digest by digest; only then does it take its name, and only then does the index
  speak of it. The next command that changes the store takes away what an interrupted one left.
- Two versions of a name are kept, so that `rollback` needs neither stick nor network.
- An install is refused before a byte is written where it would not fit: into the quota (the profile's storage budget,
  for all bundle files together, also while copying), and into what is free beside a reserve for the journal: 16 MiB
  (ten thousand slides: a row has 1.1 KiB), or a hundredth of the file system where that is more, 256 MiB at most.
- Where room is short, previous versions make it: first that of the same name, then those of others, the one that was
  installed longest ago first. Never a current version, never one that a session has open, and none at all where that
  would not be enough.
- One change at a time; a second command waits for its turn.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.bundle import demand, read_bundle
from edge_runtime.errors import BudgetError, EdgeError, StoreError
from edge_runtime.shelf import BUNDLE_FILE, NAME, Kept, Shelf, bundle_file, in_use, index_file, read_shelf
from edge_runtime.store_copy import FULL, INCOMING, copy_bundle, demand_both, space, sync_folder
from edge_runtime.units import format_bytes
from edge_runtime.version_order import compare_versions

if TYPE_CHECKING:
    from edge_runtime.bundle import Bundle

# The index, its folder's entry and the lock: blocks that a bundle's size does not count.
_BESIDE_BYTES = 64 << 10
_LOCK_WAIT_S = 60.0


@dataclass(frozen=True)
class Room:
    """`quota_bytes`: for all bundle files. `reserve_bytes`: to be left free on the file system; None: by the rule."""

    quota_bytes: int
    reserve_bytes: int | None = None


@dataclass(frozen=True)
class Installed:
    """What an install did: `kind` is installed, updated, replaced (by another version that cannot be called newer),
    renewed (the same, whose copy was damaged or signed otherwise) or unchanged; `evicted` are files of previous
    versions that made room."""

    kind: str
    name: str
    kept: Kept
    before: Kept | None = None
    evicted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Problem:
    file: str
    what: str


# ---------------------------------------------------------------- looking


def list_store(folder: Path, broken: list[Problem] | None = None) -> list[Shelf]:
    """Every name, in order; what cannot be read goes to `broken`. Raises StoreError for the folder."""
    found = []
    for name in _names(folder):
        try:
            if shelf := read_shelf(folder, name):
                found.append(shelf)
        except StoreError as error:
            if broken is not None:
                broken.append(Problem(index_file(folder, name).name, error.message))
    return found


def _listdir(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror}, wanted the folder of a store") from error


def _names(folder: Path) -> list[str]:
    names = (entry.removesuffix(".json") for entry in _listdir(folder) if entry.endswith(".json"))
    return [name for name in names if NAME.fullmatch(name)]


def bundle_files(folder: Path) -> dict[Path, int]:
    """Sizes in bytes of all that counts against the quota: bundles, and copies that are not finished."""
    found = {}
    for entry in _listdir(folder):
        if BUNDLE_FILE.fullmatch(entry) or entry.startswith(INCOMING):
            with contextlib.suppress(FileNotFoundError):
                found[folder / entry] = (folder / entry).stat().st_size
    return found


def verify_store(folder: Path) -> list[Problem]:
    """Read all of it: every digest, every signature that this device demands, and whatever does not belong there."""
    found: list[Problem] = []
    known: set[Path] = set()
    for shelf in list_store(folder, found):
        for kept in shelf.kept:
            path = bundle_file(folder, shelf.name, kept.digest)
            known.add(path)
            if problem := _problem(path, kept):
                found.append(Problem(path.name, problem))
    found += [
        Problem(path.name, "left by an interrupted command, or still in use: the next install or remove takes it away")
        for path in bundle_files(folder)
        if path not in known
    ]
    return found


def _problem(path: Path, kept: Kept) -> str | None:
    try:
        bundle = read_bundle(path)
        bundle.verify()
        if (bundle.digest, bundle.version) != (kept.digest, kept.version):
            return f"found digest {bundle.digest} and version {bundle.version}, wanted those that the index has"
        demand(bundle)
    except OSError as error:
        return str(error.strerror)
    except EdgeError as error:
        return error.message.removeprefix(f"{path}: ")
    return None


# ---------------------------------------------------------------- changing


@contextlib.contextmanager
def _changing(folder: Path, wait_s: float = _LOCK_WAIT_S) -> Iterator[None]:
    """One command at a time; what an interrupted one left is taken away first. OSError comes out as StoreError."""
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            sync_folder(folder.parent)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror}, wanted a folder to write to", hint="--store DIR") from error
    try:
        _lock(lock, folder, wait_s)
        _sweep(folder)
        try:
            yield
        except BaseException:
            with contextlib.suppress(OSError, EdgeError):  # a full disk must not stay full of half a change
                _sweep(folder)
            raise
    except OSError as error:
        raise StoreError(f"{error.filename or folder}: {error.strerror}") from error
    finally:
        os.close(lock)


def _lock(lock: int, folder: Path, wait_s: float) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: no two at once, please
        return
    until = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > until:
                raise StoreError(
                    f"{folder}: another command has been changing this store for {wait_s:.0f} s",
                    hint="wait until it has ended",
                ) from None
            time.sleep(0.1)


def _sweep(folder: Path) -> None:
    """Delete copies that were not finished, and bundles that no index speaks of and nobody has open."""
    problems: list[Problem] = []
    shelves = list_store(folder, problems)
    known = {bundle_file(folder, shelf.name, kept.digest) for shelf in shelves for kept in shelf.kept}
    broken = {one.file.removesuffix(".json") for one in problems}  # what they spoke of is kept until somebody decides
    for path in bundle_files(folder):
        match = BUNDLE_FILE.fullmatch(path.name)
        if path not in known and (match is None or match[1] not in broken) and not in_use(path):
            path.unlink(missing_ok=True)
    for entry in _listdir(folder):
        if entry.startswith(".index-"):
            (folder / entry).unlink(missing_ok=True)


def _write_shelf(folder: Path, shelf: Shelf) -> None:
    """The commit: from its rename on, this is what is installed."""
    beside = folder / f".index-{os.getpid()}"
    try:
        with beside.open("w") as stream:
            json.dump(shelf.to_json(), stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, index_file(folder, shelf.name))
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise
    sync_folder(folder)


def install(
    source: Path,
    folder: Path,
    room: Room,
    *,
    trust: Path | None = None,
    allow_older: bool = False,
) -> Installed:
    """Make `source` the current version of its name. `trust`: a folder of keys, by one of which it must be signed,
    besides what this device demands.

    Raises BudgetError where it does not fit, TrustError, BundleError for a damaged one, StoreError for the rest; what
    was installed before stays so.
    """
    offered = read_bundle(source)
    demand_both(offered, trust)
    with _changing(folder):
        shelf = read_shelf(folder, offered.name)
        if done := _already(offered, shelf, folder, allow_older):
            return done
        kind = _kind(offered, shelf, allow_older)
        evicted = _make_room(offered, shelf, folder, room)
        shelf = read_shelf(folder, offered.name)  # its previous version may have made room
        kept = copy_bundle(offered, folder, trust)
        before = shelf.current if shelf and shelf.current.digest != kept.digest else shelf.previous if shelf else None
        _write_shelf(folder, Shelf(offered.name, kept, before))
        _sweep(folder)
        return Installed(kind, offered.name, kept, shelf.current if shelf else None, evicted)


def _already(offered: Bundle, shelf: Shelf | None, folder: Path, allow_older: bool) -> Installed | None:
    """Where this very bundle is here and whole, there is no second copy; one that is damaged is copied anew."""
    for kept in shelf.kept if shelf else ():
        path = bundle_file(folder, offered.name, kept.digest)
        if kept.digest != offered.digest or _problem(path, kept) or read_bundle(path).signatures != offered.signatures:
            continue
        if shelf and kept is shelf.previous:
            kind = _kind(offered, shelf, allow_older)
            _write_shelf(folder, Shelf(offered.name, kept, shelf.current))
            return Installed(kind, offered.name, kept, shelf.current)
        return Installed("unchanged", offered.name, kept, kept)
    return None


def _kind(offered: Bundle, shelf: Shelf | None, allow_older: bool) -> str:
    """Raises StoreError where it is older than what is installed, or where that cannot be told."""
    if shelf is None:
        return "installed"
    current = shelf.current
    if offered.digest == current.digest:
        return "renewed"
    order = compare_versions(offered.version, current.version)
    if order == 0:
        return "replaced"
    if order is not None and order > 0:
        return "updated"
    if allow_older:
        return "replaced"
    what = "cannot be compared with" if order is None else "is older than"
    raise StoreError(
        f"{offered.path}: {offered.name} {offered.version} {what} {current.version}, which is installed",
        hint="edge-runtime store install --allow-older, or to have the version before: edge-runtime store rollback "
        + offered.name,
    )


# ---------------------------------------------------------------- room


def _make_room(offered: Bundle, shelf: Shelf | None, folder: Path, room: Room) -> tuple[str, ...]:
    """Take away as many previous versions as it needs; nothing where that would not be enough. Raises BudgetError."""
    files = bundle_files(folder)
    free, reserve = space(folder)
    reserve = reserve if room.reserve_bytes is None else room.reserve_bytes
    over = sum(files.values()) + offered.size - room.quota_bytes
    short = offered.size + _BESIDE_BYTES + reserve - free
    chosen: list[tuple[Shelf, Path]] = []
    freed = 0
    for owner, path in _evictable(offered.name, folder):
        if freed >= max(over, short):
            break
        chosen.append((owner, path))
        freed += files.get(path, 0)
    if freed < max(over, short):
        raise _no_room(offered, folder, room, sum(files.values()), free, reserve)
    if chosen:
        offered.verify()  # a damaged bundle must not cost anybody a version
    for owner, path in chosen:
        try:
            _write_shelf(folder, owner._replace(previous=None))
            path.unlink(missing_ok=True)
        except OSError as error:
            if error.errno not in FULL:
                raise
            path.unlink(missing_ok=True)  # not a block is free: only this makes room for the index
            _write_shelf(folder, owner._replace(previous=None))
    if chosen:
        sync_folder(folder)
    return tuple(path.name for _, path in chosen)


def _evictable(name: str, folder: Path) -> list[tuple[Shelf, Path]]:
    found = []
    for owner in list_store(folder):
        if owner.previous:
            path = bundle_file(folder, owner.name, owner.previous.digest)
            if not in_use(path):
                found.append((owner.name != name, owner.previous.installed, owner, path))
    return [(owner, path) for _, _, owner, path in sorted(found, key=lambda one: one[:2])]


def _no_room(offered: Bundle, folder: Path, room: Room, used: int, free: int, reserve: int) -> BudgetError:
    quota = (
        f"of the quota of {format_bytes(room.quota_bytes)}, {format_bytes(used)} are taken; "
        f"on the file system {format_bytes(free)} are free, of which {format_bytes(reserve)} stay for the journal"
    )
    current = {bundle_file(folder, shelf.name, shelf.current.digest) for shelf in list_store(folder)}
    busy = sum(size for path, size in bundle_files(folder).items() if path not in current and in_use(path))
    if busy:
        quota += f"; {format_bytes(busy)} of what is taken is an older version that a running session has open"
    hint = f"edge-runtime store list --store {folder}; edge-runtime store remove NAME"
    return BudgetError(
        f"storage: {offered.path} needs {format_bytes(offered.size)} beside what is installed; {quota}",
        hint=hint,
        predicted_bytes=offered.size,
        allowed_bytes=max(0, min(room.quota_bytes - used, free - reserve)),
    )


# ---------------------------------------------------------------- removing, going back


def remove(name: str, folder: Path) -> int:
    """Both versions; returns the bytes that this gives back. Raises StoreError, also where a session has one open."""
    index = index_file(folder, name)
    with _changing(folder):
        files = {path: size for path, size in bundle_files(folder).items() if path.name.startswith(f"{name}@")}
        if not files and not index.exists():
            raise _unknown(name, folder)
        for path in files:
            if in_use(path):
                raise StoreError(f"{path}: a running session has it open", hint="end `run` or `loop`, then remove it")
        index.unlink(missing_ok=True)
        sync_folder(folder)
        for path in files:
            path.unlink(missing_ok=True)
        sync_folder(folder)
        return sum(files.values())


def rollback(name: str, folder: Path) -> Shelf:
    """Make the previous version the current one, after all of it was read; again, and it is as before. A session that
    is open goes on with what it has. Raises StoreError, BundleError, TrustError."""
    index_file(folder, name)  # before the folder is made, where there is none
    with _changing(folder):
        shelf = read_shelf(folder, name)
        if shelf is None:
            raise _unknown(name, folder)
        if shelf.previous is None:
            raise StoreError(
                f"{folder}: found one version of {name}, {shelf.current.version}, and none to go back to",
                hint="edge-runtime store install BUNDLE.edge --allow-older",
            )
        bundle = read_bundle(bundle_file(folder, name, shelf.previous.digest))
        bundle.verify()
        demand(bundle)
        back = Shelf(name, shelf.previous, shelf.current)
        _write_shelf(folder, back)
        return back


def _unknown(name: str, folder: Path) -> StoreError:
    there = ", ".join(_names(folder)) or "nothing"
    return StoreError(f"{folder}: found no {name!r}, installed is {there}", hint="edge-runtime store list")
