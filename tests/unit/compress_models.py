"""Small networks for the tests of compression: random weights from a seed, nothing trained."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, shape_inference


def onnx_file(nodes: list[object], weights: dict[str, np.ndarray], shape: list[object], opset: int = 17) -> bytes:
    """Input "x", output "y"."""
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    result = helper.make_empty_tensor_value_info("y")
    result.type.tensor_type.elem_type = TensorProto.FLOAT
    kept = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", [given], [result], kept)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    model = shape_inference.infer_shapes(model)
    del model.graph.value_info[:]
    checker.check_model(model)
    return bytes(model.SerializeToString())


def small_net(seed: int = 0, classes: int = 3, opset: int = 17) -> bytes:
    """(N,3,16,16): convolution with normalization, a depthwise one, a residual sum, a dense layer."""
    dice = np.random.default_rng(seed)

    def random(*shape: int) -> np.ndarray:
        return (dice.normal(0, 1, shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    weights = {"w1": random(16, 3, 3, 3), "w2": random(16, 1, 3, 3), "w3": random(16, 16, 1, 1), "b3": random(16)}
    weights |= {"d": random(16, classes) / 4, "e": random(classes)}
    weights |= {"gain": np.full(16, 1.5, np.float32), "zero": np.zeros(16, np.float32), "one": np.ones(16, np.float32)}
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], name="first", strides=[2, 2], **pads),
        helper.make_node("BatchNormalization", ["c1", "gain", "zero", "zero", "one"], ["n1"], name="norm"),
        helper.make_node("Relu", ["n1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="filter", group=16, **pads),
        helper.make_node("Relu", ["c2"], ["r2"], name="relu2"),
        helper.make_node("Conv", ["r2", "w3", "b3"], ["c3"], name="mix"),
        helper.make_node("Add", ["c3", "r1"], ["s"], name="sum"),
        helper.make_node("Relu", ["s"], ["r3"], name="relu3"),
        helper.make_node("GlobalAveragePool", ["r3"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "d", "e"], ["y"], name="head"),
    ]
    return onnx_file(nodes, weights, ["batch", 3, 16, 16], opset)


def pictures(count: int = 32, seed: int = 1) -> np.ndarray:
    """(N,3,16,16) float32 from 0 to 1: blobs, not noise."""
    dice = np.random.default_rng(seed)
    coarse = dice.random((count, 3, 4, 4), np.float32)
    return np.clip(coarse.repeat(4, axis=2).repeat(4, axis=3) + dice.normal(0, 0.05, (count, 3, 16, 16)), 0, 1).astype(
        np.float32
    )
