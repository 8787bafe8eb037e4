#!/usr/bin/env python3
"""How well the operator table predicts the latency of models that it has never seen.

    scripts/check_prediction                       # calibrates, then the final set: table, median error, exit code
    scripts/check_prediction --development         # the set for whoever works on the cost model
    scripts/check_prediction --profile FILE.toml   # with a table that was measured before

Each model is measured in processes of its own, all models in turn, one thread. Measured is the lowest tenth of the
thread's processor time, as in the calibration: on a machine that nobody shares it is close to the median of the wall
clock, which is printed beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from prediction_models import DEVELOPMENT, FINAL, write_models

from edge_runtime.compress.graph import ENGINE_OF, read_graph
from edge_runtime.guard import Child
from edge_runtime.micro.measure import calibrate
from edge_runtime.operators import OperatorTable, predict
from edge_runtime.profile import load_profile

ROOT = Path(__file__).resolve().parents[1]
GOAL = 0.25


class Timer:
    """In the child: one window of inferences."""

    def __init__(self, model: Path, engine: str) -> None:
        from edge_runtime.engine import EngineOptions, find_engine

        self.program = find_engine(engine).load(model, EngineOptions(1))

    def handle(self, op: str, meta: dict[str, Any], arrays: Any, progress: Any) -> Any:
        import numpy as np

        rng, feeds = np.random.default_rng(0), {}
        for one in self.program.inputs:
            shape = [size or 1 for size in one.shape]
            found = rng.standard_normal(shape) if one.dtype == "float32" else rng.integers(0, 100, shape)
            feeds[one.name] = found.astype(one.dtype)
        cpu, wall = [], []
        end = time.perf_counter() + meta["window_s"]
        while time.perf_counter() < end or len(cpu) < 5:
            start, begin = time.thread_time_ns(), time.perf_counter_ns()
            self.program.run(feeds)
            cpu.append(time.thread_time_ns() - start)
            wall.append(time.perf_counter_ns() - begin)
        settled = sorted(cpu[len(cpu) // 5 :])
        return {"low_ms": settled[len(settled) // 10] / 1e6, "wall_ms": statistics.median(wall) / 1e6}, {}


def open_timer(spec: dict[str, Any]) -> Timer:
    return Timer(Path(spec["model"]), spec["engine"])


def measure(models: dict[str, Path], rounds: int, window_s: float) -> dict[str, dict[str, float]]:
    """Every model once a round, each time in a fresh process."""
    sys.modules["check_prediction"] = sys.modules[__name__]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in models}
    for turn in range(rounds):
        for name, path in models.items():
            spec = {"model": str(path), "engine": ENGINE_OF[path.suffix[1:]]}
            child = Child("check_prediction:open_timer", spec)
            try:
                child.ready()
                found[name].append(child.call("time", {"window_s": window_s})[0])
            finally:
                child.close()
            if sys.stderr.isatty():
                print(f"round {turn + 1} of {rounds}: {name:<40}", end="\r", file=sys.stderr)
    return {
        name: {
            "measured_ms": statistics.median(sorted(row["low_ms"] for row in rows)[: (len(rows) + 1) // 2]),
            "wall_ms": statistics.median(row["wall_ms"] for row in rows),
            "low_ms": [row["low_ms"] for row in rows],  # type: ignore[dict-item]
        }
        for name, rows in found.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--development", action="store_true")
    parser.add_argument("--profile", help="a profile with operator tables (default: calibrate now)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--window", type=float, default=0.4, metavar="SECONDS")
    parser.add_argument("-o", "--output", type=Path, help="append JSON lines to this file")
    options = parser.parse_args()
    tables = {one.engine: one for one in _tables(options.profile)}
    with tempfile.TemporaryDirectory(prefix="edge-runtime-") as folder:
        which = DEVELOPMENT if options.development else FINAL
        models = write_models(Path(folder), which, malaria=not options.development)
        measured = measure(models, options.rounds, options.window)
        rows = []
        for name, path in models.items():
            table = tables[ENGINE_OF[path.suffix[1:]]]
            forecast = predict(table, read_graph(path, path.suffix[1:], table.arch))
            row = {"model": name, "engine": table.engine, "engine_version": table.engine_version}
            row |= {"predicted_ms": forecast.latency_ms, "unknown": forecast.unknown, **measured[name]}
            row |= {"ratio": forecast.latency_ms / measured[name]["measured_ms"], "parts_ms": dict(forecast.parts_ms)}
            rows.append(row | {"threads": 1, "arch": table.arch, "calibrated": table.when})
    return report(rows, options.output)


def _tables(profile: str | None) -> tuple[OperatorTable, ...]:
    if profile:
        return load_profile(profile).operators
    return tuple(calibrate(engine) for engine in ENGINE_OF.values())


def report(rows: list[dict[str, Any]], output: Path | None) -> int:
    print(f"{'model':<34} {'engine':<12} {'predicted':>10} {'measured':>10} {'ratio':>6} {'wall p50':>9}")
    for row in rows:
        text = f"{row['model']:<34} {row['engine']:<12} {row['predicted_ms']:>7.3f} ms {row['measured_ms']:>7.3f} ms"
        unknown = f"  not counted: {', '.join(row['unknown'])}" if row["unknown"] else ""
        print(f"{text} {row['ratio']:>6.2f} {row['wall_ms']:>9.3f}{unknown}")
    errors = [abs(row["ratio"] - 1) for row in rows]
    median = statistics.median(errors)
    within = sum(error <= GOAL for error in errors)
    summary = f"median |ratio - 1| {median:.1%} (goal {GOAL:.0%}); {within} within, worst {max(errors):.0%}"
    print(f"{len(rows)} models, {summary}")
    if output:
        when = datetime.now(UTC).isoformat(timespec="seconds")
        with output.open("a") as file:
            for row in rows:
                plain = {key: _rounded(value) for key, value in row.items()}
                file.write(json.dumps({"when": when, **plain}, ensure_ascii=False) + "\n")
    return 0 if median <= GOAL else 1


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list | tuple) else value


if __name__ == "__main__":
    raise SystemExit(main())
