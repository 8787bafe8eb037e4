"""What the TFLite writer refuses, and what it promises of every file."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edge_runtime.bundle import load_bundle
from edge_runtime.compress.graph import read_graph
from edge_runtime.compress.tflite_write import find_unsupported, to_tflite
from edge_runtime.engine import EngineOptions, find_engine
from edge_runtime.errors import InputError
from tests.unit.tflite_nets import mobilenet, resnet, transformer
from tests.unit.tflite_samples import Net, check, feeds_of, lite_answers, onnx_answers, quantized


def test_every_node_that_cannot_be_written_is_listed_at_once():
    n = Net("batch", 4, 6, 6)
    n.add("Det")
    model = ir.from_proto(
        helper.make_model(
            helper.make_graph(
                [helper.make_node("LRN", ["x"], ["a"], size=3, name="first"), helper.make_node("Det", ["a"], ["y"])],
                "g",
                n.inputs,
                [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
            ),
            opset_imports=[helper.make_opsetid("", 17)],
        )
    )
    found = find_unsupported(model)
    assert len(found) == 3 and "'first': LRN" in found[0] and "'y': Det" in found[1] and "Conv," in found[2]
    with pytest.raises(InputError, match=r"(?s)LRN.*Det.*keep this model as onnx"):
        to_tflite(model)


def test_forms_of_an_operator_that_cannot_be_written_say_what_was_wanted():
    n = Net("batch", 4, 6, 6)
    n.add("MaxPool", kernel_shape=[2, 2], dilations=[2, 2])
    n.add("Pad", n.last, n.const([0, 0, 1, 1, 0, 0, 1, 1]), mode="edge")
    n.add("Elu", alpha=0.5)
    found = find_unsupported(n.model())
    assert [one.split(": ")[1] for one in found] == ["MaxPool", "Pad", "Elu"]
    assert all("found" in one and "wanted" in one for one in found)
    n = Net("batch", 2, 4, 4, 4)
    n.add("Conv", "x", n.random(3, 2, 3, 3, 3))
    assert "found 3 spatial dimensions, wanted 1 or 2" in find_unsupported(n.model())[0]


def test_sizes_that_are_free_beside_the_batch_and_models_that_do_not_run_are_refused():
    n = Net("batch", 4, "height", 6)
    n.conv(4, 4, 3)
    with pytest.raises(InputError, match="wanted fixed sizes after the first"):
        to_tflite(n.model())
    n = Net("batch", 4, 6, 6)
    n.conv(4, 4, 3)
    model = n.model()
    model.graph.inputs[0].shape = ir.Shape(["batch", 3, 6, 6])
    with pytest.raises(InputError, match="onnxruntime cannot run the model"):
        to_tflite(model)


def test_names_and_order_of_inputs_and_outputs_are_those_of_the_graph():
    n = Net("batch", 4, 6, 6)
    other = n.also("second", "batch", 5)
    a = n.add("Relu", n.conv(3, 4, 3))
    b = n.add("Identity", other)
    c = n.add("Flatten", a)
    content = check(n.model(c, b, a, n.add("Sigmoid", other)))
    program = find_engine("litert").load(content, EngineOptions(threads=1))
    assert [str(one) for one in program.inputs] == ["x float32[?x6x6x4]", "second float32[?x5]"]
    assert [one.name for one in program.outputs] == [c, b, a, n.last]
    assert [one.shape for one in program.outputs] == [(None, 48), (None, 5), (None, 3, 4, 4), (None, 5)]


def test_a_batch_that_is_fixed_in_the_graph_is_fixed_in_the_file():
    n = Net(2, 4, 6, 6)
    n.conv(3, 4, 3)
    program = find_engine("litert").load(to_tflite(n.model()), EngineOptions(threads=1))
    assert program.inputs[0].shape == (2, 6, 6, 4)


def test_steps_as_input_are_steps_in_the_file():
    n = Net("batch", 4, 6, 6, dtype="uint8")
    scale, zero = n.const(np.float32(0.02)), n.const(np.uint8(128))
    n.add("Relu", n.conv(3, 4, 3, n.add("DequantizeLinear", "x", scale, zero)))
    model = n.model()
    content = to_tflite(model)
    spec = find_engine("litert").load(content, EngineOptions(threads=1)).inputs[0]
    assert (spec.dtype, spec.scale, spec.zero_point) == ("int8", pytest.approx(0.02), 0)
    steps = np.random.default_rng(0).integers(0, 256, (1, 4, 6, 6)).astype(np.uint8)
    found = lite_answers(content, {"x": (steps.astype(np.int16) - 128).astype(np.int8)})[0]
    np.testing.assert_allclose(found, onnx_answers(model, {"x": steps})[0], atol=1e-4)


def test_the_same_bytes_come_out_twice_and_weights_are_aligned():
    model = quantized(resnet())
    content = to_tflite(model)
    assert content == to_tflite(model)
    read = schema.Model.GetRootAs(content, 0)
    places = [read.Buffers(place) for place in range(read.BuffersLength())]
    starts = [one._tab.Vector(one._tab.Offset(4)) for one in places if one.DataLength()]
    assert len(starts) > 10 and not any(start % 16 for start in starts)


def test_transposes_and_copies_are_few():
    kinds = [one.kind for one in read_graph(to_tflite(quantized(mobilenet())), "tflite", "")]
    assert "transpose" not in kinds and kinds.count("quantize") == kinds.count("dequantize") == 1
    kinds = [one.kind for one in read_graph(to_tflite(transformer().model()), "tflite", "")]
    assert kinds.count("transpose") == 4 and "gelu" in kinds and "pow" not in kinds


def test_one_scale_for_all_channels_and_16_bits_of_activations():
    for model, apart in (
        (quantized(resnet(), per_channel=False), 0.02),
        (quantized(resnet(), activation_bits=16), 0.001),
    ):
        feeds = feeds_of(model, 4)
        wanted, found = onnx_answers(model, feeds, plain=True)[0], lite_answers(to_tflite(model), feeds)[0]
        assert np.abs(wanted - found).max() < apart


def test_the_malaria_net_gives_the_same_logits():
    bundle = load_bundle("models/malaria/malaria.edge")
    content = bundle.read(bundle.variant("fp32").file)
    check(ir.from_proto(onnx.load_from_string(content)))


@settings(max_examples=40, deadline=None)
@given(
    kernel=st.tuples(*[st.integers(1, 4)] * 2),
    strides=st.tuples(*[st.integers(1, 3)] * 2),
    dilations=st.tuples(*[st.integers(1, 2)] * 2),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    kind=st.sampled_from(["conv", "depthwise", "groups", "max", "mean"]),
    ceil=st.booleans(),
    count=st.booleans(),
)
def test_every_geometry_of_windows(kernel, strides, dilations, pads, kind, ceil, count):
    n = Net("batch", 4, 9, 7)
    if kind in ("max", "mean"):
        pads = tuple(min(pad, side - 1) for pad, side in zip(pads, kernel * 2, strict=True))
        given_ = {"kernel_shape": kernel, "strides": strides, "pads": pads, "ceil_mode": int(ceil)}
        if kind == "max":
            n.add("MaxPool", n.conv(4, 4, 1), **given_)
        else:
            n.add("AveragePool", count_include_pad=int(count), **given_)
    else:
        group = {"conv": 1, "depthwise": 4, "groups": 2}[kind]
        weights = n.random(8, 4 // group, *kernel)
        n.add("Conv", "x", weights, group=group, strides=strides, dilations=dilations, pads=pads)
    check(n.model())
