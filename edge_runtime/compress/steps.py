"""Carry out a recipe, step by step: each one compared with the original, kept so that an interrupted run resumes."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.drift import Drift, compare
from edge_runtime.compress.outputs import BATCH, answers
from edge_runtime.compress.recipe import Context, Recipe, pass_name, step_json
from edge_runtime.digest import sha256
from edge_runtime.errors import EdgeError, InputError
from edge_runtime.version import __version__

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Notice = Callable[[str], None]
MOST_ITEMS = 256  # for the comparison after each step
# a model that keeps fewer decisions than this is another model; passes have tighter limits of their own
LEAST_AGREEMENT = 0.9
# passes that learn, which wants more items than calibrating does
LEARNING = ("repair", "quantize_aware", "prune_and_tune")
MOST_CHANGE_SD = 0.6  # a change as large as the answers' own spread keeps nothing, whatever decisions say


@dataclass(frozen=True)
class PassReport:
    """What one step did. `drift` is against the original, None without items; `facts` are the pass's own."""

    step: dict[str, Any]
    form: str
    file_bytes: int
    sha256: str
    seconds: float
    drift: Drift | None
    facts: dict[str, Any] = field(default_factory=dict)
    resumed: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class CollapseError(EdgeError):
    """The result is not the model that it was made from."""


def run_recipe(
    artifact: Artifact, recipe: Recipe, context: Context, *, keep: Path | None = None, notice: Notice | None = None
) -> tuple[Artifact, tuple[PassReport, ...]]:
    """`artifact`: prepared. `keep`: a folder for finished steps, made if need be; what stands there from an interrupted
    run of the same recipe on the same model and items is taken up: quantize_aware and prune_and_tune go on after the
    last epoch that was finished, other passes begin anew.

    Raises UsageError on paper, InputError where a pass cannot work on the model, CollapseError where the result keeps
    fewer than LEAST_AGREEMENT of the decisions.
    """
    recipe.check(artifact.form, context.samples is not None)
    some = context.samples.some(MOST_ITEMS) if context.samples else None
    reference = answers(artifact, some, BATCH) if some else None
    key = _start_key(artifact, context) if keep else ""
    reports: list[PassReport] = []
    for number, one in enumerate(recipe.passes, 1):
        step, lessons = step_json(one), context.lessons if pass_name(one) in LEARNING else None
        taught = f" {lessons.digest()}" if keep and lessons else ""
        key = sha256(f"{key} {json.dumps(step, sort_keys=True)}{taught}".encode()).hexdigest()
        if keep and (found := _take_up(keep, key)):
            artifact, report = found
            if notice:
                notice(f"{recipe.name}: step {number} of {len(recipe.passes)}, {pass_name(one)}: taken up")
        else:
            if notice:
                notice(f"{recipe.name}: step {number} of {len(recipe.passes)}, {pass_name(one)}")
            facts: dict[str, Any] = {}
            start = time.monotonic()
            place = keep / f"{key}.pt" if keep and pass_name(one) in LEARNING else None
            here = replace(context, facts=facts, samples=lessons or context.samples, checkpoint=place)
            artifact = one(artifact, here)
            seconds = time.monotonic() - start
            drift = _drift(artifact, context, reference)
            report = PassReport(
                step, artifact.form, len(artifact.content), artifact.digest, round(seconds, 2), drift, facts
            )
            if keep:
                _keep(keep, key, artifact, report)
        reports.append(report)
    _refuse_collapse(recipe, reports)
    return artifact, tuple(reports)


def _drift(artifact: Artifact, context: Context, reference: dict[str, NDArray[np.float32]] | None) -> Drift | None:
    if reference is None or context.samples is None:
        return None
    return compare(reference, answers(artifact, context.samples.some(MOST_ITEMS), BATCH), context.samples.cut)


def _refuse_collapse(recipe: Recipe, reports: list[PassReport]) -> None:
    last = reports[-1].drift if reports else None
    if last is None or (last.agreement >= LEAST_AGREEMENT and last.mean <= MOST_CHANGE_SD):
        return
    lost = {pass_name_of(one): one.drift for one in reports if one.drift}
    steps = "; ".join(f"{name}: {drift.agreement:.1%} kept, {drift.mean:.2f} sd" for name, drift in lost.items())
    raise CollapseError(
        f"recipe {recipe.name}: found {last.agreement:.1%} of the decisions kept on {last.items} items, wanted at "
        f"least {LEAST_AGREEMENT:.0%}, and an output change of at most {MOST_CHANGE_SD} sd. After each step: {steps}",
        hint="make the step that loses most gentler, or put a repair step behind it",
    )


def pass_name_of(report: PassReport) -> str:
    return str(report.step["pass"])


# ---------------------------------------------------------------- resuming


def _start_key(artifact: Artifact, context: Context) -> str:
    items = context.samples.digest() if context.samples else "none"
    return f"{__version__} {artifact.digest} {items} {context.target}"


def _take_up(folder: Path, key: str) -> tuple[Artifact, PassReport] | None:
    """A finished step; None where it is not there, or its bytes are not what its report says."""
    try:
        plain = json.loads((folder / f"{key}.json").read_text())
        content = (folder / f"{key}.model").read_bytes()
        drift = Drift(**plain["drift"]) if plain["drift"] else None
        report = PassReport(**{**plain, "drift": drift, "resumed": True})
    except (OSError, ValueError, TypeError, KeyError):
        return None
    artifact = Artifact(report.form, content)
    return (artifact, report) if artifact.digest == report.sha256 else None


def _keep(folder: Path, key: str, artifact: Artifact, report: PassReport) -> None:
    write_whole(folder / f"{key}.model", artifact.content)
    write_whole(folder / f"{key}.json", json.dumps(report.to_json()).encode())


def write_whole(path: Path, content: bytes) -> None:
    """The file is there whole or not at all. Raises InputError where there is no room, before anything is written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
        if len(content) > free:
            raise OSError(errno.ENOSPC, f"found {free} bytes free, wanted {len(content)}")
        partial = path.with_name(f".{path.name}.partial")
        try:
            with partial.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error


def no_room(error: BaseException | None) -> bool:
    """Whether it is the disk's and neither the model's nor the items'."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__
    return error is not None and error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
