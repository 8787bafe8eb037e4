"""The contract, continued: what real model files bring, on every engine that can have it, guarded and not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

import edge_runtime as edge
from edge_runtime.attached import MAX_LIST_BYTES, MAX_MEMBERS, read_labels
from edge_runtime.engine import EngineOptions, find_engine
from edge_runtime.errors import EngineError, InputError, UsageError
from edge_runtime.packing import pack_folder
from edge_runtime.tensors import TensorSpec, distinct, fit
from tests.conftest import picture, small_device
from tests.engines.odd_models import (
    ONNX_KINDS,
    accumulator,
    counting,
    onnx,
    resource_variable,
    same,
    two,
    value,
    variable_tensor,
    with_files,
    with_signatures,
)

FORMATS = ["onnx", "tflite"]
DTYPES = ("float32", "float16", "float64", "bool", "int8", "uint8", "int16", "int32", "int64", "string")


@pytest.fixture(params=[True, False], ids=["guarded", "bare"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    programs = []

    def make(content: bytes, format_: str, **settings: Any) -> Any:
        path = tmp_path / f"{len(programs)}.{format_}"
        path.write_bytes(content)
        programs.append(edge.open_program(path, guard=request.param, **settings))
        return programs[-1]

    yield make
    for one in programs:
        one.close()


def some(dtype: str, shape: tuple[int, ...]) -> Any:
    count = int(np.prod(shape))
    if dtype == "string":
        return np.array(["", "é", "b\udcff"] * count, object)[:count].reshape(shape)
    return np.arange(count).astype(dtype).reshape(shape)


@pytest.mark.parametrize("format_", FORMATS)
def test_every_dtype_and_rank_comes_out_as_it_went_in(format_: str, tmp_path: Path):
    """On the engine itself; what crosses to the child is below."""
    dtypes = [*DTYPES, *(["uint16", "uint32", "uint64"] if format_ == "onnx" else [])]
    engine = find_engine({"onnx": "onnxruntime", "tflite": "litert"}[format_])
    for dtype in dtypes:
        for shape in ((2, 3), (), (0, 3)):
            if dtype == "string" and (shape == () and format_ == "tflite"):
                continue  # RESHAPE takes none
            program = engine.load(same(format_, dtype, shape), EngineOptions())
            (spec,) = program.inputs
            assert (spec.dtype, spec.shape) == (dtype, shape)
            given = some(dtype, shape)
            if dtype == "string" and format_ == "onnx":
                given[given == "b\udcff"] = "b"  # onnxruntime takes UTF-8 only
            found = program.run({"x": fit(given, spec)})["y"]
            assert type(found) is np.ndarray
            assert found.dtype == (object if dtype == "string" else dtype)
            np.testing.assert_array_equal(found, given)


@pytest.mark.parametrize("dtype", ["float16", "bool", "int64", "string"])
@pytest.mark.parametrize("format_", FORMATS)
def test_they_cross_to_the_child_and_back(format_: str, dtype: str, opened: Any):
    program = opened(same(format_, dtype, (None, 2)), format_)
    for rows in (1, 3) if format_ == "tflite" else (1, 3, 0):
        given = np.array([["a", "ü"]] * rows, object).reshape(rows, 2) if dtype == "string" else some(dtype, (rows, 2))
        np.testing.assert_array_equal(program.run({"x": given})["y"], given)


@pytest.mark.parametrize("format_", FORMATS)
def test_scalars_and_nothing_at_all_cross_too(format_: str, opened: Any):
    for shape in ((), (0, 3)):
        found = opened(same(format_, "float32", shape), format_).run({"x": np.ones(shape)})["y"]
        assert isinstance(found, np.ndarray)
        assert found.shape == shape
    assert fit(0.5, TensorSpec("x", (), "int8", 0.1, 3)) == 8, "a 0-d array stays one when it is quantized"
    assert isinstance(fit(0.5, TensorSpec("x", (), "int8", 0.1, 3)), np.ndarray)


@pytest.mark.parametrize("format_", FORMATS)
def test_several_inputs_and_outputs(format_: str, opened: Any):
    program = opened(two(format_), format_)
    assert [one.name for one in program.inputs] == ["a", "b"]
    found = program.run({"b": [1, 2], "a": [10, 20]})
    assert {name: array.tolist() for name, array in found.items()} == {"sum": [11, 22], "difference": [9, 18]}
    with pytest.raises(InputError, match="inhomogeneous.*wanted a int32"):
        program.run({"a": [[1], [2, 3]], "b": [1, 2]})


@pytest.mark.parametrize("format_", FORMATS)
def test_state_is_fed_back_and_reset(format_: str, opened: Any):
    program = opened(accumulator(format_), format_, state={"h_in": "h_out"})
    assert [one.name for one in (*program.inputs, *program.outputs)] == ["x", "y"], "neither end is seen"
    x = np.float32([[1, 2]])
    assert [program.run({"x": x})["y"].tolist() for _ in range(3)] == [[[1, 2]], [[2, 4]], [[3, 6]]]
    program.reset()
    assert program.run({"x": x})["y"].tolist() == [[1, 2]]
    program.reset({"h_in": [[10, 10]]})
    assert program.run({"x": x})["y"].tolist() == [[11, 12]]
    program.reset()
    assert program.run({"x": x})["y"].tolist() == [[1, 2]], "a start is not for ever"
    with pytest.raises(InputError, match="found \\['h'\\], wanted some of \\['h_in'\\]"):
        program.reset({"h": x})
    with pytest.raises(InputError, match="found shape"):
        program.reset({"h_in": np.zeros((3, 3))})
    with pytest.raises(InputError, match="inhomogeneous.*wanted"):
        program.reset({"h_in": [[1], [2, 3]]})


@pytest.mark.parametrize("format_", FORMATS)
def test_the_state_of_a_free_batch_is_as_large_as_what_is_fed(format_: str, opened: Any):
    program = opened(accumulator(format_, None), format_, state={"h_in": "h_out"})
    x = np.ones((3, 2), np.float32)
    assert [program.run({"x": x})["y"][2, 0] for _ in range(2)] == [1, 2]


def test_a_start_that_cannot_be_guessed_is_asked_for(tmp_path: Path):
    """As a cache that grows: [batch, how many so far]."""
    node = helper.make_node("Concat", ["past", "x"], ["present"], axis=1)
    path = tmp_path / "cache.onnx"
    specs = [value("x", "float32", (1, 1)), value("past", "float32", (1, None))]
    path.write_bytes(onnx([node], specs, [value("present", "float32", (1, None))]))
    with edge.open_program(path, guard=False) as plain:
        with pytest.raises(InputError, match="state={'past': 'present'}"):
            plain.run({"x": [[1]]})
        with pytest.raises(InputError, match="state=\\{input: output\\}"):
            plain.reset({"past": [[1]]})
    with edge.open_program(path, guard=False, state={"past": "present"}) as program:
        with pytest.raises(InputError, match="free sizes"):
            program.run({"x": [[1]]})
        program.reset({"past": np.zeros((1, 0))})
        assert [program.run({"x": [[one]]}) for one in (1, 2)] == [{}, {}]


def test_state_that_the_model_does_not_have(tmp_path: Path, opened: Any):
    with pytest.raises(UsageError, match="wanted an input \\(x, h_in\\) fed by an output \\(y, h_out\\)"):
        opened(accumulator("onnx"), "onnx", state={"h": "h_out"})
    made = onnx(
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.INT32)],
        [value("x", "float32", (2,))],
        [value("y", "int32", (2,))],
    )
    with pytest.raises(UsageError, match="wanted the same dtype"):
        opened(made, "onnx", state={"x": "y"})


@pytest.mark.parametrize("make", [variable_tensor, resource_variable, counting])
def test_state_inside_a_model_is_reset(make: Any, opened: Any):
    program = opened(make(), "null" if make is counting else "tflite")
    for _ in range(2):
        assert [float(program.run({"x": [[1]]})["y"][0, 0]) for _ in range(3)] == [1, 2, 3]
        program.reset()


def test_an_item_is_answered_as_if_it_were_the_first(models: Path, tmp_path: Path):
    manifest = json.loads((models / "bundle.json").read_text())
    manifest["variants"] = [{"name": "counts", "format": "null", "file": "counts.null"}]
    (tmp_path / "bundle.json").write_text(json.dumps(manifest))
    (tmp_path / "card.md").write_text("")
    counts = json.loads((models / "nothing.null").read_text()) | {"counts": True}
    (tmp_path / "counts.null").write_text(json.dumps(counts))
    item = picture(tmp_path / "x.png", (1, 2, 3))
    bundle = pack_folder(tmp_path, tmp_path / "counts.edge")
    with edge.open_session(bundle, small_device(), engine="null") as session:
        first, second = session.predict(item), session.predict(item)
    assert first == second


def test_a_failed_run_leaves_a_program_that_works(tmp_path: Path):
    """After a batch that the model cannot take, the interpreter's tensors have no memory."""
    path = tmp_path / "m.tflite"
    path.write_bytes(same("tflite", "float32", (1, 6)))
    program = find_engine("litert").load(path, EngineOptions())
    wrong, right = np.ones((1, 5), np.float32), np.ones((1, 6), np.float32)
    for _ in range(2):
        with pytest.raises(EngineError):
            program.run({"x": wrong})
        assert program.run({"x": right})["y"].sum() == 6


