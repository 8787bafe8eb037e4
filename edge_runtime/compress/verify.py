"""Before and after: size, output change, accuracy, speed, memory, robustness, and where in the network it changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.drift import compare
from edge_runtime.compress.layers import weighted
from edge_runtime.compress.outputs import BATCH, answers, tap
from edge_runtime.compress.samples import Samples
from edge_runtime.compress.scores import robustness, scores, takes_pictures

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Answers = dict[str, NDArray[np.float32]]

ROBUST_ITEMS = 300
LAYER_ITEMS = 16
MOST_LAYERS = 120


def size(artifact: Artifact) -> dict[str, Any]:
    """{"file_bytes", "parameters": numbers in initializers, zeros not counted apart, None for a TFLite file}."""
    if artifact.format == "tflite":
        return {"file_bytes": len(artifact.content), "parameters": None}
    found = [one.const_value for one in artifact.model().graph.initializers.values()]
    return {
        "file_bytes": len(artifact.content),
        "parameters": sum(one.size for one in found if one is not None and one.dtype.itemsize <= 4 and one.size > 1),
    }


def stored_bytes(artifact: Artifact, coded: bool) -> int:
    """What a bundle stores of it."""
    if not coded:
        return len(artifact.content)
    from edge_runtime.compress.code import for_bundle

    return min(len(artifact.content), len(for_bundle(artifact.content, artifact.format)[0]))


def judge(
    artifacts: Sequence[Artifact], original: Artifact, samples: Samples | None
) -> tuple[list[dict[str, Any]], list[Answers]]:
    """For each {"file_bytes", "parameters", "drift": as Drift or None, "scores": or None}, on its own engine; and what
    it answered, empty where there are no items."""
    rows: list[dict[str, Any]] = [{**size(one), "drift": None, "scores": None} for one in artifacts]
    if samples is None:
        return rows, []
    reference = answers(original, samples, BATCH)
    said: list[Answers] = []
    for one, row in zip(artifacts, rows, strict=True):
        found = answers(one, samples, BATCH)
        drift = compare(reference, found, samples.cut)
        row["drift"] = asdict(drift)
        if samples.labels is not None:
            row["scores"] = scores(found, samples.labels, drift.cut)
        said.append(found)
    return rows, said


def siblings(rows: Sequence[dict[str, Any]], said: Sequence[Answers], cut: float | None = None) -> None:
    """Adds "sibling" to the rows of a recipe that has a variant for each of two engines: {"engine", "agreement":
    the share of items on which the two decide alike, "largest": their difference in standard deviations}."""
    for place, row in enumerate(rows if said else ()):
        for other, against in enumerate(rows):
            if against["recipe"] == row["recipe"] and against["engine"] != row["engine"]:
                # which of the two is measured against must not matter: the first one's spread and cut count
                first, second = sorted((place, other))
                drift = compare(said[first], said[second], cut)
                row["sibling"] = {
                    "engine": against["engine"],
                    "agreement": drift.agreement,
                    "largest": drift.largest,
                }


def speeds(paths: Sequence[Path], engine: str, notice: Callable[[str], None] | None = None) -> list[dict[str, Any]]:
    """One thread, fresh processes, all in turn in one run; `ratio` to the first with its 95 % interval.

    {"p50_ms", "ratio", "interval": [low, high] or None, "against": the first's name or None, "peak_bytes", "error"}
    """
    from edge_runtime.bench import Protocol, run_bench

    protocol = Protocol(rounds=3, most_rounds=6, window_s=0.6, batches=())
    rows = run_bench([str(one) for one in paths], engines=[engine], threads=[1], protocol=protocol, item=None)
    by_path = {row["subject"]["path"]: row for row in rows}
    first = by_path[paths[0].name]["label"]
    made = []
    for path in paths:
        row = by_path[path.name]
        ratio = next((one for one in row["ratios"] if one["to"] == first), None)
        made.append(
            {
                "p50_ms": row["latency_ms"]["p50"] if row["latency_ms"] else None,
                "ratio": ratio["ratio"] if ratio else None,
                "interval": ratio["interval"] if ratio else None,
                "against": paths[0].stem,
                "peak_bytes": row["memory"]["peak_bytes"] if row["memory"] else None,
                "error": row["error"],
            }
        )
    return made


def robust(
    models: Mapping[str, Artifact], samples: Samples, say: Callable[[str], None] = lambda words: None
) -> dict[str, Any] | None:
    """{"items", "measure": "accuracy" | "decisions kept", "rows": as robustness()}; None where none is a picture."""
    if not takes_pictures(samples):
        return None
    some = samples.some(ROBUST_ITEMS)
    say(f"judging: robustness on {some.count} items")
    measure = "decisions kept" if some.labels is None else "accuracy"
    return {"items": some.count, "measure": measure, "rows": robustness(models, some)}


def by_layer(original: Artifact, artifact: Artifact, samples: Samples) -> list[dict[str, Any]]:
    """What each weighted layer gives out, compared with the original's: [{"name", "change_sd": rms of the change by the
    standard deviation}], for tensors that both graphs have in the same shape. Streamed: two batches in memory."""
    import numpy as np

    names = [str(one.node.outputs[0].name) for one in weighted(original.model())]
    there = {value.name for node in artifact.model().graph for value in node.outputs}
    shared = [name for name in names if name in there][:MOST_LAYERS]
    if not shared:
        return []
    few = samples.some(LAYER_ITEMS)
    sums = {name: np.zeros(4) for name in shared}
    for old, new in zip(tap(original, few, shared), tap(artifact, few, shared), strict=True):
        for name in shared:
            if old[name].shape != new[name].shape:
                continue
            before, after = old[name].astype(np.float64), new[name].astype(np.float64)
            sums[name] += (((after - before) ** 2).sum(), before.sum(), (before**2).sum(), before.size)
    made = []
    for name, (change, total, squares, count) in sums.items():
        if count:
            spread = max(squares / count - (total / count) ** 2, 1e-24)
            made.append({"name": name, "change_sd": float(np.sqrt(change / count / spread))})
    return made
