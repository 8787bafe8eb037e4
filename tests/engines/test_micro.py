"""Micro-models: files that the real engines and the formats' own readers take, and a table measured with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edge_runtime.cli import main
from edge_runtime.engine import EngineOptions, find_engine
from edge_runtime.errors import EngineError
from edge_runtime.micro import measure
from edge_runtime.micro.build import Pair, pair
from edge_runtime.micro.lite_models import CODES, LiteWriter
from edge_runtime.micro.onnx_models import OnnxWriter
from edge_runtime.micro.shapes import FLOAT, Spec, specs
from edge_runtime.operators import KINDS
from edge_runtime.profile import load_profile

CASES = [(engine, dtype) for engine, dtypes in measure.DTYPES.items() for dtype in dtypes]
FEW = [Spec("globalpool", FLOAT, 16, 1, 16), Spec("conv1x1", FLOAT, 16, 8, 16), Spec("binary", FLOAT, 4, 1, 16)]


def smallest(dtype: str) -> list[Spec]:
    """Two of each kind: the least work."""
    found: list[Spec] = []
    for kind in KINDS:
        found += sorted((one for one in specs(dtype) if one.kind == kind), key=lambda one: one.work)[:2]
    return found


@pytest.mark.parametrize(("engine", "dtype"), CASES)
def test_every_kind_runs_on_the_engine_that_is_measured(engine: str, dtype: str):
    kinds = set()
    for spec in smallest(dtype):
        made = pair(engine, spec)
        if made is None:
            continue
        kinds.add(spec.kind)
        for model in (made.less, made.more):
            program = find_engine(engine).load(model, EngineOptions())
            feeds = {one.name: np.ones([size or 1 for size in one.shape], one.dtype) for one in program.inputs}
            assert all(np.isfinite(one).all() for one in program.run(feeds).values()), spec
    assert {"conv", "conv1x1", "depthwise", "dense", "binary", "pool", "globalpool", "copy"} <= kinds


def test_the_files_are_what_the_formats_say():
    from ai_edge_litert import schema_py_generated as schema

    for spec in smallest(FLOAT):
        made = pair("onnxruntime", spec)
        if made and spec.kind not in ("gelu", "skipnorm"):  # those two are onnxruntime's own
            model = onnx.load_model_from_string(made.more)
            inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
            if not any(node.domain for node in model.graph.node):
                onnx.checker.check_model(inferred, full_check=True)
    for name, (code, _, _, _) in CODES.items():
        assert getattr(schema.BuiltinOperator, name) == code
    made = pair("litert", Spec("conv", FLOAT, 16, 72, 16, 9, 2))
    assert made
    graph = schema.ModelT.InitFromObj(schema.Model.GetRootAs(made.more, 0)).subgraphs[0]
    convolution = graph.operators[0].builtinOptions
    assert (convolution.strideH, convolution.strideW, convolution.dilationHFactor) == (2, 2, 1)
    assert len(graph.operators) == 2 * (made.times + 1) + 1  # each with its head, and what joins them


def test_a_convolution_computes_what_it_should():
    """The same numbers from both writers: weights are drawn alike, laid out as each format wants them."""
    spec = Spec("conv1x1", FLOAT, 16, 8, 12)
    x = np.random.default_rng(0).standard_normal((1, 4, 4, 8)).astype(np.float32)
    lite, other = LiteWriter(FLOAT, np.random.default_rng(1)), OnnxWriter(FLOAT, np.random.default_rng(1))
    outputs = []
    for engine, writer, given in (("litert", lite, x), ("onnxruntime", other, x.transpose(0, 3, 1, 2))):
        source: Any = writer.input(spec, FLOAT)
        program = find_engine(engine).load(writer.finish(writer.apply(spec, source, source), FLOAT), EngineOptions())
        outputs.append(next(iter(program.run({program.inputs[0].name: np.ascontiguousarray(given)}).values())))
    np.testing.assert_allclose(outputs[0], outputs[1].transpose(0, 2, 3, 1), atol=1e-5)
    assert outputs[0].std() > 0.5


def test_pairs_differ_by_what_they_say():
    chain = pair("onnxruntime", Spec("conv1x1", FLOAT, 64, 64, 64))
    branches = pair("onnxruntime", Spec("conv1x1", FLOAT, 64, 32, 64))
    assert isinstance(chain, Pair) and isinstance(branches, Pair)
    assert (chain.heads, branches.heads) == (0, branches.times)
    for made in (chain, branches):
        count = [
            sum(node.op_type == "Conv" for node in onnx.load_model_from_string(model).graph.node)
            for model in (made.less, made.more)
        ]
        assert count[1] - count[0] == made.times


# --------------------------------------------------------------------------------------------------------- measuring


@pytest.mark.parametrize("engine", list(measure.DTYPES))
def test_a_table_is_measured(engine: str, monkeypatch: pytest.MonkeyPatch):
    broken = Spec("warp", FLOAT, 4, 1, 4)  # refused by the child: left out, and the rest is measured
    monkeypatch.setattr(measure, "specs", lambda dtype: [broken, *FEW] if dtype == FLOAT else [])
    steps: list[int] = []
    table = measure.calibrate(engine, budget_s=2, progress=lambda done, total: steps.append(done))
    assert {name: len(points) for name, points in table.points.items()} == {
        "binary.float32": 1,
        "conv1x1.float32": 1,
        "globalpool.float32": 1,
    }
    assert table.call_ns < 10**9 and all(points[0].ns >= 1 for points in table.points.values())
    assert steps and max(steps) <= 100
    assert table.engine_version


def test_an_engine_that_measures_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(measure, "specs", lambda dtype: [Spec("warp", dtype, 1, 1, 1)])
    with pytest.raises(EngineError, match="no operator could be measured"):
        measure.calibrate("litert", budget_s=1)


def test_a_shape_that_takes_the_engine_down_is_left_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(measure, "specs", lambda dtype: FEW if dtype == FLOAT else [])
    real = measure.Child

    class Mortal(real):  # type: ignore[valid-type,misc]
        def call(self, op: str, meta: dict[str, Any], *rest: Any) -> Any:
            if meta.get("kind") == "conv1x1":
                self.close()
            return super().call(op, meta, *rest)

    monkeypatch.setattr(measure, "Child", Mortal)
    table = measure.calibrate("onnxruntime", budget_s=1)
    assert set(table.points) == {"binary.float32", "globalpool.float32"}


def test_doctor_calibrates_and_writes_a_profile_that_predicts(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(measure, "specs", lambda dtype: FEW if dtype == FLOAT else [])
    out = tmp_path / "mine.toml"
    assert main(["doctor", "--calibrate", "--write-profile", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["engine"] for one in found["operators"]] == ["onnxruntime", "litert"]
    assert [one.engine for one in load_profile(out).operators] == ["onnxruntime", "litert"]
    assert main(["devices", "show", str(out)]) == 0
    assert "3 points, 1 thread; float32 up to" in capsys.readouterr().out
    assert main(["predict", str(models / "fp32.onnx"), "--device", str(out)]) == 0
    assert "estimated from the operator table" in capsys.readouterr().out
