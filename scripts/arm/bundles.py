"""Bundles of other shapes than the malaria reader's, with random weights: what they answer means nothing, what they
cost is real. Each has the same network four times: fp32 and 8 bit, as ONNX and as TFLite. Needs the development
environment (onnx and ai_edge_litert)."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from machine import ROOT

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.path.insert(0, str(ROOT / "models" / "malaria"))

import onnx_files
import tflite_files
from layers import Floats, Folded, IntLayer, IntNet, Layer

from edge_runtime.packing import MANIFEST, pack_folder

CALIBRATION_IMAGES = 4


@dataclass(frozen=True)
class Shape:
    """`stem`: channels of the first 3x3 convolution (stride 2); a block is (channels, stride), of one depthwise and one
    1x1 convolution where `separable`, else of one whole 3x3."""

    stem: int
    blocks: tuple[tuple[int, int], ...]
    separable: bool = True


SHAPES = {
    "narrow": Shape(8, ((16, 2), (24, 1), (32, 2))),
    "wide": Shape(32, ((96, 2), (128, 1), (192, 2), (192, 1))),
    "dense": Shape(16, ((32, 2), (48, 1), (64, 2)), separable=False),
}


def random_net(shape: Shape, seed: int) -> Folded:
    """Weights spread so that activations keep their size from layer to layer."""
    draw = np.random.default_rng(seed)
    layers: list[Layer] = []

    def add(outputs: int, inputs: int, kernel: int, stride: int, depthwise: bool = False) -> None:
        spread = np.sqrt(2 / (inputs * kernel**2))
        weight = draw.normal(0, spread, (outputs, inputs, kernel, kernel)).astype(np.float32)
        bias = draw.normal(0.05, 0.05, outputs).astype(np.float32)
        layers.append(Layer(weight, bias, stride, depthwise))

    add(shape.stem, 3, 3, 2)
    channels = shape.stem
    for outputs, stride in shape.blocks:
        if shape.separable:
            add(channels, 1, 3, stride, depthwise=True)
            add(outputs, channels, 1, 1)
        else:
            add(outputs, channels, 3, stride)
        channels = outputs
    return Folded(tuple(layers), draw.normal(0, 0.1, 2 * channels).astype(np.float32), 0.0)


def largest_activations(net: Folded, seed: int) -> list[float]:
    """Of each layer on a few random images, by onnxruntime."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "float.onnx")
        onnx_files.write_float(net, path)
        model = onnx.load(path)
    names = [f"r{place}" for place in range(len(net.layers))]
    for name in names:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    size = onnx_files.SIZE
    images = np.random.default_rng(seed).random((CALIBRATION_IMAGES, 3, size, size), np.float32)
    return [float(found.max()) for found in session.run(names, {"image": images})]


def quantized(net: Folded, tops: list[float]) -> IntNet:
    """The integers that the files of the malaria reader have: weights by channel in 7 bits, activations in 8."""
    layers, scale = [], 1 / 255
    for layer, top in zip(net.layers, tops, strict=True):
        scales: Floats = np.maximum(np.abs(layer.weight).max(axis=(1, 2, 3)), 1e-8).astype(np.float32) / np.float32(63)
        weight = np.rint(layer.weight / scales[:, None, None, None]).astype(np.int8)
        bias = np.rint(layer.bias / (scales * np.float32(scale))).astype(np.int32)
        after = max(top, 1e-6) / 255
        layers.append(IntLayer(weight, scales, bias, scale, after, layer.stride, layer.depthwise))
        scale = after
    return IntNet(tuple(layers), net.head, net.head_bias)


def write_bundle(name: str, target: Path) -> Path:
    """The bundle of SHAPES[name] as target/NAME.edge."""
    seed = list(SHAPES).index(name) + 1
    net = random_net(SHAPES[name], seed)
    integers = quantized(net, largest_activations(net, seed))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        onnx_files.write_float(net, folder / "fp32.onnx")
        onnx_files.write_int8(integers, folder / "int8.onnx")
        tflite_files.write_float(net, folder / "fp32.tflite")
        tflite_files.write_int8(integers, folder / "int8.tflite")
        forms = {"fp32": "onnx", "int8": "onnx", "fp32-lite": "tflite", "int8-lite": "tflite"}
        variants = [
            {"name": one, "format": form, "file": f"{one.removesuffix('-lite')}.{form}"} for one, form in forms.items()
        ]
        manifest = {
            "name": name,
            "version": "1.0.0",
            "task": {"kind": "image", "top": 1, "scores": "logits"},
            "labels": ["score"],
            "preprocessing": {"size": [64, 64], "resize": "stretch", "mean": [0.0] * 3, "std": [1.0] * 3},
            "variants": variants,
        }
        (folder / MANIFEST).write_text(json.dumps(manifest))
        return pack_folder(folder, target / f"{name}.edge").path
