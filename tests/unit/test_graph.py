"""A model's operators as the engine runs them: what is fused is one, what is free is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.bundle import load_bundle
from edge_runtime.compress.graph import read_graph
from edge_runtime.errors import InputError, UsageError
from edge_runtime.operators import Node


def onnx_bytes(nodes: list[object], tensors: dict[str, np.ndarray], shape: list[object]) -> bytes:
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    result = helper.make_empty_tensor_value_info("y")
    result.type.tensor_type.elem_type = TensorProto.FLOAT
    kept = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    graph = helper.make_graph(nodes, "g", [given], [result], kept)
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )


def test_convolution_normalization_and_activation_are_one_and_reshapes_are_free():
    gains = {name: np.full(16, one, np.float32) for name, one in (("g", 1), ("b", 0), ("m", 0), ("v", 1))}
    tensors = {"w": np.full((16, 3, 3, 3), 0.1, np.float32), "d": np.full((16, 5), 0.1, np.float32), **gains}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "d"], ["y"]),
    ]
    found = read_graph(onnx_bytes(nodes, tensors, ["batch", 3, 32, 32]), "onnx", "aarch64")
    assert [one.kind for one in found] == ["conv", "globalpool", "dense"]
    first, plane, dense = found
    assert (first.rows, first.depth, first.width, first.kernel, first.stride) == (256, 27, 16, 9, 2)
    assert (plane.rows, plane.width, dense.rows, dense.depth, dense.width) == (256, 16, 1, 16, 5)


def test_groups_depthwise_products_of_two_inputs_and_what_is_not_known():
    rng = np.random.default_rng(0)
    tensors = {"a": rng.random((8, 1, 3, 3), np.float32), "b": rng.random((8, 4, 1, 3), np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["c"], pads=[1, 1, 1, 1], group=8),
        helper.make_node("Conv", ["c", "b"], ["d"], pads=[0, 1, 0, 1], group=2),
        helper.make_node("Transpose", ["d"], ["t"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["d", "t"], ["e"]),
        helper.make_node("Det", ["e"], ["y"]),
    ]
    found = read_graph(onnx_bytes(nodes, tensors, [1, 8, 6, 6]), "onnx", "aarch64")
    kinds = {one.kind: one for one in found}
    depthwise, group, product = kinds["depthwise"], kinds["conv"], kinds["matmul"]
    assert (depthwise.depth, depthwise.width, depthwise.count) == (9, 8, 1)
    assert (group.depth, group.width, group.count, group.kernel) == (12, 4, 2, 3)
    assert (product.rows, product.depth, product.width, product.count) == (6, 6, 6, 8)
    assert "Det" in kinds


def test_the_four_variants_of_the_malaria_bundle():
    bundle = load_bundle("malaria")
    found = {one.name: read_graph(bundle.read(one.file), one.format, "aarch64") for one in bundle.variants}
    layers = [
        [node for node in nodes if node.kind in ("conv", "conv1x1", "depthwise", "dense")] for nodes in found.values()
    ]
    plain = [[(one.kind, one.rows, one.depth, one.width, one.stride) for one in nodes] for nodes in layers]
    assert plain[0] == plain[1] == plain[2] == plain[3]
    assert len(plain[0]) == 10
    dtypes = {name: {node.dtype for node in nodes if node.kind == "depthwise"} for name, nodes in found.items()}
    assert dtypes == {"fp32": {"float32"}, "int8": {"uint8"}, "fp32-lite": {"float32"}, "int8-lite": {"int8"}}


def test_a_tflite_file(models: Path):
    found = read_graph(models / "int8.tflite", "tflite", "aarch64")
    assert [(one.kind, one.dtype) for one in found] == [("copy", "int8"), ("copy", "int8"), ("globalpool", "int8")]
    assert (found[2].rows, found[2].width) == (64, 3)
    assert isinstance(found[2], Node)


@pytest.mark.parametrize("format_", ["onnx", "tflite"])
@pytest.mark.parametrize("cut", [0, 8, 100, -40])
def test_damaged_models_are_our_own_error(models: Path, format_: str, cut: int):
    content = (models / f"fp32.{format_}").read_bytes()
    damaged = content[:cut] if cut else b"hello" * 10
    with pytest.raises(InputError, match="."):
        read_graph(damaged, format_, "aarch64")


def test_free_sizes_and_other_formats_are_refused():
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    with pytest.raises(InputError, match="wanted fixed sizes after the first"):
        read_graph(onnx_bytes(nodes, {}, [1, "height"]), "onnx", "aarch64")
    with pytest.raises(UsageError, match="found the format 'ort'"):
        read_graph(b"", "ort", "aarch64")
