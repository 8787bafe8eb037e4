"""`edge-runtime store ...`: its options, and what they do. It runs on the standard library alone."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_runtime.shelf import Kept, Shelf
    from edge_runtime.store import Problem, Room

_LARGE_BYTES = 32 << 20  # what takes a while from a stick


def add_store(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    def action(name: str, run: Callable[[argparse.Namespace], int], about: str) -> argparse.ArgumentParser:
        made = actions.add_parser(name, help=about, description=about, allow_abbrev=False)
        made.set_defaults(action=run)
        made.add_argument(
            "--store",
            type=Path,
            metavar="DIR",
            help="the store's folder (default: EDGE_RUNTIME_STORE, else edge_runtime/store in the user's data folder)",
        )
        made.add_argument("--json", action="store_true", help="JSON, one object a line, on stdout")
        return made

    def quota(made: argparse.ArgumentParser) -> None:
        made.add_argument(
            "--device", default="this-device", metavar="NAME", help="whose storage budget (default: this-device)"
        )
        made.add_argument(
            "--reserve",
            metavar="SIZE",
            help="what stays free on the file system for the journal, such as 64MiB (default: a hundredth of it, "
            "16 MiB to 256 MiB)",
        )

    one = action("install", _install, "copy a bundle into the store, check all of it, and make it the current version")
    one.add_argument("bundle", help="a .edge file, or malaria for the shipped one")
    quota(one)
    one.add_argument("--trust", type=Path, metavar="DIR", help="it must be signed by one of the keys DIR/*.pub, too")
    one.add_argument("--allow-older", action="store_true", help="also where a newer version is installed")

    one = action("list", _list, "what is installed, and how much room is left")
    quota(one)

    one = action("remove", _remove, "remove a bundle, both versions of it")
    one.add_argument("name", metavar="NAME")

    one = action("rollback", _rollback, "make the previous version the current one again")
    one.add_argument("name", metavar="NAME")

    action("verify", _verify, "read all that is installed, and check every digest and signature")


def store(arguments: argparse.Namespace) -> int:
    code: int = arguments.action(arguments)
    return code


def _print(plain: dict[str, Any]) -> None:
    print(json.dumps(plain, ensure_ascii=False), flush=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _folder(arguments: argparse.Namespace) -> Path:
    from edge_runtime.shelf import store_folder

    folder: Path = arguments.store or store_folder()
    return folder


def _room(arguments: argparse.Namespace) -> Room:
    from edge_runtime.profile import load_profile
    from edge_runtime.store import Room
    from edge_runtime.units import parse_bytes

    reserve = None if arguments.reserve is None else parse_bytes(arguments.reserve, "reserve")
    return Room(load_profile(arguments.device).budget.storage_bytes, reserve)


def _install(arguments: argparse.Namespace) -> int:
    from edge_runtime.bundle import find_bundle
    from edge_runtime.shelf import store_folder
    from edge_runtime.store import install
    from edge_runtime.units import format_bytes

    folder = _folder(arguments)
    source = find_bundle(arguments.bundle)  # "malaria": the shipped one, to be kept and rolled back like any other
    if source.is_file() and source.stat().st_size >= _LARGE_BYTES:
        _say(f"edge-runtime: copying {format_bytes(source.stat().st_size)}, reading it back and checking it")
    done = install(source, folder, _room(arguments), trust=arguments.trust, allow_older=arguments.allow_older)
    objection = _objection(folder, done.name, done.kept.digest, arguments.device)
    if arguments.json:
        before = done.before._asdict() if done.before else None
        plain = {"store": str(folder), "done": done.kind, "name": done.name, **done.kept._asdict()}
        _print(plain | {"before": before, "evicted": list(done.evicted), "objection": objection})
        return 0
    was = f", where {done.before.version} was" if done.before and done.kind in ("updated", "replaced") else ""
    print(f"{done.name} {done.kept.version}: {done.kind}{was}; {format_bytes(done.kept.size)}, {done.kept.digest}")
    for name in done.evicted:
        _say(f"edge-runtime: made room: {name} was removed, a previous version")
    if objection:
        _say(f"edge-runtime: it is installed, and will not run there: {objection}")
    if folder != store_folder():
        _say(f"edge-runtime: to use it: EDGE_RUNTIME_STORE={folder} edge-runtime run {done.name} ...")
    return 0


def _objection(folder: Path, name: str, digest: str, device: str) -> str | None:
    """Why nothing in the bundle would run on the device; None where something does."""
    from edge_runtime.bundle import read_bundle
    from edge_runtime.errors import EdgeError
    from edge_runtime.planner import plan
    from edge_runtime.profile import load_profile
    from edge_runtime.shelf import bundle_file

    try:
        plan(read_bundle(bundle_file(folder, name, digest)), load_profile(device)).demand()
    except EdgeError as error:
        return error.message
    return None


def _list(arguments: argparse.Namespace) -> int:
    from edge_runtime.shelf import bundle_file
    from edge_runtime.store import bundle_files, list_store
    from edge_runtime.store_copy import space
    from edge_runtime.units import format_bytes

    folder = _folder(arguments)
    broken: list[Problem] = []
    shelves = list_store(folder, broken)
    for one in broken:
        _say(f"edge-runtime: {one.what}")
    files = bundle_files(folder)
    room, used = _room(arguments), sum(files.values())
    known = {bundle_file(folder, shelf.name, kept.digest) for shelf in shelves for kept in shelf.kept}
    other = sum(size for path, size in files.items() if path not in known)
    free, reserve = space(folder)
    reserve = reserve if room.reserve_bytes is None else room.reserve_bytes
    for shelf in shelves:
        for role, kept in (("current", shelf.current), ("previous", shelf.previous)):
            if kept is not None:
                _show(shelf, kept, role, folder, arguments.json)
    if other and not arguments.json:
        text = (
            "is of an interrupted command or still open in a session: the next install or remove takes away what it can"
        )
        _say(f"{folder}: {format_bytes(other)} {text}")
    if arguments.json:
        sizes = {"used_bytes": used, "quota_bytes": room.quota_bytes, "free_bytes": free, "reserve_bytes": reserve}
        _print({"store": str(folder), **sizes, "leftover_bytes": other, "problems": len(broken)})
    else:
        _say(
            f"{folder}: {format_bytes(used)} of {format_bytes(room.quota_bytes)} used; {format_bytes(free)} free on "
            f"the file system, of which {format_bytes(reserve)} stay for the journal"
        )
    return 1 if broken else 0


def _show(shelf: Shelf, kept: Kept, role: str, folder: Path, as_json: bool) -> None:
    from edge_runtime.shelf import bundle_file, in_use
    from edge_runtime.units import format_bytes

    path = bundle_file(folder, shelf.name, kept.digest)
    state = "in use" if in_use(path) else "" if path.exists() else "MISSING: install it again"
    if as_json:
        plain = {"name": shelf.name, "role": role, **kept._asdict(), "path": str(path), "in_use": state == "in use"}
        _print(plain | {"missing": state.startswith("MISSING")})
        return
    size = format_bytes(kept.size)
    text = f"{shelf.name:<24} {kept.version:<12} {role:<9} {size:>9}  {kept.digest[:16]}  {kept.installed}  {state}"
    print(text.rstrip())


def _remove(arguments: argparse.Namespace) -> int:
    from edge_runtime.store import remove
    from edge_runtime.units import format_bytes

    freed = remove(arguments.name, _folder(arguments))
    if arguments.json:
        _print({"done": "removed", "name": arguments.name, "freed_bytes": freed})
    else:
        print(f"{arguments.name}: removed, {format_bytes(freed)} are free again")
    return 0


def _rollback(arguments: argparse.Namespace) -> int:
    from edge_runtime.store import rollback

    shelf = rollback(arguments.name, _folder(arguments))
    if arguments.json:
        _print({"done": "rolled back", **shelf.to_json()})
    else:
        gone = shelf.previous.version if shelf.previous else "none"
        print(f"{shelf.name}: {shelf.current.version} is the current version again, {gone} the previous one")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from edge_runtime.store import list_store, verify_store

    folder = _folder(arguments)
    problems = verify_store(folder)
    for one in problems:
        if arguments.json:
            _print({"file": one.file, "problem": one.what})
        else:
            print(f"{one.file}: {one.what}")
    if not problems:
        count = sum(len(shelf.kept) for shelf in list_store(folder))
        _say(f"{folder}: {count} bundle{'' if count == 1 else 's'}, every byte as it should be")
    return 1 if problems else 0
