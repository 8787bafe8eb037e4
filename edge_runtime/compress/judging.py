"""One candidate of a search, judged: what it costs on the device and what it loses, row by row, kept in a file.

A row is one file for one engine, stored plain or entropy-coded:

    {"engine", "coded", "stored_bytes", "file_bytes", "sha256", "ram_bytes", "latency_ms", "macs", "basis": how the
     costs are known, "scores", "drift", "slide" or null}
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.compress import slide_figures, verify
from edge_runtime.compress.candidates import Candidate
from edge_runtime.compress.drift import compare, cut_of, decisions
from edge_runtime.compress.outputs import BATCH, answers
from edge_runtime.compress.paper import Place, macs_of
from edge_runtime.compress.products import Made, forms
from edge_runtime.compress.recipe import Context
from edge_runtime.compress.run import Job, Ready
from edge_runtime.compress.samples import Samples
from edge_runtime.compress.scores import scores
from edge_runtime.compress.search_words import CHANGE
from edge_runtime.compress.steps import CollapseError, Notice, no_room, run_recipe
from edge_runtime.digest import sha256
from edge_runtime.errors import EdgeError, InputError, UsageError
from edge_runtime.version import __version__

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Row = dict[str, Any]
RECORD = "search.jsonl"
SCHEMA = 1  # of a row's fields and what they mean
# a class with a smaller share of the items (of two classes; of more in proportion): then F1 counts, which "always no"
# does not raise
RARE = 0.2
_ROW = {"engine", "coded", "stored_bytes", "file_bytes", "sha256", "ram_bytes", "latency_ms", "macs", "basis"}
_ROW |= {"scores", "drift", "slide"}


@dataclass(frozen=True)
class Judged:
    """`rows` empty where `error` says why there is no result; `resumed`: from an earlier run's file."""

    name: str
    cost: int
    seconds: float
    rows: tuple[Row, ...] = ()
    error: str = ""
    resumed: bool = False


@dataclass
class Bench:
    """What candidates are judged with. `judged`: the items, which are there."""

    ready: Ready
    job: Job
    places: Mapping[str, Place]
    context: Context
    judged: Samples
    _reference: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def judge(self, candidate: Candidate, notice: Notice) -> Judged:
        """Makes it and looks at it. Raises EdgeError only for what is wrong with the machine or the items."""
        start = time.monotonic()
        try:
            artifact, _ = run_recipe(
                self.ready.original, candidate.recipe, self.context, keep=self.job.keep, notice=notice
            )
            made = forms(candidate.recipe, artifact, self.job.target.engines)
            macs = macs_of(artifact)
            rows = [row | {"macs": macs} for one in made for row in self._rows(one, candidate.coded)]
        except EdgeError as error:
            if no_room(error):
                raise
            said = error.message if isinstance(error, CollapseError) else f"{candidate.name}: {error.message}"
            return Judged(candidate.name, candidate.cost, round(time.monotonic() - start, 2), error=said)
        return Judged(candidate.name, candidate.cost, round(time.monotonic() - start, 2), tuple(rows))

    def reference(self) -> dict[str, NDArray[np.float32]]:
        """What the original answers."""
        if not self._reference:
            self._reference = answers(self.ready.original, self.judged, BATCH)
        return self._reference

    def doubts(self, score: str) -> tuple[str, ...]:
        """Of decisions, where they are all that is compared. Raises UsageError where the original's are all the same:
        then any model that answers on one side of a bound would lose nothing, whatever it answers."""
        if self.judged.labels is not None or score == CHANGE:
            return ()
        first = next(iter(self.reference().values()))
        cut = cut_of(first, self.judged.cut)
        if self.judged.count > 1 and len(set(decisions(first, cut).ravel().tolist())) == 1:
            raise UsageError(
                f"{self.judged.name}: found that the original decides all {self.judged.count} items alike, and no "
                "labels, so that decisions kept would say nothing; wanted items that it decides otherwise, too",
                hint="add such items, or labels; where its outputs are numbers and no classes: --score change",
            )
        if self.judged.cut is None and cut == 0 and first.size == len(first):
            return ("decisions kept are whether its one number is above 0: if that is a figure, --score change",)
        return ()

    def _rows(self, made: Made, codings: Sequence[bool]) -> list[Row]:
        artifact, samples = made.artifact, self.judged
        found = answers(artifact, samples, BATCH)
        drift = compare(self.reference(), found, samples.cut)
        plain: Row = {"engine": made.engine, "file_bytes": len(artifact.content), "sha256": artifact.digest}
        plain["drift"] = asdict(drift)
        plain["scores"] = None if samples.labels is None else scores(found, samples.labels, drift.cut)
        plain["slide"] = self._slide(next(iter(found.values())))
        rows = []
        for coded in codings:
            stored = verify.stored_bytes(artifact, coded)
            if coded and len(codings) > 1 and stored >= len(artifact.content):
                continue  # coding gains nothing
            cost = self.places[made.engine].cost(artifact, coded, stored)
            row = plain | {"coded": coded, "stored_bytes": stored, "ram_bytes": cost.ram_bytes}
            rows.append(row | {"latency_ms": cost.latency_ms, "basis": cost.where})
        return rows

    def _slide(self, output: NDArray[np.float32]) -> dict[str, Any] | None:
        calibration = slide_figures.calibration_of(self.ready.about.task) if self.ready.about else None
        if calibration is None or self.judged.person is None:
            return None
        return slide_figures.figures(output, self.judged, calibration)