def test_blank_and_repeated_names_are_told_apart(opened: Any):
    program = opened(same("tflite", "float32", (2,), ("", "")), "tflite")
    assert ([one.name for one in program.inputs], [one.name for one in program.outputs]) == (["input0"], ["output0"])
    assert program.run({"input0": [1, 2]})["output0"].tolist() == [1, 2]
    twice = onnx(
        [helper.make_node("Neg", ["x"], ["y"])], [value("x", "float32", (1,))], [value("y", "float32", (1,))] * 2
    )
    assert {name: one.tolist() for name, one in opened(twice, "onnx").run({"x": [1]}).items()} == {
        "y": [-1],
        "y#1": [-1],
    }
    assert distinct(["x", "x#2", "x", "", "input3"], "input") == ["x", "x#2", "x#2#2", "input3", "input3#4"]


def test_labels_in_a_tflite_file(opened: Any, tmp_path: Path):
    model = same("tflite", "float32", (2,))
    assert opened(model, "tflite").labels == ()
    program = opened(with_files(model, {"labels.txt": "cat\ndög \n", "vocab.txt": "a\nb\n"}), "tflite")
    assert program.labels == ("cat", "dög")
    assert program.run({"x": [1, 2]})["y"].tolist() == [1, 2]
    hostile = {
        "bomb": with_files(model, {"labels.txt": "x" * (MAX_LIST_BYTES + 1)}),
        "crowd": with_files(model, {f"{n}.txt": "" for n in range(MAX_MEMBERS + 1)}),
        "cut": with_files(model, {"labels.txt": "a"})[:-30] + b"PK\5\6" + bytes(18),
        "lies": with_files(model, {"labels.txt": "a"})[:-22] + b"PK\5\6" + b"\xff" * 18,
        "two": with_files(model, {"a.txt": "a", "b.txt": "b"}),
    }
    for name, content in hostile.items():
        (tmp_path / name).write_bytes(content)
        assert read_labels(content) == read_labels(tmp_path / name) == (), name


