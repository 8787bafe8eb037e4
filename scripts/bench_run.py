#!/usr/bin/env python3
"""`edge-runtime run` against scripts/plain_reader.py on the same cells: whole processes, in turn, on one core.

    scripts/bench_run.py FOLDER-OF-CELL-IMAGES [--variant NAME] [--rounds 9]

Run it with the Python of an environment that has the package. Prints medians, the median of the paired ratios with
its range, and peak resident memory: of the plain script, of run's child (where the model is) and of run's parent.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from edge_runtime.bundle import load_bundle
from edge_runtime.child import memory_status


def timed(command: list[str]) -> tuple[float, int, str]:
    """Seconds of wall time, peak resident bytes of the process itself, stdout."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout
    peak = [0]

    def watch() -> None:  # what wait4 tells would include the process's own children
        while (found := memory_status(process.pid).get("VmHWM")) is not None:
            peak[0] = max(peak[0], found)
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    out = process.stdout.read()
    if process.wait():
        raise SystemExit(f"{' '.join(command)}: exit status {process.returncode}")
    seconds = time.perf_counter() - start
    watcher.join()
    return seconds, peak[0], out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--variant", default="fp32")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    bundle = load_bundle("malaria")
    variant = bundle.variant(options.variant)
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch, f"model.{variant.format}")
        model.write_bytes(bundle.read(variant.file))
        plain = [sys.executable, str(Path(__file__).with_name("plain_reader.py")), str(model), str(options.folder)]
        run = [sys.executable, "-m", "edge_runtime", "run", "malaria", str(options.folder), "--json"]
        run += ["--variant", options.variant, "--threads", "1"]
        pairs = []
        for round_ in range(options.rounds + 1):
            theirs, ours = timed(plain), timed(run)
            if round_:  # the first warms the page cache
                pairs.append((theirs, ours))
    cells = json.loads(pairs[0][1][2])["cells"]
    assert cells == int(pairs[0][0][2].split()[0]), "both must have read the same cells"
    ratios = sorted(ours[0] / theirs[0] for theirs, ours in pairs)
    child = statistics.median(json.loads(ours[2])["peak_ram_bytes"] for _, ours in pairs) / 2**20
    row = {
        "cells": cells,
        "variant": options.variant,
        "plain_s": round(statistics.median(theirs[0] for theirs, _ in pairs), 3),
        "run_s": round(statistics.median(ours[0] for _, ours in pairs), 3),
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_range": [round(ratios[0], 3), round(ratios[-1], 3)],
        "plain_peak_mib": round(statistics.median(theirs[1] for theirs, _ in pairs) / 2**20, 1),
        "run_child_peak_mib": round(child, 1),
        "run_parent_peak_mib": round(statistics.median(ours[1] for _, ours in pairs) / 2**20, 1),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
