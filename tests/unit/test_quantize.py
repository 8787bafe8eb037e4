"""Static int8: where the pairs stand, what runs in integers, how near the answers stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.calibrate import Seen, observe
from edge_runtime.compress.drift import compare
from edge_runtime.compress.layers import weighted
from edge_runtime.compress.outputs import answers
from edge_runtime.compress.passes.static import Static
from edge_runtime.compress.prepare import prepare
from edge_runtime.compress.ranges import choose, scale_of
from edge_runtime.compress.recipe import Context, Target, read_recipe
from edge_runtime.compress.samples import Samples
from edge_runtime.compress.weights import find_grid
from edge_runtime.errors import EdgeError, InputError, UsageError

RANDOM = np.random.default_rng(7)


def small_net(wild: float = 1.0, clip: float | None = None) -> Artifact:
    """Conv - depthwise - 1x1 with a residual and a pool, 10 logits; `wild`: factors between channels through ReLU."""
    rng = np.random.default_rng(3)

    def weight(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)

    tensors = {
        "w0": weight(16, 3, 3, 3), "b0": rng.normal(size=16).astype(np.float32) * 0.1,
        "w1": weight(16, 1, 3, 3), "b1": rng.normal(size=16).astype(np.float32) * 0.1,
        "w2": weight(16, 16, 1, 1), "b2": rng.normal(size=16).astype(np.float32) * 0.1,
        "w3": weight(10, 16), "b3": np.zeros(10, np.float32),
    }  # fmt: skip
    factors = np.exp(rng.uniform(-np.log(wild), np.log(wild), (2, 16))).astype(np.float32)
    tensors["w0"] *= factors[0][:, None, None, None]
    tensors["b0"] *= factors[0]
    tensors["w1"] *= (factors[1] / factors[0])[:, None, None, None]
    tensors["b1"] *= factors[1]
    tensors["w2"] /= factors[1][None, :, None, None]

    def activation(given: str, made: str) -> onnx.NodeProto:
        if clip is None:
            return helper.make_node("Relu", [given], [made])
        return helper.make_node("Clip", [given, "least", "most"], [made])

    if clip is not None:
        tensors |= {"least": np.array(0, np.float32), "most": np.array(clip, np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["c0"], pads=[1, 1, 1, 1], strides=[2, 2]),
        activation("c0", "r0"),
        helper.make_node("Conv", ["r0", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1], group=16),
        activation("c1", "r1"),
        helper.make_node("MaxPool", ["r1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p1", "w2", "b2"], ["c2"]),
        helper.make_node("Add", ["c2", "p1" if wild == 1.0 else "c2"], ["a"]),
        helper.make_node("GlobalAveragePool", ["a"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", 1, ["batch", 3, 16, 16])],
        [helper.make_tensor_value_info("y", 1, ["batch", 10])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return prepare(Artifact("onnx", model.SerializeToString()))


def images(count: int = 48) -> Samples:
    rng = np.random.default_rng(5)
    coarse = rng.uniform(-1, 1, (count, 3, 4, 4)).astype(np.float32)
    return Samples("made", count, None, {"x": np.repeat(np.repeat(coarse, 4, 2), 4, 3)})


def context(artifact: Artifact, arch: str = "x86_64") -> Context:
    return Context(artifact, images(), Target(arch))


def drift(artifact: Artifact, made: Artifact) -> float:
    return compare(answers(artifact, images(), 16), answers(made, images(), 16)).mean


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse", "entropy"])
def test_every_layer_runs_in_integers_and_answers_stay_near(method: str):
    artifact = small_net()
    where = context(artifact)
    made = Static(method=method, rescue=False)(artifact, where)
    assert (where.facts["integer_layers"], where.facts["float_layers"]) == (4, 0)
    assert drift(artifact, made) < (0.2 if method == "entropy" else 0.03)


def test_pools_and_reshapes_keep_the_scale_and_the_same_bytes_come_out_twice():
    artifact = small_net()
    made = Static(rescue=False)(artifact, context(artifact))
    assert Static(rescue=False)(artifact, context(artifact)).content == made.content
    model = made.model()
    scales = {
        str(node.inputs[0].name): node.inputs[1].const_value.numpy()
        for node in model.graph
        if node.op_type == "QuantizeLinear"
    }
    assert scales["r1"] == scales["p1"] and scales["g"] == scales["f"] and scales["r0"] != scales["r1"]
    assert model.graph.outputs[0].name == "y"


def test_weights_have_7_bits_where_kernels_saturate_and_8_on_arm_and_in_depthwise_layers():
    artifact = small_net()
    for arch, tops in (("x86_64", (64, 127, 64, 64)), ("", (64, 127, 64, 64)), ("aarch64", (127, 127, 127, 127))):
        model = Static(rescue=False)(artifact, context(artifact, arch)).model()
        levels = [model.graph.initializers[f"w{place}_int8"].const_value.numpy() for place in range(4)]
        assert tuple(int(np.abs(one.astype(int)).max()) for one in levels) == tops


def test_16_bit_activations_are_nearer_than_8():
    artifact = small_net()
    near = [
        drift(artifact, Static(activation_bits=bits, rescue=False)(artifact, context(artifact))) for bits in (16, 8)
    ]
    assert near[0] < near[1]


def test_a_layer_named_in_keep_stays_float():
    artifact = small_net()
    where = context(artifact)
    name = next(node.name for node in artifact.model().graph if node.op_type == "Gemm")
    Static(keep=(name,), rescue=False)(artifact, where)
    assert where.facts["float_layers"] == 1


def test_what_is_not_finite_is_named():
    model = onnx.load_from_string(small_net().content)
    for one in model.graph.initializer:
        if one.name == "b1":
            one.CopyFrom(numpy_helper.from_array(np.full(16, np.inf, np.float32), "b1"))
    artifact = Artifact("onnx", model.SerializeToString())
    with pytest.raises(InputError, match=r"Conv.*not finite"):
        Static()(artifact, context(artifact))


def test_a_model_without_layers_and_settings_without_sense_are_refused():
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    info = [helper.make_tensor_value_info(name, 1, ["batch", 3, 16, 16]) for name in "xy"]
    model = helper.make_model(
        helper.make_graph(nodes, "g", info[:1], info[1:]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    artifact = Artifact("onnx", model.SerializeToString())
    with pytest.raises(InputError, match="no layer that can be quantized"):
        Static()(artifact, context(artifact))
    with pytest.raises(UsageError, match="method"):
        read_recipe({"name": "r", "passes": [{"pass": "static_w8a8", "method": "best"}]}, "here")


def test_a_scale_holds_zero_exactly_and_never_reaches_beyond_a_clip():
    assert scale_of(-1.0, 2.0).zero == 85
    assert np.float32(scale_of(0.0, 6.0).scale) * np.float32(255) <= 6
    assert scale_of(0.0, 0.0).scale == 1


def test_ranges_leave_outliers_out_where_asked():
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.normal(size=100_000), [60.0]]).astype(np.float32).reshape(1, -1)
    seen = Seen()
    seen.add(values)
    seen.count(values)
    highs = {method: choose(seen, method, 99.9)[1] for method in ("minmax", "percentile", "mse")}
    assert highs["minmax"] == 60 and highs["percentile"] < 5 and highs["mse"] < 60


def test_calibration_counts_every_number_once():
    artifact = small_net()
    seen = observe(artifact, images(10), ["r0", "x"])
    assert int(seen["x"].counts.sum()) == 10 * 3 * 16 * 16 and seen["r0"].low == 0
    assert seen["r0"].peak.shape == (16,) and seen["r0"].high == pytest.approx(seen["r0"].peak.max())


def test_a_grid_is_found_and_noise_is_none():
    steps = np.array([0.013, 0.5, 0.2], np.float32)
    levels = RANDOM.integers(-30, 31, (3, 64))
    levels[2] = 0
    levels[:2, 0] = 1
    found = find_grid((levels * steps[:, None]).astype(np.float32))
    assert found is not None and np.allclose(found, [0.013, 0.5, 0.0])
    assert find_grid(RANDOM.normal(size=(3, 64)).astype(np.float32)) is None


def test_the_malaria_net_keeps_its_decisions(data: Path):
    from edge_runtime.bundle import load_bundle
    from edge_runtime.compress.samples import load_samples

    bundle = load_bundle("malaria")
    variant = bundle.variant("fp32")
    artifact = prepare(Artifact("onnx", bundle.read(variant.file)))
    samples = load_samples(data / "malaria-cells" / "train", variant.inputs, bundle).some(96)
    where = Context(artifact, samples, Target("x86_64"))
    made = Static()(artifact, where)
    found = compare(answers(artifact, samples, 16), answers(made, samples, 16))
    assert where.facts["float_layers"] == 0 and found.mean < 0.03


def test_wildly_unequal_channels_come_back_by_the_ladder():
    artifact = small_net(wild=100.0)
    where = context(artifact)
    made = Static(per_channel=False)(artifact, where)
    rungs = [one["rung"] for one in where.facts["ladder"]]
    assert where.facts["ladder"][0]["mean_sd"] > 0.1, "the example is not broken by int8, so nothing is shown"
    assert drift(artifact, made) < 0.03 and "cross-layer equalisation" in rungs
    assert where.facts["float_layers"] == 0


@pytest.mark.parametrize("clip", [None, 6.0])
def test_equalisation_changes_numbers_and_not_answers(clip: float | None):
    from edge_runtime.compress.equalize import equalize
    from edge_runtime.compress.quantizer import tensors_to_watch

    artifact = small_net(wild=10.0, clip=clip)
    made, count = equalize(artifact, observe(artifact, images(), tensors_to_watch(artifact)))
    assert count >= 2 and compare(answers(artifact, images()), answers(made, images())).largest < 1e-3


def test_what_no_rung_mends_is_refused_with_the_guilty_layers():
    artifact = small_net()
    where = context(artifact)
    with pytest.raises(EdgeError, match=r"guilty layers: (Conv|Gemm)_\d .*sd alone"):
        Static(limit_sd=1e-6)(artifact, where)
    assert len(where.facts["ladder"]) > 4 and where.facts["guilty"]


def test_a_limit_is_on_what_the_step_adds_and_not_on_what_came_before():
    """Else prune and quantize is refused for what the pruning did, and blames layers that are blameless."""
    original, given = small_net(), small_net()
    model = given.model()
    layer = weighted(model)[-1]
    layer.set_matrix(layer.matrix() * 0.8)
    given = Artifact.of(model, "onnx")
    assert drift(original, given) > 0.1
    where = Context(original, images(), Target("x86_64"))
    made = Static()(given, where)
    assert drift(given, made) < 0.03 and where.facts["ladder"][0]["mean_sd"] < 0.03