def test_signatures_of_a_tflite_file(opened: Any):
    signed = with_signatures(
        two("tflite"), {"add": ({"left": 0, "right": 1}, {"total": 2}), "both": ({"l": 0, "r": 1}, {"t": 2, "d": 3})}
    )
    assert opened(signed, "tflite").signatures == ("add", "both")
    program = opened(signed, "tflite", signature="add")
    assert [one.name for one in (*program.inputs, *program.outputs)] == ["left", "right", "total"]
    assert program.run({"left": [1, 2], "right": [3, 4]})["total"].tolist() == [4, 6]
    with pytest.raises(EngineError, match="found the signatures add, both in the model, wanted 'sub'"):
        opened(signed, "tflite", signature="sub")
    with pytest.raises(EngineError, match="ONNX files have none"):
        opened(two("onnx"), "onnx", signature="add")


def test_sequences_maps_and_optionals_are_refused_with_the_word():
    float_ = ONNX_KINDS["float32"]
    optional = helper.make_optional_type_proto(helper.make_tensor_type_proto(float_, [2]))
    for kind, info, said in (
        ("SequenceConstruct", helper.make_tensor_sequence_value_info("y", float_, [2]), "a sequence"),
        ("Optional", helper.make_value_info("y", optional), "an optional"),
    ):
        model = onnx([helper.make_node(kind, ["x"], ["y"])], [value("x", "float32", (2,))], [info])
        with pytest.raises(EngineError, match=f"output 'y': found {said}"):
            find_engine("onnxruntime").load(model, EngineOptions())


def test_weights_in_another_file_are_read_beside_the_model_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A model that comes as bytes (from a bundle) has no place of its own, and reads no file of where we stand."""

    def stored_in(place: str) -> bytes:
        weights = TensorProto(name="w", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
        for key, said in (("location", place), ("offset", "0"), ("length", "16")):
            weights.external_data.add(key=key, value=said)
        node = helper.make_node("Add", ["x", "w"], ["y"])
        return onnx([node], [value("x", "float32", (4,))], [value("y", "float32", (4,))], (weights,))

    inside = tmp_path / "inside"
    inside.mkdir()
    for folder in (tmp_path, inside):
        (folder / "w.bin").write_bytes(np.float32([5] * 4).tobytes())
    (inside / "m.onnx").write_bytes(stored_in("w.bin"))
    with edge.open_program(inside / "m.onnx") as program:
        assert program.run({"x": np.zeros(4)})["y"].tolist() == [5] * 4
    monkeypatch.chdir(inside)
    for place in ("w.bin", "../w.bin", str(tmp_path / "w.bin")):
        with pytest.raises(EngineError):
            find_engine("onnxruntime").load(stored_in(place), EngineOptions())
        if place != "w.bin":
            (inside / "m.onnx").write_bytes(stored_in(place))
            with pytest.raises(EngineError):
                edge.open_program(inside / "m.onnx", guard=False)
