"""Small ONNX graphs with weights from a seeded dice, and items for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from edge_runtime.bundle import load_bundle  # noqa: E402
from edge_runtime.compress.artifact import Artifact  # noqa: E402
from edge_runtime.compress.outputs import answers, specs  # noqa: E402
from edge_runtime.compress.prepare import prepare  # noqa: E402
from edge_runtime.compress.recipe import Context  # noqa: E402
from edge_runtime.compress.samples import Samples  # noqa: E402


def node(kind: str, inputs: str, outputs: str, **settings: Any) -> Any:
    """Names in words; nodes are called as their first output."""
    return helper.make_node(kind, inputs.split(), outputs.split(), name=outputs.split()[0], **settings)


def net(nodes: list[Any], shapes: dict[str, Any], shape: list[int], result: list[int], opset: int = 17) -> Artifact:
    """`shapes`: of weights, drawn at random, or an array that is taken as it is. One input x, one output y."""
    dice = np.random.default_rng(3)
    tensors = {name: given if isinstance(given, np.ndarray) else _drawn(dice, given) for name, given in shapes.items()}
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])
    answer = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", *result])
    kept = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    graph = helper.make_graph(nodes, "g", [given], [answer], kept)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    return Artifact("onnx", model.SerializeToString())


def _drawn(dice: Any, shape: tuple[int, ...]) -> Any:
    inputs = max(int(np.prod(shape[1:])), 1) if len(shape) > 1 else 10
    return (dice.standard_normal(shape) / np.sqrt(inputs)).astype(np.float32)


def items(artifact: Artifact, count: int = 48, seed: int = 1) -> Samples:
    """Numbers that depend on each other, as real ones do."""
    (spec,) = specs(artifact)[0]
    shape = tuple(size or 1 for size in spec.shape[1:])
    dice = np.random.default_rng(seed)
    few = dice.standard_normal((count, 12))
    mixed = (few @ dice.standard_normal((12, int(np.prod(shape))))).reshape(count, *shape)
    return Samples("dice", count, None, {spec.name: mixed.astype(np.float32) / 3})


def context(artifact: Artifact, samples: Samples | None = None) -> Context:
    return Context(artifact, samples if samples is not None else items(artifact))


def answer(artifact: Artifact, samples: Samples) -> Any:
    return next(iter(answers(artifact, samples, 16).values()))


def malaria() -> Artifact:
    bundle = load_bundle("malaria")
    variant = next(one for one in bundle.variants if one.name == "fp32")
    return prepare(Artifact("onnx", bundle.read(variant.file)))


def residual() -> Artifact:
    nodes = [
        node("Conv", "x a ab", "p", pads=[1, 1, 1, 1]),
        node("Relu", "p", "q"),
        node("Conv", "q b bb", "r", pads=[1, 1, 1, 1]),
        node("Relu", "r", "s"),
        node("Conv", "s c cb", "t", pads=[1, 1, 1, 1]),
        node("Add", "t q", "u"),
        node("Relu", "u", "v"),
        node("GlobalAveragePool", "v", "w"),
        node("Flatten", "w", "f"),
        node("Gemm", "f d db", "y", transB=1),
    ]
    biases = {"ab": (16,), "bb": (24,), "cb": (16,), "db": (3,)}
    weights = {"a": (16, 3, 3, 3), "b": (24, 16, 3, 3), "c": (16, 24, 3, 3), "d": (3, 16)}
    return net(nodes, weights | biases, [3, 8, 8], [3])


def joined() -> Artifact:
    """Two branches side by side, one of them split and put together again."""
    nodes = [
        node("Conv", "x a ab", "p"),
        node("Conv", "x b bb", "q", pads=[1, 1, 1, 1]),
        node("Concat", "p q", "r", axis=1),
        node("Relu", "r", "s"),
        node("Split", "s sizes", "m n", axis=1),
        node("Concat", "n m", "o", axis=1),
        node("Conv", "o c", "t"),
        node("MaxPool", "t", "u", kernel_shape=[2, 2], strides=[2, 2]),
        node("Reshape", "u shape", "v"),
        node("Gemm", "v d db", "y"),
    ]
    constants = {"sizes": np.array([12, 12]), "shape": np.array([-1, 12 * 3 * 3])}
    weights = {"a": (8, 3, 1, 1), "ab": (8,), "b": (16, 3, 3, 3), "bb": (16,), "c": (12, 24, 1, 1), "d": (108, 2)}
    return net(nodes, weights | constants | {"db": (2,)}, [3, 6, 6], [2])


def mobile() -> Artifact:
    """Depthwise, groups, normalization left unfolded, a gate for each channel."""
    nodes = [
        node("Conv", "x a ab", "p"),
        node("Relu", "p", "q"),
        node("Conv", "q b bb", "r", pads=[1, 1, 1, 1], group=16),
        node("BatchNormalization", "r g h mean var", "s"),
        node("GlobalAveragePool", "s", "k"),
        node("Conv", "k e eb", "l"),
        node("Sigmoid", "l", "m"),
        node("Mul", "s m", "n"),
        node("Conv", "n c", "t", group=2),
        node("Relu", "t", "u"),
        node("Flatten", "u", "v"),
        node("MatMul", "v d", "y"),
    ]
    weights = {"a": (16, 3, 1, 1), "ab": (16,), "b": (16, 1, 3, 3), "bb": (16,), "e": (16, 16, 1, 1), "eb": (16,)}
    normal = {"g": np.full(16, 1.5, np.float32), "h": (16,), "mean": (16,), "var": np.full(16, 2, np.float32)}
    return net(nodes, weights | normal | {"c": (8, 8, 1, 1), "d": (8 * 25, 2)}, [3, 5, 5], [2])


def attention() -> Artifact:
    """One encoder layer: 4 heads of 3 over 12 numbers, 5 places, a feed-forward of 16."""
    names = {"q": "ka", "k": "kb", "v": "kc"}
    nodes = [node("LayerNormalization", "x lg lb", "n0")]
    for one, weight in names.items():
        nodes += [
            node("MatMul", f"n0 {weight}", f"{one}1"),
            node("Add", f"{one}1 {weight}b", f"{one}2"),
            node("Reshape", f"{one}2 heads", f"{one}3"),
            node("Transpose", f"{one}3", f"{one}4", perm=[0, 2, 3, 1] if one == "k" else [0, 2, 1, 3]),
        ]
    nodes += [
        node("MatMul", "q4 k4", "s0"),
        node("Mul", "s0 scale", "s1"),
        node("Softmax", "s1", "s2", axis=-1),
        node("MatMul", "s2 v4", "o0"),
        node("Transpose", "o0", "o1", perm=[0, 2, 1, 3]),
        node("Reshape", "o1 whole", "o2"),
        node("MatMul", "o2 ko", "o3"),
        node("Add", "o3 x", "h0"),
        node("LayerNormalization", "h0 lg lb", "h1"),
        node("MatMul", "h1 f1", "h2"),
        node("Gelu", "h2", "h3"),
        node("MatMul", "h3 f2", "h4"),
        node("Add", "h4 h0", "h5"),
        node("ReduceMean", "h5 axis", "h6", keepdims=0),
        node("Gemm", "h6 c cb", "y"),
    ]
    square = dict.fromkeys(("ka", "kb", "kc", "ko"), (12, 12)) | {f"{name}b": (12,) for name in names.values()}
    rest = {"lg": np.ones(12, np.float32), "lb": (12,), "f1": (12, 16), "f2": (16, 12), "c": (12, 2), "cb": (2,)}
    constants = {"heads": np.array([0, 5, 4, 3]), "whole": np.array([0, 5, 12]), "axis": np.array([1])}
    return net(nodes, square | rest | constants | {"scale": np.array(0.6, np.float32)}, [5, 12], [2], 20)


NETS = {"residual": residual, "joined": joined, "mobile": mobile, "attention": attention}
