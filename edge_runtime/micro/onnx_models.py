"""Micro-models as ONNX: one operator, repeated, in float or with 8-bit activations as onnxruntime's fused operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edge_runtime.micro import onnx_bytes as onnx
from edge_runtime.micro.shapes import FLOAT, Spec
from edge_runtime.micro.weights import random_weights

if TYPE_CHECKING:
    import numpy as np

    from edge_runtime.tensors import Array

_MICROSOFT = "com.microsoft"
_SCALES = {"x_scale": 0.02, "w_scale": 0.01, "y_scale": 0.05}
_UNARY = {"relu": "Relu", "sigmoid": "Sigmoid", "gelu": "Gelu", "softmax": "Softmax", "transpose": "Transpose"}


class OnnxWriter:
    """Collects nodes; tensors are named by their place. Images are NCHW, all else [1, rows, width]."""

    # equal nodes on one input are computed once by onnxruntime: operators without weights get an input each
    shared_input = False

    def __init__(self, dtype: str, rng: np.random.Generator) -> None:
        self.dtype, self._rng = dtype, rng
        self._nodes: list[bytes] = []
        self._tensors: dict[str, bytes] = {}
        self._inputs: list[bytes] = []
        if dtype != FLOAT:
            import numpy as np

            for name, scale in _SCALES.items():
                self._constant(name, np.float32(scale))
            self._constant("zero", np.array(0 if dtype == "int8" else 128, dtype))
            self._constant("w_zero", np.array(0, np.int8))

    def supports(self, spec: Spec) -> bool:
        return spec.kind != "hardswish"  # onnxruntime takes it apart into two operators that have their own points

    def input(self, spec: Spec, dtype: str) -> str:
        name = f"x{len(self._inputs)}"
        self._inputs.append(onnx.value(name, dtype, self.input_shape(spec)))
        return name

    def input_shape(self, spec: Spec) -> tuple[int, ...]:
        if self._is_image(spec):
            sides = (side * stride for side, stride in zip(spec.sides, spec.strides, strict=True))
            return 1, spec.channels, *sides
        if spec.kind == "dense" and spec.rows == 1:  # networks end in matrices
            return 1, spec.depth
        return 1, spec.rows, spec.depth if spec.kind in ("dense", "matmul") else spec.width

    def _is_image(self, spec: Spec) -> bool:
        return spec.kind not in ("dense", "matmul", "softmax", "norm", "skipnorm", "gelu", "transpose")

    def apply(self, spec: Spec, x: str, other: str) -> str:
        """The operator on `x`; `other` is a second tensor of the same shape."""
        if spec.kind in ("conv", "conv1x1", "depthwise"):
            return self._convolve(spec, x)
        if spec.kind in ("dense", "matmul"):
            return self._multiply(spec, x)
        if spec.kind == "pool":
            return self._node("MaxPool", [x], self._geometry(spec))
        if spec.kind == "globalpool":
            return self.pool(x, self.dtype)
        if spec.kind == "binary":
            return self._node("Add", [x, other]) if self.dtype == FLOAT else self._quantized("QLinearAdd", [x, other])
        if spec.kind in ("norm", "skipnorm"):
            return self._norm(spec, x, other)
        if spec.kind in ("quantize", "dequantize"):
            kind = "QuantizeLinear" if spec.kind == "quantize" else "DequantizeLinear"
            return self._node(kind, [x, "x_scale", "zero"])
        if spec.kind == "copy":
            return x  # the concatenation that follows is the copy
        if spec.kind == "sigmoid" and self.dtype != FLOAT:
            return self._quantized("QLinearSigmoid", [x])
        attributes: dict[str, onnx.Attribute] = {"perm": [0, 2, 1]} if spec.kind == "transpose" else {}
        return self._node(_UNARY[spec.kind], [x], attributes, _MICROSOFT if spec.kind == "gelu" else "")

    def pool(self, x: str, dtype: str) -> str:
        """The mean of each plane."""
        if dtype == FLOAT:
            return self._node("GlobalAveragePool", [x])
        return self._quantized("QLinearGlobalAveragePool", [x], {"channels_last": 0})

    def head(self, x: str, sides: Sequence[int]) -> str:
        """A cut to one position of the plane: next to nothing to compute."""
        if list(sides) == [1, 1]:
            return x
        return self._node("MaxPool", [x], {"kernel_shape": [min(2, side) for side in sides], "strides": sides})

    def concat(self, parts: list[str], spec: Spec) -> str:
        """One tensor of all, along the channels."""
        flat = self._is_image(spec) or (spec.kind == "dense" and spec.rows == 1)
        return self._node("Concat", parts, {"axis": 1 if flat else 2}) if len(parts) > 1 else parts[0]

    def finish(self, output: str, dtype: str) -> bytes:
        tensors = list(self._tensors.values())
        return onnx.model(self._nodes, tensors, self._inputs, [onnx.value(output, dtype)])

    def _constant(self, name: str, array: Array | np.float32) -> str:
        import numpy as np

        self._tensors[name] = onnx.tensor(name, np.asarray(array))
        return name

    def _weight(self, shape: tuple[int, ...], depth: int) -> str:
        made = random_weights(self._rng, shape, self.dtype != FLOAT, depth)
        return self._constant(f"w{len(self._tensors)}", made)

    def _node(
        self, kind: str, inputs: list[str], attributes: dict[str, onnx.Attribute] | None = None, domain: str = ""
    ) -> str:
        output = f"t{len(self._nodes)}"
        self._nodes.append(onnx.node(kind, inputs, output, attributes, domain))
        return output

    def _quantized(self, kind: str, inputs: list[str], attributes: dict[str, onnx.Attribute] | None = None) -> str:
        given = [part for one in inputs for part in (one, "x_scale", "zero")]
        return self._node(kind, [*given, "y_scale", "zero"], attributes, _MICROSOFT)

    def _geometry(self, spec: Spec) -> dict[str, onnx.Attribute]:
        begin, end = [], []
        for side, window, stride in zip(spec.sides, spec.window, spec.strides, strict=True):
            total = max(0, (side - 1) * stride + window - side * stride)
            begin.append(total // 2)
            end.append(total - total // 2)
        return {"kernel_shape": spec.window, "strides": spec.strides, "pads": [*begin, *end]}

    def _convolve(self, spec: Spec, x: str) -> str:
        import numpy as np

        depthwise = spec.kind == "depthwise"
        weight = self._weight((spec.width, 1 if depthwise else spec.channels, *spec.window), spec.depth)
        attributes = self._geometry(spec) | {"group": spec.width if depthwise else 1}
        if self.dtype == FLOAT:
            bias = self._constant(f"w{len(self._tensors)}", np.full(spec.width, 0.1, np.float32))
            return self._node("Conv", [x, weight, bias], attributes)
        bias = self._constant(f"w{len(self._tensors)}", np.full(spec.width, 50, np.int32))
        scales = self._constant(f"w{len(self._tensors)}", np.full(spec.width, 0.01, np.float32))
        zeros = self._constant(f"w{len(self._tensors)}", np.zeros(spec.width, np.int8))
        inputs = [x, "x_scale", "zero", weight, scales, zeros, "y_scale", "zero", bias]
        return self._node("QLinearConv", inputs, attributes)

    def _multiply(self, spec: Spec, x: str) -> str:
        import numpy as np

        if spec.kind == "matmul":
            return self._node("MatMul", [x, "other"])
        weight = self._weight((spec.depth, spec.width), spec.depth)
        if self.dtype == FLOAT and spec.rows == 1:
            bias = self._constant(f"w{len(self._tensors)}", np.full(spec.width, 0.1, np.float32))
            return self._node("Gemm", [x, weight, bias])
        if self.dtype == FLOAT:
            return self._node("MatMul", [x, weight])
        return self._node("QLinearMatMul", [x, "x_scale", "zero", weight, "w_scale", "w_zero", "y_scale", "zero"])

    def other(self, spec: Spec) -> None:
        """The second factor of `matmul`, an input of the model."""
        self._inputs.append(onnx.value("other", self.dtype, (1, spec.depth, spec.width)))

    def _norm(self, spec: Spec, x: str, other: str) -> str:
        import numpy as np

        scale = self._constant(f"w{len(self._tensors)}", np.full(spec.width, 1.1, np.float32))
        bias = self._constant(f"w{len(self._tensors)}", np.full(spec.width, 0.1, np.float32))
        if spec.kind == "skipnorm":
            return self._node("SkipLayerNormalization", [x, other, scale, bias], {"epsilon": 1e-5}, _MICROSOFT)
        return self._node("LayerNormalization", [x, scale, bias], {"axis": 2, "epsilon": 1e-5})
