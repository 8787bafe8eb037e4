"""Networks of the shapes that small devices run, with random weights: for scripts/check_prediction.

Two sets, apart: DEVELOPMENT is for whoever changes the cost model, FINAL is for the figure that is told. A network is
a function of a `Net`, which writes ONNX (convolution, normalization and activation as exporters write them) or TFLite.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.micro.flat_bytes import Scalar
from edge_runtime.micro.lite_models import LiteWriter, Tensor
from edge_runtime.micro.shapes import FLOAT, Spec


class OnnxNet:
    """Tensors are names; `shapes` has their sizes, NCHW or as the operator leaves them."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []
        self.shapes: dict[str, tuple[int, ...]] = {}

    def input(self, *shape: int) -> str:
        self.shapes["input"] = shape
        return "input"

    def constant(self, array: Any) -> str:
        name = f"c{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def random(self, *shape: int, fan: int = 1) -> str:
        return self.constant((self.rng.standard_normal(shape) * (2 / fan) ** 0.5).astype(np.float32))

    def node(self, kind: str, inputs: list[str], shape: tuple[int, ...], **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=f"n{len(self.nodes)}", **attributes))
        self.shapes[name] = shape
        return name

    def conv(
        self, x: str, width: int, kernel: Any = 3, stride: Any = 1, act: str = "relu", depthwise: bool = False,
        norm: bool = True,
    ) -> str:  # fmt: skip
        _, channels, *sides = self.shapes[x]
        kernel = (kernel,) * len(sides) if isinstance(kernel, int) else kernel
        stride = (stride,) * len(sides) if isinstance(stride, int) else stride
        total = [max(0, (-(-n // s) - 1) * s + k - n) for n, k, s in zip(sides, kernel, stride, strict=True)]
        pads = [one // 2 for one in total] + [one - one // 2 for one in total]
        shape = (1, width, *(-(-n // s) for n, s in zip(sides, stride, strict=True)))
        inner = 1 if depthwise else channels
        inputs = [x, self.random(width, inner, *kernel, fan=inner * int(np.prod(kernel)))]
        inputs += [] if norm else [self.constant(np.full(width, 0.1, np.float32))]
        group = width if depthwise else 1
        y = self.node("Conv", inputs, shape, kernel_shape=kernel, strides=stride, pads=pads, group=group)
        if norm:
            gains = [self.constant(np.full(width, one, np.float32)) for one in (1.1, 0.1, 0.05, 0.9)]
            y = self.node("BatchNormalization", [y, *gains], shape)
        return self.act(y, act)

    def act(self, x: str, kind: str) -> str:
        shape = self.shapes[x]
        if kind == "relu":
            return self.node("Relu", [x], shape)
        if kind == "relu6":
            return self.node("Clip", [x, self.constant(np.float32(0)), self.constant(np.float32(6))], shape)
        if kind == "hardswish":
            return self.node("HardSwish", [x], shape)
        if kind == "sigmoid":
            return self.node("Sigmoid", [x], shape)
        return x

    def add(self, a: str, b: str) -> str:
        return self.node("Add", [a, b], self.shapes[a])

    def scale(self, x: str, by: str) -> str:
        return self.node("Mul", [x, by], self.shapes[x])

    def concat(self, *parts: str) -> str:
        width = sum(self.shapes[one][1] for one in parts)
        return self.node("Concat", list(parts), (1, width, *self.shapes[parts[0]][2:]), axis=1)

    def pool(self, x: str, kernel: int = 2, stride: int = 2) -> str:
        _, channels, *sides = self.shapes[x]
        total = [max(0, (-(-n // stride) - 1) * stride + kernel - n) for n in sides]
        pads = [one // 2 for one in total] + [one - one // 2 for one in total]
        shape = (1, channels, *(-(-n // stride) for n in sides))
        k, s = [kernel] * len(sides), [stride] * len(sides)
        return self.node("MaxPool", [x], shape, kernel_shape=k, strides=s, pads=pads)

    def planes(self, x: str) -> str:
        return self.node("GlobalAveragePool", [x], (*self.shapes[x][:2], *(1 for _ in self.shapes[x][2:])))

    def flat(self, x: str) -> str:
        return self.node("Flatten", [x], (1, int(np.prod(self.shapes[x]))))

    def dense(self, x: str, width: int, act: str = "") -> str:
        depth = self.shapes[x][-1]
        weight, bias = self.random(depth, width, fan=depth), self.constant(np.full(width, 0.1, np.float32))
        if len(self.shapes[x]) == 2:
            return self.act(self.node("Gemm", [x, weight, bias], (1, width)), act)
        y = self.node("MatMul", [x, weight], (*self.shapes[x][:-1], width))
        return self.act(self.node("Add", [y, bias], self.shapes[y]), act)

    def attention(self, x: str, heads: int) -> str:
        _, rows, width = self.shapes[x]
        part = width // heads
        sizes = self.constant(np.array([1, rows, heads, part], np.int64))
        split = [
            self.node("Transpose", [self.node("Reshape", [self.dense(x, width), sizes], ())], (), perm=order)
            for order in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
        ]
        scores = self.node("MatMul", split[:2], ())
        scores = self.node(
            "Softmax", [self.node("Mul", [scores, self.constant(np.float32(part**-0.5))], ())], (), axis=-1
        )
        mixed = self.node("Transpose", [self.node("MatMul", [scores, split[2]], ())], (), perm=[0, 2, 1, 3])
        joined = self.node("Reshape", [mixed, self.constant(np.array([1, rows, width], np.int64))], (1, rows, width))
        return self.dense(joined, width)

    def norm(self, x: str) -> str:
        width = self.shapes[x][-1]
        gains = [self.constant(np.full(width, one, np.float32)) for one in (1.1, 0.1)]
        return self.node("LayerNormalization", [x, *gains], self.shapes[x], axis=-1)

    def gelu(self, x: str) -> str:
        shape, c = self.shapes[x], lambda n: self.constant(np.float32(n))
        y = self.node("Erf", [self.node("Div", [x, c(2**0.5)], shape)], shape)
        y = self.node("Mul", [x, self.node("Add", [y, c(1)], shape)], shape)
        return self.node("Mul", [y, c(0.5)], shape)

    def save(self, path: Path, output: str) -> None:
        given = helper.make_tensor_value_info("input", TensorProto.FLOAT, self.shapes["input"])
        result = helper.make_tensor_value_info(output, TensorProto.FLOAT, self.shapes[output])
        graph = helper.make_graph(self.nodes, "net", [given], [result], self.tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        path.write_bytes(model.SerializeToString())


class LiteNet:
    """The same words for TFLite, by the writer of the micro-models; fused activations are left out."""

    def __init__(self, seed: int = 0, dtype: str = FLOAT) -> None:
        self.writer = LiteWriter(dtype, np.random.default_rng(seed))
        self.dtype = dtype

    def input(self, *shape: int) -> Tensor:
        _, channels, *sides = shape
        height, width = (*sides, 1)[:2]
        return self.writer._input((1, height, width, channels), self.dtype)

    def conv(
        self, x: Tensor, width: int, kernel: Any = 3, stride: int = 1, act: str = "", depthwise: bool = False
    ) -> Tensor:
        _, height, breadth, channels = x.shape
        rows = -(-height // stride) * (1 if breadth == 1 else -(-breadth // stride))
        area = kernel if breadth == 1 else kernel * kernel
        kind = "depthwise" if depthwise else "conv1x1" if area == 1 else "conv"
        spec = Spec(kind, self.dtype, rows, area if depthwise else area * channels, width, area, stride)
        y = self.writer.apply(spec, x, x)
        return self.act(y, act)

    def act(self, x: Tensor, kind: str) -> Tensor:
        if kind not in ("hardswish", "sigmoid"):
            return x
        return self.writer.apply(Spec(kind, self.dtype, x.shape[1] * x.shape[2], 1, x.shape[3]), x, x)

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return self.writer.apply(Spec("binary", self.dtype, a.shape[1] * a.shape[2], 1, a.shape[3]), a, b)

    def pool(self, x: Tensor, kernel: int = 2, stride: int = 2) -> Tensor:
        rows = -(-x.shape[1] // stride) * -(-x.shape[2] // stride)
        spec = Spec("pool", self.dtype, rows, kernel * kernel, x.shape[3], kernel * kernel, stride)
        return self.writer.apply(spec, x, x)

    def planes(self, x: Tensor) -> Tensor:
        return self.writer.pool(x, self.dtype)

    def flat(self, x: Tensor) -> Tensor:
        return x

    def dense(self, x: Tensor, width: int, act: str = "") -> Tensor:
        depth = int(np.prod(x.shape))
        factors = self.writer._weights((width, depth), Spec("dense", self.dtype, 1, depth, width), 0)
        options = {0: Scalar("b", 0), 2: Scalar("b", 0)}  # planes are flattened
        return self.writer._operator("FULLY_CONNECTED", [x, *factors], (1, width), options)

    def save(self, path: Path, output: Tensor) -> None:
        path.write_bytes(self.writer.finish(output, self.dtype))


# ---------------------------------------------------------------------------------------------------------- networks


def mobilenet_v1(net: Any, alpha: float, side: int) -> Any:
    c = lambda n: max(8, int(n * alpha))  # noqa: E731
    x = net.conv(net.input(1, 3, side, side), c(32), 3, 2, "relu6")
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    before = c(32)
    for width, stride in plan:
        x = net.conv(x, before, 3, stride, "relu6", depthwise=True)
        x, before = net.conv(x, c(width), 1, 1, "relu6"), c(width)
    return net.dense(net.flat(net.planes(x)), 100)


def mobilenet_v2(net: Any, alpha: float, side: int) -> Any:
    c = lambda n: max(8, int(n * alpha + 4) // 8 * 8)  # noqa: E731
    x, before = net.conv(net.input(1, 3, side, side), c(32), 3, 2, "relu6"), c(32)
    plan = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for wide, width, count, first in plan:
        for number in range(count):
            stride, y, inner = first if not number else 1, x, before * wide
            y = net.conv(y, inner, 1, 1, "relu6") if wide > 1 else y
            y = net.conv(y, inner, 3, stride, "relu6", depthwise=True)
            y = net.conv(y, c(width), 1, 1, "")
            x, before = net.add(x, y) if stride == 1 and before == c(width) else y, c(width)
    return net.dense(net.flat(net.planes(net.conv(x, 1280 if alpha > 0.5 else 640, 1, 1, "relu6"))), 100)


def mobilenet_v3(net: Any, side: int, squeeze: bool = True) -> Any:
    x, before = net.conv(net.input(1, 3, side, side), 16, 3, 2, "hardswish"), 16
    plan = [
        (3, 16, 16, True, "relu", 2), (3, 72, 24, False, "relu", 2), (3, 88, 24, False, "relu", 1),
        (5, 96, 40, True, "hardswish", 2), (5, 240, 40, True, "hardswish", 1), (5, 120, 48, True, "hardswish", 1),
        (5, 288, 96, True, "hardswish", 2), (5, 576, 96, True, "hardswish", 1),
    ]  # fmt: skip
    for kernel, inner, width, squeezed, act, stride in plan:
        y = net.conv(x, inner, 1, 1, act)
        y = net.conv(y, inner, kernel, stride, act, depthwise=True)
        if squeezed and squeeze:
            gate = net.conv(net.planes(y), max(8, inner // 4 // 8 * 8), 1, 1, "relu", norm=False)
            y = net.scale(y, net.conv(gate, inner, 1, 1, "sigmoid", norm=False))
        y = net.conv(y, width, 1, 1, "")
        x, before = net.add(x, y) if stride == 1 and before == width else y, width
    return net.dense(net.flat(net.planes(net.conv(x, 576, 1, 1, "hardswish"))), 100)


def squeezenet(net: Any, side: int, scale: int = 1) -> Any:
    x = net.pool(net.conv(net.input(1, 3, side, side), 64 // scale, 3, 2, norm=False), 3)
    for number, (thin, wide) in enumerate([(16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256)]):
        x = net.pool(x, 3) if number in (2, 4) else x
        y = net.conv(x, thin // scale, 1, norm=False)
        parts = (net.conv(y, wide // scale, 1, norm=False), net.conv(y, wide // scale, 3, norm=False))
        x = net.concat(*parts)
    return net.flat(net.planes(net.conv(x, 100, 1, norm=False)))


def resnet(net: Any, side: int, widths: tuple[int, ...], blocks: int, stem: int = 3) -> Any:
    x = net.conv(net.input(1, 3, side, side), widths[0], stem, 2 if stem == 7 else 1)
    x, before = net.pool(x, 3) if stem == 7 else x, widths[0]
    for place, width in enumerate(widths):
        for number in range(blocks):
            stride = 2 if place and not number else 1
            y = net.conv(net.conv(x, width, 3, stride), width, 3, 1, "")
            short = x if stride == 1 and before == width else net.conv(x, width, 1, stride, "")
            x, before = net.act(net.add(short, y), "relu"), width
    return net.dense(net.flat(net.planes(x)), 100)


def vgg(net: Any, side: int, widths: tuple[int, ...], dense: int) -> Any:
    x = net.input(1, 3, side, side)
    for width in widths:
        x = net.pool(net.conv(net.conv(x, width), width))
    return net.dense(net.dense(net.flat(x), dense, "relu"), 10)


def keyword(net: Any, width: int, blocks: int = 4) -> Any:
    x = net.conv(net.input(1, 1, 49, 10), width, (10, 4), 2)
    for _ in range(blocks):
        x = net.conv(net.conv(x, width, 3, 1, depthwise=True), width, 1)
    return net.dense(net.flat(net.planes(x)), 12)


def autoencoder(net: Any, size: int, width: int, thin: int) -> Any:
    x = net.input(1, size)
    for one in (width, width, width, width, thin, width, width, width, width):
        x = net.dense(x, one, "relu")
    return net.dense(x, size)


def transformer(net: Any, rows: int, width: int, layers: int, heads: int) -> Any:
    x = net.input(1, rows, width)
    for _ in range(layers):
        x = net.norm(net.add(x, net.attention(x, heads)))
        x = net.norm(net.add(x, net.dense(net.gelu(net.dense(x, 4 * width)), width)))
    return x


def vibration(net: Any, length: int, width: int) -> Any:
    x = net.conv(net.input(1, 1, length), width, 64, 8)
    for times in (2, 4, 4, 4):
        x = net.pool(net.conv(x, times * width, 3))
    return net.dense(net.dense(net.flat(net.planes(x)), 100, "relu"), 10)


def unet(net: Any, side: int, width: int) -> Any:
    x, kept = net.input(1, 1, side, side), []
    for times in (1, 2, 4):
        x = net.conv(net.conv(x, times * width), times * width)
        kept.append(x)
        x = net.pool(x)
    x = net.conv(x, 8 * width)
    for times, skip in zip((4, 2, 1), reversed(kept), strict=True):
        shape = (1, net.shapes[x][1], *net.shapes[skip][2:])
        none, factors = net.constant(np.zeros(0, np.float32)), net.constant(np.array([1, 1, 2, 2], np.float32))
        x = net.node("Resize", [x, none, factors], shape, mode="nearest")
        x = net.conv(net.concat(x, skip), times * width)
    return net.conv(x, 1, 1, 1, "sigmoid", norm=False)


# ---------------------------------------------------------------------------------------------------------- the sets

Build = Callable[[Any], Any]
# name -> (network, "onnx", "onnx-int8", "lite" or "lite-int8")
DEVELOPMENT: dict[str, tuple[Build, str]] = {
    "MobileNetV1 0.25, 96": (lambda n: mobilenet_v1(n, 0.25, 96), "onnx"),
    "MobileNetV2 0.35, 96": (lambda n: mobilenet_v2(n, 0.35, 96), "onnx"),
    "ResNet-20, 32": (lambda n: resnet(n, 32, (16, 32, 64), 3), "onnx"),
    "SqueezeNet half, 96": (lambda n: squeezenet(n, 96, 2), "onnx"),
    "autoencoder 256": (lambda n: autoencoder(n, 256, 64, 16), "onnx"),
    "transformer 32 x 64": (lambda n: transformer(n, 32, 64, 2, 2), "onnx"),
    "vibration 1024": (lambda n: vibration(n, 1024, 8), "onnx"),
    "keyword 32": (lambda n: keyword(n, 32), "onnx"),
    "MobileNetV3, 96": (lambda n: mobilenet_v3(n, 96), "onnx"),
    "MobileNetV1 0.25, 96, int8": (lambda n: mobilenet_v1(n, 0.25, 96), "onnx-int8"),
    "ResNet-20, int8": (lambda n: resnet(n, 32, (16, 32, 64), 3), "onnx-int8"),
    "keyword 32, int8": (lambda n: keyword(n, 32), "onnx-int8"),
    "MobileNetV1 0.25, lite": (lambda n: mobilenet_v1(n, 0.25, 96), "lite"),
    "ResNet-20, lite": (lambda n: resnet(n, 32, (16, 32, 64), 3), "lite"),
    "MobileNetV2 0.35, lite int8": (lambda n: mobilenet_v2(n, 0.35, 96), "lite-int8"),
}
FINAL: dict[str, tuple[Build, str]] = {
    "MobileNetV1 0.5, 160": (lambda n: mobilenet_v1(n, 0.5, 160), "onnx"),
    "MobileNetV2 1.0, 160": (lambda n: mobilenet_v2(n, 1.0, 160), "onnx"),
    "MobileNetV3 small, 224": (lambda n: mobilenet_v3(n, 224), "onnx"),
    "SqueezeNet 1.1, 224": (lambda n: squeezenet(n, 224), "onnx"),
    "ResNet-18, 160": (lambda n: resnet(n, 160, (64, 128, 256, 512), 2, 7), "onnx"),
    "VGG, 64": (lambda n: vgg(n, 64, (32, 64, 128), 256), "onnx"),
    "keyword DS-CNN 64": (lambda n: keyword(n, 64), "onnx"),
    "autoencoder 640": (lambda n: autoencoder(n, 640, 128, 8), "onnx"),
    "transformer 64 x 128": (lambda n: transformer(n, 64, 128, 3, 4), "onnx"),
    "vibration 4096": (lambda n: vibration(n, 4096, 16), "onnx"),
    "U-Net, 128": (lambda n: unet(n, 128, 8), "onnx"),
    "MobileNetV2 1.0, 160, int8": (lambda n: mobilenet_v2(n, 1.0, 160), "onnx-int8"),
    "ResNet-18, 160, int8": (lambda n: resnet(n, 160, (64, 128, 256, 512), 2, 7), "onnx-int8"),
    "SqueezeNet 1.1, 224, int8": (lambda n: squeezenet(n, 224), "onnx-int8"),
    "MobileNetV1 0.5, 160, lite": (lambda n: mobilenet_v1(n, 0.5, 160), "lite"),
    "MobileNetV2 1.0, 160, lite": (lambda n: mobilenet_v2(n, 1.0, 160), "lite"),
    "VGG, 64, lite": (lambda n: vgg(n, 64, (32, 64, 128), 256), "lite"),
    "MobileNetV1 0.5, 160, lite int8": (lambda n: mobilenet_v1(n, 0.5, 160), "lite-int8"),
    "ResNet-18, 160, lite int8": (lambda n: resnet(n, 160, (64, 128, 256, 512), 2, 7), "lite-int8"),
}


def write_models(folder: Path, which: dict[str, tuple[Build, str]], malaria: bool) -> dict[str, Path]:
    """All of a set as files; with `malaria` also the four variants of the bundle that is shipped."""
    made = {}
    for number, (name, (build, form)) in enumerate(which.items()):
        path = folder / f"{number}.{'tflite' if form.startswith('lite') else 'onnx'}"
        if form.startswith("lite"):
            lite = LiteNet(number, "int8" if form.endswith("int8") else FLOAT)
            lite.save(path, build(lite))
        else:
            net = OnnxNet(number)
            net.save(path, build(net))
            if form == "onnx-int8":
                _quantize(path, net.shapes["input"], number)
        made[name] = path
    if malaria:
        from edge_runtime.bundle import load_bundle

        bundle = load_bundle("malaria")
        for variant in bundle.variants:
            path = folder / f"malaria-{variant.name}.{variant.format}"
            path.write_bytes(bundle.read(variant.file))
            made[f"malaria {variant.name}"] = path
    return made


def _quantize(path: Path, shape: tuple[int, ...], seed: int) -> None:
    """By onnxruntime's own tool: unsigned activations, signed weights by channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Noise(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = 4
            self.rng = np.random.default_rng(seed)

        def get_next(self) -> Any:
            self.left -= 1
            return {"input": self.rng.standard_normal(shape).astype(np.float32)} if self.left >= 0 else None

    logging.disable(logging.WARNING)  # it advises a pre-processing that changes nothing here
    kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True}
    quantize_static(str(path), str(path), Noise(), **kinds)
