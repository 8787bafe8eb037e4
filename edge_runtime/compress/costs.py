"""What a variant is predicted to take in memory, on each engine and architecture that can run it, for its bundle."""

from __future__ import annotations

from typing import Any

from edge_runtime.budget import ESTIMATED
from edge_runtime.compress.footprint_read import read_parts
from edge_runtime.errors import EngineError, InputError
from edge_runtime.footprint import MEASURED_ERROR, predict

_ARCHES = {
    "onnx": (("onnxruntime", "x86_64"), ("onnxruntime", "aarch64")),
    "tflite": (("litert", "x86_64"), ("litert", "aarch64"), ("litert", "armv7l")),
}


def foresee(content: bytes, format_: str, task: str) -> dict[str, dict[str, Any]]:
    """Costs by "engine/arch", as a bundle holds them. Nothing for a model whose sizes are not fixed, or where a package
    of the workstation is missing: then the device estimates by the model's size.

    The same model gives the same figures: nothing is measured here."""
    made = {}
    for engine, arch in _ARCHES.get(format_, ()):
        try:
            parts = read_parts(content, format_, arch)
        except (EngineError, InputError):
            return {}
        where = f"predicted from the graph, {MEASURED_ERROR[arch]}"
        ram = predict(engine, arch, parts, task)
        made[f"{engine}/{arch}"] = {
            "ram_bytes": ram,
            "storage_bytes": len(content),
            "basis": ESTIMATED,
            "where": where,
        }
    return made
