"""Weights as 8-bit floats and smaller ones: a sign, some bits of exponent, some of mantissa, and a scale by channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.layers import Layer, weighted
from edge_runtime.compress.qdq import Writer
from edge_runtime.compress.quantizer import model_of
from edge_runtime.compress.recipe import Context
from edge_runtime.compress.weight_only import quantizable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_OPSET = 19  # 8-bit floats


@dataclass(frozen=True)
class Minifloat:
    """`exponent` and `mantissa` bits: 4 and 3 is e4m3, 5 and 2 is e5m2, stored as those types, a byte each. Fewer of
    both live inside e4m3 or e5m2, a byte each still; what they leave unused the coder of a bundle squeezes out. More
    live inside float16, two bytes each."""

    reads: ClassVar[tuple[str, ...]] = ("onnx",)
    writes: ClassVar[str | None] = "onnx_q"
    needs_items: ClassVar[bool] = False

    exponent: int = 4
    mantissa: int = 3
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 2 <= self.exponent <= 5 or not 0 <= self.mantissa <= 7:
            raise ValueError(
                f"found e{self.exponent}m{self.mantissa}, wanted an exponent of 2 to 5, a mantissa of 0 to 7"
            )

    @property
    def container(self) -> str:
        if self.exponent <= 4 and self.mantissa <= 3:
            return "FLOAT8E4M3FN"
        return "FLOAT8E5M2" if self.mantissa <= 2 else "FLOAT16"

    def __call__(self, artifact: Artifact, context: Context) -> Artifact:
        names = {one.name for one in quantizable(artifact, self.keep)}
        model = model_of(artifact, 0 if self.container == "FLOAT16" else _OPSET)
        writer = Writer(model)
        for layer in weighted(model):
            if layer.name in names:
                self._write(writer, layer)
        writer.finish()
        context.note("stored", f"e{self.exponent}m{self.mantissa} as {self.container.lower()}")
        context.note("bits_of_a_weight", {"stored": 16 if self.container == "FLOAT16" else 8, "used": self.bits})
        return Artifact.of(model, "onnx_q")

    @property
    def bits(self) -> int:
        return 1 + self.exponent + self.mantissa

    @property
    def top(self) -> float:
        """The largest number of the grid, whose smallest exponent is 1 - bias and whose exponents are all used but
        where the container keeps one back for infinities or not-a-number."""
        bias = 2.0 ** (self.exponent - 1) - 1
        highest = 2.0**self.exponent - 1 - bias
        if self.exponent == 5:
            highest -= 1
        fraction = 2 - 2.0**-self.mantissa
        if self.exponent == 4 and self.mantissa == 3:
            fraction = 1.75  # e4m3 keeps its last number back
        return float(2.0**highest * fraction)

    def grid(self, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        """The nearest number of the format, ties to even; beyond its largest, the largest."""
        import numpy as np

        lowest = 2 - 2.0 ** (self.exponent - 1)  # exponent of the numbers below the normal ones
        _, power = np.frexp(np.abs(matrix))
        unit = np.exp2(np.maximum(power - 1.0, lowest) - self.mantissa)
        made: NDArray[np.float32] = np.clip(np.round(matrix / unit) * unit, -self.top, self.top).astype(np.float32)
        return made

    def _write(self, writer: Writer, layer: Layer) -> None:
        import numpy as np
        import onnx_ir as ir

        matrix = layer.matrix()
        peak = np.maximum(np.abs(matrix).max(axis=1), 1e-12)
        stem = str(layer.weight.name)
        if self.container == "FLOAT16":
            # a power of two as scale is taken up by the exponent, so that none has to be stored
            scales = np.exp2(np.ceil(np.log2(peak / self.top))).astype(np.float32)
            numbers = (self.grid(matrix / scales[:, None]) * scales[:, None]).astype(np.float16)
            made = writer.node("Cast", [writer.array(f"{stem}_fp16", layer.shaped(numbers))], f"{stem}_fp32", {"to": 1})
        else:
            kind = ir.DataType[self.container]
            scales = (peak / self.top).astype(np.float32)
            numbers = layer.shaped(self.grid(matrix / scales[:, None])).astype(kind.numpy())
            inputs = [writer.array(f"{stem}_f8", ir.tensor(numbers, dtype=kind)), writer.array(f"{stem}_scale", scales)]
            made = writer.node("DequantizeLinear", inputs, f"{stem}_dq", {"axis": layer.axis})
        writer.before(layer.node, [made])
        layer.node.replace_input_with(1, made.outputs[0])
