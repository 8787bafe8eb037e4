"""What a bundle takes beside its model files: its description, which lies on the device too and counts as storage.

Told before the bundle is written, from the unchanged model's files: variants differ in their recipe and in what was
judged, both of which are known, and in the digits of a few figures, for which there is room.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edge_runtime.bundle_header import ALIGN, FIXED
from edge_runtime.compress.costs import foresee
from edge_runtime.compress.outputs import specs
from edge_runtime.compress.recipe import Recipe, step_json

if TYPE_CHECKING:
    from edge_runtime.bundle import Bundle
    from edge_runtime.compress.products import Made

_DIGITS = 160  # figures of other lengths than the unchanged model's, and "activations" of a step
_FILE = {"name": "", "size": 10**9, "sha256": "0" * 64}
_CODED = {"coded": {"size": 10**9, "sha256": "0" * 64}}


@dataclass(frozen=True)
class Described:
    """`head`: bytes of the bundle's own; `entries`: by engine, of a variant without recipe and judgment. Nothing for a
    folder of files."""

    head: int = 0
    entries: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, about: Bundle, made: Sequence[Made]) -> Described:
        """`made`: the unchanged model's file for each engine."""
        task = str(about.task.get("kind"))
        entries = {}
        for one in made:
            inputs, outputs = ([spec.to_json() for spec in some] for some in specs(one.artifact))
            plain: dict[str, Any] = {"name": "", "format": one.artifact.format, "file": f".{one.artifact.format}"}
            plain |= {"recipe": [], "metrics": {}, "inputs": inputs, "outputs": outputs}
            entries[one.engine] = _bytes(
                plain | {"costs": foresee(one.artifact.content, one.artifact.format, task)}
            ) + _bytes(_FILE)
        header: dict[str, Any] = {"name": about.name, "version": about.version, "task": dict(about.task)}
        header |= {"labels": list(about.labels), "preprocessing": dict(about.preprocessing)}
        return cls(FIXED.size + _bytes(header | {"variants": [], "files": []}), entries)

    def least(self, engine: str) -> int:
        """Of a bundle with one variant."""
        return self.head + self.entries[engine] if engine in self.entries else 0

    def whole(self, engine: str, recipe: Recipe, row: Mapping[str, Any]) -> int:
        """Of a bundle with this variant alone, at most. `row`: as it was judged."""
        if engine not in self.entries:
            return 0
        judged = {key: row[key] for key in ("drift", "scores", "slide") if row.get(key) is not None}
        more = _bytes({"judged": judged}) + _bytes([step_json(one) for one in recipe.passes])
        names = 3 * (len(recipe.name) + len("-lite")) + len(".tflite")
        return self.least(engine) + more + names + (_bytes(_CODED) if row["coded"] else 0) + ALIGN + _DIGITS


def _bytes(plain: object) -> int:
    return len(json.dumps(plain, separators=(",", ":"), ensure_ascii=False).encode())
