"""Whom a device believes: signed bundles, and every door through which one that is not could come."""

from __future__ import annotations

import base64
import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import edge_runtime as edge
from edge_runtime import keys, trust
from edge_runtime.bundle import load_bundle, pack, read_bundle, write_signed
from edge_runtime.cli import main
from edge_runtime.errors import BundleError, StoreError, TrustError
from edge_runtime.session import Session
from edge_runtime.signatures import MOST, Signature, message, parse, trailer
from edge_runtime.store import Room, install, rollback
from tests.conftest import null_model, picture, small_device
from tests.unit.test_cli import cli
from tests.unit.test_session import header
from tests.unit.test_store import packed

PLENTY = Room(10 << 20, 0)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The device's store; its keys are in it, where there are any."""
    monkeypatch.setenv("EDGE_RUNTIME_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(trust, "SYSTEM_KEYS", tmp_path / "etc")
    return tmp_path / "store"


@pytest.fixture
def clinic(tmp_path: Path) -> Path:
    """A private key, its public one beside it."""
    keys.make_key(tmp_path / "clinic")
    return tmp_path / "clinic"


def public(key: Path) -> Path:
    return key.with_name(f"{key.name}.pub")


def signed(bundle: Path, key: Path, out: Path | None = None) -> Path:
    out = out or bundle.with_name(f"signed-{bundle.name}")
    assert main(["sign", str(bundle), "--key", str(key), "-o", str(out)]) == 0
    return out


def small(folder: Path, version: str = "1.0") -> Path:
    return packed(folder, version, size=500)


# ---------------------------------------------------------------- keys


def test_a_key_is_private_and_never_overwritten(tmp_path: Path):
    made = keys.make_key(tmp_path / "k")
    assert stat.S_IMODE((tmp_path / "k").stat().st_mode) == 0o600
    assert keys.read_public(tmp_path / "k.pub") == made
    assert keys.public_of(keys.read_private(tmp_path / "k")) == made.key
    before = (tmp_path / "k").read_bytes()
    for there in ("k", "k.pub"):
        with pytest.raises(TrustError, match="never overwritten"):
            keys.make_key(tmp_path / "k")
        (tmp_path / there).rename(tmp_path / f"{there}.away")
        if there == "k":
            with pytest.raises(TrustError, match=r"k.pub: found a file"):
                keys.make_key(tmp_path / "k")
            assert not (tmp_path / "k").exists()
    assert (tmp_path / "k.away").read_bytes() == before
    with pytest.raises(TrustError, match="No such file or directory, wanted to write"):
        keys.make_key(tmp_path / "none" / "k")


def test_a_private_key_that_others_may_read_signs_nothing(clinic: Path):
    clinic.chmod(0o644)
    with pytest.raises(TrustError, match="found mode 644, wanted 600.*\n  try: chmod 600"):
        keys.read_private(clinic)


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")
def test_keys_and_signatures_are_those_of_openssl(tmp_path: Path):
    def openssl(*words: object) -> bytes:
        return subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True).stdout

    openssl("genpkey", "-algorithm", "ed25519", "-out", tmp_path / "k")
    (tmp_path / "k").chmod(0o600)
    openssl("pkey", "-in", tmp_path / "k", "-pubout", "-out", tmp_path / "k.pub")
    seed = keys.read_private(tmp_path / "k")
    assert keys.public_of(seed) == keys.read_public(tmp_path / "k.pub").key
    (tmp_path / "m").write_bytes(b"words")
    (tmp_path / "s").write_bytes(keys.sign(b"words", seed))
    words = ("-rawin", "-in", tmp_path / "m", "-sigfile", tmp_path / "s")
    assert b"Verified" in openssl("pkeyutl", "-verify", "-pubin", "-inkey", tmp_path / "k.pub", *words)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "wanted the public key"),
        (b"ssh-ed25519 AAAA me", "found 'ssh-ed25519 AAAA me'"),
        (b"-----BEGIN PUBLIC KEY-----\n!!\n-----END PUBLIC KEY-----\n", "wanted the public key"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "wanted the public key"),
        (b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n", "under a password"),
        (b"\xff" * 9000, "wanted the public key"),
    ],
)
def test_what_is_no_key_is_refused(content: bytes, said: str, tmp_path: Path):
    (tmp_path / "k.pub").write_bytes(content)
    with pytest.raises(TrustError, match=said):
        keys.read_public(tmp_path / "k.pub")
    with pytest.raises(TrustError, match="No such file"):
        keys.read_public(tmp_path / "none.pub")


@given(st.binary(max_size=60), st.sampled_from(["PUBLIC KEY", "PRIVATE KEY", "X"]))
def test_any_pem_is_a_key_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes, label: str):
    path = tmp_path_factory.getbasetemp() / "any.pub"
    path.write_text(f"-----BEGIN {label}-----\n{base64.b64encode(content).decode()}\n-----END {label}-----\n")
    with pytest.raises(TrustError):
        keys.read_public(path)


# RFC 8032, section 7.1: TEST 1 and TEST 3
VECTORS = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
        "4a7c15e9716ed28dc027beceea1ec40a",
    ),
]


