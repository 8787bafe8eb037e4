"""`compress`: from a trained model and recipes to files or a bundle that a device runs, each judged on its engine."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.bundle import Bundle, load_bundle
from edge_runtime.compress import slide_figures, verify
from edge_runtime.compress.artifact import Artifact, need_packages
from edge_runtime.compress.export import load_model
from edge_runtime.compress.outputs import specs
from edge_runtime.compress.overwriting import files_of, refuse_overwriting
from edge_runtime.compress.prepare import prepare
from edge_runtime.compress.products import Made, forms, write
from edge_runtime.compress.recipe import Context, Progress, Recipe, Target, pass_name
from edge_runtime.compress.samples import Samples, load_samples
from edge_runtime.compress.scores import check_labels, unseen
from edge_runtime.compress.steps import (
    LEAST_AGREEMENT,
    MOST_CHANGE_SD,
    CollapseError,
    Notice,
    PassReport,
    run_recipe,
    write_whole,
)
from edge_runtime.compress.tflite_write import find_unsupported
from edge_runtime.errors import EdgeError, EngineError, InputError, UsageError
from edge_runtime.packing import load_description
from edge_runtime.task import find_task

if TYPE_CHECKING:
    from edge_runtime.tensors import TensorSpec

ENGINES: tuple[str, ...] = ("onnxruntime", "litert")
SCHEMA = 1


@dataclass(frozen=True)
class Job:
    """What is asked for. `model`: a file's path or a prepared artifact; `train`: items for passes that learn; `judge`:
    items to judge the result on (else those to calibrate with, and the report says so); `like`: a bundle or a
    bundle.json, for task, labels and preprocessing; `out`: an .edge file (needs `like`) or a folder; `speed`, `robust`:
    whether they are measured; `steps`: a folder where finished steps stay, for other runs that begin alike; `only`: the
    recipes and engines that are written, of those that are made; `more`: what else the report holds."""

    model: Path | Artifact
    recipes: tuple[Recipe, ...]
    out: Path
    calibrate: Path | None = None
    judge: Path | None = None
    like: Path | None = None
    target: Target = field(default_factory=Target)
    speed: bool = True
    robust: bool = True
    resume: bool = True
    steps: Path | None = None
    only: frozenset[tuple[str, str]] | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    train: Path | None = None

    @property
    def keep(self) -> Path:
        """Where finished steps stay."""
        if self.steps:
            return self.steps
        if self.out.name in ("", ".."):  # the folder where one is, or the one above: what is beside it is not one's own
            return self.out / ".edge-runtime.steps"
        return self.out.with_name(f".{self.out.name}.steps")


@dataclass(frozen=True)
class Ready:
    """What a job works on, read and checked. `original` is prepared; `judged` may be `samples`. `seen`: how many of the
    items judged on are calibrated on and trained on too. `unseen`: classes of which none is."""

    about: Bundle | None
    source: Artifact
    original: Artifact
    samples: Samples | None
    judged: Samples | None
    lessons: Samples | None = None
    seen: Mapping[str, int] = field(default_factory=dict)
    unseen: tuple[str, ...] = ()

    @property
    def doubts(self) -> tuple[str, ...]:
        """What speaks against believing what was judged, and what of the model it says nothing of."""
        if not self.unseen or self.judged is None:
            return self._leaks
        some = ", ".join(self.unseen[:5]) + (f" and {len(self.unseen) - 5} more" if len(self.unseen) > 5 else "")
        return (*self._leaks, f"no item of {self.judged.name} is of class {some}: what becomes of it is not judged")

    @property
    def _leaks(self) -> tuple[str, ...]:
        if self.judged is None:
            return ()
        return tuple(
            f"{count} of the {self.judged.count} items judged on were {how} on too: on new items more is lost"
            for how, count in self.seen.items()
            if count
        )


def read(job: Job) -> Ready:
    """Everything that can be known before work is checked here, also whether the task of a bundle that is to be written
    takes this model. Raises EdgeError's children."""
    need_packages()
    about = _check(job)
    source = load_model(job.model) if isinstance(job.model, Path) else job.model
    try:
        original = prepare(source)
    except InputError as error:
        where = f"{job.model}: " if isinstance(job.model, Path) else ""
        raise InputError(f"{where}{error.message}", hint=error.hint) from error
    for one in job.recipes:
        one.check(original.form, job.calibrate is not None)
    _check_engines(original, job)
    refuse_overwriting(job, files_of(job, original.form))
    inputs, outputs = specs(original)
    if about is not None and job.out.suffix == ".edge":
        find_task(about).check(inputs, outputs)  # as it is refused when it is packed, before any work
    samples = _samples(job.calibrate, inputs, about)
    judged = _samples(job.judge, inputs, about, judged=True) or samples
    missing: tuple[str, ...] = ()
    if judged is not None and judged.labels is not None and outputs[0].shape:
        check_labels(judged.labels, outputs[0].shape[-1], judged.name)
        known = dict(enumerate(about.labels)) if about else {}
        missing = tuple(known.get(one, str(one)) for one in unseen(judged.labels, outputs[0].shape[-1]))
    lessons = _samples(job.train, inputs, about)
    seen = {"calibrated": judged.shared(samples), "trained": judged.shared(lessons)} if judged is not None else {}
    return Ready(about, source, original, samples, judged, lessons, seen, missing)


