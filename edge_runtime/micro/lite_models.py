"""Micro-models as TFLite: the numbers are those of its schema (schema.fbs), read by every interpreter since 2020."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_runtime.micro.flat_bytes import Scalar, Vector, flatbuffer, vector
from edge_runtime.micro.shapes import FLOAT, Spec
from edge_runtime.micro.weights import random_weights

if TYPE_CHECKING:
    import numpy as np

    from edge_runtime.tensors import Array

_TYPES = {"float32": 0, "int32": 2, "uint8": 3, "int8": 9}
# name -> (operator code, version for floats, version for 8 bits, number of its options table)
CODES = {
    "ADD": (0, 1, 2, 11),
    "AVERAGE_POOL_2D": (1, 1, 2, 5),
    "CONCATENATION": (2, 1, 2, 10),
    "CONV_2D": (3, 1, 3, 1),
    "DEPTHWISE_CONV_2D": (4, 1, 3, 2),
    "DEQUANTIZE": (6, 2, 2, 0),
    "FULLY_CONNECTED": (9, 1, 4, 8),
    "LOGISTIC": (14, 1, 2, 0),
    "MAX_POOL_2D": (17, 1, 2, 5),
    "RELU": (19, 1, 2, 0),
    "SOFTMAX": (25, 1, 2, 9),
    "TRANSPOSE": (39, 1, 2, 0),
    "QUANTIZE": (114, 1, 1, 0),
    "HARD_SWISH": (117, 1, 1, 0),
    "BATCH_MATMUL": (126, 1, 2, 101),
    "GELU": (150, 1, 2, 0),
}
_UNARY = {"relu": "RELU", "sigmoid": "LOGISTIC", "hardswish": "HARD_SWISH", "gelu": "GELU", "softmax": "SOFTMAX"}
_VALID, _SCALE = 1, 0.02
_PLAIN = (_SCALE, 0)  # scale and zero point of activations
_SIGMOID = (1 / 256, -128)  # the only ones that the interpreters take for its output


@dataclass(frozen=True)
class Tensor:
    number: int
    shape: tuple[int, ...]
    dtype: str


class LiteWriter:
    """Collects operators; images are NHWC, all else [1, rows, width]."""

    shared_input = True  # the interpreter computes equal operators as often as they stand there

    def __init__(self, dtype: str, rng: np.random.Generator) -> None:
        self.dtype, self._rng = dtype, rng
        self._buffers: list[dict[int, Any]] = [{}]  # buffer 0 is empty by convention
        self._tensors: list[dict[int, Any]] = []
        self._codes: list[str] = []
        self._operators: list[dict[int, Any]] = []
        self._inputs: list[int] = []
        self._other: Tensor | None = None

    def supports(self, spec: Spec) -> bool:
        return spec.kind not in ("norm", "skipnorm")  # there are no such operators

    def input(self, spec: Spec, dtype: str) -> Tensor:
        if spec.kind in ("dense", "matmul"):
            shape: tuple[int, ...] = (1, spec.rows, spec.depth)
        elif self._is_image(spec):
            sides = (side * stride for side, stride in zip(spec.sides, spec.strides, strict=True))
            shape = (1, *sides, spec.channels)
        else:
            shape = (1, spec.rows, spec.width)
        return self._input(shape, dtype)

    def _input(self, shape: tuple[int, ...], dtype: str) -> Tensor:
        made = self._tensor(shape, dtype)
        self._inputs.append(made.number)
        return made

    def _is_image(self, spec: Spec) -> bool:
        return spec.kind not in ("dense", "matmul", "softmax", "gelu", "transpose")

    def other(self, spec: Spec) -> None:
        """The second factor of `matmul`, an input of the model."""
        self._other = self._input((1, spec.depth, spec.width), self.dtype)

    def apply(self, spec: Spec, x: Tensor, other: Tensor) -> Tensor:
        """The operator on `x`; `other` is a second tensor of the same shape."""
        if spec.kind in ("conv", "conv1x1", "depthwise"):
            return self._convolve(spec, x)
        if spec.kind == "dense":
            return self._multiply(spec, x)
        if spec.kind == "matmul" and self._other:
            options = {0: Scalar("b", 0), 1: Scalar("b", 0)}
            return self._operator("BATCH_MATMUL", [x, self._other], (1, spec.rows, spec.width), options)
        if spec.kind == "pool":
            return self._window("MAX_POOL_2D", x, spec.window, spec.strides, (1, *spec.sides, spec.width), 0)
        if spec.kind == "globalpool":
            return self.pool(x, self.dtype)
        if spec.kind == "binary":
            return self._operator("ADD", [x, other], x.shape, {0: Scalar("b", 0)})
        if spec.kind == "transpose":
            import numpy as np

            order = self._constant(np.array([0, 2, 1], np.int32))
            return self._operator("TRANSPOSE", [x, order], (1, spec.width, spec.rows))
        if spec.kind in ("quantize", "dequantize"):
            dtype = self.dtype if spec.kind == "quantize" else FLOAT
            return self._operator(spec.kind.upper(), [x], x.shape, dtype=dtype)
        if spec.kind == "copy":
            return x  # the concatenation that follows is the copy
        softmax = {0: Scalar("f", 1.0)}
        return self._operator(_UNARY[spec.kind], [x], x.shape, softmax if spec.kind == "softmax" else None)

    def pool(self, x: Tensor, dtype: str) -> Tensor:
        """The mean of each plane."""
        return self._window("AVERAGE_POOL_2D", x, x.shape[1:3], (1, 1), (1, 1, 1, x.shape[3]), _VALID)

    def head(self, x: Tensor, sides: Sequence[int]) -> Tensor:
        """The mean of each plane: XNNPACK leaves pooling with strides beyond the window to slower code."""
        return x if list(sides) == [1, 1] else self.pool(x, x.dtype)

    def concat(self, parts: list[Tensor], spec: Spec) -> Tensor:
        """One tensor of all, along the channels."""
        if len(parts) == 1:
            return parts[0]
        shape = (*parts[0].shape[:-1], sum(one.shape[-1] for one in parts))
        axis = len(shape) - 1
        return self._operator("CONCATENATION", parts, shape, {0: Scalar("i", axis), 1: Scalar("b", 0)})

    def finish(self, output: Tensor, dtype: str) -> bytes:
        graph = {0: self._tensors, 1: vector("i", self._inputs), 2: vector("i", [output.number]), 3: self._operators}
        codes = []
        for name in self._codes:
            code, for_floats, for_8_bits, _ = CODES[name]
            version = for_floats if self.dtype == FLOAT else for_8_bits
            codes.append({0: Scalar("b", min(code, 127)), 2: Scalar("i", version), 3: Scalar("i", code)})
        model = {0: Scalar("I", 3), 1: codes, 2: [graph], 3: "edge_runtime", 4: self._buffers}
        return flatbuffer(model, b"TFL3")

    def _tensor(
        self,
        shape: tuple[int, ...],
        dtype: str,
        buffer: int = 0,
        scales: Any = None,
        axis: int = 0,
        scale: tuple[float, int] = _PLAIN,
    ) -> Tensor:
        number, zero = len(self._tensors), 0
        fields = {0: vector("i", shape), 1: Scalar("b", _TYPES[dtype]), 2: Scalar("I", buffer), 3: f"t{number}"}
        if scales is None and dtype == self.dtype != FLOAT:
            scales, zero = [scale[0]], scale[1]
        if scales is not None:
            fields[4] = {
                2: vector("f", scales),
                3: vector("q", [zero] * len(scales)),
                6: Scalar("i", axis),
            }
        self._tensors.append(fields)
        return Tensor(number, shape, dtype)

    def _constant(self, array: Array, scales: Any = None, axis: int = 0) -> Tensor:
        content = array.tobytes()
        self._buffers.append({0: Vector(content, len(content), 16)})
        return self._tensor(array.shape, array.dtype.name, len(self._buffers) - 1, scales, axis)

    def _operator(
        self,
        name: str,
        inputs: list[Tensor],
        shape: tuple[int, ...],
        options: dict[int, Any] | None = None,
        dtype: str | None = None,
    ) -> Tensor:
        dtype = dtype or inputs[0].dtype
        output = self._tensor(shape, dtype, scale=_SIGMOID if name == "LOGISTIC" else _PLAIN)
        if name not in self._codes:
            self._codes.append(name)
        fields: dict[int, Any] = {
            0: Scalar("I", self._codes.index(name)),
            1: vector("i", [one.number for one in inputs]),
            2: vector("i", [output.number]),
        }
        if options is not None:
            fields |= {3: Scalar("B", CODES[name][3]), 4: options}
        self._operators.append(fields)
        return output

    def _window(
        self,
        name: str,
        x: Tensor,
        window: tuple[int, ...],
        strides: tuple[int, int],
        shape: tuple[int, ...],
        padding: int,
    ) -> Tensor:
        numbers = (padding, strides[1], strides[0], window[1], window[0], 0)
        codes = "biiiib"
        options = {place: Scalar(code, n) for place, (code, n) in enumerate(zip(codes, numbers, strict=True))}
        return self._operator(name, [x], shape, options)

    def _convolve(self, spec: Spec, x: Tensor) -> Tensor:
        depthwise = spec.kind == "depthwise"
        shape = (1, *spec.window, spec.width) if depthwise else (spec.width, *spec.window, spec.channels)
        weight, bias = self._weights(shape, spec, 3 if depthwise else 0)
        numbers = [0, spec.strides[1], spec.strides[0], *([1] if depthwise else []), 0, 1, 1]
        codes = "biiibii" if depthwise else "biibii"
        options = {place: Scalar(code, n) for place, (code, n) in enumerate(zip(codes, numbers, strict=True))}
        name = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
        return self._operator(name, [x, weight, bias], (1, *spec.sides, spec.width), options)

    def _multiply(self, spec: Spec, x: Tensor) -> Tensor:
        weight, bias = self._weights((spec.width, spec.depth), spec, 0)
        # keep_num_dims: [1, rows, depth] gives [1, rows, width]
        options = {0: Scalar("b", 0), 2: Scalar("b", 1)}
        return self._operator("FULLY_CONNECTED", [x, weight, bias], (1, spec.rows, spec.width), options)

    def _weights(self, shape: tuple[int, ...], spec: Spec, axis: int) -> tuple[Tensor, Tensor]:
        import numpy as np

        made = random_weights(self._rng, shape, self.dtype != FLOAT, spec.depth)
        if self.dtype == FLOAT:
            return self._constant(made), self._constant(np.full(spec.width, 0.1, np.float32))
        scales = [0.01] * (spec.width if spec.kind != "dense" else 1)
        weight_tensor = self._constant(made, scales, axis)
        bias = np.full(spec.width, 50, np.int32)
        return weight_tensor, self._constant(bias, [one * _SCALE for one in scales])
