"""`edge-runtime keys ...` and `edge-runtime sign`: their options, and what they do; and what `inspect` says of both."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_runtime.bundle import Bundle


def add_keys(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    def action(name: str, run: Callable[[argparse.Namespace], int], about: str, of_device: bool = True) -> Any:
        made = actions.add_parser(name, help=about, description=about, allow_abbrev=False)
        made.set_defaults(action=run)
        made.add_argument("--json", action="store_true", help="JSON, one object a line, on stdout")
        if of_device:
            where = made.add_mutually_exclusive_group()
            where.add_argument("--store", type=Path, metavar="DIR", help="the keys of this store")
            where.add_argument(
                "--system", action="store_true", help="the keys in /etc/edge_runtime/keys, which go before a store's"
            )
        return made

    one = action("make", _make, "make a key to sign with, on the workstation: FILE and FILE.pub", of_device=False)
    one.add_argument("file", type=Path, metavar="FILE", help="the private key: it never leaves your hands")
    one = action(
        "accept", _accept, "from now on take only bundles that are signed by this key, or another accepted one"
    )
    one.add_argument("file", type=Path, metavar="FILE.pub")
    one.add_argument("--name", help="what to call it here (default: as the file)")
    action("list", _list, "the keys that this device accepts")
    one = action("revoke", _revoke, "believe a key no longer, and never again; with the last one, nothing is accepted")
    one.add_argument("key", metavar="NAME-OR-ID")


def add_sign(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", help="a .edge file; signatures that it has are kept")
    parser.add_argument("--key", type=Path, required=True, metavar="FILE", help="the private key by `keys make`")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE.edge", help="may be the bundle itself"
    )


def keys(arguments: argparse.Namespace) -> int:
    code: int = arguments.action(arguments)
    return code


def _print(plain: dict[str, Any]) -> None:
    print(json.dumps(plain, ensure_ascii=False), flush=True)


def _folder(arguments: argparse.Namespace) -> Path:
    from edge_runtime.shelf import KEYS
    from edge_runtime.trust import SYSTEM_KEYS, trust_folder

    if arguments.system:
        return SYSTEM_KEYS
    return arguments.store / KEYS if arguments.store else trust_folder()


def _make(arguments: argparse.Namespace) -> int:
    from edge_runtime.keys import make_key

    made = make_key(arguments.file)
    public = f"{arguments.file}.pub"
    if arguments.json:
        _print({"private": str(arguments.file), "public": public, "id": made.id})
    else:
        print(f"{arguments.file}: the private key {made.id}: keep it, and a copy of it, where nobody else comes")
        print(f"{public}: the public one, for the devices: edge-runtime keys accept {public}")
    return 0


def _accept(arguments: argparse.Namespace) -> int:
    from edge_runtime.keys import HINT, library
    from edge_runtime.trust import accept

    if library() is None:  # afterwards this device would refuse everything
        from edge_runtime.errors import TrustError

        raise TrustError("found no library that checks signatures, wanted PyNaCl or cryptography", hint=HINT)
    folder = _folder(arguments)
    found = accept(arguments.file, folder, arguments.name)
    if arguments.json:
        _print({"done": "accepted", "name": found.name, "id": found.id, "folder": str(folder)})
    else:
        print(f"{folder}: accepts {found}; bundles without the signature of an accepted key are refused here")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from edge_runtime.trust import accepted_keys

    folder = _folder(arguments)
    found = accepted_keys(folder)
    for one in found or ():
        if arguments.json:
            _print({"name": one.name, "id": one.id, "folder": str(folder)})
        else:
            print(f"{one.id}  {one.name}")
    if not arguments.json and not found:
        print(f"{folder}: {'found no such folder: every bundle' if found is None else 'no key: no bundle'} is accepted")
    return 0


def _revoke(arguments: argparse.Namespace) -> int:
    from edge_runtime.trust import accepted_keys, revoke

    folder = _folder(arguments)
    gone = revoke(arguments.key, folder)
    left = accepted_keys(folder) or ()
    if arguments.json:
        _print({"done": "revoked", "name": gone.name, "id": gone.id, "left": [one.id for one in left]})
    else:
        rest = f"accepted are {', '.join(map(str, left))}" if left else "no key is left: every bundle is refused here"
        print(f"{folder}: revoked {gone}; {rest}")
    return 0


def sign(arguments: argparse.Namespace) -> int:
    from edge_runtime.bundle import find_bundle, read_bundle, write_signed
    from edge_runtime.keys import public_of, read_private
    from edge_runtime.keys import sign as sign_message
    from edge_runtime.signatures import MOST, Signature, message
    from edge_runtime.units import format_bytes

    seed = read_private(arguments.key)
    bundle = read_bundle(find_bundle(arguments.bundle))
    bundle.verify()
    mine = Signature(public_of(seed), sign_message(message(bundle.digest, bundle.name, bundle.version), seed))
    signatures = {one.key: one for one in (*bundle.signatures, mine)}
    if len(signatures) > MOST:
        from edge_runtime.errors import TrustError

        raise TrustError(f"{bundle.path}: found {len(bundle.signatures)} signatures, wanted at most {MOST}")
    made = write_signed(bundle, signatures.values(), arguments.output)
    if arguments.json:
        _print(made.to_json())
    else:
        by = ", ".join(one.key_id for one in made.signatures)
        print(
            f"{made.path}: {made.name} {made.version}, {format_bytes(made.size)}, signed by {by}; digest {made.digest}"
        )
    return 0


# ---------------------------------------------------------------- inspect


def origin(asked: str, path: Path) -> str:
    """Which of the three the bundle is: "store", "shipped" or "path"."""
    if Path(asked) == path:
        return "path"
    from edge_runtime.bundle import shipped_bundle

    return "shipped" if path == shipped_bundle(asked) else "store"


def said_of(asked: str, bundle: Bundle) -> dict[str, Any]:
    """What `inspect` adds: origin, signatures, refused_here; `text`: lines; `good`: no signature is a bad one."""
    from edge_runtime.bundle import demand
    from edge_runtime.errors import TrustError
    from edge_runtime.trust import describe, judge

    judged = judge(bundle.digest, bundle.name, bundle.version, bundle.signatures)
    refusal = None
    try:
        demand(bundle)
    except TrustError as error:
        refusal = error.message.removeprefix(f"{bundle.path}: ")
    where = origin(asked, bundle.path)
    how = {"store": ["from this device's store"], "shipped": ["came with the package"], "path": []}[where]
    return {
        "origin": where,
        "signatures": [one._asdict() for one in judged],
        "refused_here": refusal,
        "text": [*how, *describe(judged, refusal)],
        "good": all(one.verifies is not False for one in judged),
    }
