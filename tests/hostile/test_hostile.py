"""Hostile files: whatever is given, our own error or an answer; never a crash of this process, a wait without end, more
memory than allowed, or a file where none belongs.

The short form runs with the other tests; EDGE_RUNTIME_HOSTILE_SEEDS=1000 (or scripts/hostile 1000) is a longer one.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from onnx import TensorProto, helper, numpy_helper

import edge_runtime as edge
from edge_runtime import bundle_header
from edge_runtime.attached import read_labels
from edge_runtime.bundle import load_bundle
from edge_runtime.cli import main
from edge_runtime.coded import FIXED, MAGIC, SIZES
from edge_runtime.engine import EngineOptions, find_engine
from edge_runtime.errors import BudgetError, EdgeError, EngineError
from edge_runtime.packing import pack_folder
from edge_runtime.profile import parse_profile
from tests.conftest import picture
from tests.engines import odd_models as odd
from tests.hostile.bundles import header_of, read_whole, rehashed
from tests.hostile.conftest import TALLIES
from tests.hostile.models import endless_onnx, endless_tflite
from tests.hostile.suite import KINDS, SHORT_SEEDS, run_kind, small_bundle
from tests.hostile.texts import read_coded, read_journal

SEEDS = int(os.environ.get("EDGE_RUNTIME_HOSTILE_SEEDS") or SHORT_SEEDS)
# Pillow's words about damaged files; a user sees them nowhere
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_hostile_files_are_refused_or_read(kind: str, tmp_path: Path):
    tally = run_kind(kind, SEEDS, tmp_path)
    TALLIES.append(tally)
    assert not tally.wrong
    assert tally.ends["refused"] > tally.cases // 10, "damage that nobody sees is none"


# ---------------------------------------------------------------- for ever


@pytest.mark.slow
@pytest.mark.parametrize(("make", "ending"), [(endless_onnx, "onnx"), (endless_tflite, "tflite")])
def test_a_model_that_loops_for_ever_is_stopped(make: Any, ending: str, tmp_path: Path):
    path = tmp_path / f"endless.{ending}"
    path.write_bytes(make())
    with edge.open_program(path, time_limit_s=600) as program:
        hurry(program._child)  # type: ignore[union-attr]  # only now: starting may take seconds on a busy machine
        with pytest.raises(EngineError, match="the time limit, and was stopped") as caught:
            program.run({"x": [1]})
        assert "--time-limit" in str(caught.value)
        with pytest.raises(EngineError, match="has ended"):
            program.run({"x": [1]})


def hurry(child: Any) -> None:
    child.limits = replace(child.limits, silence_s=1)


@pytest.mark.slow
def test_a_session_goes_on_after_a_model_that_loops_for_ever(tmp_path: Path):
    """On pictures that are not black."""
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["bright"], ["on"]), helper.make_node("Identity", ["m"], ["n"])],
        "body",
        [info("round", 7, []), info("going", 9, []), info("m", 1, [1, 3])],
        [info("on", 9, []), info("n", 1, [1, 3])],
    )
    stored = [
        numpy_helper.from_array(np.array(2**62, np.int64), "rounds"),
        numpy_helper.from_array(np.float32(0.1), "dark"),
    ]
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["p"]),
        helper.make_node("Flatten", ["p"], ["m0"]),
        helper.make_node("ReduceMax", ["image"], ["top"], keepdims=0),
        helper.make_node("Greater", ["top", "dark"], ["bright"]),
        helper.make_node("Loop", ["rounds", "bright", "m0"], ["means"], body=body),
    ]
    ends = [[info("image", TensorProto.FLOAT, [1, 3, 8, 8])], [info("means", TensorProto.FLOAT, [1, 3])]]
    small_bundle(tmp_path)
    folder = tmp_path / "made"
    (folder / "loops.onnx").write_bytes(odd.onnx(nodes, *ends, tuple(stored)))
    manifest = json.loads((folder / "bundle.json").read_text())
    manifest["variants"] = [{"name": "loops", "format": "onnx", "file": "loops.onnx"}]
    (folder / "bundle.json").write_text(json.dumps(manifest))
    bundle = pack_folder(folder, tmp_path / "loops.edge")
    dark, bright = picture(tmp_path / "dark.png", (0, 0, 0)), picture(tmp_path / "bright.png", (200, 0, 0))
    with edge.open_session(bundle, "raspberry-pi-4b") as session:
        hurry(session._child)
        outcome = session.run(bright)
        assert "the time limit" in str(outcome.error)
        assert outcome.item_digest
        assert session.run(dark).error is None, "the next item gets a process of its own"


# ---------------------------------------------------------------- enormous


def bytes_read() -> int:
    """By this process, from anywhere."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(lines[0].split()[1])


