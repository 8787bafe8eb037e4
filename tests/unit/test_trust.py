"""Whom a device believes: signed bundles, and every door through which one that is not could come."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

import edge_runtime as edge
from edge_runtime import keys, trust
from edge_runtime.bundle import load_bundle, pack, read_bundle, write_signed
from edge_runtime.cli import main
from edge_runtime.errors import StoreError, TrustError
from edge_runtime.session import Session
from edge_runtime.signatures import Signature
from edge_runtime.store import Room, install, rollback
from tests.conftest import null_model, picture, small_device
from tests.unit.test_cli import cli
from tests.unit.test_session import header
from tests.unit.test_store import packed

PLENTY = Room(10 << 20, 0)


def public(key: Path) -> Path:
    return key.with_name(f"{key.name}.pub")


def signed(bundle: Path, key: Path, out: Path | None = None) -> Path:
    out = out or bundle.with_name(f"signed-{bundle.name}")
    assert main(["sign", str(bundle), "--key", str(key), "-o", str(out)]) == 0
    return out


def small(folder: Path, version: str = "1.0") -> Path:
    return packed(folder, version, size=500)


def hide(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for name in names:
        for one in [one for one in sys.modules if one.split(".")[0] == name] + ([name] if name else []):
            monkeypatch.setitem(sys.modules, one, None)


# ---------------------------------------------------------------- a device that demands signatures


def refusals(home: Path, tmp_path: Path, clinic: Path) -> dict[str, tuple[Path, str]]:
    """A bundle of each kind that must be refused, and what must be said of it."""
    keys.make_key(tmp_path / "stranger")
    plain = small(tmp_path)
    good, other = signed(plain, clinic), small(tmp_path, "2.0")
    mine = read_bundle(good).signatures[0]
    forged = Signature(mine.key, bytes(64))
    moved = write_signed(read_bundle(other), [mine], tmp_path / "moved.edge").path
    stripped = tmp_path / "stripped.edge"
    stripped.write_bytes(plain.read_bytes())
    return {
        "unsigned, or its signature cut off": (stripped, r"found no signature, wanted one of clinic \([0-9a-f]{16}\)"),
        "foreign": (
            signed(plain, tmp_path / "stranger", tmp_path / "foreign.edge"),
            "found it signed by [0-9a-f]{16}, w",
        ),
        "tampered": (write_signed(read_bundle(plain), [forged], tmp_path / "forged.edge").path, "not by that key"),
        "another one's signature": (moved, "in the name of clinic .* that is not by that key"),
    }


def test_every_door_is_shut(home: Path, tmp_path: Path, clinic: Path):
    cases = refusals(home, tmp_path, clinic)
    good = signed(small(tmp_path), clinic)
    read_before = read_bundle(cases["foreign"][0])
    assert trust.accepted_keys() is None
    trust.accept(public(clinic), home / "keys")
    red = picture(tmp_path / "a.png", (255, 0, 0))
    for kind, (path, said) in cases.items():
        doors = (
            lambda path=path: load_bundle(path),
            lambda path=path: edge.open_session(path, small_device()),
            lambda path=path: install(path, home, PLENTY),
            lambda path=path: install(path, tmp_path / "another-store", PLENTY),
        )
        for door in doors:
            with pytest.raises(TrustError, match=said):
                door()
        assert not list(home.glob("*.edge")), kind
    with pytest.raises(TrustError, match="found it signed by"):  # read before the key was accepted
        edge.open_session(read_before, small_device())
    with edge.open_session(good, small_device()) as session:
        assert session.predict(red)
    assert install(good, home, PLENTY).kind == "installed"
    with edge.open_session("b", small_device()) as session:
        assert session.predict(red)
    with pytest.raises(TrustError, match="found no signature"):
        load_bundle("malaria")  # the shipped one is a bundle like any other


@pytest.mark.parametrize("verb", ["fit", "run", "loop", "bench", "store install"])
def test_every_verb_refuses(verb: str, home: Path, tmp_path: Path, clinic: Path):
    bundle = small(tmp_path)
    trust.accept(public(clinic), home / "keys")
    more = {"run": [tmp_path], "loop": [tmp_path, "--journal", tmp_path / "j.db", "--once"]}.get(verb, [])
    done = cli(*verb.split(), bundle, *more, "--device", "raspberry-pi-4b")
    assert done.returncode == 1, done.stderr
    assert "found no signature, wanted one of clinic (" in done.stderr
    assert "try: where it was packed: edge-runtime sign BUNDLE" in done.stderr


def test_inspect_shows_what_would_be_refused_and_why(home: Path, tmp_path: Path, clinic: Path):
    trust.accept(public(clinic), home / "keys")
    done = cli("inspect", small(tmp_path))
    assert (done.returncode, "not signed; this device refuses it: found no signature" in done.stdout) == (0, True)


def test_a_bundle_that_is_swapped_after_the_check_is_not_loaded(home: Path, tmp_path: Path, clinic: Path):
    """The digest that was verified is the one that the child must find, at the start and after a breach."""
    good = signed(small(tmp_path), clinic)
    trust.accept(public(clinic), home / "keys")
    evil = small(tmp_path, "2.0").read_bytes()
    red = picture(tmp_path / "a.png", (255, 0, 0))
    with edge.open_session(good, small_device()) as session:
        assert session.predict(red)
        good.write_bytes(evil)
        assert isinstance(session, Session) and session._child
        session._child.close()
        with pytest.raises(edge.EdgeError, match="was changed after it was read"):
            session.run(red)


def test_a_missing_library_is_never_a_yes(home: Path, tmp_path: Path, clinic: Path, monkeypatch: Any, capsys: Any):
    good = signed(small(tmp_path), clinic)
    trust.accept(public(clinic), home / "keys")
    trust._verifies.cache_clear()
    hide(monkeypatch, "nacl", "cryptography")
    with pytest.raises(TrustError, match="neither PyNaCl nor cryptography.*\n  try: pip install 'edge-runtime.sign.'"):
        load_bundle(good)
    assert main(["inspect", str(good)]) == 0
    assert "cannot be checked here: no library" in capsys.readouterr().out
    assert main(["keys", "make", str(tmp_path / "new")]) == 1
    assert not (tmp_path / "new").exists()
    assert main(["keys", "accept", str(public(clinic)), "--store", str(tmp_path / "other")]) == 1
    assert not (tmp_path / "other").exists(), "a device that could check nothing would refuse everything"


def test_whatever_is_unclear_is_not_a_yes(home: Path, tmp_path: Path, clinic: Path):
    good = signed(small(tmp_path), clinic)
    (home / "keys").mkdir(parents=True)
    with pytest.raises(TrustError, match="accepts no key at all"):
        load_bundle(good)
    (home / "keys" / "bad.pub").write_text("?")
    shutil.copy(public(clinic), home / "keys")
    with pytest.raises(TrustError, match=r"bad.pub: found"):
        load_bundle(good)
    shutil.rmtree(home / "keys")
    (home / "keys").write_text("a file")
    with pytest.raises(TrustError, match="Not a directory"):
        load_bundle(good)


def test_a_rule_that_cannot_be_found_is_not_taken_for_none(home: Path, tmp_path: Path, monkeypatch: Any):
    bundle = small(tmp_path)
    home.mkdir()
    (home / "keys").symlink_to(tmp_path / "not-mounted")
    with pytest.raises(TrustError, match="keys: a link that leads nowhere"):
        load_bundle(bundle)
    (home / "keys").unlink()
    assert load_bundle(bundle)
    (tmp_path / "config").symlink_to(tmp_path / "not-mounted")
    monkeypatch.setattr(trust, "SYSTEM_KEYS", tmp_path / "config" / "keys")
    with pytest.raises(TrustError, match="config: a link that leads nowhere"):
        load_bundle(bundle)
    monkeypatch.setattr(trust, "SYSTEM_KEYS", tmp_path / "etc")

    def refuse(path: Any, *_: object, really: Any = os.lstat, **more: Any) -> Any:
        if Path(path) == trust.SYSTEM_KEYS:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return really(path, **more)

    monkeypatch.setattr(os, "lstat", refuse)
    with pytest.raises(TrustError, match="etc: Permission denied, wanted the keys that this device accepts"):
        load_bundle(bundle)


def test_everybody_can_read_the_keys_of_the_system(tmp_path: Path, clinic: Path, monkeypatch: Any):
    monkeypatch.setattr(trust, "SYSTEM_KEYS", tmp_path / "etc" / "edge_runtime" / "keys")
    (tmp_path / "etc").mkdir()
    found = [trust.SYSTEM_KEYS.parent, trust.SYSTEM_KEYS, trust.SYSTEM_KEYS / "clinic.pub"]
    before = os.umask(0o077)
    try:
        trust.accept(public(clinic), trust.SYSTEM_KEYS)
        assert [one.stat().st_mode & 0o777 for one in found] == [0o755, 0o755, 0o644]
        for one in found:
            one.chmod(0o700)  # as an earlier version left them: accepted again, it is put right
        trust.accept(public(clinic), trust.SYSTEM_KEYS)
        assert [one.stat().st_mode & 0o777 for one in found] == [0o755, 0o755, 0o644]
    finally:
        os.umask(before)


def test_keys_of_the_system_go_before_those_of_a_store(home: Path, tmp_path: Path, clinic: Path):
    keys.make_key(tmp_path / "root")
    trust.accept(tmp_path / "root.pub", trust.SYSTEM_KEYS)
    trust.accept(public(clinic), home / "keys")
    with pytest.raises(TrustError, match="wanted one of root"):
        load_bundle(signed(small(tmp_path), clinic))
    assert load_bundle(signed(small(tmp_path), tmp_path / "root"))


def test_a_folder_of_keys_for_one_install_narrows_and_never_widens(home: Path, tmp_path: Path, clinic: Path):
    keys.make_key(tmp_path / "other")
    (tmp_path / "only").mkdir()
    shutil.copy(tmp_path / "other.pub", tmp_path / "only")
    mine = signed(small(tmp_path), clinic)
    with pytest.raises(TrustError, match="wanted one of other"):
        install(mine, home, PLENTY, trust=tmp_path / "only")
    with pytest.raises(TrustError, match="found no folder there"):
        install(mine, home, PLENTY, trust=tmp_path / "none")
    trust.accept(public(clinic), home / "keys")
    theirs = signed(small(tmp_path), tmp_path / "other", tmp_path / "theirs.edge")
    with pytest.raises(TrustError, match="wanted one of clinic"):
        install(theirs, home, PLENTY, trust=tmp_path / "only")
    both = signed(theirs, clinic, tmp_path / "both.edge")
    assert install(both, home, PLENTY, trust=tmp_path / "only").kind == "installed"


def test_a_key_is_changed_and_an_old_one_revoked(home: Path, tmp_path: Path, clinic: Path):
    keys.make_key(tmp_path / "new")
    old = signed(small(tmp_path), clinic)
    trust.accept(public(clinic), home / "keys")
    install(old, home, PLENTY)
    both = signed(old, tmp_path / "new", tmp_path / "both.edge")
    assert install(both, home, PLENTY).kind == "renewed", "the same bundle, signed by one more"
    trust.accept(tmp_path / "new.pub", home / "keys", "clinic-2027")
    trust.revoke("clinic", home / "keys")
    assert load_bundle("b").version == "1.0"
    with pytest.raises(TrustError, match="wanted one of clinic-2027"):
        load_bundle(old)
    with pytest.raises(TrustError, match="was revoked here"):
        trust.accept(public(clinic), home / "keys")
    shutil.copy(public(clinic), home / "keys" / "again.pub")
    with pytest.raises(TrustError, match="wanted one of clinic-2027"):
        load_bundle(old)
    with pytest.raises(TrustError, match="found no accepted key 'clinic'"):
        trust.revoke("clinic", home / "keys")


def test_a_full_disk_at_the_first_key_leaves_the_device_as_it_was(home: Path, clinic: Path, monkeypatch: Any):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TrustError, match="No space left"):
        trust.accept(public(clinic), home / "keys")
    assert trust.accepted_keys() is None
    assert list(home.iterdir()) == []
    monkeypatch.undo()
    trust.accept(public(clinic), home / "keys")
    keys.make_key(clinic.with_name("second"))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TrustError, match="No space left"):
        trust.accept(clinic.with_name("second.pub"), home / "keys")
    assert [one.name for one in trust.accepted_keys(home / "keys") or ()] == ["clinic"]


def test_a_version_whose_key_was_revoked_is_not_rolled_back_to(home: Path, tmp_path: Path, clinic: Path):
    keys.make_key(tmp_path / "new")
    trust.accept(public(clinic), home / "keys")
    trust.accept(tmp_path / "new.pub", home / "keys")
    install(signed(small(tmp_path, "1"), clinic), home, PLENTY)
    newer = signed(small(tmp_path, "2"), tmp_path / "new")
    install(newer, home, PLENTY)
    with pytest.raises(StoreError, match="is older than 2"):  # signed well, and still not in by itself
        install(signed(small(tmp_path, "1.5"), clinic), home, PLENTY)
    trust.revoke("clinic", home / "keys")
    with pytest.raises(TrustError, match="found it signed by"):
        rollback("b", home)
    assert load_bundle("b").version == "2"


# ---------------------------------------------------------------- the command line


def test_the_verbs(home: Path, tmp_path: Path):
    made = json.loads(cli("keys", "make", tmp_path / "k", "--json").stdout)
    assert cli("keys", "make", tmp_path / "k").returncode == 1
    bundle = small(tmp_path)
    done = cli("sign", bundle, "--key", tmp_path / "k", "-o", bundle, "--json")
    assert json.loads(done.stdout)["signed_by"] == [made["id"]]
    assert "no such folder: every bundle is accepted" in cli("keys", "list").stdout
    text = cli("inspect", bundle).stdout
    assert f"signed by {made['id']}: verifies; this device accepts bundles without a signature" in text
    assert cli("keys", "accept", tmp_path / "k.pub", "--name", "clinic").returncode == 0
    assert cli("keys", "list").stdout == f"{made['id']}  clinic\n"
    found = json.loads(cli("inspect", bundle, "--json").stdout)
    assert found["signatures"] == [{"key_id": made["id"], "name": "clinic", "verifies": True}]
    assert found["refused_here"] is None
    forged = write_signed(read_bundle(bundle), [Signature(read_bundle(bundle).signatures[0].key, bytes(64))], bundle)
    done = cli("inspect", forged.path)
    assert (done.returncode, "DOES NOT VERIFY" in done.stdout) == (1, True)
    done = cli("keys", "revoke", made["id"])
    assert "no key is left: every bundle is refused here" in done.stdout
    assert "no key: no bundle is accepted" in cli("keys", "list").stdout


def test_doctor_tells_what_is_demanded(home: Path, clinic: Path):
    from edge_runtime.doctor import _trust

    assert (_trust()["keys"], "need no signature; signatures are checked by PyNaCl" in _trust()["text"]) == (None, True)
    trust.accept(public(clinic), home / "keys")
    assert "must be signed by clinic (" in _trust()["text"]
    assert _trust()["keys"] == [keys.read_public(public(clinic)).id]
    (home / "keys" / "odd.pub").write_text("?")
    assert "every bundle is refused: " in _trust()["text"]


def test_a_bundle_of_the_format_before_signatures_is_read_as_ever(home: Path, tmp_path: Path):
    """Format 1 stays what is packed: readers of before have what they had."""
    made = pack(header(), {"m.null": null_model()}, tmp_path / "b.edge")
    assert made.path.read_bytes()[8] == 1
    assert made.signatures == ()
