"""One architecture, judged: trained for a while, perhaps on pictures made smaller, or read out of a supernet."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.compress.learn.checks import check_whole
from edge_runtime.compress.learn.lessons import Lessons
from edge_runtime.compress.learn.loop import Fit, answers, cross_entropy, fit, own_state
from edge_runtime.compress.learn.space import from_plain
from edge_runtime.compress.torch_graph import need_torch
from edge_runtime.digest import sha256
from edge_runtime.errors import InputError, UsageError

Score = Callable[[npt.NDArray[np.float32], Lessons], float]
"""(logits, lessons) -> what is to be large. A function of a module."""


@dataclass(frozen=True)
class Rung:
    """How long a candidate is taught: `fit` with these epochs (or `steps`), on pictures averaged over squares of
    `shrink` pixels, which costs the square of it less."""

    epochs: int = 1
    shrink: int = 1
    steps: int | None = None

    def __post_init__(self) -> None:
        check_whole(self, ("epochs", "shrink") if self.steps is None else ("epochs", "shrink", "steps"), 1)


@dataclass(frozen=True)
class School:
    """What all trials share. `score` says how good logits are on `val`; accuracy by default."""

    lessons: Lessons
    val: Lessons
    fit: Fit = field(default_factory=Fit)
    smoothing: float = 0.0
    score: Score | None = None

    def __post_init__(self) -> None:
        if self.lessons.labels is None or self.val.labels is None:
            raise InputError("found lessons without labels, wanted labels to teach and to judge candidates by")


def accuracy(logits: npt.NDArray[np.float32], lessons: Lessons) -> float:
    """Share of right answers: above 0 for one logit, the largest of several; items shown 0 times do not count."""
    said = logits[:, 0] > 0 if logits.shape[1] == 1 else logits.argmax(axis=1)
    right = said.astype(np.int64) == lessons.labels
    return float(right.mean() if lessons.times is None else right[lessons.times > 0].mean())


def run_trial(school: School, trial: Mapping[str, Any]) -> dict[str, Any]:
    """`trial`: {"architecture": plain_of(builder), "rung": asdict(Rung), "seed"}; gives {"score", "accuracy",
    "seconds"}, or {"failed": why, "seconds"} where its loss or its score is not finite: it would be the next time."""
    began = time.monotonic()
    try:
        net = train(school, trial)
    except InputError as error:
        return {"failed": error.message, "seconds": round(time.monotonic() - began, 2)}
    if trial.get("weights"):
        file = weights_file(Path(trial["weights"]), trial)
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_suffix(f".{os.getpid()}.new")
        need_torch().save(net.state_dict(), fresh)
        os.replace(fresh, file)
    logits = answers(net, shrunk(school.val, trial["rung"]["shrink"]))
    return judged(school, logits) | {"seconds": round(time.monotonic() - began, 2)}


def judged(school: School, logits: npt.NDArray[np.float32]) -> dict[str, Any]:
    """The largest of answers that are no numbers is no decision: such a candidate has failed."""
    endless = ~np.isfinite(logits).all(axis=1)
    if endless.any():
        return {"failed": f"found {endless.sum()} of {len(logits)} answers that are not finite, wanted finite ones"}
    right = accuracy(logits, school.val)
    score = school.score(logits, school.val) if school.score else right
    if not math.isfinite(score):
        return {"failed": f"found a score of {score}, wanted a finite one"}
    return {"score": score, "accuracy": right}


def train(school: School, trial: Mapping[str, Any]) -> Any:
    """The candidate's network after its rung."""
    torch = need_torch()
    rung = Rung(**trial["rung"])
    with own_state(trial["seed"], school.fit.threads):
        net = from_plain(trial["architecture"]).build().to(memory_format=torch.channels_last)
    lessons = shrunk(school.lessons, rung.shrink)
    settings = replace(school.fit, epochs=rung.epochs, seed=trial["seed"])
    return fit(net, lessons, cross_entropy(lessons, school.smoothing), settings, steps=rung.steps)


def weights_file(folder: Path, trial: Mapping[str, Any]) -> Path:
    plain = {key: trial[key] for key in ("architecture", "rung", "seed")}
    return folder / f"{sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]}.pt"


def load_trained(folder: Path, trial: Mapping[str, Any]) -> Any:
    """The network that a search with `weights` has kept. Raises InputError where it is not there."""
    file = weights_file(folder, trial)
    if not file.is_file():
        raise InputError(f"{file}: found no weights of {trial['architecture']}, wanted those of its last rung")
    net = from_plain(trial["architecture"]).build()
    net.load_state_dict(need_torch().load(file, weights_only=True))
    return net.eval()


def shrunk(lessons: Lessons, side: int) -> Lessons:
    """The same lessons with pictures averaged over squares. Raises UsageError for inputs that are no pictures."""
    if side == 1:
        return lessons
    if side < 1:
        raise UsageError(f"found pictures shrunk {side} times, wanted 1 or more")
    return replace(lessons, prepare=Shrinking(lessons.prepare, side))


@dataclass(frozen=True)
class Shrinking:
    """What lessons prepare, made smaller; an object of a module, so that it can be sent to another process."""

    prepare: Any
    side: int

    def __call__(self, inputs: tuple[Any, ...], dice: Any) -> tuple[Any, ...]:
        torch = need_torch()
        given = inputs if self.prepare is None else self.prepare(inputs, dice)
        if any(one.ndim != 4 for one in given):
            raise UsageError("found inputs that are no pictures, wanted (N,channels,height,width) to make smaller")
        least = min(size for one in given for size in one.shape[2:])
        if self.side > least:
            raise UsageError(f"Rung: shrink: found {self.side}, wanted at most {least}, the least side of the pictures")
        return tuple(torch.nn.functional.avg_pool2d(one, self.side) for one in given)


def as_trial(plain: Mapping[str, Any], rung: Rung, seed: int) -> dict[str, Any]:
    return {"architecture": dict(plain), "rung": asdict(rung), "seed": seed}
