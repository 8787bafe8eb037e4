"""A model file alone, in the guarded child. Apart from server.py because that loads tasks, bundles and their modules,
and the start of a process is what its user waits for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edge_runtime.engine import EngineOptions, find_engine
from edge_runtime.errors import InputError

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
            "labels": program.labels,
            "signatures": program.signatures,
        }

    def handle(self, op: str, meta: dict[str, Any], arrays: dict[str, Array], progress: Progress) -> Reply:
        if op == "reset":
            reset(self.program, arrays)
            return {}, {}
        return {}, self.program.run(arrays)


def reset(program: Program, start: Mapping[str, object]) -> None:
    """`start`: of a Recurrent. Raises InputError where the program has no state that could be given."""
    from edge_runtime.recurrent import Recurrent

    if isinstance(program, Recurrent):
        program.reset(start)
    elif start:
        raise InputError(
            f"state: found {sorted(start)} to begin with, and no input is fed by an output",
            hint="open_program(..., state={input: output})",
        )
    else:
        program.reset()


def load_file(spec: dict[str, Any]) -> Program:
    """`spec` has model (its path), engine, threads, and perhaps signature and state (input -> output)."""
    options = EngineOptions(spec["threads"], spec.get("signature"))
    program = find_engine(spec["engine"]).load(spec["model"], options)
    if spec.get("state"):
        from edge_runtime.recurrent import Recurrent

        return Recurrent(program, spec["state"])
    return program


def serve_file(spec: dict[str, Any]) -> FileServer:
    """Made in the child."""
    return FileServer(load_file(spec), find_engine(spec["engine"]).version())
