#!/usr/bin/env python3
"""How well the peak memory of a model's process is predicted, for models that the prediction was not fitted to.

    scripts/check_memory [--trained FOLDER] [-o models/memory.jsonl]     # table, median and worst error, exit code
    scripts/check_memory --fit                                           # the development set: prints coefficients
    scripts/check_memory --keep FILE.json ...    # with either: what was measured is kept there, and read if it is there

Measured is VmHWM of the guarded child, fresh for each model, that was given the model's bytes as from a bundle and
answered three times; of the shipped bundle's variants also that of a child that read a rendered slide. `--trained`:
where models/zoo/train.py left its networks. The prediction by the file's size alone stands beside, for comparison.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from memory_child import measure
from memory_models import development, final

from edge_runtime.bundle import load_bundle
from edge_runtime.compress.costs import foresee
from edge_runtime.compress.footprint_read import read_parts
from edge_runtime.costing import measure as measure_bundle
from edge_runtime.costing import render
from edge_runtime.footprint import LAWS, Parts, predict, predict_by_size
from edge_runtime.machine import machine
from edge_runtime.units import format_bytes

GOAL = 0.10
LOADING = ("file_bytes", "conv_bytes", "matrix_bytes", "int8_bytes", "spread_bytes", "operators", "activation_bytes")
RUNNING = ("activation_bytes", "scratch_bytes", "input_bytes")


def measure_all(models: dict[str, Path], arch: str) -> list[dict[str, Any]]:
    rows = []
    for name, path in models.items():
        parts = read_parts(path.read_bytes(), path.suffix[1:], arch)
        rows.append({"model": name, "arch": arch, **measure(path), "parts": parts._asdict()})
        if sys.stderr.isatty():
            print(f"{len(rows)} of {len(models)}: {name:<40}", end="\r", file=sys.stderr)
    return rows


def shipped(folder: Path) -> list[dict[str, Any]]:
    """The malaria bundle's variants, read as `pack` would predict them without their measured costs."""
    bundle, rows = load_bundle("malaria"), []
    for one in measure_bundle(bundle, str(render(bundle, folder))):
        variant = bundle.variant(one.variant)
        costs = foresee(bundle.read(variant.file), variant.format, str(bundle.task["kind"]))
        row = {"model": f"malaria {one.variant}, a slide read", "arch": one.arch, "engine": one.engine}
        row |= {"engine_version": one.engine_version, "measured_bytes": one.ram_bytes}
        rows.append(row | {"predicted_bytes": costs[f"{one.engine}/{one.arch}"]["ram_bytes"]})
    return rows


def judged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    made = []
    for row in rows:
        parts = row.pop("parts", None)
        for key in ("load_peak", "loaded", "ran"):
            row.pop(key, None)
        if parts:
            found = Parts(**parts)
            row["predicted_bytes"] = predict(row["engine"], row["arch"], found)
            row["by_size_bytes"] = predict_by_size(row["engine"], row["arch"], found.file_bytes)
        made.append(row | {"error": round(row["predicted_bytes"] / row["measured_bytes"] - 1, 4)})
    return made


def report(rows: list[dict[str, Any]], output: Path | None) -> int:
    print(f"{'model':<40} {'engine':<12} {'predicted':>10} {'measured':>10} {'error':>7} {'by size':>10}")
    for row in rows:
        by_size = format_bytes(row["by_size_bytes"]) if "by_size_bytes" in row else ""
        figures = f"{format_bytes(row['predicted_bytes']):>10} {format_bytes(row['measured_bytes']):>10}"
        print(f"{row['model']:<40} {row['engine']:<12} {figures} {row['error']:>+7.1%} {by_size:>10}")
    worst = 0.0
    for engine in LAWS:
        errors = [abs(row["error"]) for row in rows if row["engine"] == engine]
        worst = max([worst, *errors])
        if errors:
            within = sum(one <= GOAL for one in errors)
            said = f"median {statistics.median(errors):.1%}, worst {max(errors):.1%}, {within} within {GOAL:.0%}"
            print(f"{engine}: {len(errors)} models, {said}")
    if output:
        when = datetime.now(UTC).isoformat(timespec="seconds")
        output.write_text("".join(json.dumps({"when": when, **row}) + "\n" for row in rows))
    return int(worst > GOAL)


# ------------------------------------------------------------------------------------------------------------ fitting


def fit(rows: list[dict[str, Any]]) -> None:
    """Prints for each engine what footprint.LAWS and BASES are made of; LAWS.running is what stays and is added."""
    for engine in LAWS:
        some = [row for row in rows if row["engine"] == engine]
        if not some:
            continue
        # activations are made while LiteRT loads, and onnxruntime spreads nothing
        passed = ("spread_bytes", "activation_bytes") if engine == "onnxruntime" else ()
        loading = [name for name in LOADING if name not in passed]
        peak = np.array([row["measured_bytes"] for row in some])
        for what, names, key in (
            ("peak of loading", loading, lambda row: row["load_peak"]),
            ("what stays", loading, lambda row: row["loaded"]),
            ("running, on top of what stays", RUNNING, lambda row: row["ran"] - row["loaded"]),
        ):
            wanted = np.array([key(row) for row in some], float)
            terms = np.array([[1 << 20, *(row["parts"][name] for name in names)] for row in some], float)
            found = least_squares(terms, wanted, 1 / peak)
            said = ", ".join(f"{name} {value:.3g}" for name, value in zip(names, found[1:], strict=True))
            print(f"{engine}, {what}: base {found[0]:.1f} MiB, {said}")


def least_squares(terms: Any, wanted: Any, weights: Any) -> Any:
    """Coefficients of at least zero: every choice of those that are not zero is tried, there are few."""
    best, least = np.zeros(terms.shape[1]), np.inf
    for count in range(terms.shape[1]):
        for chosen in itertools.combinations(range(1, terms.shape[1]), count):
            columns = [0, *chosen]
            scaled = terms[:, columns] * weights[:, None]
            norms = np.linalg.norm(scaled, axis=0)
            if not norms.all():
                continue
            found = np.linalg.lstsq(scaled / norms, wanted * weights, rcond=None)[0] / norms
            loss = float(((scaled @ found - wanted * weights) ** 2).sum())
            if found.min() >= 0 and loss < least - 1e-12:
                least, best = loss, np.zeros(terms.shape[1])
                best[columns] = found
    return best


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--trained", type=Path, metavar="FOLDER")
    parser.add_argument("--keep", type=Path, metavar="FILE.json")
    parser.add_argument("-o", "--output", type=Path, help="write JSON lines to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edge-runtime-") as scratch:
        folder = Path(scratch)
        if options.keep and options.keep.exists():
            rows = json.loads(options.keep.read_text())
        else:
            models = development(folder) if options.fit else final(folder, options.trained)
            rows = measure_all(models, machine().arch)
            if options.keep:
                options.keep.write_text(json.dumps(rows))
        if options.fit:
            fit(rows)
            return 0
        return report(judged([*rows, *shipped(folder)]), options.output)


if __name__ == "__main__":
    raise SystemExit(main())