def test_enormous_files_are_refused_by_their_header(tmp_path: Path):
    good = small_bundle(tmp_path)
    plain = header_of(good)
    plain["files"] = [{**one, "size": 4 << 30} for one in plain["files"]]
    content = rehashed(good, plain)
    path = tmp_path / "enormous.edge"
    whole = bundle_header.FIXED.size + struct.unpack_from("<I", content, 12)[0]
    size = -(-whole // 64) * 64 + (8 << 30)
    path.write_bytes(content[:whole])
    os.truncate(path, size)
    model = tmp_path / "enormous.onnx"
    model.touch()
    os.truncate(model, 64 << 30)
    before = bytes_read()
    with pytest.raises(BudgetError, match="storage|memory"):
        edge.open_session(load_bundle(path), "raspberry-pi-zero-2w")
    with pytest.raises(BudgetError, match=r"needs \d+ GiB \(estimated\)"):
        edge.open_program(model, device="raspberry-pi-zero-2w")
    os.truncate(path, size + (1 << 30))
    with pytest.raises(EdgeError, match="truncated, or something stands behind"):
        load_bundle(path)
    assert bytes_read() - before < 4 << 20


# ---------------------------------------------------------------- the command line


def test_the_command_line_says_one_line_and_a_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    os.mkfifo(tmp_path / "pipe.edge")
    (tmp_path / "text.edge").write_text("hello")
    (tmp_path / "text.db").write_text("hello" * 999)
    (tmp_path / "text.toml").write_text("name = \x1b[31m")
    for words in (
        ["inspect", str(tmp_path / "pipe.edge")],
        ["inspect", str(tmp_path / "text.edge")],
        ["inspect", "n" * 5000],
        ["inspect", "a\0b"],
        ["journal", str(tmp_path / "text.db")],
        ["journal", str(tmp_path / "pipe.edge")],
        ["devices", "show", str(tmp_path / "text.toml")],
        ["devices", "show", str(tmp_path / "pipe.edge")],
        ["fit", str(tmp_path)],
    ):
        assert main(words) == 1, words
        said = capsys.readouterr()
        assert not said.out
        assert said.err.startswith("edge-runtime: ")
        assert said.err.replace("\n", "").isprintable()


# ---------------------------------------------------------------- anything at all

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("anything")


@pytest.fixture(scope="module")
def good(place: Path) -> bytes:
    return small_bundle(place)


@settings(max_examples=40)
@given(data=st.data())
def test_any_header(data: st.DataObject, good: bytes, place: Path):
    plain = header_of(good)
    key = data.draw(st.sampled_from([*plain, "more"]))
    plain[key] = data.draw(JSON)
    with contextlib.suppress(EdgeError):
        read_whole(rehashed(good, plain), place / "any.edge")


@settings(max_examples=40)
@given(content=st.binary(max_size=300))
def test_any_bytes(content: bytes, place: Path):
    lead = MAGIC + struct.pack("<HHQ", 1, 1, 64) + bytes(32)
    for work in (
        lambda: read_whole(content, place / "any.edge"),
        lambda: parse_profile(content, place / "any.toml"),
        lambda: read_journal(b"SQLite format 3\0" + content, place / "any.db"),
        lambda: read_coded(lead + content.ljust(SIZES.size, b"\0"), 64),
        lambda: find_engine("null").load(content, EngineOptions()),
    ):
        with contextlib.suppress(EdgeError):
            work()
    assert isinstance(read_labels(content + b"PK\5\6" + content), tuple)
    assert len(lead) == FIXED.size


@settings(max_examples=40)
@given(plain=JSON, fill=JSON)
def test_any_json_for_the_null_engine(plain: Any, fill: Any):
    text = json.dumps({"inputs": plain, "outputs": [plain], "fill": fill}).encode("utf-8", "surrogatepass")
    with contextlib.suppress(EngineError):
        program = find_engine("null").load(text, EngineOptions())
        program.run({one.name: np.zeros(()) for one in program.inputs})
