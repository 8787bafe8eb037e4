"""An engine that computes nothing: for tests that need none, and to time everything around an engine.

Its model format is JSON: {"inputs": [TensorSpec...], "outputs": [TensorSpec...], "fill": number}. Every output is
filled with `fill`; a free size takes the batch of the first input.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edge_runtime.errors import EngineError
from edge_runtime.tensors import TensorSpec

if TYPE_CHECKING:
    from pathlib import Path

    from edge_runtime.engine import EngineOptions
    from edge_runtime.tensors import Array

NAME = "null"
FORMATS: tuple[str, ...] = ("null",)
BATCH = 4


def missing() -> str | None:
    return None


def version() -> str:
    return "1"


def ram_bytes(model_bytes: int, arch: str) -> int:
    return (32 << 20) + model_bytes


def load(model: bytes | str | Path, options: EngineOptions) -> NullProgram:
    text = model
    if not isinstance(text, bytes):
        with open(text, "rb") as stream:
            text = stream.read()
    try:
        plain = json.loads(text)
        inputs = tuple(TensorSpec.from_json(one) for one in plain["inputs"])
        outputs = tuple(TensorSpec.from_json(one) for one in plain["outputs"])
        return NullProgram(inputs, outputs, float(plain.get("fill", 0)))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise EngineError(f"null engine: found {error!r}, wanted JSON with inputs and outputs") from error


class NullProgram:
    def __init__(self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], fill: float) -> None:
        self.inputs, self.outputs, self._fill = inputs, outputs, fill

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        import numpy as np

        if set(feeds) != {spec.name for spec in self.inputs}:
            raise EngineError(f"null engine: found inputs {sorted(feeds)}, wanted {[s.name for s in self.inputs]}")
        first: Any = next(iter(feeds.values()), None)
        batch = first.shape[0] if first is not None and first.ndim else 1
        shapes = {spec.name: [batch if size is None else size for size in spec.shape] for spec in self.outputs}
        return {spec.name: np.full(shapes[spec.name], self._fill, spec.dtype) for spec in self.outputs}

    def close(self) -> None:
        pass
