"""Tiny real models whose answer anybody can work out: the mean of each colour, so a red picture is "red"."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from PIL import Image

from edge_runtime.profile import Budget, DeviceProfile, load_profile

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")
# The choice by measurement takes seconds and depends on the machine: tests that mean it ask for it.
os.environ["EDGE_RUNTIME_MEASURE"] = "0"
# What somebody has installed here, and whom this machine believes, is not the tests' business.
os.environ["EDGE_RUNTIME_STORE"] = os.path.join(os.sep, "nowhere", "store")
ROOT = Path(__file__).resolve().parents[1]
LABELS = ["red", "green", "blue"]
PREPROCESSING = {"size": [8, 8], "resize": "stretch", "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
IMAGE_TASK = {"kind": "image", "top": 3, "scores": "probabilities"}


def data_folder() -> Path:
    return Path(os.environ.get("EDGE_RUNTIME_DATA") or ROOT.parent / "shared" / "data")


@pytest.fixture(scope="session")
def data() -> Path:
    """The real data, or a skip that says so; CI fails on the skip when the folder is there."""
    folder = data_folder()
    if not (folder / "malaria-cells").is_dir():
        pytest.skip(f"no real data: {folder} is not there (set EDGE_RUNTIME_DATA)")
    return folder


def onnx_model() -> bytes:
    from onnx import TensorProto, checker, helper

    nodes = [helper.make_node("GlobalAveragePool", ["image"], ["p"]), helper.make_node("Flatten", ["p"], ["means"])]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 8, 8])
    means = helper.make_tensor_value_info("means", TensorProto.FLOAT, ["batch", 3])
    graph = helper.make_graph(nodes, "means", [image], [means])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def tflite_model(int8: bool = False) -> bytes:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as tfl

    def tensor(name: str, shape: list[int], kind: int, buffer: int = 0) -> Any:
        made = tfl.TensorT()
        made.name, made.shape, made.type, made.buffer = name, np.array(shape, np.int32), kind, buffer
        if int8 and kind == tfl.TensorType.INT8:
            made.quantization = tfl.QuantizationParametersT()
            made.quantization.scale, made.quantization.zeroPoint = np.float32([1 / 255]), np.int64([-128])
        return made

    kind = tfl.TensorType.INT8 if int8 else tfl.TensorType.FLOAT32
    shape = np.array([1, 3], np.int32)
    constant = tfl.BufferT()
    constant.data = np.frombuffer(shape.tobytes(), np.uint8)
    pool, reshape = tfl.Pool2DOptionsT(), tfl.ReshapeOptionsT()
    pool.padding, pool.strideH, pool.strideW = tfl.Padding.VALID, 1, 1
    pool.filterHeight = pool.filterWidth = 8
    reshape.newShape = shape
    graph = tfl.SubGraphT()
    graph.name, graph.inputs, graph.outputs = "means", [0], [3]
    graph.tensors = [
        tensor("image", [1, 8, 8, 3], kind),
        tensor("p", [1, 1, 1, 3], kind),
        tensor("shape", [2], tfl.TensorType.INT32, 1),
        tensor("means", [1, 3], kind),
    ]
    graph.operators, codes = [], []
    for number, (code, inputs, output, options, settings) in enumerate(
        [
            (tfl.BuiltinOperator.AVERAGE_POOL_2D, [0], 1, tfl.BuiltinOptions.Pool2DOptions, pool),
            (tfl.BuiltinOperator.RESHAPE, [1, 2], 3, tfl.BuiltinOptions.ReshapeOptions, reshape),
        ]
    ):
        operator, operator_code = tfl.OperatorT(), tfl.OperatorCodeT()
        operator_code.builtinCode = operator_code.deprecatedBuiltinCode = code
        operator_code.version = 2 if int8 and not number else 1
        operator.opcodeIndex, operator.inputs, operator.outputs = number, inputs, [output]
        operator.builtinOptionsType, operator.builtinOptions = options, settings
        graph.operators.append(operator)
        codes.append(operator_code)
    model = tfl.ModelT()
    model.version, model.operatorCodes, model.subgraphs = 3, codes, [graph]
    model.buffers = [tfl.BufferT(), constant]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def null_model(shape: tuple[int, ...] = (1, 3, 8, 8), fill: float = 0.5) -> bytes:
    image = {"name": "image", "shape": list(shape), "dtype": "float32"}
    means = {"name": "means", "shape": [1, 3], "dtype": "float32"}
    return json.dumps({"inputs": [image], "outputs": [means], "fill": fill}).encode()


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `pack` wants it: the same model in each format."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "fp32.onnx").write_bytes(onnx_model())
    (folder / "fp32.tflite").write_bytes(tflite_model())
    (folder / "int8.tflite").write_bytes(tflite_model(int8=True))
    (folder / "nothing.null").write_bytes(null_model())
    (folder / "card.md").write_text("# Means\n")
    int8 = [{"pass": "static_w8a8", "activations": "int8"}]
    variants: list[dict[str, Any]] = [
        {"name": "fp32", "format": "onnx", "file": "fp32.onnx"},
        {"name": "fp32-lite", "format": "tflite", "file": "fp32.tflite"},
        {"name": "int8-lite", "format": "tflite", "file": "int8.tflite", "recipe": int8},
        {"name": "nothing", "format": "null", "file": "nothing.null"},
    ]
    manifest = {"name": "means", "version": "1.0", "task": IMAGE_TASK, "labels": LABELS}
    manifest |= {"preprocessing": PREPROCESSING, "variants": variants}
    (folder / "bundle.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="session")
def means(models: Path) -> Path:
    """The bundle of `models`."""
    from edge_runtime.packing import pack_folder

    return pack_folder(models, models / "means.edge").path


def picture(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (20, 20)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def small_device(ram_bytes: int = 512 << 20, **changes: Any) -> DeviceProfile:
    """A made-up device with every engine and a budget."""
    from dataclasses import replace

    engines = changes.pop("engines", ("onnxruntime", "litert"))
    budget = Budget(ram_bytes, changes.pop("storage_bytes", 64 << 20))
    return replace(load_profile("raspberry-pi-4b"), name="test", engines=engines, budget=budget, threads=1, **changes)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The device's own store, empty; its keys are in it, where there are any."""
    monkeypatch.setenv("EDGE_RUNTIME_STORE", str(tmp_path / "store"))
    monkeypatch.setattr("edge_runtime.trust.SYSTEM_KEYS", tmp_path / "etc")
    return tmp_path / "store"


@pytest.fixture
def clinic(tmp_path: Path) -> Path:
    """A private key, its public one beside it."""
    from edge_runtime.keys import make_key

    make_key(tmp_path / "clinic")
    return tmp_path / "clinic"