@pytest.mark.parametrize("without", ["", "nacl"])
@pytest.mark.parametrize("vector", VECTORS)
def test_both_libraries_compute_ed25519(without: str, vector: tuple[str, ...], monkeypatch: pytest.MonkeyPatch):
    hide(monkeypatch, without)
    assert (keys.library() or "").startswith("cryptography" if without else "PyNaCl")
    seed, key, words, signature = map(bytes.fromhex, vector)
    assert keys.public_of(seed) == key
    assert keys.sign(words, seed) == signature
    assert keys.verifies(words, signature, key)
    assert not keys.verifies(words + b"x", signature, key)
    assert not keys.verifies(words, bytes(64), key)
    assert not keys.verifies(words, signature, bytes(32))


def hide(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for name in names:
        for one in [one for one in sys.modules if one.split(".")[0] == name] + ([name] if name else []):
            monkeypatch.setitem(sys.modules, one, None)


# ---------------------------------------------------------------- signing


def test_signing_changes_neither_digest_nor_content(tmp_path: Path, clinic: Path, home: Path):
    plain = small(tmp_path)
    found, before = read_bundle(signed(plain, clinic)), read_bundle(plain)
    found.verify()
    assert found.digest == before.digest
    assert [found.read(one) for one in found.files] == [before.read(one) for one in before.files]
    assert found.to_json()["signed_by"] == [keys.read_public(public(clinic)).id]
    content = plain.read_bytes()
    assert found.path.read_bytes()[12 : len(content)] == content[12:]
    again = found.path.read_bytes()
    signed(found.path, clinic, found.path)
    assert found.path.read_bytes() == again, "the same key twice is one signature, and in place is fine"


def test_a_damaged_bundle_is_not_signed(tmp_path: Path, clinic: Path, capsys: Any):
    plain = small(tmp_path)
    content = bytearray(plain.read_bytes())
    content[-3] ^= 1
    plain.write_bytes(content)
    assert main(["sign", str(plain), "--key", str(clinic), "-o", str(tmp_path / "out.edge")]) == 1
    assert "is damaged or was changed" in capsys.readouterr().err
    assert not (tmp_path / "out.edge").exists()


def test_several_sign_and_no_more_than_there_is_room_for(tmp_path: Path, home: Path, capsys: Any):
    bundle = small(tmp_path)
    for number in range(MOST):
        keys.make_key(tmp_path / f"k{number}")
        bundle = signed(bundle, tmp_path / f"k{number}", tmp_path / "all.edge")
    assert len(read_bundle(bundle).signatures) == MOST
    keys.make_key(tmp_path / "more")
    assert main(["sign", str(bundle), "--key", str(tmp_path / "more"), "-o", str(bundle)]) == 1
    assert "wanted at most 8" in capsys.readouterr().err
    trust.accept(tmp_path / "k5.pub", home / "keys")
    assert load_bundle(bundle)


@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_of_a_signed_bundle_is_refused(share: float, bit: int, tmp_path_factory: Any):
    """By its digests or by its signature, on a device that demands one."""
    folder = tmp_path_factory.getbasetemp() / "flips"
    if not folder.exists():
        folder.mkdir()
        key = keys.make_key(folder / "k").key
        bundle, seed = read_bundle(small(folder)), keys.read_private(folder / "k")
        words = message(bundle.digest, bundle.name, bundle.version)
        write_signed(bundle, [Signature(key, keys.sign(words, seed))], folder / "good.edge")
        (folder / "k").unlink()
    content = bytearray((folder / "good.edge").read_bytes())
    content[int(share * len(content))] ^= 1 << bit
    (folder / "flip.edge").write_bytes(content)
    with pytest.raises(BundleError):
        judged(folder / "flip.edge", folder)
    assert judged(folder / "good.edge", folder)


def judged(path: Path, folder: Path) -> Any:
    found = read_bundle(path)
    found.verify()
    return trust.demand(str(path), found.digest, found.name, found.version, found.signatures, folder)


@given(st.binary(max_size=300))
def test_any_bytes_are_signatures_or_refused(content: bytes):
    for one in (content, b"EDGESIGN" + content, b"EDGESIGN\1\0\0\0" + content[:96].ljust(96)):
        try:
            assert trailer(parse(one)) == one
        except ValueError as error:
            assert "found" in str(error)  # noqa: PT017


def test_signatures_stand_in_order_and_once():
    one, two = Signature(b"a" * 32, b"1" * 64), Signature(b"b" * 32, b"2" * 64)
    good = trailer([two, one])
    assert parse(good) == (one, two)
    for bad in (good[:12] + good[108:] + good[12:108], good[:12] + 2 * good[12:108], good + good[12:108]):
        with pytest.raises(ValueError):
            parse(bad)


def test_behind_the_signatures_there_is_nothing(tmp_path: Path, clinic: Path):
    bundle = signed(small(tmp_path), clinic)
    whole = bundle.read_bytes()
    for content in (whole + b"x", whole[:-1], whole[:-108], whole + whole[-96:]):
        bundle.write_bytes(content)
        with pytest.raises(BundleError):
            read_bundle(bundle)
    gap = bytearray(whole)
    gap[-109] = 1  # between the last file and the signatures
    bundle.write_bytes(gap)
    with pytest.raises(BundleError, match="wanted zeros|damaged"):
        read_bundle(bundle).verify()


def test_the_message_binds_purpose_digest_name_and_version():
    words = message("ab" * 32, "b", "1.0")
    assert words.startswith(b"edge_runtime bundle signature 1\0")
    others = [message("cd" * 32, "b", "1.0"), message("ab" * 32, "b1", ".0"), message("ab" * 32, "b", "1.1")]
    assert len({words, *others, message("ab" * 32, "", "b1.0")}) == 5


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
