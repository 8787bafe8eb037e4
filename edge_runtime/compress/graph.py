"""The operators of a model as its engine runs them: the list from which operators.predict makes a latency."""

from __future__ import annotations

from pathlib import Path

from edge_runtime.errors import UsageError
from edge_runtime.operators import Node

ENGINE_OF = {"onnx": "onnxruntime", "tflite": "litert"}


def read_graph(model: Path | bytes, format_: str, arch: str) -> list[Node]:
    """`format_`: onnx or tflite; `arch`: of the device, as some of what onnxruntime adds belongs to x86-64 only.

    Raises InputError where the model cannot be read, EngineError where a package of the workstation is missing.
    """
    content = model.read_bytes() if isinstance(model, Path) else model
    if format_ == "onnx":
        from edge_runtime.compress.graph_onnx import read_onnx

        return read_onnx(content, arch)
    if format_ == "tflite":
        from edge_runtime.compress.graph_tflite import read_tflite

        return read_tflite(content)
    raise UsageError(f"model: found the format {format_!r}, wanted one of {', '.join(ENGINE_OF)}")
