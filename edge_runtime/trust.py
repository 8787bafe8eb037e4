"""Whom a device believes: which keys must have signed a bundle before anything in it reaches an engine.

The rule. The keys of a device are the files NAME.pub in /etc/edge_runtime/keys where that folder is, else in `keys` of
its store (shelf.py). As soon as the folder is there, every bundle that is opened to be used (`store install`, `fit`,
`run`, `loop`, `bench`, `load_bundle`, `open_session`) must bear a good signature of one of them. An empty folder
accepts nothing; a folder or key file that cannot be read, or a missing library, refuses. Without the folder everything
is taken.

What it is for. A bundle travels on sticks, phones and chat groups before it meets the device, and whoever holds it on
the way can swap the model, its thresholds or its labels, so that it misses infections or finds them everywhere. The
digest shows damage; anybody can compute it anew. The signature shows who packed it: it covers the digest, hence every
byte, and the name and version (signatures.py). The digest that was verified is the one that the child, which reads the
model, must find, and it checks each file against it in the bytes that it hands to the engine: a file changed in between
is refused. An older signed bundle cannot slip in by `store install`, which wants --allow-older for it.

What it does not do.
- It does not say that a model is good, only whose it is. A key holder who errs or is robbed is believed, until the key
  is revoked on every device, by hand (`keys revoke`): devices that are offline cannot be told.
- It does not hold against somebody who controls the device's account: they can change this program, the store, the
  journal or, unless it is root's in /etc, the keys. With /etc, they still run what they like, not with our `loop`.
- `run FILE` of an older bundle with a good signature works, and so does its install where nothing newer is installed:
  versions are compared at `store install` only, with the current one.
- It speaks of bundles. A bare .onnx or .tflite (`bench`, `open_program`) bears no signature, and yields no verdict.
- Started as `python -m edge_runtime` in a folder of the stick, Python loads that folder's own modules: call
  `edge-runtime`, which does not.
- The package itself comes by pip or apt, whose own checks it relies on. The bundle in it is treated like any other.
- Engines have bugs in their parsers; that a hostile model stays in its child is sandbox.py's and guard.py's matter, and
  is the second line, not the first.
"""

from __future__ import annotations

import os
import re
import stat
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from edge_runtime.errors import TrustError
from edge_runtime.keys import PublicKey, read_public, verifies, write_public
from edge_runtime.shelf import KEYS, store_folder
from edge_runtime.signatures import Signature, message

SYSTEM_KEYS = Path("/etc/edge_runtime/keys")
_MOST_KEYS = 64
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_WANTED = "the keys that this device accepts"


class Judgement(NamedTuple):
    """Of one signature. `name`: of the accepted key, None where it is not one. `verifies`: None where there is no
    library to check it with."""

    key_id: str
    name: str | None
    verifies: bool | None

    def __str__(self) -> str:
        who = f"{self.name} ({self.key_id})" if self.name else self.key_id
        how = {True: "verifies", False: "DOES NOT VERIFY", None: "cannot be checked here: no library"}[self.verifies]
        return f"signed by {who}: {how}"


# ---------------------------------------------------------------- the keys of a device


def trust_folder() -> Path:
    """Where this device's keys are, or would be. Raises TrustError where that cannot be told."""
    return SYSTEM_KEYS if _is_there(SYSTEM_KEYS) else store_folder() / KEYS


def _is_there(path: Path) -> bool:
    """Of a link: the link. Raises TrustError where this user may not know, or where a link on the way leads nowhere."""
    try:
        os.lstat(path)
        return True
    except (FileNotFoundError, NotADirectoryError):
        if nowhere := [one for one in path.parents if os.path.islink(one) and not os.path.exists(one)]:
            raise TrustError(f"{nowhere[0]}: a link that leads nowhere, wanted {_WANTED}") from None
        return False
    except OSError as error:
        raise TrustError(f"{path}: {error.strerror}, wanted {_WANTED}", hint=f"sudo chmod 755 {path.parent}") from error


def accepted_keys(folder: Path | None = None) -> tuple[PublicKey, ...] | None:
    """None where everything is accepted. Raises TrustError for a folder or key that cannot be read: whatever is
    unclear is not taken for a yes."""
    folder = folder or trust_folder()
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        if _is_there(folder):
            raise TrustError(f"{folder}: a link that leads nowhere, wanted {_WANTED}") from None
        return None
    except OSError as error:
        raise TrustError(f"{folder}: {error.strerror}, wanted {_WANTED}") from error
    files = [folder / name for name in names if name.endswith(".pub")]
    if len(files) > _MOST_KEYS:
        raise TrustError(f"{folder}: found {len(files)} keys, wanted at most {_MOST_KEYS}")
    revoked = {name.removesuffix(".revoked") for name in names if name.endswith(".revoked")}
    return tuple(key for key in map(read_public, files) if key.id not in revoked)