def items_of(ready: Ready) -> Samples:
    """What is judged on. Raises UsageError."""
    if ready.judged is None:
        raise UsageError(
            "found no items to judge with, wanted some: a drop is judged on them",
            hint="add --judge DATA, or at least --calibrate DATA",
        )
    labels = ready.judged.labels
    if labels is not None and len(set(labels.tolist())) == 1:
        raise UsageError(
            f"{ready.judged.name}: found items of one class alone (none of {', '.join(ready.unseen[:5])}), wanted "
            "items of others too: a net that always says the same would lose nothing",
            hint="add items of the other classes, or leave the labels out: then decisions are compared",
        )
    return ready.judged


def score_for(asked: str | None, samples: Samples) -> tuple[str, str]:
    """(which, why): of items with labels the one asked for, else F1 where a class is rare."""
    import numpy as np

    if asked == CHANGE:
        return CHANGE, "asked for: a point is 0.01 standard deviations of the outputs"
    if samples.labels is None:
        if asked:
            raise UsageError(
                f"found the score {asked} and items without labels, wanted labels",
                hint="add --judge DATA with labels",
            )
        return "decisions kept", f"the items have no labels{f': {samples.unlabelled}' if samples.unlabelled else ''}"
    if asked:
        return asked, "asked for"
    counts = np.unique(samples.labels, return_counts=True)[1]
    rarest = float(counts.min()) / samples.count
    if rarest < RARE * 2 / len(counts):
        return "f1", f"the rarest class has {rarest:.1%} of the items"
    return "accuracy", "no class is rare"


# ---------------------------------------------------------------- what was judged before


class Record:
    """A file of JSON lines, one a candidate, beside the finished steps. What stands there is not judged again, unless
    the model, the items, the target or the version of this package is another."""

    def __init__(self, folder: Path, ready: Ready, job: Job) -> None:
        self.path = folder / RECORD
        judged, samples = ready.judged, ready.samples
        parts = [f"{__version__} {SCHEMA}", ready.original.digest, str(job.target)]
        for one in (samples, judged, *([ready.lessons] if ready.lessons else [])):
            labels = b"" if one is None or one.labels is None else one.labels.tobytes()
            people = b"" if one is None or one.person is None else one.person.tobytes()
            parts.append("none" if one is None else f"{one.digest()} {sha256(labels + people).hexdigest()}")
        task = dict(ready.about.task) if ready.about else None
        parts.append(json.dumps(task, sort_keys=True, default=str))
        self._start = " ".join(parts)
        self._known = self._read()

    def key(self, candidate: Candidate) -> str:
        recipe = json.dumps([candidate.recipe.to_json(), candidate.coded], sort_keys=True)
        return sha256(f"{self._start} {recipe}".encode()).hexdigest()

    def find(self, candidate: Candidate) -> Judged | None:
        plain = self._known.get(self.key(candidate))
        if plain is None:
            return None
        return Judged(
            candidate.name, candidate.cost, plain["seconds"], tuple(plain["rows"]), plain["error"], resumed=True
        )

    def add(self, candidate: Candidate, judged: Judged) -> None:
        found = {"seconds": judged.seconds, "rows": list(judged.rows), "error": judged.error}
        key = self.key(candidate)
        plain = {"key": key, "name": judged.name, "recipe": candidate.recipe.to_json(), **found}
        self._known[key] = found
        try:
            self._append(json.dumps(plain).encode())
        except OSError as error:
            raise InputError(f"{self.path}: {error.strerror or error}") from error

    def _append(self, line: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as stream:
            end = stream.tell()
            stream.seek(max(0, end - 1))
            torn = end > 0 and stream.read(1) != b"\n"  # a cut left half a line
            stream.write((b"\n" if torn else b"") + line + b"\n")
            stream.flush()
            os.fsync(stream.fileno())

    def _read(self) -> dict[str, dict[str, Any]]:
        """A last line that a cut left half is passed over, and any with rows of other fields."""
        found = {}
        try:
            lines = self.path.read_text().splitlines()
        except (OSError, ValueError):
            return {}
        for line in lines:
            try:
                plain = json.loads(line)
                whole = isinstance(plain["rows"], list) and all(set(row) >= _ROW for row in plain["rows"])
                if whole and isinstance(plain["seconds"], int | float) and isinstance(plain["error"], str):
                    found[str(plain["key"])] = {name: plain[name] for name in ("seconds", "rows", "error")}
            except (ValueError, KeyError, TypeError):
                continue
        return found
