"""Weights alone: fewer bits of them, as integers, small floats, or on a grid that a coder likes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.drift import compare
from edge_runtime.compress.dynamic import as_weights
from edge_runtime.compress.layers import weighted
from edge_runtime.compress.moments import patches
from edge_runtime.compress.outputs import answers, tap
from edge_runtime.compress.passes.dynamic import Dynamic
from edge_runtime.compress.passes.fp16 import WeightsFp16
from edge_runtime.compress.passes.grid import Grid
from edge_runtime.compress.passes.minifloat import Minifloat
from edge_runtime.compress.passes.mixed import Mixed
from edge_runtime.compress.passes.weights import WeightsOnly
from edge_runtime.compress.prepare import prepare
from edge_runtime.compress.recipe import Context, Target
from edge_runtime.compress.rounding import factor, nearest, round_together
from edge_runtime.compress.samples import Samples
from edge_runtime.compress.tflite_write import to_tflite
from edge_runtime.compress.unpack import unpack
from edge_runtime.compress.weights import find_grid
from edge_runtime.errors import EdgeError, InputError

from .test_quantize import context, drift, images, small_net


def dense_net() -> Artifact:
    """(batch, 8, 64) through two products with three axes, one Gemm at the end: 10 logits."""
    rng = np.random.default_rng(3)
    tensors = {
        "w0": (rng.normal(size=(64, 96)) / 8).astype(np.float32), "b0": np.full(96, 0.1, np.float32),
        "w1": (rng.normal(size=(96, 64)) / 8).astype(np.float32),
        "w2": (rng.normal(size=(10, 64)) / 8).astype(np.float32), "b2": np.zeros(10, np.float32),
        "axis": np.array([1], np.int64),
    }  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["m0"]),
        helper.make_node("Add", ["m0", "b0"], ["a0"]),
        helper.make_node("Relu", ["a0"], ["r0"]),
        helper.make_node("MatMul", ["r0", "w1"], ["m1"]),
        helper.make_node("ReduceMax", ["m1"], ["p"], axes=[1], keepdims=0),
        helper.make_node("Gemm", ["p", "w2", "b2"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "dense",
        [helper.make_tensor_value_info("x", 1, ["batch", 8, 64])],
        [helper.make_tensor_value_info("y", 1, ["batch", 10])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items() if name != "axis"],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return prepare(Artifact("onnx", model.SerializeToString()))


def words(count: int = 40) -> Samples:
    return Samples("made", count, None, {"x": np.random.default_rng(2).normal(size=(count, 8, 64)).astype(np.float32)})


@pytest.mark.parametrize(
    ("step", "limit", "kind"),
    [
        (WeightsOnly(), 0.03, "INT8"),
        (WeightsOnly(symmetric=False), 0.03, "UINT8"),
        (WeightsOnly(bits=4, limit_sd=0.4), 0.4, "INT4"),
        (WeightsOnly(bits=4, block=32, symmetric=False, limit_sd=0.4), 0.4, "UINT4"),
        (WeightsOnly(bits=2, limit_sd=2.0), 2.0, "INT4"),
        (WeightsFp16(), 0.001, "FLOAT16"),
        (Minifloat(), 0.1, "FLOAT8E4M3FN"),
        (Minifloat(exponent=5, mantissa=2), 0.2, "FLOAT8E5M2"),
        (Minifloat(exponent=2, mantissa=3), 0.1, "FLOAT8E4M3FN"),
        (Minifloat(exponent=4, mantissa=5), 0.03, "FLOAT16"),
    ],
)
def test_fewer_bits_are_stored_and_answers_stay_near(step: object, limit: float, kind: str):
    for artifact, samples in ((small_net(), images()), (dense_net(), words())):
        made = step(artifact, Context(artifact, samples, Target("x86_64")))  # type: ignore[operator]
        assert made.form == "onnx_q" and kind in {one.dtype.name for one in made.model().graph.initializers.values()}
        found = compare(answers(artifact, samples, 8), answers(made, samples, 8))
        assert 0 < found.mean <= limit


def test_a_minifloat_rounds_as_the_type_that_holds_it():
    import ml_dtypes

    values = np.random.default_rng(1).normal(size=4000).astype(np.float32) * 3
    for step, kind in (
        (Minifloat(), ml_dtypes.float8_e4m3fn), (Minifloat(exponent=5, mantissa=2), ml_dtypes.float8_e5m2),
        (Minifloat(exponent=2, mantissa=1), ml_dtypes.float4_e2m1fn),
    ):  # fmt: skip
        inside = values[np.abs(values) <= step.top]
        assert (step.grid(inside) == inside.astype(kind).astype(np.float32)).all()
        assert step.top == float(ml_dtypes.finfo(kind).max)


def test_what_few_bits_break_is_rounded_together_or_refused_with_names():
    artifact = small_net()
    where = context(artifact)
    made = WeightsOnly(bits=3, limit_sd=0.12)(artifact, where)
    rungs = [one["rung"] for one in where.facts["ladder"]]
    assert rungs[:2] == ["nearest levels", "levels rounded together"] and drift(artifact, made) < 0.12
    with pytest.raises(EdgeError, match=r"guilty layers: \w+ \(.*sd alone"):
        WeightsOnly(bits=2, limit_sd=0.001)(artifact, context(artifact))


def test_products_run_in_integers_and_convolutions_are_left_or_refused():
    artifact = dense_net()
    where = Context(artifact, words(), Target("aarch64"))
    made = Dynamic()(artifact, where)
    assert (where.facts["integer_layers"], where.facts["float_layers"]) == (3, 0)
    assert compare(answers(artifact, words()), answers(made, words())).mean < 0.05
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    info = [helper.make_tensor_value_info(name, 1, ["batch", 3, 8, 8]) for name in "xy"]
    weight = numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), "w")
    model = helper.make_model(
        helper.make_graph(nodes, "g", info[:1], info[1:], [weight]), opset_imports=[helper.make_opsetid("", 17)]
    )
    with pytest.raises(InputError, match="convolutions would get slower"):
        Dynamic()(Artifact("onnx", model.SerializeToString()), Context(artifact, None))


def test_products_in_integers_are_the_same_layers_on_both_engines():
    """LiteRT quantizes activations row by row and symmetrically, onnxruntime tensor by tensor: alike, not equal."""
    artifact = dense_net()
    model = Dynamic()(artifact, Context(artifact, words())).model()
    assert as_weights(model)
    lite = Artifact("tflite", to_tflite(model, "dynamic"))
    assert len(lite.content) < len(artifact.content) / 2.5
    assert 0.001 < compare(answers(artifact, words()), answers(lite, words())).mean < 0.05
    assert not as_weights(artifact.model())


def test_mixed_precision_meets_a_share_of_the_bytes_or_a_limit():
    artifact = small_net()
    where = context(artifact)
    Mixed(limit_sd=0.06)(artifact, where)
    assert set(where.facts["bits"].values()) <= {4, 8}
    made = Mixed(share=0.2, limit_sd=0.5)(artifact, context(artifact))
    assert "INT4" in {one.dtype.name for one in made.model().graph.initializers.values()}
    with pytest.raises(EdgeError, match="fewest bits"):
        Mixed(share=0.01)(artifact, context(artifact))


def test_a_grid_holds_the_limit_and_costs_few_bits():
    artifact = small_net()
    bits = []
    for limit in (0.05, 0.3):
        where = context(artifact)
        made = Grid(limit_sd=limit)(artifact, where)
        assert compare(answers(artifact, images(), 16), answers(made, images(), 16)).largest <= limit
        bits.append(where.facts["coded_bytes_estimated"])
        assert made.form == "onnx"
        for layer in weighted(made.model()):
            assert layer.kind == "depthwise" or find_grid(layer.matrix(), 32_000) is not None
    assert bits[1] < bits[0]


def test_zeros_of_a_pruned_layer_stay_zeros_on_the_grid():
    model = onnx.load_from_string(small_net().content)
    for one in model.graph.initializer:
        if one.name == "w2":
            array = numpy_helper.to_array(one).copy()
            array[:, ::2] = 0
            one.CopyFrom(numpy_helper.from_array(array, "w2"))
    artifact = Artifact("onnx", model.SerializeToString())
    made = Grid(step=0.05)(artifact, context(artifact))
    layer = next(one for one in weighted(made.model()) if one.weight.name == "w2")
    assert not layer.matrix()[:, ::2].any() and layer.matrix().any()


def test_rounding_together_beats_rounding_alone():
    rng = np.random.default_rng(4)
    inputs = rng.normal(size=(500, 6)).astype(np.float32) @ rng.normal(size=(6, 32)).astype(np.float32)
    inputs += 0.1 * rng.normal(size=inputs.shape).astype(np.float32)
    weights, steps = rng.normal(size=(8, 32)).astype(np.float32), np.full(8, 0.5, np.float32)
    second = (inputs.T @ inputs / 500).astype(np.float32)
    levels, loss = round_together(weights, steps, factor(second, 1e-6), nearest(100))

    def change(rounded: np.ndarray) -> float:
        return float((((rounded - weights) @ inputs.T) ** 2).mean(axis=1).sum())

    assert change(levels * 0.5) < 0.3 * change(np.round(weights / 0.5) * 0.5)
    assert loss == pytest.approx(change(levels * 0.5), rel=0.02)


@pytest.mark.parametrize("net", [small_net, dense_net])
def test_what_a_layer_reads_is_what_its_weights_are_multiplied_with(net: object):
    artifact = net()  # type: ignore[operator]
    samples = images(3) if net is small_net else words(3)
    for layer in weighted(artifact.model()):
        names = [str(layer.node.inputs[0].name), str(layer.node.outputs[0].name)]
        found = next(tap(artifact, samples, names))
        read = patches(layer, found[names[0]], 10**6)
        made = np.einsum("gok,grk->go", layer.matrix().reshape(len(read), -1, read.shape[2]), read).reshape(-1)
        axis = 1 if found[names[1]].ndim == 4 else -1
        wanted = np.moveaxis(found[names[1]], axis, 0).reshape(len(made), -1).sum(axis=1)
        if layer.bias is not None:
            wanted = wanted - layer.bias.const_value.numpy() * (found[names[1]].size // len(made))
        assert np.allclose(made, wanted, rtol=1e-3, atol=1e-2)


def test_a_table_of_rows_is_stored_small_and_only_the_rows_found_are_turned_back():
    table = np.random.default_rng(1).normal(size=(500, 16)).astype(np.float32)
    product = np.eye(16, 32, dtype=np.float32)
    nodes = [helper.make_node("Gather", ["t", "x"], ["e"]), helper.make_node("MatMul", ["e", "w"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "rows",
        [helper.make_tensor_value_info("x", 7, ["batch", 5])],
        [helper.make_tensor_value_info("y", 1, ["batch", 5, 32])],
        [numpy_helper.from_array(table, "t"), numpy_helper.from_array(product, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    artifact = prepare(Artifact("onnx", model.SerializeToString()))
    samples = Samples("made", 8, None, {"x": np.arange(40).reshape(8, 5)})
    for step in (Dynamic(), WeightsOnly()):
        made = step(artifact, Context(artifact, samples, Target("x86_64")))
        assert len(made.content) < len(artifact.content) / 3
        assert compare(answers(artifact, samples), answers(made, samples)).mean < 0.02
        model = made.model()
        as_weights(model)
        lite = Artifact("tflite", to_tflite(model))
        assert len(lite.content) < len(artifact.content) / 3
        assert compare(answers(made, samples), answers(lite, samples)).mean < 0.005


@pytest.mark.parametrize("form", [{"bits": 8}, {"bits": 4, "block": 32}, {"bits": 4, "symmetric": False}, {"bits": 2}])
def test_weights_alone_are_worked_out_when_onnxruntime_loads_them(form):
    """Else it dequantizes a convolution's weights at every inference: 2.7 times as slow as float was measured."""
    import onnxruntime as ort

    made = WeightsOnly(**form)(small_net(), Context(small_net(), None))
    ready = unpack(made)
    assert ready != made and unpack(ready) == ready
    assert drift(made, ready) < 1e-6
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    settings.optimized_model_filepath = str(Path(tempfile.mkdtemp()) / "made.onnx")
    ort.InferenceSession(ready.content, settings, providers=["CPUExecutionProvider"])
    left = {node.op_type for node in onnx.load(settings.optimized_model_filepath).graph.node}
    assert not left & {"DequantizeLinear", "Cast", "Mul", "Sub"}


def test_what_computes_in_integers_is_left_alone():
    made = Dynamic()(dense_net(), Context(dense_net(), None))
    assert unpack(made) is made
