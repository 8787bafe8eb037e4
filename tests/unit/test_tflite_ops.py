"""Every operator that is written as TFLite gives in LiteRT what it gives in onnxruntime, with XNNPACK and without."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.unit.tflite_samples import Net, check

Build = Callable[[Net], object]
IMAGE = ("batch", 4, 10, 12)


def image(name: str, build: Build) -> object:
    return pytest.param(IMAGE, build, id=name)


def rows(name: str, build: Build) -> object:
    return pytest.param(("batch", 6, 8), build, id=name)


def f(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32)


CONVOLUTIONS = [
    image("plain", lambda n: n.conv(8, 4, 3)),
    image("same", lambda n: n.conv(8, 4, 3, pads=[1, 1, 1, 1])),
    image("strides", lambda n: n.conv(8, 4, 3, pads=[1, 1, 1, 1], strides=[2, 2])),
    image("one-sided pads", lambda n: n.conv(8, 4, 3, pads=[2, 0, 1, 3], strides=[2, 1])),
    image("dilations", lambda n: n.conv(8, 4, 3, pads=[2, 2, 2, 2], dilations=[2, 2])),
    image("no bias", lambda n: n.conv(8, 4, 5, pads=[2, 2, 2, 2], bias=False)),
    image("groups", lambda n: n.conv(8, 4, 3, group=2)),
    image("depthwise", lambda n: n.conv(4, 4, 3, pads=[1, 1, 1, 1], group=4)),
    image("depthwise, two filters each", lambda n: n.conv(8, 4, 3, group=4)),
    image("depthwise, dilated", lambda n: n.conv(4, 4, 3, pads=[2, 2, 2, 2], group=4, dilations=[2, 2])),
    image("auto upper", lambda n: n.conv(8, 4, 3, auto_pad="SAME_UPPER", strides=[2, 2])),
    image("auto lower", lambda n: n.conv(8, 4, 4, auto_pad="SAME_LOWER")),
    image("auto valid", lambda n: n.conv(8, 4, 3, auto_pad="VALID")),
    image("back", lambda n: n.add("ConvTranspose", "x", n.random(4, 6, 2, 2), n.random(6), strides=[2, 2])),
    image("back, cut", lambda n: n.add("ConvTranspose", "x", n.random(4, 6, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1])),
    image(
        "back, output padding",
        lambda n: n.add(
            "ConvTranspose", "x", n.random(4, 6, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]
        ),
    ),
    rows("signal", lambda n: n.add("Conv", "x", n.random(5, 6, 3), n.random(5), pads=[1, 1])),
    rows("signal, strides", lambda n: n.add("Conv", "x", n.random(5, 6, 3), pads=[2, 0], strides=[2])),
    rows("signal, depthwise", lambda n: n.add("Conv", "x", n.random(6, 1, 3), n.random(6), group=6)),
    rows("signal, pool", lambda n: (n.add("Conv", "x", n.random(5, 6, 3)), n.add("MaxPool", kernel_shape=[2]))),
]
PRODUCTS = [
    rows("rows", lambda n: n.add("MatMul", "x", n.random(8, 5))),
    rows("rows and bias", lambda n: n.add("Add", n.add("MatMul", "x", n.random(8, 5)), n.random(5))),
    rows("bias before", lambda n: n.add("Add", n.random(5), n.add("MatMul", "x", n.random(8, 5)))),
    rows("itself", lambda n: n.add("MatMul", "x", n.add("Transpose", "x", perm=[0, 2, 1]))),
    rows("stacked weights", lambda n: n.add("MatMul", "x", n.random(1, 8, 5))),
    pytest.param(("n", 8), lambda n: n.add("Gemm", "x", n.random(8, 5), n.random(5)), id="gemm"),
    pytest.param(
        ("n", 8), lambda n: n.add("Gemm", "x", n.random(5, 8), n.random(1), transB=1, alpha=0.5, beta=2.0), id="alpha"
    ),
    pytest.param(("n", 8), lambda n: n.add("Gemm", "x", n.random(8, 5)), id="no bias"),
    pytest.param((3, 8), lambda n: n.add("Gemm", "x", "x", n.random(3, 3), transB=1), id="gemm of two"),
]
POOLS = [
    image("max", lambda n: n.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])),
    image("max, pads", lambda n: n.add("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])),
    image("max, ceil", lambda n: n.add("MaxPool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)),
    image("mean", lambda n: n.add("AveragePool", kernel_shape=[2, 2], strides=[2, 2])),
    image("mean, same", lambda n: n.add("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1])),
    image("mean, pads counted", lambda n: n.add("AveragePool", kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1)),
    image("mean, pads", lambda n: n.add("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])),
    image("mean, ceil", lambda n: n.add("AveragePool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)),
    image(
        "mean, ceil, pads counted",
        lambda n: n.add(
            "AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4, ceil_mode=1, count_include_pad=1
        ),
    ),
    image("global mean", lambda n: n.add("GlobalAveragePool")),
    image("global max", lambda n: n.add("GlobalMaxPool")),
    image("reduced", lambda n: n.add("ReduceMean", n.conv(4, 4, 1), n.const([2, 3]), keepdims=0)),
    image("reduced channels", lambda n: n.add("ReduceMax", n.conv(4, 4, 1), n.const([1]))),
    image("reduced, one side", lambda n: n.add("ReduceMin", n.conv(4, 4, 1), n.const([-1]), keepdims=0)),
    rows("sum", lambda n: n.add("ReduceSum", "x", n.const([1]), keepdims=0)),
    rows("norm", lambda n: n.add("ReduceL2", "x", n.const([-1]))),
    rows("signal", lambda n: n.add("AveragePool", kernel_shape=[3], pads=[1, 1])),
    rows("signal, global", lambda n: n.add("GlobalAveragePool")),
    image("nearest", lambda n: resize(n, "nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")),
    image("nearest, half", lambda n: resize(n, "nearest")),
    image("linear", lambda n: resize(n, "linear")),
    image("linear, torch", lambda n: resize(n, "linear", coordinate_transformation_mode="pytorch_half_pixel")),
    image("linear, corners", lambda n: resize(n, "linear", coordinate_transformation_mode="align_corners")),
    image("linear, asymmetric", lambda n: resize(n, "linear", coordinate_transformation_mode="asymmetric")),
]
NUMBERS = [
    *(
        image(kind, lambda n, kind=kind: n.add(kind, n.conv(4, 4, 1)))
        for kind in ("Relu", "Sigmoid", "Tanh", "HardSwish")
    ),
    *(
        rows(kind, lambda n, kind=kind: n.add(kind))
        for kind in ("Neg", "Abs", "Exp", "Erf", "Floor", "Ceil", "Sin", "Cos")
    ),
    *(rows(kind, lambda n, kind=kind: n.add(kind, n.add("Exp"))) for kind in ("Sqrt", "Log", "Reciprocal")),
    *(
        image(kind, lambda n, kind=kind: n.add(kind, n.conv(4, 4, 1), n.random(4, 1, 1)))
        for kind in ("Add", "Sub", "Mul", "Div", "Min", "Max")
    ),
    image("two images", lambda n: n.add("Add", n.conv(4, 4, 1), n.conv(4, 4, 1, "x"))),
    image("constant first", lambda n: n.add("Sub", n.const(f(1.0)), n.conv(4, 4, 1))),
    image("image and its mean", lambda n: n.add("Mul", n.conv(4, 4, 1), n.add("GlobalAveragePool", "x"))),
    rows("image and a row", lambda n: n.add("Add", "x", n.add("ReduceMean", "x", n.const([0, 1]), keepdims=0))),
    rows("three at once", lambda n: n.add("Max", "x", n.const(f(0.1)), n.add("Neg", "x"))),
    rows("square", lambda n: n.add("Pow", "x", n.const(f(2)))),
    rows("power", lambda n: n.add("Pow", n.add("Abs"), n.const(f(1.5)))),
    image("clip to 6", lambda n: n.add("Clip", n.conv(4, 4, 1), n.const(np.float32(0)), n.const(np.float32(6)))),
    rows("clip to 6 alone", lambda n: n.add("Clip", "x", n.const(np.float32(0)), n.const(np.float32(6)))),
    rows("clip to 1", lambda n: n.add("Clip", "x", n.const(np.float32(-1)), n.const(np.float32(1)))),
    rows("clip", lambda n: n.add("Clip", "x", n.const(np.float32(-0.3)), n.const(np.float32(0.7)))),
    rows("clip above", lambda n: n.add("Clip", "x", "", n.const(np.float32(0.7)))),
    rows("clip below", lambda n: n.add("Clip", "x", n.const(np.float32(0.2)))),
    rows("leaky", lambda n: n.add("LeakyRelu", alpha=0.2)),
    image("slopes", lambda n: n.add("PRelu", n.conv(4, 4, 1), n.random(4, 1, 1))),
    rows("elu", lambda n: n.add("Elu")),
    rows("hard sigmoid", lambda n: n.add("HardSigmoid", alpha=0.3)),
    image("hard swish of two", lambda n: n.add("Mul", n.conv(4, 4, 1), n.add("HardSigmoid", alpha=1 / 6))),
    rows("gelu", lambda n: n.add("Gelu")),
    rows("gelu near", lambda n: n.add("Gelu", approximate="tanh")),
    image("softmax of channels", lambda n: n.add("Softmax", n.conv(4, 4, 1), axis=1)),
    image("softmax of rows", lambda n: n.add("Softmax", n.conv(4, 4, 1), axis=-1)),
    rows("softmax first", lambda n: n.add("Softmax", axis=1)),
    rows("log softmax", lambda n: n.add("LogSoftmax")),
    rows("norm", lambda n: n.add("LayerNormalization", "x", n.random(8), n.random(8))),
    rows("norm without bias", lambda n: n.add("LayerNormalization", "x", n.random(6, 8), axis=1, epsilon=0.01)),
    image("norm of images", lambda n: n.add("InstanceNormalization", "x", n.random(4), n.random(4))),
    image("batch norm", lambda n: batch_norm(n)),
    rows("where", lambda n: n.add("Where", n.add("Greater", "x", n.const(f(0))), "x", n.const(f(-9)))),
    rows("arg max", lambda n: n.add("ArgMax", axis=-1)),
    rows("arg max, no axis kept", lambda n: n.add("ArgMax", axis=1, keepdims=0)),
]
MOVES = [
    image("concat", lambda n: n.add("Concat", n.conv(4, 4, 1), n.conv(3, 4, 1, "x"), axis=1)),
    image("concat along height", lambda n: n.add("Concat", n.conv(4, 4, 1), "x", axis=2)),
    rows("concat with a constant", lambda n: n.add("Concat", n.random(1, 6, 8), "x", axis=0)),
    image("flatten", lambda n: (n.conv(4, 4, 1), n.add("Flatten"))),
    image("flatten, dense", lambda n: (n.conv(4, 4, 1), n.add("Flatten"), n.add("MatMul", n.last, n.random(480, 3)))),
    image(
        "flatten, dropout, dense",
        lambda n: (n.add("Dropout", n.add("Flatten", n.conv(4, 4, 1))), n.add("Gemm", n.last, n.random(480, 3))),
    ),
    image("mean, flatten", lambda n: (n.add("GlobalAveragePool", n.conv(4, 4, 1)), n.add("Flatten"))),
    image("reshape", lambda n: n.add("Reshape", n.conv(4, 4, 1), n.const([0, 4, -1]))),
    image("squeeze", lambda n: n.add("Squeeze", n.add("GlobalAveragePool", n.conv(4, 4, 1)), n.const([2, 3]))),
    rows("squeeze all", lambda n: n.add("Squeeze", n.add("ReduceMax", "x", n.const([1])))),
    image("channels shuffled", lambda n: shuffle(n)),
    image("places as rows", lambda n: n.add("MatMul", places(n), n.random(4, 5))),
    image("places merged and the channels split", lambda n: n.add("Reshape", n.conv(4, 4, 1), n.const([0, 2, 2, 120]))),
    rows("signal's mean as torch writes it", lambda n: torch_mean(n)),
    rows("unsqueeze", lambda n: n.add("Unsqueeze", "x", n.const([1]))),
    rows("shape", lambda n: n.add("Reshape", "x", n.add("Concat", batch_of(n), n.const([-1]), axis=0))),
    image("transpose", lambda n: n.add("Transpose", n.conv(4, 4, 1), perm=[0, 2, 3, 1])),
    image("transpose odd", lambda n: n.add("Transpose", n.conv(4, 4, 1), perm=[0, 3, 1, 2])),
    image("slice", lambda n: n.add("Slice", n.conv(4, 4, 1), *map(n.const, ([1, 2], [3, 99], [1, 3], [1, 3])))),
    rows("slice back", lambda n: n.add("Slice", "x", *map(n.const, ([-1], [-99], [2], [-2])))),
    image("split", lambda n: n.add("Mul", n.add("Split", n.conv(4, 4, 1), outputs=2, num_outputs=2, axis=1), "t1_1")),
    rows("split unequal", lambda n: n.add("Split", "x", n.const([3, 5]), outputs=2, axis=-1)),
    image("pad", lambda n: n.add("Pad", n.conv(4, 4, 1), n.const([0, 0, 1, 2, 0, 1, 0, 3]))),
    rows("pad with", lambda n: n.add("Pad", "x", n.const([1, 2]), n.const(np.float32(7)), n.const([2]))),
    rows("reflect", lambda n: n.add("Pad", "x", n.const([0, 0, 2, 0, 0, 2]), mode="reflect")),
    rows("take one", lambda n: n.add("Gather", "x", n.const(-2), axis=1)),
    rows("take some", lambda n: n.add("Gather", "x", n.const([1, -1]), axis=1)),
    rows("tile", lambda n: n.add("Tile", "x", n.const([1, 2, 3]))),
    rows("expand", lambda n: n.add("Expand", n.add("ReduceMean", "x", n.const([2])), n.const([1, 6, 3]))),
    image("depth to space", lambda n: n.add("DepthToSpace", n.conv(8, 4, 1), blocksize=2)),
    image("space to depth", lambda n: n.add("SpaceToDepth", n.conv(4, 4, 1), blocksize=2)),
    rows("identity", lambda n: n.add("Identity")),
    rows("cast", lambda n: n.add("Cast", n.add("Cast", to=7), to=1)),
    rows("sizes", lambda n: n.add("Mul", "x", n.add("Cast", n.add("Size", n.add("Shape", "x")), to=1))),
]


def resize(n: Net, mode: str, **attributes: str) -> None:
    n.add("Resize", n.conv(4, 4, 1), "", n.const(f(1, 1, 2, 2)), mode=mode, **attributes)


def batch_norm(n: Net) -> None:
    variance = n.const(np.abs(n.rng.standard_normal(4)).astype(np.float32))
    n.add("BatchNormalization", n.conv(4, 4, 1), n.random(4), n.random(4), n.random(4), variance)


def shuffle(n: Net) -> None:
    n.add("Reshape", n.conv(6, 4, 1), n.const([0, 2, 3, 10, 12]))
    n.conv(6, 6, 1, n.add("Reshape", n.add("Transpose", perm=[0, 2, 1, 3, 4]), n.const([0, 6, 10, 12])))


def places(n: Net) -> str:
    """What a vision transformer does behind its first convolution."""
    return n.add("Transpose", n.add("Reshape", n.conv(4, 4, 1), n.const([0, 4, -1])), perm=[0, 2, 1])


def torch_mean(n: Net) -> None:
    """AdaptiveAvgPool1d(1)."""
    wide = n.add("Unsqueeze", n.add("Conv", "x", n.random(5, 6, 3), pads=[1, 1]), n.const([2]))
    n.add("Squeeze", n.add("ReduceMean", wide, n.const([2, 3])), n.const([2]))


def batch_of(n: Net) -> str:
    return n.add("Slice", n.add("Shape", "x"), n.const([0]), n.const([1]))


@pytest.mark.parametrize(("shape", "build"), [*CONVOLUTIONS, *PRODUCTS, *POOLS, *NUMBERS, *MOVES])
def test_an_operator_gives_the_same_in_both_engines(shape: tuple[object, ...], build: Build):
    net = Net(*shape)
    build(net)
    check(net.model())