def compress(
    job: Job, *, ready: Ready | None = None, progress: Progress | None = None, notice: Notice | None = None
) -> dict[str, Any]:
    """Carry it out; returns the report, which stands beside the result as JSON and HTML (report.py says its fields).
    `ready`: of a job that has been read.

    Finished steps are kept in a folder beside `out` until all is done: an interrupted run goes on where it was. Raises
    EdgeError's children: everything that can be known before work is checked first. A recipe that is refused while
    others are not stands in the report's "refused", and the others' results are written.
    """
    if not job.recipes:
        raise UsageError("found no recipe, wanted at least one", hint="add --recipe FILE.json")
    told, ready = ready is not None, ready or read(job)  # by whoever read it
    about, original, samples = ready.about, ready.original, ready.samples
    watched = progress or (lambda done, total, words: None)
    context = Context(original, samples, job.target, watched, lessons=ready.lessons)
    if notice and not told:
        for words in ready.doubts:
            notice(f"mind: {words}")
        if ready.judged and ready.judged.unlabelled:
            notice(f"mind: judged by decisions kept: the items have no labels: {ready.judged.unlabelled}")
    made: list[Made] = []
    steps: dict[str, tuple[PassReport, ...]] = {}
    refused: dict[str, EdgeError] = {}
    for recipe in job.recipes:
        try:
            artifact, reports = run_recipe(
                original, recipe, context, keep=job.keep if job.resume else None, notice=notice
            )
            made += [one for one in forms(recipe, artifact, job.target.engines) if _wanted(one, job)]
            steps[recipe.name] = reports
        except EdgeError as error:
            _go_on(recipe.name, error, job, refused, notice)
    originals = forms(Recipe("original", ()), original, job.target.engines)
    report = _report(job, ready, steps, originals, made, notice)
    for name, collapse in _collapsed(report).items():
        _go_on(name, collapse, job, refused, notice)
    report |= _without(report, refused) | dict(job.more)
    kept = [one for one in made if one.recipe not in refused]
    refuse_overwriting(job, [job.out] if job.out.suffix == ".edge" else [job.out / one.file for one in kept])
    write(job.out, about, report, kept, steps)
    if job.steps is None:
        shutil.rmtree(job.keep, ignore_errors=True)
    return report


