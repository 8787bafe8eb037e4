"""The bundle format: what is written comes back, and whatever is damaged, lying or hostile is refused in words."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.bundle import MAGIC, load_bundle, pack
from edge_runtime.cli import main
from edge_runtime.errors import BundleError
from edge_runtime.packing import pack_folder
from tests.conftest import null_model
from tests.unit.test_session import header

FILES = {"m.null": null_model(), "card.md": b"# card"}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return pack(header(), FILES, tmp_path / "b.edge").path


def write(path: Path, plain: Any, tail: bytes = b"", version: int = 1, digest: bytes | None = None) -> Path:
    """A bundle made by hand, around any header."""
    text = plain if isinstance(plain, bytes) else json.dumps(plain).encode()
    fixed = struct.pack("<8sII32s", MAGIC, version, len(text), digest or hashlib.sha256(text).digest())
    path.write_bytes(fixed + text + tail)
    return path


def test_what_is_packed_comes_back(bundle: Path):
    found = load_bundle(bundle)
    assert found.read(found.file("m.null")) == null_model()
    assert all(one.offset % 64 == 0 for one in found.files)
    assert found.variant("only").inputs[0].shape == (1, 3, 8, 8)
    found.verify()
    assert found.to_json()["variants"][0]["file"] == "m.null"


def test_the_same_inputs_give_the_same_bytes(bundle: Path, tmp_path: Path):
    shuffled = dict(reversed(list(header().items())))
    other = pack(shuffled, dict(reversed(list(FILES.items()))), tmp_path / "elsewhere.edge")
    assert other.path.read_bytes() == bundle.read_bytes()


@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_noticed(share: float, bit: int, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.getbasetemp()
    content = bytearray(pack(header(), FILES, folder / "flip.edge").path.read_bytes())
    content[int(share * len(content))] ^= 1 << bit
    (folder / "flip.edge").write_bytes(content)
    with pytest.raises(BundleError):
        load_bundle(folder / "flip.edge").verify()


@given(cut=st.integers(0, 1500))
def test_any_truncation_is_noticed(cut: int, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.getbasetemp()
    content = pack(header(), FILES, folder / "cut.edge").path.read_bytes()
    (folder / "cut.edge").write_bytes(content[: min(cut, len(content) - 1)])
    with pytest.raises(BundleError):
        load_bundle(folder / "cut.edge")


@given(st.binary(max_size=300))
def test_noise_is_not_a_bundle(tmp_path_factory: pytest.TempPathFactory, noise: bytes):
    path = tmp_path_factory.getbasetemp() / "noise.edge"
    path.write_bytes(MAGIC + noise)
    with pytest.raises(BundleError):
        load_bundle(path)


def listed(**changes: Any) -> dict[str, Any]:
    content = b"x" * 10
    return {"name": "m.null", "size": 10, "sha256": hashlib.sha256(content).hexdigest(), **changes}


@pytest.mark.parametrize(
    ("plain", "said"),
    [
        (header(files=[listed(name="../m.null")]), "and no folder"),
        (header(files=[listed(name="a..b")]), "and no folder"),
        (header(files=[listed(name="/etc/passwd")]), "and no folder"),
        (header(files=[listed(size=11)]), "truncated, or something stands behind"),
        (header(files=[listed(size=-1)]), "wanted '?0 to"),
        (header(files=[listed(size=1 << 60)]), "wanted '?0 to"),
        (header(files=[listed(size=True)]), "wanted a int"),
        (header(files=[listed(), listed()]), "names of their own"),
        (header(files=[listed()] * 65), "at most 64"),
        (header(files=[listed(sha256="00")]), "64 hexadecimal digits"),
        (header(files=[listed(name="other")]), "one of other"),
        (header(files=[]), "truncated, or something stands behind"),
        (header(files=[listed()], more=1), "header fields"),
        (header(files=[listed()], variants=[]), "at least one"),
        (header(files=[listed()], name="Bad Name"), "lower-case"),
        (header(files=[listed()], variants=[{**header()["variants"][0], "file": {}}]), "wanted a str"),
        (header(files=[listed()], variants=[{**header()["variants"][0], "recipe": ["x"]}]), "one a pass"),
        (header(files=[listed()], variants=[{**header()["variants"][0], "costs": {"a": {"ram_bytes": -1}}}]), "a cost"),
        ({}, "header fields"),
        ([1], "is a list"),
        (b'{"a": 1, "a": 2}', "stands twice"),
        (b'{"a": NaN}', "finite numbers"),
        (b"[" * 100_000, "not JSON"),
        (header(files=[listed()], version="1.0\ud800"), r"found '.ud800' in '1.0.ud800', wanted no control"),
        (header(files=[listed()], version="9\x1b[2J"), "wanted no control characters"),
        (header(files=[listed()], labels=["a", "b\u202e"]), "wanted no control characters"),
        (header(files=[listed()], preprocessing={"a": [{"b\x9b": 1}]}), "wanted no control characters"),
        (b'{"a":' + b"[" * 40 + b"]" * 40 + b"}", "more than 32 deep"),
        (b"\xff\xfe", "not JSON"),
    ],
)
def test_lying_headers_are_refused_in_words(plain: Any, said: str, tmp_path: Path):
    path = write(tmp_path / "b.edge", plain)
    start = path.stat().st_size
    with path.open("ab") as stream:
        stream.write(bytes(-start % 64) + b"x" * 10)
    with pytest.raises(BundleError, match=said):
        load_bundle(path)


def test_a_card_does_not_speak_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    made = pack(header(), {**FILES, "card.md": "# caf\xe9\r\n\ta\x1b[2J\n".encode()}, tmp_path / "b.edge")
    assert main(["inspect", "--card", str(made.path)]) == 0
    assert capsys.readouterr().out == "# caf\xe9\n\ta\ufffd[2J\n"


def test_a_newer_format_a_wrong_header_digest_an_enormous_header(tmp_path: Path):
    with pytest.raises(BundleError, match="format 4, this version reads 1 to 3\n  try: install a newer"):
        load_bundle(write(tmp_path / "b.edge", {}, version=4))
    with pytest.raises(BundleError, match="header is damaged"):
        load_bundle(write(tmp_path / "b.edge", {}, digest=bytes(32)))
    (tmp_path / "b.edge").write_bytes(struct.pack("<8sII32s", MAGIC, 1, 1 << 31, bytes(32)))
    with pytest.raises(BundleError, match="found a header of 2147483648 bytes"):
        load_bundle(tmp_path / "b.edge")


def test_missing_and_unreadable(tmp_path: Path):
    with pytest.raises(BundleError, match="No such file"):
        load_bundle(tmp_path / "none.edge")
    with pytest.raises(BundleError):
        load_bundle(tmp_path)


def test_a_failed_pack_leaves_what_was_there(bundle: Path):
    before = bundle.read_bytes()
    with pytest.raises(BundleError):
        pack(header(name="Bad Name"), FILES, bundle)
    with pytest.raises(BundleError, match="cannot be written"):
        pack(header(labels=[float("nan")]), FILES, bundle)
    assert bundle.read_bytes() == before
    assert [path.name for path in bundle.parent.iterdir()] == ["b.edge"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"extra": 1}, "wanted \\['labels'"),
        ({"variants": [{"name": "a", "format": "onnx", "file": "../x"}]}, "wanted the name of one in"),
        ({"variants": [{"name": "a", "format": "onnx", "file": "none.onnx"}]}, "wanted the name of one in"),
        ({"variants": [{"name": "a"}]}, "variants\\[0\\]: found"),
        ({"preprocessing": {}}, "preprocessing: found"),
        ({"labels": ["one"]}, "wanted one with 1 numbers"),
    ],
)
def test_packing_refuses_what_would_not_run(changes: dict[str, Any], said: str, models: Path, tmp_path: Path):
    manifest = json.loads((models / "bundle.json").read_text()) | changes
    for name in ("fp32.onnx", "fp32.tflite", "int8.tflite", "nothing.null"):
        (tmp_path / name).write_bytes((models / name).read_bytes())
    (tmp_path / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=said):
        pack_folder(tmp_path, tmp_path / "out.edge")
    assert not list(tmp_path.glob("*.edge*"))
    assert not list(tmp_path.glob(".*"))
