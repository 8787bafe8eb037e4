"""One contract for every engine: what goes in, what comes out, and how each kind of bad file is refused."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import edge_runtime as edge
from edge_runtime.engine import ENGINES, EngineOptions, engine_for, find_engine, probe
from edge_runtime.errors import EdgeError, EngineError, InputError, UsageError
from edge_runtime.tensors import dequantize, fit_all

FILES = ["fp32.onnx", "fp32.tflite", "int8.tflite", "nothing.null"]
ENGINE_OF = {"onnx": "onnxruntime", "tflite": "litert", "null": "null"}


@pytest.fixture(params=FILES)
def model(request: pytest.FixtureRequest, models: Path) -> Path:
    return models / str(request.param)


def test_probed_in_a_child_each_engine_says_its_version_or_why_not():
    assert {name: probe(name).reason for name in ENGINES} == dict.fromkeys(ENGINES)
    assert probe("onnxruntime").version
    code = "import sys; from edge_runtime.engine import probe; probe('onnxruntime'); "
    code += "sys.exit('onnxruntime' in sys.modules)"
    assert not subprocess.run([sys.executable, "-c", code]).returncode, "probing must not import the engine here"


@pytest.mark.parametrize(
    ("code", "said"), [("import os; os.kill(os.getpid(), 4)", "SIGILL"), ("raise SystemExit(3)", "3")]
)
def test_an_engine_whose_import_dies_is_a_fact_with_its_reason(
    code: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "onnxruntime.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    probe.cache_clear()
    found = probe("onnxruntime")
    probe.cache_clear()
    assert found.reason is not None
    assert said in found.reason


def test_load_from_bytes_run_and_read_back(model: Path):
    engine = find_engine(ENGINE_OF[model.suffix[1:]])
    program = engine.load(model.read_bytes(), EngineOptions())
    (spec,) = program.inputs
    pixels = np.zeros((1, 8, 8, 3), np.float32)
    pixels[..., 1] = 0.6
    image = pixels if spec.shape[-1] == 3 else pixels.transpose(0, 3, 1, 2)
    found = program.run(fit_all({"image": image}, program.inputs))
    (answer,) = (dequantize(found[one.name], one) for one in program.outputs)
    wanted = [0.5] * 3 if engine.NAME == "null" else [0.0, 0.6, 0.0]
    np.testing.assert_allclose(answer.ravel(), wanted, atol=1 / 255)
    program.close()


def test_the_same_through_the_guard(model: Path):
    with edge.open_program(model, device="raspberry-pi-4b") as program:
        assert program.engine == ENGINE_OF[model.suffix[1:]]
        shape = [size or 1 for size in program.inputs[0].shape]
        found = program.run({"image": np.full(shape, 0.5)})["means"]
        (spec,) = program.outputs
        np.testing.assert_allclose(dequantize(found, spec), 0.5, atol=1 / 255)
        with pytest.raises(InputError, match="found shape"):
            program.run({"image": np.zeros((2, 2))})
        with pytest.raises(InputError, match="wanted \\['image'\\]"):
            program.run({"picture": np.zeros(shape)})
        assert program.run({"image": np.zeros(shape)}), "a refused input must not end the program"


def test_the_same_without_the_guard(model: Path):
    with edge.open_program(model, guard=False) as bare, edge.open_program(model) as guarded:
        feeds = {"image": np.full([size or 1 for size in bare.inputs[0].shape], 0.5)}
        np.testing.assert_array_equal(bare.run(feeds)["means"], guarded.run(feeds)["means"])
        assert (bare.engine, bare.engine_version) == (guarded.engine, guarded.engine_version)
    with pytest.raises(UsageError, match="only a guarded child"):
        edge.open_program(model, device="raspberry-pi-4b", guard=False)


def test_large_arrays_cross_to_the_child_and_back_and_stay(tmp_path: Path):
    """In shared memory, which grows and is used again: what was given before must not change."""
    path = tmp_path / "same.onnx"
    path.write_bytes(identity_model())
    with edge.open_program(path) as program:
        kept = []
        for size in (10, 100_000, 3, 300_000, 50_000):
            array = np.random.default_rng(size).random((2, size)).astype(np.float32)
            kept.append((array, program.run({"x": array})["y"]))
            kept[-1][1][0, 0] += 0  # what is given may be written to
        for array, found in kept:
            np.testing.assert_array_equal(array, found)


def identity_model() -> bytes:
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["a", "b"]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "same", [x], [y])
    opsets = [helper.make_opsetid("", 17)]
    content: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return content


@pytest.mark.parametrize("damage", ["empty", "truncated", "zeros", "text", "flipped"])
def test_damaged_models_are_our_own_error(model: Path, damage: str, tmp_path: Path):
    content = model.read_bytes()
    half = len(content) // 2
    flipped = content[:half] + bytes(255 - one for one in content[half : half + 40]) + content[half + 40 :]
    made = {"empty": b"", "truncated": content[:half], "zeros": bytes(200), "text": b"hello" * 9, "flipped": flipped}
    path = tmp_path / f"bad{model.suffix}"
    path.write_bytes(made[damage])
    # only a flip may leave a model that still runs
    expected = contextlib.suppress(EdgeError) if damage == "flipped" else pytest.raises(EdgeError, match=".")
    with expected, edge.open_program(path) as program:
        program.run({spec.name: np.zeros([size or 1 for size in spec.shape]) for spec in program.inputs})


def test_wrong_engine_wrong_ending_missing_file(models: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="engine litert reads tflite, found onnx"):
        engine_for(models / "fp32.onnx", "litert")
    with pytest.raises(UsageError, match="wanted one of onnxruntime"):
        find_engine("tensorrt")
    with pytest.raises(UsageError, match="found the ending '.pt'"):
        engine_for(Path("model.pt"), None)
    with pytest.raises(EngineError, match="found no file"):
        edge.open_program(tmp_path / "none.onnx")


def test_a_program_says_that_its_engine_is_missing_or_dies(
    models: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """Found in the child that was to run it: no import is paid for beforehand."""
    for code, said in (("raise ImportError('no wheel')", "no wheel"), ("import os; os.kill(os.getpid(), 4)", "SIGILL")):
        (tmp_path / "onnxruntime.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        with pytest.raises(EngineError, match=said):
            edge.open_program(models / "fp32.onnx")


def test_a_missing_package_is_said_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch):
    for name in ("ai_edge_litert", "ai_edge_litert.interpreter", "tflite_runtime", "tflite_runtime.interpreter"):
        monkeypatch.setitem(sys.modules, name, None)
    engine = find_engine("litert")
    assert "no TFLite interpreter" in str(engine.missing())
    with pytest.raises(EngineError, match="pip install"):
        engine.load(b"", EngineOptions())


def test_tflite_runtime_serves_where_ai_edge_litert_is_not(monkeypatch: pytest.MonkeyPatch):
    from ai_edge_litert.interpreter import Interpreter

    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    monkeypatch.setitem(sys.modules, "tflite_runtime", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", SimpleNamespace(Interpreter=Interpreter))
    assert find_engine("litert").missing() is None


TELEMETRY = """
import os, sys, threading
from edge_runtime.engine import find_engine, EngineOptions
program = find_engine("onnxruntime").load(open(sys.argv[1], "rb").read(), EngineOptions())
print(len(os.listdir("/proc/self/task")), os.environ["ORT_DISABLE_TELEMETRY"])
"""


def test_onnxruntime_starts_no_telemetry(models: Path, tmp_path: Path):
    """Its wheel's own thread and event cache: one thread is left, and nothing is written under the home folder."""
    import os

    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)}
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    environment |= home | {"OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", TELEMETRY, str(models / "fp32.onnx")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
