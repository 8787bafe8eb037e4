"""The operator table: written and read, bad ones refused by file and field, and latencies predicted from it."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.cli import main
from edge_runtime.errors import ProfileError
from edge_runtime.operators import DTYPES, KINDS, MAX_POINTS, Node, OperatorTable, Point, parse_operators, predict
from edge_runtime.profile import DeviceProfile, Source, load_profile
from edge_runtime.profile_file import write_profile

WHEN = "2026-11-25T02:50:00+00:00"
POINTS = {"conv.float32": (Point(784, 576, 64, 9, 1, 640_000), Point(196, 576, 64, 9, 1, 161_000))}
TABLE = OperatorTable("onnxruntime", "1.32.0", "aarch64", 1, WHEN, 9_000, POINTS)


def with_tables(*tables: OperatorTable) -> DeviceProfile:
    given_ = load_profile("raspberry-pi-5")
    sources = dict(given_.sources) | {"operators": Source("measured here", "measured")}
    return replace(given_, name="mine", operators=tables, sources=sources)


_sizes = st.integers(1, 2**53)
_points = st.lists(st.builds(Point, *[_sizes] * 6), min_size=1, max_size=MAX_POINTS, unique_by=lambda p: (
    p.rows, p.depth, p.width, p.kernel, p.stride))  # fmt: skip
_names = st.builds("{}.{}".format, st.sampled_from(KINDS), st.sampled_from(DTYPES))


@given(st.dictionaries(_names, _points.map(tuple), min_size=1, max_size=4), st.integers(1, 64), _sizes)
def test_a_table_is_read_as_it_was_written(points: dict[str, Any], threads: int, call_ns: int):
    table = OperatorTable("litert", "ai_edge_litert 2.3.0", "aarch64", threads, WHEN, call_ns, points)
    profile = with_tables(replace(table, engine="onnxruntime"), table)
    with tempfile.TemporaryDirectory() as folder:
        assert write_profile(profile, Path(folder, "x.toml")).operators == profile.operators


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("version = 1\n", "version = 2\n", "operators.version: found 2, wanted 1: this package reads no other"),
        ("version = 1\n", "", "operators.version: found nothing"),
        ("[operators.onnxruntime]", "[operators.tensorrt]", "unknown field 'operators.tensorrt'"),
        ('arch = "aarch64"\nthreads = 1', 'arch = "x86_64"\nthreads = 1', "operators.onnxruntime.arch: found 'x86_64'"),
        ("threads = 1\n", "threads = 0\n", "operators.onnxruntime.threads: found 0"),
        ("call_ns = 9000", "call_ns = 0", "operators.onnxruntime.call_ns: found 0"),
        ("call_ns = 9000", "call_ns = 9.5", "operators.onnxruntime.call_ns: found 9.5"),
        (f'when = "{WHEN}"', 'when = "yesterday"', "operators.onnxruntime.when: found 'yesterday', wanted a time"),
        (f'when = "{WHEN}"', 'when = "2026-11-25T02:50:00"', "wanted a time such as"),
        ('engine_version = "1.32.0"', 'engine_version = "a/b"', "operators.onnxruntime.engine_version: found 'a/b'"),
        ('"conv.float32"', '"conv.float31"', "points: found 'conv.float31', wanted an operator and a type"),
        ('"conv.float32"', '"warp.float32"', "points: found 'warp.float32'"),
        ("784, 576", "0, 576", r"points.conv.float32\[0\]: found \[0, 576, 64, 9, 1, 640000\], wanted whole numbers"),
        ("784, 576", "784.5, 576", r"points.conv.float32\[0\]: found"),
        ("784, 576", "576", r"points.conv.float32\[0\]: found"),
        ("784, 576", "true, 576", r"points.conv.float32\[0\]: found"),
        ("784, 576", "196, 576", "each shape only once"),
        ("  [784", "  7, [784", r"points.conv.float32\[0\]: found 7"),
        ("  [784", "  " + "[1, 1, 1, 1, 1, 1],\n" * 128 + "[784", "a list of 1 to 128 points"),
        ("[operators.onnxruntime.points]", "points = 1\n[operators.onnxruntime.pointz]", "unknown field"),
    ],
)
def test_a_bad_table_names_file_and_field(tmp_path: Path, old: str, new: str, message: str):
    path = tmp_path / "mine.toml"
    write_profile(with_tables(TABLE), path)
    text = path.read_text()
    at = text.index("[operators]")
    assert old in text[at:]
    path.write_text(text[:at] + text[at:].replace(old, new, 1))
    with pytest.raises(ProfileError, match=message) as caught:
        load_profile(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 700


_words = st.sampled_from(["version", "onnxruntime", "points", "conv.float32", "arch", "when", "call_ns"])
_plain = st.recursive(
    st.none() | st.integers() | st.text() | st.floats(), lambda one: st.lists(one) | st.dictionaries(_words, one)
)


@given(_plain)
def test_whatever_else_stands_there_is_refused(plain: object):
    with pytest.raises(ProfileError, match=r"^x\.toml: "):
        parse_operators(plain, "x.toml", ("onnxruntime", "litert"), "aarch64")


# ------------------------------------------------------------------------------------------------------- prediction


def law(rows: int, depth: int, width: int) -> int:
    return round(2_000 + rows * depth * width / 20 + rows * width)


def lawful_table() -> OperatorTable:
    sizes = [(r, d, w) for r in (16, 64, 256, 1024) for d in (9, 72, 576) for w in (8, 32, 128)]
    conv = tuple(Point(*one, 9, 1, law(*one)) for one in sizes)
    add = tuple(Point(rows, 1, 64, 1, 1, 500 + 32 * rows) for rows in (1, 16, 256, 4096))
    return replace(TABLE, points={"conv.float32": conv, "binary.float32": add})


@pytest.mark.parametrize("sizes", [(100, 144, 16), (500, 288, 64), (64, 576, 128), (2000, 72, 32)])
def test_a_prediction_between_points_follows_what_they_measured(sizes: tuple[int, int, int]):
    node = Node("conv", "float32", *sizes, kernel=9)
    found = predict(lawful_table(), [node, node])
    assert found.latency_ms == pytest.approx((9_000 + 2 * law(*sizes)) / 1e6, rel=0.1)
    assert found.parts_ms["call"] == 0.009 and not found.unknown


def test_what_one_measured_shape_differs_from_the_law_is_carried_to_its_neighbours():
    table = lawful_table()
    slow = tuple(replace(p, ns=3 * p.ns) if p.width == 8 else p for p in table.points["conv.float32"])
    table = replace(table, points={"conv.float32": slow})
    near, far = (Node("conv", "float32", 200, 144, width, kernel=9) for width in (8, 128))
    assert predict(table, [near]).parts_ms["conv"] > 2 * law(200, 144, 8) / 1e6
    assert predict(table, [far]).parts_ms["conv"] == pytest.approx(law(200, 144, 128) / 1e6, rel=0.25)


def test_what_the_table_does_not_have_is_said_and_a_near_kind_stands_in():
    add = Node("binary", "float32", 256, 1, 64)
    found = predict(lawful_table(), [add, Node("relu", "float32", 256, 1, 64), Node("Einsum", "float32", 1, 1, 1)])
    assert found.unknown == ("Einsum.float32",)
    assert found.parts_ms["relu"] == pytest.approx(found.parts_ms["binary"]) == pytest.approx(0.008692, rel=0.05)
    assert predict(lawful_table(), [replace(add, dtype="int8")]).unknown == ("binary.int8",)


def test_groups_and_heads_are_called_once():
    one, four = (predict(lawful_table(), [Node("conv", "float32", 64, 72, 32, 9, count=n)]) for n in (1, 4))
    assert 3 < four.parts_ms["conv"] / one.parts_ms["conv"] < 4


def test_what_a_node_computes_and_moves():
    node = Node("conv", "float32", rows=196, depth=9 * 32, width=64, kernel=9, stride=2)
    assert node.macs == 196 * 9 * 32 * 64
    assert node.weight_bytes == 4 * 9 * 32 * 64
    assert node.activation_bytes == 4 * (196 * 4 * 32 + 196 * 64)
    assert Node("binary", "int8", 10, 1, 8).activation_bytes == 240
    assert Node("relu", "int8", 10, 1, 8).macs == Node("relu", "int8", 10, 1, 8).weight_bytes == 0


def test_predict_from_the_command_line(models: Path, means: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    points = {f"{kind}.float32": (Point(64, 1, 3, 1, 1, 5_000),) for kind in ("globalpool", "copy", "pool")}
    device = tmp_path / "mine.toml"
    write_profile(with_tables(replace(TABLE, points=points)), device)
    assert main(["predict", str(models / "fp32.onnx"), "--device", str(device), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["latency_ms"], found["basis"], found["operators"]) == (pytest.approx(0.014, rel=0.01), "estimated", 1)
    assert main(["predict", str(means), "--device", str(device)]) == 0
    said = capsys.readouterr().out
    assert "means fp32: 0.014 ms on onnxruntime 1.32.0, 1 thread, estimated from the operator table of mine" in said
    for model, wanted, code in (("none.onnx", "wanted a model", 2), ("fp32.tflite", "which read no such model", 1)):
        assert main(["predict", str(models / model), "--device", str(device)]) == code
        assert wanted in capsys.readouterr().err
    assert main(["predict", str(means), "--device", "raspberry-pi-5"]) == 1
    assert "try: edge-runtime doctor --calibrate" in capsys.readouterr().err
