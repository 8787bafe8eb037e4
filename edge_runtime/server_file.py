"""A model file alone, in the guarded child. Apart from server.py because that loads tasks, bundles and their modules,
and the start of a process is what its user waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge_runtime.engine import EngineOptions, find_engine

if TYPE_CHECKING:
    from edge_runtime.child import Progress, Reply
    from edge_runtime.engine import Program
    from edge_runtime.tensors import Array


class FileServer:
    def __init__(self, program: Program, version: str) -> None:
        self.program = program
        self.about = {
            "engine_version": version,
            "inputs": [spec.to_json() for spec in program.inputs],
            "outputs": [spec.to_json() for spec in program.outputs],
        }

    def handle(self, op: str, meta: dict[str, Any], arrays: dict[str, Array], progress: Progress) -> Reply:
        return {}, self.program.run(arrays)


def serve_file(spec: dict[str, Any]) -> FileServer:
    """Made in the child."""
    engine = find_engine(spec["engine"])
    program = engine.load(spec["model"], EngineOptions(spec["threads"]))
    return FileServer(program, engine.version())
