"""An engine that computes nothing: for tests that need none, and to time everything around an engine.

Its model format is JSON: {"inputs": [TensorSpec...], "outputs": [TensorSpec...], "fill": number}. Every output is
filled with `fill` ("" for strings); a free size takes the batch of the first input. With "counts": true, `fill` grows
by one at every run: a model with a state.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edge_runtime.errors import EngineError
from edge_runtime.tensors import TensorSpec, distinct

if TYPE_CHECKING:
    from pathlib import Path

    from edge_runtime.engine import EngineOptions
    from edge_runtime.tensors import Array

NAME = "null"
FORMATS: tuple[str, ...] = ("null",)
BATCH = 4
MAX_BYTES = 1 << 20


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
            text = stream.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise EngineError(f"null engine: found more than {MAX_BYTES} bytes, wanted JSON of that at most")
    try:
        plain = json.loads(text)
        inputs = tuple(TensorSpec.from_json(one) for one in plain["inputs"])
        outputs = tuple(TensorSpec.from_json(one) for one in plain["outputs"])
        return NullProgram(inputs, outputs, float(plain.get("fill", 0)), bool(plain.get("counts")))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        said = f"{type(error).__name__}: {error}"[:200]
        raise EngineError(f"null engine: found {said}, wanted JSON with inputs and outputs") from error


class NullProgram:
    labels: tuple[str, ...] = ()
    signatures: tuple[str, ...] = ()

    def __init__(
        self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], fill: float, counts: bool = False
    ) -> None:
        self.inputs, self.outputs = _renamed(inputs, "input"), _renamed(outputs, "output")
        self._fill, self._counts, self._runs = fill, counts, 0

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        import numpy as np

        if set(feeds) != {spec.name for spec in self.inputs}:
            raise EngineError(f"null engine: found inputs {sorted(feeds)}, wanted {[s.name for s in self.inputs]}")
        first: Any = next(iter(feeds.values()), None)
        batch = first.shape[0] if first is not None and first.ndim else 1
        shapes = {spec.name: [batch if size is None else size for size in spec.shape] for spec in self.outputs}
        fill = self._fill + self._counts * self._runs
        self._runs += 1
        try:
            return {
                spec.name: np.full(shapes[spec.name], "", object)
                if spec.dtype == "string"
                else np.full(shapes[spec.name], fill, spec.dtype)
                for spec in self.outputs
            }
        except (TypeError, ValueError, OverflowError) as error:  # no such dtype, or no room in it for `fill`
            raise EngineError(f"null engine: {error}, wanted outputs that hold {fill}") from error

    def reset(self) -> None:
        self._runs = 0

    def close(self) -> None:
        pass


def _renamed(specs: tuple[TensorSpec, ...], what: str) -> tuple[TensorSpec, ...]:
    names = distinct([one.name for one in specs], what)
    return tuple(one._replace(name=name) for one, name in zip(specs, names, strict=True))
