"""Is the choice by measurement right? Against an exhaustive measurement of everything it could have chosen, here.

    python scripts/check_choice.py [--rounds 7] [-o FILE.jsonl]

For the malaria reader and three bundles of other shapes (scripts/arm/bundles.py): the race that a session runs, then
every variant on every engine with every number of threads, in turn, in fresh processes, far longer than the race. One
line of JSON a bundle: the time of what was chosen, by the best's and by the default's (goals: 1.05 at most, 1 at most).
scripts/arm/race does the same on emulated ARM cores by instruction counts.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts" / "arm")]

from bundles import SHAPES, write_bundle  # noqa: E402

from edge_runtime.bundle import Bundle, load_bundle  # noqa: E402
from edge_runtime.choice import race  # noqa: E402
from edge_runtime.guard import Child, Limits  # noqa: E402
from edge_runtime.learned import Lap  # noqa: E402
from edge_runtime.machine import machine  # noqa: E402
from edge_runtime.planner import plan  # noqa: E402
from edge_runtime.profile import DeviceProfile, load_profile  # noqa: E402
from edge_runtime.stats import interval, median  # noqa: E402

SLICES, SLICE_S = 16, 0.03


def exhaustive(bundle: Bundle, laps: tuple[Lap, ...], rounds: int) -> dict[Lap, list[list[float]]]:
    """Slices (ms an input) of each lap in each of so many fresh processes, all in turn."""
    found: dict[Lap, list[list[float]]] = {lap: [] for lap in laps}
    spec = {"bundle": str(bundle.path.resolve()), "digest": bundle.digest}
    for _ in range(rounds):
        child = Child("edge_runtime.race:serve_race", spec, Limits(loads_later=True))
        try:
            child.ready()
            for number, lap in enumerate(laps):
                candidate = {"variant": lap.variant, "engine": lap.engine, "threads": lap.threads, "roomy": True}
                child.call("load", {"number": number, "candidate": candidate})
            order = {"numbers": list(range(len(laps))), "slices": SLICES, "slice_s": SLICE_S, "seconds": 600.0}
            slices = child.call("race", order)[0]["slices"]
            for number, lap in enumerate(laps):
                found[lap].append(slices[str(number)])
        finally:
            child.close()
    return found


def ratio(mine: list[list[float]], theirs: list[list[float]]) -> list[float]:
    """[ratio, low, high] of the slices of each process in pairs."""
    pairs = [median(a / b for a, b in zip(one, other, strict=True)) for one, other in zip(mine, theirs, strict=True)]
    return [round(value, 4) for value in interval(pairs)[:3]]


def check(bundle: Bundle, device: DeviceProfile, rounds: int) -> dict[str, Any]:
    found = race(bundle, device, plan(bundle, device, here=True))
    if found is None:
        raise SystemExit(f"{bundle.path}: nothing could be measured")
    times = exhaustive(bundle, found.laps, rounds)
    best = min(times, key=lambda lap: median(median(one) for one in times[lap]))
    default = next(lap for lap in found.laps if lap == found.default)
    chosen = found.laps[0]
    return {
        "core": machine().title,
        "bundle": bundle.name,
        "basis": "time",
        "candidates": len(times),
        "choice": chosen.label,
        "best": best.label,
        "default": default.label,
        "over": ratio(times[chosen], times[best])[0],
        "over_interval": ratio(times[chosen], times[best])[1:],
        "default_over": ratio(times[default], times[best])[0],
        "by_default": ratio(times[chosen], times[default])[0],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("-o", "--output", type=Path, help="append the lines there too")
    options = parser.parse_args()
    device = load_profile("this-device")
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        paths = [ROOT / "models" / "malaria" / "malaria.edge"]
        paths += [write_bundle(name, Path(folder)) for name in SHAPES]
        for path in paths:
            lines.append(json.dumps(check(load_bundle(path), device, options.rounds)))
            print(lines[-1], flush=True)
    if options.output:
        with options.output.open("a") as file:
            file.write("".join(f"{line}\n" for line in lines))
    close = sum(json.loads(line)["over"] <= 1.05 for line in lines)
    print(f"within 5 % of the best: {close} of {len(lines)}", file=sys.stderr)
    return 0 if close == len(lines) else 1


if __name__ == "__main__":
    sys.exit(main())
