"""Mark the result to be stored with entropy-coded weights: the device decodes it to the same bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.recipe import Context


@dataclass(frozen=True)
class Code:
    """Lossless. The engine's file stays as it is; what shrinks is what is carried and stored."""

    reads: ClassVar[tuple[str, ...]] = ("onnx", "onnx_q", "tflite")
    writes: ClassVar[str | None] = None
    needs_items: ClassVar[bool] = False

    def __call__(self, artifact: Artifact, context: Context) -> Artifact:
        return artifact
