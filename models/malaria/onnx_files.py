"""The network as ONNX: `image` float32 [batch,3,64,64] in 0-1, `logit` float32 [batch,1], plain opset 13."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from layers import Folded, IntNet
from onnx import TensorProto, helper, numpy_helper

SIZE = 64
OPSET, IR_VERSION = 13, 8


def _attributes(weight: np.ndarray, stride: int, depthwise: bool) -> dict[str, object]:
    kernel = weight.shape[-1]
    before, after = (0, 1) if stride == 2 else (kernel // 2, kernel // 2)
    return {
        "kernel_shape": [kernel, kernel], "strides": [stride, stride], "pads": [before, before, after, after],
        "group": len(weight) if depthwise else 1,
    }  # fmt: skip


def _head(last: str, head: np.ndarray, bias: float, constants: list[onnx.TensorProto]) -> Iterator[onnx.NodeProto]:
    constants.append(numpy_helper.from_array(head[:, None].astype(np.float32), "head"))
    constants.append(numpy_helper.from_array(np.array([bias], np.float32), "head_bias"))
    yield helper.make_node("GlobalAveragePool", [last], ["average"])
    yield helper.make_node("GlobalMaxPool", [last], ["maximum"])
    yield helper.make_node("Concat", ["average", "maximum"], ["pooled"], axis=1)
    yield helper.make_node("Flatten", ["pooled"], ["flat"])
    yield helper.make_node("Gemm", ["flat", "head", "head_bias"], ["logit"])


def _save(nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto], path: Path) -> None:
    graph = helper.make_graph(
        nodes,
        "malaria",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logit", TensorProto.FLOAT, ["batch", 1])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    model.producer_name = "edge_runtime"
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def write_float(net: Folded, path: Path) -> None:
    nodes, constants, last = [], [], "image"
    for place, layer in enumerate(net.layers):
        constants.append(numpy_helper.from_array(layer.weight, f"w{place}"))
        constants.append(numpy_helper.from_array(layer.bias, f"b{place}"))
        options = _attributes(layer.weight, layer.stride, layer.depthwise)
        nodes.append(helper.make_node("Conv", [last, f"w{place}", f"b{place}"], [f"c{place}"], **options))
        nodes.append(helper.make_node("Relu", [f"c{place}"], [f"r{place}"]))
        last = f"r{place}"
    nodes += _head(last, net.head, net.head_bias, constants)
    _save(nodes, constants, path)


def write_int8(net: IntNet, path: Path) -> None:
    """QLinearConv by QLinearConv: nothing is left to an optimiser, and ReLU is the lower end of the unsigned range."""
    constants = [numpy_helper.from_array(np.array(0, np.uint8), "zero")]

    def scalar(name: str, value: float) -> str:
        constants.append(numpy_helper.from_array(np.array(value, np.float32), name))
        return name

    nodes = [helper.make_node("QuantizeLinear", ["image", scalar("s", net.layers[0].input_scale), "zero"], ["q"])]
    last, scale = "q", "s"
    for place, layer in enumerate(net.layers):
        names = [f"w{place}", f"ws{place}", f"wz{place}", f"b{place}"]
        zeros = np.zeros(len(layer.scales), np.int8)
        for name, value in zip(names, (layer.weight, layer.scales, zeros, layer.bias), strict=True):
            constants.append(numpy_helper.from_array(value, name))
        out = scalar(f"s{place}", layer.output_scale)
        inputs = [last, scale, "zero", *names[:3], out, "zero", names[3]]
        options = _attributes(layer.weight, layer.stride, layer.depthwise)
        nodes.append(helper.make_node("QLinearConv", inputs, [f"q{place}"], **options))
        last, scale = f"q{place}", out
    nodes.append(helper.make_node("DequantizeLinear", [last, scale, "zero"], ["map"]))
    nodes += _head("map", net.head, net.head_bias, constants)
    _save(nodes, constants, path)
