"""float16: half the bytes, and what that costs in accuracy is next to nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.layers import array_of
from edge_runtime.compress.qdq import Writer
from edge_runtime.compress.recipe import Context

_SMALL = 64  # numbers of an array with fewer stay float32: a Cast costs as much
_LARGEST = 65504.0


@dataclass(frozen=True)
class WeightsFp16:
    """Every float array of 64 numbers or more is stored as float16 and cast when the model is loaded. Speed and memory
    are those of float32."""

    reads: ClassVar[tuple[str, ...]] = ("onnx",)
    writes: ClassVar[str | None] = "onnx_q"
    needs_items: ClassVar[bool] = False

    def __call__(self, artifact: Artifact, context: Context) -> Artifact:
        import numpy as np

        model = artifact.model()
        writer = Writer(model)
        left = []
        for name, value in list(model.graph.initializers.items()):
            array = array_of(value)
            if array.dtype != np.float32 or array.size < _SMALL or not value.uses():
                continue
            if float(np.abs(array).max()) > _LARGEST:
                left.append(name)
                continue
            half = writer.array(f"{name}_fp16", array.astype(np.float16))
            cast = writer.node("Cast", [half], f"{name}_fp32", {"to": 1})
            first = next(node for node in model.graph if any(one is value for one in node.inputs))
            writer.before(first, [cast])
            for use in list(value.uses()):
                use.node.replace_input_with(use.idx, cast.outputs[0])
        writer.finish()
        if left:
            context.note("left_float32", left)  # numbers too large for float16
        return Artifact.of(model, "onnx_q")
