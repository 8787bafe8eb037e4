"""What this package costs over the bare engine: latency, cold start and memory of a model of about a millisecond.

    python scripts/bench_overhead.py [--rounds 15] [-o FILE.jsonl]

Each engine runs the shipped malaria net with so many cells together that the bare engine takes about 1 ms. In turn, in
one run:

    latency       one process calls the bare engine, and Program.run of the engine layer, slice by slice (goal: 1.02)
    through the   the parent calls GuardedProgram.run, arrays crossing to the guarded child and back, against the bare
    guard         engine in the parent
    cold start    a fresh process to its first answer: a bare script, and a child of a running parent (goal: 1.05)
    memory        peak resident memory of those two processes (goal: 5 MiB)
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np  # noqa: E402

import edge_runtime as edge  # noqa: E402
from edge_runtime.bundle import load_bundle  # noqa: E402
from edge_runtime.engine import EngineOptions, find_engine  # noqa: E402
from edge_runtime.guard import Child, Limits  # noqa: E402
from edge_runtime.machine import machine  # noqa: E402
from edge_runtime.stats import interval  # noqa: E402

VARIANTS = {"onnxruntime": "fp32", "litert": "fp32-lite"}
SLICE_S = 0.05
BARE = {
    "onnxruntime": """
import os, sys
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import numpy as np
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
feed = np.zeros((int(sys.argv[2]), 3, 64, 64), np.float32)
print(float(session.run(None, {session.get_inputs()[0].name: feed})[0].ravel()[0]))
""",
    "litert": """
import sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter
interpreter = Interpreter(model_path=sys.argv[1], num_threads=1)
into, out = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
interpreter.resize_tensor_input(into["index"], [int(sys.argv[2]), 64, 64, 3])
interpreter.allocate_tensors()
interpreter.set_tensor(into["index"], np.zeros((int(sys.argv[2]), 64, 64, 3), np.float32))
interpreter.invoke()
print(float(interpreter.get_tensor(out["index"]).ravel()[0]))
""",
}
TAIL = """
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")), flush=True)
"""


def bare_runner(engine: str, model: Path, feed: np.ndarray) -> Callable[[], Any]:
    """The engine as its own documentation uses it."""
    if engine == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda: session.run(None, {name: feed})
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(model), num_threads=1)
    into, out = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    interpreter.resize_tensor_input(into, feed.shape)
    interpreter.allocate_tensors()

    def run() -> Any:
        interpreter.set_tensor(into, feed)
        interpreter.invoke()
        return interpreter.get_tensor(out)

    return run


def slice_ms(run: Callable[[], Any]) -> float:
    taken: list[float] = []
    begin = time.perf_counter()
    while not taken or time.perf_counter() - begin < SLICE_S:
        start = time.perf_counter()
        run()
        taken.append((time.perf_counter() - start) * 1e3)
    return statistics.median(taken)


def in_turn(ours: Callable[[], Any], bare: Callable[[], Any], pairs: int) -> list[tuple[float, float]]:
    """(ours, bare) in ms, slice by slice, the order changing."""
    found = []
    for number in range(pairs):
        if number % 2:
            a = slice_ms(ours)
            found.append((a, slice_ms(bare)))
        else:
            b = slice_ms(bare)
            found.append((slice_ms(ours), b))
    return found


def cells_for_a_millisecond(engine: str, model: Path, shape: tuple[int, ...]) -> int:
    cells = 1
    while cells < 64:
        run = bare_runner(engine, model, np.zeros((cells, *shape), np.float32))
        run()
        if slice_ms(run) >= 0.95:
            break
        cells += 1
    return cells


def latency(engine: str, model: Path, cells: int, shape: tuple[int, ...], rounds: int) -> dict[str, Any]:
    feed = np.random.default_rng(0).random((cells, *shape)).astype(np.float32)
    layer, guard, middle = [], [], []
    for _ in range(rounds):  # loaded anew each time: where a model lies in memory matters more than our layer
        bare = bare_runner(engine, model, feed)
        program = find_engine(engine).load(model, EngineOptions(1))
        name = program.inputs[0].name
        bare(), program.run({name: feed})
        pairs = in_turn(lambda program=program, name=name: program.run({name: feed}), bare, 8)
        layer.append(statistics.median(a / b for a, b in pairs))
        middle.append(statistics.median(b for _, b in pairs))
        with edge.open_program(model, engine) as guarded:
            guarded.run({name: feed})
            pairs = in_turn(lambda guarded=guarded, name=name: guarded.run({name: feed}), bare, 8)
            guard.append(statistics.median(a / b for a, b in pairs))
    found, through = interval(layer), interval(guard)
    return {
        "cells": cells,
        "bare_ms": round(statistics.median(middle), 4),
        "input_bytes": feed.nbytes,
        "layer": [round(one, 4) for one in found[:3]],
        "guard": [round(one, 4) for one in through[:3]],
    }


def cold(engine: str, model: Path, cells: int, shape: tuple[int, ...], rounds: int) -> dict[str, Any]:
    times: list[tuple[float, float]] = []
    peaks: list[tuple[int, int]] = []
    feed = {"image": np.zeros((cells, *shape), np.float32)}

    def script() -> tuple[float, int]:
        start = time.perf_counter()
        command = [sys.executable, "-P", "-c", BARE[engine] + TAIL, str(model), str(cells)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout
            process.stdout.readline()
            taken = time.perf_counter() - start
            return taken, 1024 * int(process.stdout.readline())

    def child() -> tuple[float, int]:
        start = time.perf_counter()
        spec = {"model": str(model), "engine": engine, "threads": 1}
        made = Child("edge_runtime.server_file:serve_file", spec, Limits())
        try:
            made.ready()
            made.call("run", {}, feed)
            return time.perf_counter() - start, made.peak_bytes
        finally:
            made.close()

    for number in range(rounds + 1):
        ours, theirs = (child(), script()) if number % 2 else (script(), child())[::-1]
        if number:  # the first warms the page cache
            times.append((ours[0], theirs[0]))
            peaks.append((ours[1], theirs[1]))
    ratio = interval([a / b for a, b in times])
    return {
        "bare_ms": round(1e3 * statistics.median(b for _, b in times), 1),
        "ours_ms": round(1e3 * statistics.median(a for a, _ in times), 1),
        "ratio": [round(one, 4) for one in ratio[:3]],
        "bare_mib": round(statistics.median(b for _, b in peaks) / 2**20, 2),
        "ours_mib": round(statistics.median(a for a, _ in peaks) / 2**20, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("-o", "--output", type=Path, help="write the lines there too")
    options = parser.parse_args()
    bundle = load_bundle("malaria")
    lines = []
    for engine, name in VARIANTS.items():
        variant = bundle.variant(name)
        shape = tuple(size or 0 for size in variant.inputs[0].shape[1:])
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder, f"model.{variant.format}")
            model.write_bytes(bundle.read(variant.file))
            cells = cells_for_a_millisecond(engine, model, shape)
            row = {"engine": engine, "version": find_engine(engine).version(), "machine": machine().title}
            row |= {"python": platform.python_version(), "rounds": options.rounds}
            row["latency"] = latency(engine, model, cells, shape, options.rounds)
            row["cold"] = cold(engine, model, 1, shape, options.rounds)
        lines.append(json.dumps(row))
        print(lines[-1], flush=True)
    if options.output:
        options.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