def _check(job: Job) -> Bundle | None:
    """What can be refused without reading a weight. The description of `like`, where it is given."""
    names = [one.name for one in job.recipes]
    if len(set(names)) != len(names):
        raise UsageError(f"found recipes named {', '.join(names)}, wanted a name of its own for each")
    for engine in job.target.engines:
        if engine not in ENGINES:
            raise UsageError(f"found the engine {engine!r}, wanted {' or '.join(ENGINES)}")
    for recipe in job.recipes:
        used = {pass_name(one) for one in recipe.passes}
        if "repair" in used and importlib.util.find_spec("torch") is None:
            raise EngineError(
                f"recipe {recipe.name}: repair needs PyTorch, which is not installed",
                hint="pip install 'edge-runtime[train]'",
            )
    if job.out.suffix == ".edge" and job.like is None:
        raise UsageError(
            f"{job.out}: a bundle needs a task, labels and preprocessing",
            hint="add --like BUNDLE.edge or --like bundle.json; or give a folder for plain model files",
        )
    if job.out.suffix != ".edge" and job.out.exists() and not job.out.is_dir():
        raise UsageError(f"{job.out}: found a file, wanted a folder or a name ending in .edge")
    if job.out.suffix == ".edge" and job.out.is_dir():
        raise UsageError(f"{job.out}: found a folder, wanted a file or a folder whose name does not end in .edge")
    if not job.out.absolute().parent.is_dir():
        raise UsageError(f"{job.out}: its folder is not there")
    if job.like is None:
        return None
    return load_description(job.like) if job.like.suffix == ".json" else load_bundle(str(job.like))


def _check_engines(original: Artifact, job: Job) -> None:
    """Raises InputError naming every operator that the TFLite writer does not know, before any work."""
    if original.form == "tflite" and "onnxruntime" in job.target.engines and len(job.target.engines) == 1:
        raise UsageError("found a TFLite file and the engine onnxruntime, which reads ONNX: wanted litert")
    if original.form == "tflite" or "litert" not in job.target.engines:
        return
    if unknown := find_unsupported(original.model()):
        raise InputError(
            f"the TFLite writer does not know: {'; '.join(unknown[:10])}", hint="add --engines onnxruntime"
        )


def _samples(
    path: Path | None, inputs: tuple[TensorSpec, ...], about: Bundle | None, judged: bool = False
) -> Samples | None:
    return load_samples(path, inputs, about, judged=judged) if path else None


def _wanted(one: Made, job: Job) -> bool:
    return job.only is None or (one.recipe, one.engine) in job.only


# ---------------------------------------------------------------- the report


def _report(
    job: Job,
    ready: Ready,
    steps: Mapping[str, tuple[PassReport, ...]],
    originals: Sequence[Made],
    made: Sequence[Made],
    notice: Notice | None,
) -> dict[str, Any]:
    say = notice or (lambda words: None)
    source, original, samples, judged = ready.source, ready.original, ready.samples, ready.judged
    say("judging: outputs and accuracy")
    both = [*originals, *made]
    rows, said = verify.judge([one.artifact for one in both], original, judged)
    with tempfile.TemporaryDirectory(prefix="edge-runtime-") as scratch:
        for one, row in zip(both, rows, strict=True):
            row |= {"name": one.name, "recipe": one.recipe, "engine": one.engine, "format": one.artifact.format}
            row |= {"sha256": one.artifact.digest, "stored_bytes": verify.stored_bytes(one.artifact, one.coded)}
            write_whole(Path(scratch, one.file), one.artifact.content)
        slides = _slides(ready, rows, said)
        verify.siblings(rows, said, judged.cut if judged else None)
        if job.speed:
            say("judging: speed and memory, paired")
            for engine in job.target.engines:
                group = [(one, row) for one, row in zip(both, rows, strict=True) if one.engine == engine]
                if not group:  # a TFLite file runs on one engine
                    continue
                found = verify.speeds([Path(scratch, one.file) for one, _ in group], engine, notice)
                for (one, row), speed in zip(group, found, strict=True):
                    row["speed"] = speed
                    if speed["against"] and one.recipe == "original":
                        row["speed"] = speed | {"ratio": 1.0, "interval": None}
    robust = verify.robust({one.name: one.artifact for one in both}, judged, say) if job.robust and judged else None
    layers = {name: _layers(original, made, name, samples) for name in steps}
    return {
        "schema": SCHEMA,
        "model": {
            "path": job.model.name if isinstance(job.model, Path) else None,
            "sha256": source.digest,
            "bytes": len(source.content),
            "form": source.form,
            **verify.size(original),
        },
        "target": {"arch": job.target.arch, "engines": list(job.target.engines)},
        "calibrated_on": {"name": _name(samples), "items": samples.count} if samples else None,
        "judged_on": _judged(ready),
        "originals": rows[: len(originals)],
        "variants": rows[len(originals) :],
        "steps": {name: [one.to_json() for one in reports] for name, reports in steps.items()},
        "recipes": [one.to_json() for one in job.recipes],
        "layers": layers,
        "robustness": robust,
        "slides": slides,
    }


