"""Weights alone stored smaller: the file is as small as they are, and the answers are those of the float weights."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto

from edge_runtime.compress.tflite_write import to_tflite
from edge_runtime.errors import UsageError
from tests.unit.tflite_samples import Net, check, feeds_of, lite_answers, onnx_answers


def stored(n: Net, kind: str, *shape: int, axis: int = 0, scale: float = 0.1) -> str:
    """Random weights stored as `kind`: half, int8, tensor (int8 with one scale), int4, block (int4 by 32)."""
    array = (n.rng.standard_normal(shape) * scale).astype(np.float32)
    if kind == "half":
        return n.add("Cast", n.const(array.astype(np.float16)), to=TensorProto.FLOAT)
    top = 7 if kind in ("int4", "block") else 127
    if kind == "block":
        parts = np.split(array, shape[axis] // 32, axis)
        scales = np.concatenate([np.abs(one).max(axis, keepdims=True) for one in parts], axis) / top
        steps = array / np.repeat(scales, 32, axis)
    else:
        others = tuple(one for one in range(len(shape)) if one != axis and kind != "tensor")
        full = np.abs(array).max(others or None, keepdims=True) / top
        steps, scales = array / full, full.reshape(-1) if kind != "tensor" else full.reshape(())
    dtype = ml_dtypes.int4 if top == 7 else np.int8
    attributes = {"block_size": 32} if kind == "block" else {}
    name = n.const(np.rint(steps).astype(np.int8).astype(dtype))
    return n.add("DequantizeLinear", name, n.const(scales.astype(np.float32)), axis=axis, **attributes)


def net(kind: str, conv: str = "") -> Net:
    n = Net("batch", 8, 6, 10)
    conv = conv or kind
    n.add("Conv", "x", stored(n, conv, 64, 8, 3, 3), n.random(64))
    n.add("Relu")
    n.add("Conv", n.last, stored(n, conv, 64, 1, 3, 3), n.random(64), group=64)
    n.add("Flatten")
    n.add("Gemm", n.last, stored(n, kind, 64, 768, axis=1 if kind == "block" else 0), n.random(64), transB=1)
    n.add("MatMul", n.last, stored(n, kind, 64, 32, axis=0 if kind == "block" else 1))
    return n


SIZES = {"half": 2, "int8": 1, "tensor": 1, "int4": 0.5, "block": 0.95}


@pytest.mark.parametrize("kind", SIZES)
def test_weights_stored_smaller_give_the_answers_of_their_values(kind: str):
    content = check(net(kind, "half" if kind == "block" else "").model(opset=21), atol=2e-5, plain=True)
    count = 64 * 72 + 64 * 9 + 64 * 768 + 2048
    assert len(content) < count * SIZES[kind] + 12000


@pytest.mark.parametrize("kind", ["int8", "tensor", "int4"])
def test_dynamic_keeps_weights_as_steps_and_stays_near(kind: str):
    model = net(kind).model(opset=21)
    content = to_tflite(model, "dynamic")
    feeds = feeds_of(model)
    wanted, found = onnx_answers(model, feeds, plain=True)[0], lite_answers(content, feeds)[0]
    assert 0 < np.abs(wanted - found).max() < 0.05 * wanted.std()


@pytest.mark.parametrize("kind", ["half", "int8", "tensor"])
def test_an_embedding_stays_as_small_as_it_is_stored(kind: str):
    n = Net("batch", 6, dtype="int64")
    n.add("Gather", stored(n, kind, 5000, 16), "x")
    assert len(check(n.model(opset=21))) < 5000 * 16 * SIZES[kind] + 5000 * 4 + 3000


def test_another_setting_is_refused():
    with pytest.raises(UsageError, match="float or dynamic"):
        to_tflite(net("int8").model(), "int8")
