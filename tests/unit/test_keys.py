"""Keys and signatures: the files, the libraries, the section of a bundle."""

from __future__ import annotations

import base64
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime import keys, trust
from edge_runtime.bundle import load_bundle, read_bundle, write_signed
from edge_runtime.cli import main
from edge_runtime.errors import BundleError, TrustError
from edge_runtime.signatures import MOST, Signature, message, parse, trailer
from tests.unit.test_trust import hide, public, signed, small


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
