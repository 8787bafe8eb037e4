"""The candidates of a search timed on this machine: all of an engine in turn in one run, with the original."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.compress import verify
from edge_runtime.compress.products import forms
from edge_runtime.compress.steps import run_recipe, write_whole
from edge_runtime.machine import machine

if TYPE_CHECKING:
    from edge_runtime.compress.candidates import Candidate
    from edge_runtime.compress.judging import Bench, Judged

Pair = tuple["Candidate", "Judged"]


def time_rows(pairs: Sequence[Pair], bench: Bench, late: Callable[[], bool] = lambda: False) -> list[Pair]:
    """The same with `latency_ms` as measured here: one thread, fresh processes. The first is the original; the others'
    figure is its own times their paired ratio, which a busy machine disturbs less. `late`: asked before each engine,
    whose files are then left as they are."""
    found: dict[tuple[str, str], float] = {}
    with tempfile.TemporaryDirectory(prefix="edge-runtime-") as scratch:
        files: dict[str, list[tuple[str, Path]]] = {}
        for candidate, judged in pairs:
            if not judged.rows:
                continue
            artifact, _ = run_recipe(bench.ready.original, candidate.recipe, bench.context, keep=bench.job.keep)
            for one in forms(candidate.recipe, artifact, bench.job.target.engines):
                path = Path(scratch, one.file)
                write_whole(path, one.artifact.content)
                files.setdefault(one.engine, []).append((candidate.name, path))
        for engine, named in files.items():
            if late():
                break
            speeds = verify.speeds([path for _, path in named], engine)
            first = speeds[0]["p50_ms"]
            for (name, _), speed in zip(named, speeds, strict=True):
                if first and speed["p50_ms"]:
                    found[name, engine] = first * (speed["ratio"] or speed["p50_ms"] / first)
    return [(candidate, replace(judged, rows=tuple(_timed(row, candidate.name, found) for row in judged.rows)))
            for candidate, judged in pairs]  # fmt: skip


def _timed(row: dict[str, object], name: str, found: dict[tuple[str, str], float]) -> dict[str, object]:
    latency = found.get((name, str(row["engine"])))
    if latency is None:
        return row
    basis = f"{str(row['basis']).partition('; latency')[0]}; latency measured here, on {machine().arch}, one thread"
    return row | {"latency_ms": latency, "basis": basis, "measured_here": machine().arch}
