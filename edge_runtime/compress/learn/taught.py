"""What learning leaves: a network, the model that it is exported to, and the files of both engines."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_runtime.compress.artifact import Artifact
from edge_runtime.errors import UsageError


@dataclass(frozen=True)
class Taught:
    """`net` answers as `artifact` does; `before`: the float graph that training began from."""

    net: Any
    artifact: Artifact
    before: Artifact
    facts: dict[str, Any] = field(default_factory=dict)

    def onnx(self) -> Artifact:
        from edge_runtime.compress.artifact import slim
        from edge_runtime.compress.unpack import unpack

        return slim(unpack(self.artifact))

    def tflite(self) -> Artifact:
        """Raises InputError for an operator that cannot be written."""
        from edge_runtime.compress.tflite_write import to_tflite

        return Artifact("tflite", to_tflite(self.artifact.model()))

    def export(self, path: Path) -> Artifact:
        """Written as .onnx or .tflite, whole or not at all. Raises UsageError for another ending."""
        from edge_runtime.compress.steps import write_whole

        if path.suffix not in (".onnx", ".tflite"):
            raise UsageError(f"{path}: found the ending {path.suffix!r}, wanted .onnx or .tflite")
        made = self.onnx() if path.suffix == ".onnx" else self.tflite()
        write_whole(path, made.content)
        return made
