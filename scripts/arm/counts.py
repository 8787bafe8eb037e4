"""Instructions that one cell takes in the malaria reader's network, on a machine whose clock counts them."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import ROOT, Failure, Machine, boot

HERE = Path(__file__).resolve().parent


def count(machine: Machine, timeout_s: float, inferences: int = 15) -> list[dict[str, Any]]:
    """A row for each variant on each engine: the median and the least of `inferences`, by the cell, one thread.

    A count is of QEMU with that -cpu: no cache, no pipeline, and never milliseconds. The least is the one in which
    the kernel did least besides; the cores differ by some instructions where they run the same code.
    """
    with tempfile.TemporaryDirectory(prefix="edge-arm-") as scratch:
        shutil.copy(ROOT / "models" / "malaria" / "malaria.edge", scratch)
        shutil.copy(HERE / "measure.py", scratch)
        words = ["python3", "measure.py", "--inferences", str(inferences), "malaria.edge"]
        done = boot(machine, words, data=Path(scratch), timeout_s=timeout_s)
    sys.stderr.write(done.stderr.decode(errors="replace"))
    if done.exit_code:
        raise Failure(f"{machine.cpu}: the count ended with exit code {done.exit_code}; see above")
    made = []
    for one in map(json.loads, done.stdout.decode().splitlines()):
        row = {"what": "instructions", "core": machine.cpu}
        row |= {key: one[key] for key in ("bundle", "variant", "engine", "engine_version", "batch", "threads", "n")}
        row |= {"per_cell": one["ns"], "least_per_cell": one["least_ns"]}
        made.append(row | {"basis": f"instructions (QEMU, -cpu {machine.cpu}), of the network alone"})
    return made
