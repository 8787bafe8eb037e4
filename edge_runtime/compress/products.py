"""What a recipe gives: a file for each engine, and a bundle or a folder of them with the report."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.compress.artifact import Artifact, slim
from edge_runtime.compress.code import for_bundle
from edge_runtime.compress.costs import foresee
from edge_runtime.compress.dynamic import as_weights
from edge_runtime.compress.overwriting import earlier, report_of
from edge_runtime.compress.recipe import Recipe, pass_name
from edge_runtime.compress.steps import PassReport, write_whole
from edge_runtime.compress.tflite_write import to_tflite
from edge_runtime.compress.unpack import unpack
from edge_runtime.packing import MANIFEST, pack_folder

if TYPE_CHECKING:
    from edge_runtime.bundle import Bundle


@dataclass(frozen=True)
class Made:
    """One file for one engine: a recipe's result in the form that the engine reads. `coded`: stored entropy-coded."""

    name: str
    recipe: str
    engine: str
    artifact: Artifact
    coded: bool

    @property
    def file(self) -> str:
        return f"{self.name}.{self.artifact.format}"


def forms(recipe: Recipe, artifact: Artifact, engines: Sequence[str]) -> list[Made]:
    """The result for each engine: as it is for the one that reads its form, converted for LiteRT from ONNX."""
    coded = any(pass_name(one) == "code" for one in recipe.passes)
    found = []
    if artifact.form == "tflite":
        return [Made(recipe.name, recipe.name, "litert", artifact, coded)]
    if "onnxruntime" in engines:
        found.append(Made(recipe.name, recipe.name, "onnxruntime", slim(unpack(artifact)), coded))
    if "litert" in engines:
        model = artifact.model()
        lite = Artifact("tflite", to_tflite(model, "dynamic" if as_weights(model) else "float"))
        found.append(Made(f"{recipe.name}-lite", recipe.name, "litert", lite, coded))
    return found


def write(
    out: Path,
    about: Bundle | None,
    report: dict[str, Any],
    made: Sequence[Made],
    steps: Mapping[str, tuple[PassReport, ...]],
) -> None:
    """To a bundle (an .edge file) or a folder, with the report beside it or in it. Adds "bundle" to the report. All is
    written in a folder of its own first: a full disk costs nothing that stands there, and leaves nothing."""
    before, packed = earlier(out), out.suffix == ".edge" and about is not None
    home = out.parent if packed else out
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".edge-runtime-", dir=home) as scratch:
        place = Path(scratch, out.name) if packed else Path(scratch)
        if packed and about is not None:
            report["bundle"] = _pack(place, about, report, made, steps)
        else:
            for one in made:
                write_whole(place / one.file, one.artifact.content)
        write_report(place, report)
        placed = {home / path.name for path in Path(scratch).iterdir()}
        for path in sorted(placed, key=lambda one: one.name == report_of(out).name):  # what it lists stands before it
            Path(scratch, path.name).replace(path)
    for path in before - placed:
        path.unlink(missing_ok=True)


def write_report(out: Path, report: Mapping[str, Any]) -> None:
    """Beside a bundle, in a folder."""
    from edge_runtime.compress.report import as_page

    place = report_of(out)
    write_whole(place, json.dumps(report, indent=1, allow_nan=False).encode())
    write_whole(place.with_suffix(".html"), as_page(report).encode())


def _pack(
    out: Path, about: Bundle, report: dict[str, Any], made: Sequence[Made], steps: Mapping[str, tuple[PassReport, ...]]
) -> dict[str, Any]:
    rows = {row["name"]: row for row in report["variants"]}
    with tempfile.TemporaryDirectory(prefix="edge-runtime-", dir=out.absolute().parent) as scratch:
        folder = Path(scratch)
        variants = []
        for one in made:
            write_whole(folder / one.file, one.artifact.content)
            recipe = [_travels(step, one.artifact) for step in steps[one.recipe]]
            entry = {"name": one.name, "format": one.artifact.format, "file": one.file, "recipe": recipe}
            variants.append(
                entry | {"metrics": _metrics(rows[one.name])} | ({"coding": "entropy"} if one.coded else {})
            )
        manifest: dict[str, Any] = {"name": about.name, "version": about.version, "task": dict(about.task)}
        manifest |= {"labels": list(about.labels), "preprocessing": dict(about.preprocessing), "variants": variants}
        write_whole(folder / MANIFEST, json.dumps(manifest).encode())
        packed = pack_folder(folder, out, for_bundle, foresee)
    return {"path": out.name, "bytes": packed.size, "digest": packed.digest}


def _travels(step: PassReport, artifact: Artifact) -> dict[str, Any]:
    """A step as the bundle keeps it. `activations` is what the planner looks for: the variant computes in integers."""
    if not step.facts.get("integer_layers") or step.step.get("activation_bits") != 8:
        return step.step
    return step.step | {"activations": "int8" if artifact.form == "tflite" else "uint8"}


def _metrics(row: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: row[key] for key in ("drift", "scores", "slide") if row.get(key) is not None}
    return {"judged": kept}
