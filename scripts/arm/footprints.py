"""Predicted against measured peak memory of networks in an emulated ARM machine, as scripts/check_memory does here.

python scripts/arm/footprints.py --fit FILE.json [--32bit]     # the development set, measured there: for
scripts/check_memory --fit --keep FILE.json                    # prints coefficients
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import ROOT, Failure, Machine, boot, failures_are_told

sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

LARGEST_BYTES = 48 << 20  # of a file that loads in a machine of 512 MiB


def measure(machine: Machine, development: bool, timeout_s: float) -> list[dict[str, Any]]:
    """Of each network that there is for it: name, engine, VmHWM and what it held, bytes, and what footprint.Parts says.

    Raises Failure where the machine fails, or an engine could load none of them."""
    import memory_models

    from edge_runtime.compress.footprint_read import read_parts

    arch = "armv7l" if machine.arm32 else "aarch64"
    with tempfile.TemporaryDirectory(prefix="edge-arm-") as scratch:
        folder, data = Path(scratch, "models"), Path(scratch, "data")
        folder.mkdir()
        data.mkdir()
        found = memory_models.development(folder) if development else memory_models.final(folder, None)
        names, parts = {}, {}
        for number, (name, path) in enumerate(found.items()):
            if path.stat().st_size <= LARGEST_BYTES and (path.suffix == ".tflite" or not machine.arm32):
                file = f"{number}{path.suffix}"
                names[file], parts[file] = name, read_parts(path.read_bytes(), path.suffix[1:], arch)._asdict()
                shutil.copy(path, data / file)
        shutil.copy(ROOT / "scripts" / "memory_child.py", data)
        words = ["sh", "-c", 'PYTHONPATH=$PYTHONPATH:/data exec python3 memory_child.py "$@"', "sh", *names]
        done = boot(machine, words, data=data, timeout_s=timeout_s)
    if done.exit_code:
        sys.stderr.write(done.stderr.decode(errors="replace"))
        raise Failure(f"memory of networks: exit code {done.exit_code}; see above")
    made = []
    for one in map(json.loads, done.stdout.decode().splitlines()):
        file = one["model"]
        if "measured_bytes" in one:
            made.append(one | {"model": names[file], "parts": parts[file]})
        else:
            print(f"{names[file]}: {one['error']}", file=sys.stderr)
    if not made:
        raise Failure(f"{arch}: no network could be loaded; see above")
    return made


def footprints(machine: Machine, timeout_s: float) -> list[dict[str, Any]]:
    """A row for each network that the prediction was not fitted to: bytes on an ARM kernel, and on paper."""
    from edge_runtime.footprint import Parts, predict

    made = []
    for one in measure(machine, False, timeout_s):
        predicted = predict(one["engine"], one["arch"], Parts(**one["parts"]))
        row = {"what": "predicted memory", "userland": one["arch"], "core": machine.cpu, "choice": one["model"]}
        row |= {key: one[key] for key in ("engine", "engine_version", "measured_bytes")}
        made.append(row | {"predicted_bytes": predicted, "error": round(predicted / one["measured_bytes"] - 1, 4)})
    return made


def said(rows: list[dict[str, Any]]) -> str:
    """By engine: how many, the median and the worst error."""
    words = []
    for engine in sorted({row["engine"] for row in rows}):
        errors = [abs(row["error"]) for row in rows if row["engine"] == engine]
        middle, worst = statistics.median(errors), max(errors)
        words.append(f"{engine} {len(errors)} networks, off by {middle:.1%} (median), {worst:.1%} (worst)")
    return "; ".join(words)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", type=Path, required=True, metavar="FILE.json")
    parser.add_argument("--32bit", dest="arm32", action="store_true", help="in the 32-bit userland")
    parser.add_argument("--timeout", type=float, default=3600, metavar="S")
    options = parser.parse_args()
    with failures_are_told():
        options.fit.write_text(json.dumps(measure(Machine(arm32=options.arm32), True, options.timeout)))


if __name__ == "__main__":
    main()