def _slides(ready: Ready, rows: Sequence[dict[str, Any]], said: Sequence[verify.Answers]) -> dict[str, Any] | None:
    """Adds "slide" to the rows of a slides bundle's net where the items say whose cells they are; else why not."""
    task = ready.about.task if ready.about else {}
    why_not, calibration = slide_figures.why_not(task, ready.judged), slide_figures.calibration_of(task)
    if why_not or calibration is None or ready.judged is None:
        return {"not_judged": why_not} if why_not else None
    for row, found in zip(rows, said, strict=True):
        row["slide"] = slide_figures.figures(next(iter(found.values())), ready.judged, calibration)
    return {"threshold": calibration.threshold}


def _collapsed(report: dict[str, Any]) -> dict[str, CollapseError]:
    """By recipe. What is shipped is judged too, in the form that each engine gets, before anything is written."""
    found = {}
    for row in report["variants"]:
        drift = row["drift"]
        if drift and (drift["agreement"] < LEAST_AGREEMENT or drift["mean"] > MOST_CHANGE_SD):
            found[row["recipe"]] = CollapseError(
                f"{row['name']} on {row['engine']}: found {drift['agreement']:.1%} of the decisions kept and an output "
                f"change of {drift['mean']:.2f} sd on {drift['items']} items of {report['judged_on']['name']}, wanted "
                f"at least {LEAST_AGREEMENT:.0%} and at most {MOST_CHANGE_SD} sd",
                hint="make the step that loses most gentler, or put a repair step behind it",
            )
    return found


def _go_on(name: str, error: EdgeError, job: Job, refused: dict[str, EdgeError], notice: Notice | None) -> None:
    """One recipe's refusal does not cost the others' results. Raises it where no other is left."""
    refused[name] = error
    if len(refused) == len(job.recipes):
        raise error
    if notice:
        notice(f"{name}: refused: {error.message}")


def _without(report: dict[str, Any], refused: Mapping[str, EdgeError]) -> dict[str, Any]:
    return {
        "variants": [row for row in report["variants"] if row["recipe"] not in refused],
        "steps": {name: one for name, one in report["steps"].items() if name not in refused},
        "layers": {name: one for name, one in report["layers"].items() if name not in refused},
        "recipes": [one for one in report["recipes"] if one["name"] not in refused],
        "refused": {name: error.message for name, error in refused.items()},
    }


def _layers(original: Artifact, made: Sequence[Made], recipe: str, samples: Samples | None) -> list[dict[str, Any]]:
    found = [one.artifact for one in made if one.recipe == recipe and one.artifact.format == "onnx"]
    return verify.by_layer(original, found[0], samples) if found and samples and original.form == "onnx" else []


def _name(samples: Samples) -> str:
    return Path(samples.name).name


def _judged(ready: Ready) -> dict[str, Any] | None:
    """`also_calibrated_on`: all of them; `seen`: how many, calibrated and trained on."""
    judged = ready.judged
    if judged is None:
        return None
    return {
        "name": _name(judged),
        "items": judged.count,
        "labels": judged.labels is not None,
        "unlabelled": judged.unlabelled,
        "unseen": list(ready.unseen),
        "also_calibrated_on": ready.seen.get("calibrated") == judged.count,
        "seen": dict(ready.seen),
    }
