"""Quantized operators in LiteRT are within one step of onnxruntime's, and compute in integers where they should."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from edge_runtime.compress.graph import read_graph
from edge_runtime.compress.tflite_write import to_tflite
from tests.unit.tflite_samples import Net, feeds_of, lite_answers, onnx_answers, quantized

Build = Callable[[Net], object]


def steps_apart(model: ir.Model, content: bytes, feeds: dict[str, np.ndarray]) -> float:
    """The largest difference in steps of the output."""
    last = model.graph.outputs[0].producer()
    assert last is not None and last.op_type == "DequantizeLinear" and last.inputs[1] is not None
    scale = float(last.inputs[1].const_value.numpy())  # type: ignore[union-attr]
    wanted = onnx_answers(model, feeds)[0]
    return max(float(np.abs(lite_answers(content, feeds, one)[0] - wanted).max() / scale) for one in (True, False))


BODIES: dict[str, Build] = {
    "nothing": lambda n: None,
    "relu": lambda n: n.add("Relu"),
    "clip": lambda n: n.add("Clip", n.last, n.const(np.float32(0)), n.const(np.float32(6))),
    "groups": lambda n: n.conv(8, 8, 3, group=2),
    "depthwise": lambda n: n.conv(8, 8, 3, group=8, pads=[1, 1, 1, 1]),
    "strides": lambda n: n.conv(8, 8, 3, strides=[2, 2], pads=[1, 1, 1, 1]),
    "back": lambda n: n.add("ConvTranspose", n.last, n.random(8, 8, 2, 2), n.random(8), strides=[2, 2]),
    "max pool": lambda n: n.add("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "max pool of relu": lambda n: n.add("MaxPool", n.add("Relu"), kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "mean pool": lambda n: n.add("AveragePool", kernel_shape=[2, 2], strides=[2, 2]),
    "mean pool, pads": lambda n: n.add("AveragePool", kernel_shape=[3, 3], pads=[1, 0, 1, 0]),
    "global": lambda n: n.add("GlobalAveragePool"),
    "add": lambda n: n.add("Add", n.last, n.conv(8, 8, 1, n.last)),
    "mul": lambda n: n.add("Mul", n.last, n.conv(8, 8, 1, n.last)),
    "add a constant": lambda n: n.add("Add", n.last, n.random(8, 1, 1)),
    "concat": lambda n: n.add("Concat", n.last, n.conv(8, 8, 1, n.last), axis=2),
    "sigmoid": lambda n: n.add("Sigmoid"),
    "softmax": lambda n: n.add("Softmax", axis=1),
    "tanh": lambda n: n.add("Tanh"),
    "leaky": lambda n: n.add("LeakyRelu"),
    "hard swish": lambda n: n.add("HardSwish"),
    "pad": lambda n: n.add("Pad", n.last, n.const([0, 0, 1, 1, 0, 0, 1, 1])),
    "nearest": lambda n: n.add("Resize", n.last, "", n.const(np.float32([1, 1, 2, 2]))),
    "linear": lambda n: n.add("Resize", n.last, "", n.const(np.float32([1, 1, 2, 2])), mode="linear"),
    "transpose": lambda n: n.add("Transpose", perm=[0, 1, 3, 2]),
    "slice": lambda n: n.add("Slice", n.last, n.const([1]), n.const([5]), n.const([2])),
    "split": lambda n: n.add("Add", n.add("Split", outputs=2, axis=2, num_outputs=2), f"{n.last[:-1]}1"),
    "reduced": lambda n: n.add("ReduceMean", n.last, n.const([2, 3])),
}


# LiteRT has no integer kernel for them, or not with these scales
FLOAT_PARTS = ("mean pool, pads", "tanh", "hard swish", "linear")


def around(build: Build) -> Net:
    """A convolution, what is tested, a convolution."""
    n = Net("batch", 4, 8, 8)
    n.conv(8, 4, 3)
    build(n)
    n.conv(5, 8, 1)
    return n


@pytest.mark.parametrize("name", BODIES)
def test_steps_are_at_most_one_apart(name: str):
    model = quantized(around(BODIES[name]))
    content = to_tflite(model)
    assert steps_apart(model, content, feeds_of(model, 1, seed=11)) < 1.01
    kinds = [one.kind for one in read_graph(content, "tflite", "")]
    assert (kinds.count("quantize") == kinds.count("dequantize") == 1) is (name not in FLOAT_PARTS)
