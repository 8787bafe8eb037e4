"""Small nets with random weights, shaped as those that people compress."""

from __future__ import annotations

import numpy as np

from tests.unit.tflite_samples import Net


def relu6(n: Net) -> str:
    return n.add("Clip", n.last, n.const(np.float32(0)), n.const(np.float32(6)))


def resnet() -> Net:
    n = Net("batch", 3, 32, 32)
    n.conv(8, 3, 7, strides=[2, 2], pads=[3, 3, 3, 3])
    n.add("Relu")
    x = n.add("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for inside, out, stride in ((8, 8, 1), (8, 16, 2)):
        n.conv(out, inside, 3, x, pads=[1, 1, 1, 1], strides=[stride, stride])
        y = n.conv(out, out, 3, n.add("Relu"), pads=[1, 1, 1, 1])
        skip = x if stride == 1 else n.conv(out, inside, 1, x, strides=[2, 2])
        n.add("Add", y, skip)
        x = n.add("Relu")
    n.add("GlobalAveragePool")
    n.add("Flatten")
    n.add("Gemm", n.last, n.random(10, 16, scale=0.5), n.random(10), transB=1)
    return n


def mobilenet() -> Net:
    n = Net("batch", 3, 32, 32)
    n.conv(8, 3, 3, strides=[2, 2], pads=[1, 1, 1, 1])
    x = relu6(n)
    for stride in (1, 2):
        n.conv(24, 8, 1, x)
        relu6(n)
        n.conv(24, 24, 3, group=24, pads=[1, 1, 1, 1], strides=[stride, stride])
        relu6(n)
        y = n.conv(8, 24, 1)
        x = n.add("Add", x, y) if stride == 1 else y
    n.add("ReduceMean", x, n.const([2, 3]), keepdims=0)
    n.add("Gemm", n.last, n.random(8, 10, scale=0.5), n.random(10))
    return n


def mobilenet3() -> Net:
    """Squeeze-and-excite, HardSwish as torch writes it."""
    n = Net("batch", 3, 24, 24)
    x = n.conv(8, 3, 3, strides=[2, 2], pads=[1, 1, 1, 1])
    x = n.add("HardSwish", x)
    n.conv(8, 8, 5, group=8, pads=[2, 2, 2, 2])
    x = n.add("Relu")
    n.add("GlobalAveragePool")
    n.conv(4, 8, 1)
    n.conv(8, 4, 1, n.add("Relu"))
    x = n.add("Mul", n.add("HardSigmoid", alpha=1 / 6), x)
    x = n.conv(16, 8, 1, x)
    n.add("Mul", x, n.add("HardSigmoid", x, alpha=1 / 6))
    n.add("Flatten", n.add("GlobalAveragePool"))
    n.add("Gemm", n.last, n.random(16, 10, scale=0.5), n.random(10))
    return n


def squeezenet() -> Net:
    n = Net("batch", 3, 33, 33)
    n.conv(8, 3, 3, strides=[2, 2])
    n.add("Relu")
    x = n.add("MaxPool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    x = n.add("Relu", n.conv(4, 8, 1, x))
    left = n.add("Relu", n.conv(8, 4, 1, x))
    right = n.add("Relu", n.conv(8, 4, 3, x, pads=[1, 1, 1, 1]))
    n.add("Concat", left, right, axis=1)
    n.add("Relu", n.conv(10, 16, 1, n.add("Dropout")))
    n.add("Flatten", n.add("GlobalAveragePool"))
    return n


def vgg() -> Net:
    n = Net("batch", 3, 16, 16)
    for inside, out in ((3, 8), (8, 12)):
        n.conv(out, inside, 3, pads=[1, 1, 1, 1])
        n.add("Relu")
        n.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    n.add("Flatten")
    n.add("Gemm", n.last, n.random(32, 192, scale=0.1), n.random(32), transB=1)
    n.add("Relu")
    n.add("Gemm", n.last, n.random(10, 32, scale=0.2), n.random(10), transB=1)
    return n


def keyword() -> Net:
    """A signal: 1-D convolutions, the last one depthwise."""
    n = Net("batch", 10, 40)
    n.add("Conv", "x", n.random(16, 10, 5, scale=0.15), n.random(16), pads=[2, 2])
    n.add("Relu")
    n.add("Conv", n.last, n.random(16, 1, 3, scale=0.5), n.random(16), pads=[1, 1], group=16, strides=[2])
    n.add("Relu")
    n.add("MaxPool", kernel_shape=[2], strides=[2])
    n.add("Flatten")
    n.add("Gemm", n.last, n.random(160, 5, scale=0.1), n.random(5))
    return n


def segmenter() -> Net:
    """Down and up again, an image out."""
    n = Net("batch", 3, 16, 16)
    wide = n.add("Relu", n.conv(8, 3, 3, pads=[1, 1, 1, 1]))
    n.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    n.add("Relu", n.conv(8, 8, 3, pads=[1, 1, 1, 1]))
    scales = n.const(np.array([1, 1, 2, 2], np.float32))
    up = n.add("Resize", n.last, "", scales, mode="nearest", coordinate_transformation_mode="asymmetric",
               nearest_mode="floor")  # fmt: skip
    n.conv(2, 16, 3, n.add("Concat", up, wide, axis=1), pads=[1, 1, 1, 1])
    return n


def attention(n: Net, x: str, mask: str, heads: int, width: int, length: int) -> str:
    def project(source: str) -> str:
        made = n.add("MatMul", source, n.random(width, width, scale=width**-0.5))
        return n.add("Add", n.random(width, scale=0.1), made)

    def split(source: str, perm: list[int]) -> str:
        shape = n.add("Concat", n.add("Slice", n.add("Shape", source), n.const([0]), n.const([1])),
                      n.const([length, heads, width // heads]), axis=0)  # fmt: skip
        return n.add("Transpose", n.add("Reshape", source, shape), perm=perm)

    query, key, value = (project(x) for _ in range(3))
    scores = n.add("MatMul", split(query, [0, 2, 1, 3]), split(key, [0, 2, 3, 1]))
    scores = n.add("Div", scores, n.const(np.float32((width / heads) ** 0.5)))
    weights = n.add("Softmax", n.add("Add", scores, mask), axis=-1)
    mixed = n.add("Transpose", n.add("MatMul", weights, split(value, [0, 2, 1, 3])), perm=[0, 2, 1, 3])
    return project(n.add("Reshape", mixed, n.const([0, 0, width])))


def transformer() -> Net:
    """An encoder as torch exports it: embeddings, a mask, attention, gelu by way of Erf, mean of the words."""
    width, length = 16, 6
    n = Net("batch", length, dtype="int64")
    n.also("mask", "batch", length, dtype="int64")
    words = n.add("Gather", n.random(50, width), "x")
    words = n.add("Add", words, n.random(1, length, width))
    x = n.add("LayerNormalization", words, n.random(width), n.random(width))
    mask = n.add("Cast", n.add("Unsqueeze", "mask", n.const([1, 2])), to=1)
    mask = n.add("Mul", n.add("Sub", n.const(np.float32(1)), mask), n.const(np.float32(-10000)))
    y = attention(n, x, mask, 2, width, length)
    x = n.add("LayerNormalization", n.add("Add", y, x), n.random(width), n.random(width))
    y = n.add("Add", n.add("MatMul", x, n.random(width, 32, scale=0.2)), n.random(32))
    erf = n.add("Erf", n.add("Div", y, n.const(np.float32(2**0.5))))
    y = n.add("Mul", n.add("Mul", y, n.add("Add", erf, n.const(np.float32(1)))), n.const(np.float32(0.5)))
    y = n.add("Add", n.add("MatMul", y, n.random(32, width, scale=0.2)), n.random(width))
    x = n.add("LayerNormalization", n.add("Add", y, x), n.random(width), n.random(width))
    kept = n.add("Cast", n.add("Unsqueeze", "mask", n.const([-1])), to=1)
    total = n.add("ReduceSum", n.add("Mul", x, kept), n.const([1]), keepdims=0)
    count = n.add("Clip", n.add("ReduceSum", kept, n.const([1]), keepdims=0), n.const(np.float32(1e-9)))
    mean = n.add("Div", total, count)
    n.add("Div", mean, n.add("ReduceL2", mean, n.const([1])))
    return n


IMAGES = (resnet, mobilenet, mobilenet3, squeezenet, vgg, keyword, segmenter)
