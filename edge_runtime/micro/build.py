"""Pairs of micro-models whose difference in time is one operator, in the surroundings that it has in a network.

How, by kind:
  chain      1 and n of them, each on the output of the one before (what fits: equal convolutions, activations)
  branches   1 and n of them side by side on one input, with weights of their own, each output cut short by a head
  between    n small convolutions, and n small convolutions each followed by it: onnxruntime keeps a layout of its own
             between operators, one that stands alone would be charged for changing it, and equal ones on one input
             are computed once; LiteRT does neither, there they are branches
  inputs     n inputs summed up by planes, and n inputs that go through it before
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from edge_runtime.micro.shapes import FLOAT, Spec

_BETWEEN = ("pool", "globalpool", "copy")
_INPUTS = ("quantize", "dequantize")
_HEADLESS = ("dense", "matmul", "transpose", "globalpool")
_COPY_BYTES = 4 << 20  # of weights, in one micro-model
_WORK = 8_000_000
_PREFIX_CHANNELS = 8


@dataclass(frozen=True)
class Pair:
    """Two models; `times` the operator and `heads` heads are what `more` has and `less` has not."""

    less: bytes
    more: bytes
    times: int
    heads: int


def writer_for(engine: str, dtype: str) -> Any:
    import numpy as np

    rng = np.random.default_rng(1)
    if engine == "litert":
        from edge_runtime.micro.lite_models import LiteWriter

        return LiteWriter(dtype, rng)
    from edge_runtime.micro.onnx_models import OnnxWriter

    return OnnxWriter(dtype, rng)


def copies_of(spec: Spec) -> int:
    """How many make the difference clear and stay small: 3 to 9."""
    bytes_ = max(1, spec.weights * (4 if spec.dtype == FLOAT else 1))
    return max(3, min(9, _WORK // spec.work, _COPY_BYTES // bytes_))


def pair(engine: str, spec: Spec) -> Pair | None:
    """None where the engine has no such operator."""
    if not writer_for(engine, spec.dtype).supports(spec):
        return None
    n = copies_of(spec)
    if spec.chains:
        return Pair(_chain(engine, spec, 1), _chain(engine, spec, n), n - 1, 0)
    if spec.kind in _BETWEEN and engine != "litert":
        heads = -n if spec.kind == "globalpool" else 1 - n if spec.kind == "copy" else 0
        return Pair(_between(engine, spec, n, False), _between(engine, spec, n, True), n, heads)
    if spec.kind in _INPUTS:
        return Pair(_inputs(engine, spec, n, False), _inputs(engine, spec, n, True), n, 0)
    if spec.kind == "copy":
        return Pair(_joined(engine, spec, n, False), _joined(engine, spec, n, True), n, 0)
    headed = spec.kind not in _HEADLESS and spec.rows > 1
    return Pair(_branches(engine, spec, 1), _branches(engine, spec, n), n - 1, (n - 1) * headed)


def alone(engine: str) -> bytes:
    """A model that does next to nothing: what one call of the engine takes."""
    return _chain(engine, Spec("relu", FLOAT, 1, 1, 4), 1)


def _chain(engine: str, spec: Spec, copies: int) -> bytes:
    writer = writer_for(engine, spec.dtype)
    x = last = writer.input(spec, spec.dtype)
    if spec.kind == "matmul":
        writer.other(spec)
    for _ in range(copies):
        last = writer.apply(spec, last, x)
    return bytes(writer.finish(last, spec.dtype))


def _branches(engine: str, spec: Spec, copies: int) -> bytes:
    writer = writer_for(engine, spec.dtype)
    x = writer.input(spec, spec.dtype)
    if spec.kind == "matmul":
        writer.other(spec)
    parts = []
    for number in range(copies):
        own = x if not number or spec.weights or writer.shared_input else writer.input(spec, spec.dtype)
        made = writer.apply(spec, own, own)
        parts.append(made if spec.kind in _HEADLESS else writer.head(made, spec.sides))
    return bytes(writer.finish(writer.concat(parts, spec), spec.dtype))


def _between(engine: str, spec: Spec, copies: int, there: bool) -> bytes:
    writer = writer_for(engine, spec.dtype)
    sides = [side * stride for side, stride in zip(spec.sides, spec.strides, strict=True)]
    before = Spec("conv1x1", spec.dtype, sides[0] * sides[1], _PREFIX_CHANNELS, spec.width)
    x = writer.input(before, spec.dtype)
    parts = [writer.apply(before, x, x) for _ in range(copies)]
    if there and spec.kind == "copy":
        return bytes(writer.finish(writer.head(writer.concat(parts, spec), sides), spec.dtype))
    if there:
        parts = [writer.apply(spec, one, one) for one in parts]
        sides = [1, 1] if spec.kind == "globalpool" else list(spec.sides)
    parts = [writer.head(one, sides) for one in parts]
    return bytes(writer.finish(writer.concat(parts, spec), spec.dtype))


def _inputs(engine: str, spec: Spec, copies: int, there: bool) -> bytes:
    writer = writer_for(engine, spec.dtype)
    before, after = (FLOAT, spec.dtype) if spec.kind == "quantize" else (spec.dtype, FLOAT)
    plane = replace(spec, kind="globalpool")
    parts = []
    for _ in range(copies):
        x = writer.input(plane, before if there else after)
        parts.append(writer.pool(writer.apply(spec, x, x) if there else x, after))
    return bytes(writer.finish(writer.concat(parts, plane), after))


def _joined(engine: str, spec: Spec, copies: int, there: bool) -> bytes:
    writer = writer_for(engine, spec.dtype)
    x = writer.input(spec, spec.dtype)
    if there:
        return bytes(writer.finish(writer.head(writer.concat([x] * copies, spec), spec.sides), spec.dtype))
    heads = [writer.head(x, spec.sides) for _ in range(copies)]
    return bytes(writer.finish(writer.concat(heads, spec), spec.dtype))
