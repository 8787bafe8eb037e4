"""Peak memory of model files, each in a guarded child of its own: JSON lines, on any machine that has an engine.

    python scripts/memory_child.py FILE ...          # .onnx and .tflite; PYTHONPATH must have this folder
    cp scripts/memory_child.py FOLDER; scripts/arm/run --data FOLDER -- \\
        sh -c 'PYTHONPATH=$PYTHONPATH:/data python3 memory_child.py *.tflite'

Part of scripts/check_memory.py and apart from it because the child pays for what it imports.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from edge_runtime.child import memory_status
from edge_runtime.engine import EngineOptions, find_engine
from edge_runtime.errors import EdgeError
from edge_runtime.server_file import FileServer

_SILENCE_S = 3600.0  # an emulated machine on a busy host takes its time


class Watched(FileServer):
    """Says what it holds."""

    def handle(self, op: str, meta: dict[str, Any], arrays: Any, progress: Any) -> Any:
        return (memory_status(), {}) if op == "status" else super().handle(op, meta, arrays, progress)


def open_watched(spec: dict[str, Any]) -> Watched:
    """As a bundle's variant is opened: from bytes, which are let go when it is loaded."""
    engine = find_engine(spec["engine"])
    with open(spec["model"], "rb") as stream:
        program = engine.load(stream.read(), EngineOptions(1))
    return Watched(program, engine.version())


def measure(path: Path) -> dict[str, Any]:
    """VmHWM when it has answered three times, and what it was and was resident when it was loaded; bytes."""
    import numpy as np

    from edge_runtime.guard import Child, Limits
    from edge_runtime.tensors import TensorSpec

    engine = "litert" if path.suffix == ".tflite" else "onnxruntime"
    child = Child("memory_child:open_watched", {"model": str(path), "engine": engine}, Limits(silence_s=_SILENCE_S))
    try:
        about = child.ready()
        loaded = child.call("status", {})[0]
        feeds = {}
        for one in map(TensorSpec.from_json, about["inputs"]):
            feeds[one.name] = np.zeros([size or 1 for size in one.shape], one.dtype)
        for _ in range(3):
            child.call("run", {}, feeds)
        ran = child.call("status", {})[0]
    finally:
        child.close()
    found = {"engine": engine, "engine_version": about["engine_version"], "measured_bytes": ran["VmHWM"]}
    return found | {"load_peak": loaded["VmHWM"], "loaded": loaded["VmRSS"], "ran": ran["VmRSS"]}


def main() -> None:
    from edge_runtime.machine import machine

    for path in map(Path, sys.argv[1:]):
        try:
            row = measure(path)
        except EdgeError as error:
            row = {"error": error.message}
        print(json.dumps({"model": path.name, "arch": machine().arch, **row}), flush=True)


if __name__ == "__main__":
    main()