def accept(file: Path, folder: Path, name: str | None = None) -> PublicKey:
    """Accept this key from now on, and with the first one nothing that is not signed. Raises TrustError."""
    found = read_public(file)
    name = name or found.name
    if not _NAME.fullmatch(name):
        raise TrustError(f"{file}: found the name {name!r}, wanted letters, digits, . _ -", hint="--name NAME")
    if _is_there(folder / f"{found.id}.revoked"):
        raise TrustError(
            f"{file}: key {found.id} was revoked here", hint=f"rm {folder / f'{found.id}.revoked'}, if it must be"
        )
    same = [one for one in accepted_keys(folder) or () if one.key == found.key]
    try:
        if same:
            pass
        elif folder.is_dir():
            write_public(folder / f"{name}.pub", found.key)
            _sync(folder)
        else:  # with its first key or not at all: an empty folder would accept nothing
            import tempfile

            folder.parent.mkdir(0o755, parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".keys-", dir=folder.parent) as beside:
                made = Path(beside, KEYS)
                made.mkdir(0o755)
                write_public(made / f"{name}.pub", found.key)
                _sync(made)
                made.rename(folder)
            _sync(folder.parent)
        if folder == SYSTEM_KEYS:
            _let_all_read(folder)
    except FileExistsError as error:
        raise TrustError(f"{folder}: found another key of the name {name}", hint="--name NAME") from error
    except OSError as error:
        raise TrustError(f"{folder}: {error.strerror}, wanted to write a key") from error
    return same[0] if same else PublicKey(name, found.key)


def _let_all_read(folder: Path) -> None:
    """Whatever root's umask: a user who cannot read the keys is refused every bundle."""
    wanted = [(folder.parent, 0o755), (folder, 0o755), *((one, 0o644) for one in folder.glob("*.pub"))]
    for path, mode in wanted:
        if stat.S_IMODE(path.stat().st_mode) & mode & 0o055 != mode & 0o055:
            path.chmod(mode)


def revoke(which: str, folder: Path) -> PublicKey:
    """Believe this key, by name or id, no longer, and never accept it again. Raises TrustError."""
    for one in accepted_keys(folder) or ():
        if which in (one.name, one.id):
            try:
                if not (folder / f"{one.id}.revoked").exists():
                    write_public(folder / f"{one.id}.revoked", one.key)
                _sync(folder)  # first of all it must be on record, whatever happens next
                (folder / f"{one.name}.pub").unlink()
                _sync(folder)
            except OSError as error:
                raise TrustError(f"{folder}: {error.strerror}, wanted to revoke {one}") from error
            return one
    raise TrustError(f"{folder}: found no accepted key {which!r}", hint="edge-runtime keys list")


def _sync(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


# ---------------------------------------------------------------- judging a bundle


def demand(
    path: str,
    digest: str,
    name: str,
    version: str,
    signatures: tuple[Signature, ...],
    folder: Path | None = None,
) -> PublicKey | None:
    """The key by which the bundle is accepted, None where no key is demanded. `folder`: of other keys than this
    device's. Raises TrustError saying what was found and what was wanted."""
    keys = accepted_keys(folder)
    if keys is None:
        return None
    where = folder or trust_folder()
    wanted = f"wanted one of {', '.join(map(str, keys))}" if keys else f"and {where} accepts no key at all"
    hint = (
        "where it was packed: edge-runtime sign BUNDLE --key KEY -o SIGNED; or here: edge-runtime keys accept FILE.pub"
    )
    if not signatures:
        raise TrustError(f"{path}: found no signature, {wanted}", hint=hint)
    known = {one.key: one for one in keys}
    own = [one for one in signatures if one.key in known]
    if not own:
        by = ", ".join(one.key_id for one in signatures)
        raise TrustError(f"{path}: found it signed by {by}, {wanted}", hint=hint)
    for one in own:
        if _verifies(digest, name, version, one):
            return known[one.key]
    raise TrustError(
        f"{path}: found a signature in the name of {known[own[0].key]} that is not by that key: the bundle or "
        "the signature was tampered with",
        hint="copy the bundle again from its source",
    )


@lru_cache(maxsize=64)
def _verifies(digest: str, name: str, version: str, one: Signature) -> bool:
    return verifies(message(digest, name, version), one.value, one.key)


def judge(digest: str, name: str, version: str, signatures: tuple[Signature, ...]) -> tuple[Judgement, ...]:
    """Each signature, for people. Raises TrustError only for keys that cannot be read."""
    names = {one.key: one.name for one in accepted_keys() or ()}
    made = []
    for one in signatures:
        good: bool | None
        try:
            good = _verifies(digest, name, version, one)
        except TrustError:
            good = None
        made.append(Judgement(one.key_id, names.get(one.key), good))
    return tuple(made)


def describe(judged: tuple[Judgement, ...], refusal: str | None) -> list[str]:
    """Lines for `inspect`; `refusal` is what `demand` said."""
    lines = [str(one) for one in judged] or ["not signed"]
    keys = accepted_keys()
    if refusal is not None:
        lines.append(f"this device refuses it: {refusal}")
    elif keys is None:
        lines.append("this device accepts bundles without a signature")
    return lines
