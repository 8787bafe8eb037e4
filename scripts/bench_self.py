"""Can `bench` be trusted? A thing against itself, and against itself made slower, many times over.

    python scripts/bench_self.py [--runs 100] [--slower 0.042] [--engine litert --variant fp32-lite] [-o FILE.jsonl]

Each run measures three cases in turn with the protocol of `edge-runtime bench`: the malaria model, the same again, and
the same with every inference made slower by a busy wait of a share of its own time. Waiting has a cost of its own, so
what the slower one takes on the whole is recorded beside the share (`slower_measured`; 0.042 makes about 5 %). It asks:

    paired, itself       does the interval of the ratio in one run contain 1?            (goal: 90 of 100)
    paired, slower       is the slower one found slower, its interval above 1?           (goal: 90 of 100)
    repeated, itself     does `--compare` of this run with the one before say "same"?    (goal: 90 of 100)
    repeated, slower     does `--compare` of it with the slower one of this run say so?  (no goal: there are no pairs)

The share of times, and what else is needed to judge it, goes to stdout and as one line of JSON to the file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from edge_runtime.bench import QUICK  # noqa: E402
from edge_runtime.bench.cases import find_cases  # noqa: E402
from edge_runtime.bench.compare import compare  # noqa: E402
from edge_runtime.bench.record import make_rows  # noqa: E402
from edge_runtime.bench.rows import Row  # noqa: E402
from edge_runtime.bench.run import ratio_between, run_cases  # noqa: E402
from edge_runtime.profile import load_profile  # noqa: E402
from edge_runtime.sensors import read_state  # noqa: E402
from edge_runtime.timing import TimingServer  # noqa: E402


class SlowServer(TimingServer):
    """Every inference takes longer by a share of its own time."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.slower = float(spec["slower"])
        super().__init__(spec)

    def _timed(self, batch: int) -> float:
        start = time.perf_counter()
        taken_ms = super()._timed(batch)
        until = start + (1 + self.slower) * taken_ms / 1e3
        while time.perf_counter() < until:
            pass
        return (time.perf_counter() - start) * 1e3


def serve_slow(spec: dict[str, Any]) -> SlowServer:
    return SlowServer(spec)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--slower", type=float, default=0.042)
    parser.add_argument("--engine", default="litert")
    parser.add_argument("--variant", default="fp32-lite")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "models" / "bench_self.jsonl")
    options = parser.parse_args()
    device = load_profile("this-device")
    (case,) = find_cases(["malaria"], device, variants=[options.variant], engines=[options.engine])
    extra = (("slower", options.slower),)
    slow = replace(case, label="slower", target="scripts.bench_self:serve_slow", extra=extra)
    cases = [case, replace(case, label="the same again"), slow]
    protocol = replace(QUICK, batches=())
    said: Counter[str] = Counter()
    rounds, halves, noise, slowdowns = [], [], [], []
    before: Row | None = None
    for number in range(options.runs):
        state = read_state()
        done = run_cases(cases, protocol, device)
        first, again, slower = done.gathered
        same, five = ratio_between(again, first), ratio_between(slower, first)
        said["paired, itself"] += same.low <= 1 <= same.high
        said["paired, slower"] += five.low > 1
        rows = make_rows(done, device, state, read_state(), None)
        if before is not None:
            (latency,) = (one for one in compare([before], [rows[0]]) if one.measure == "latency_ms")
            said["repeated, itself"] += latency.verdict in ("same", "cannot be told")
            said["repeated, cannot be told"] += latency.verdict == "cannot be told"
            (latency,) = (one for one in compare([before], [rows[2]]) if one.measure == "latency_ms")
            said["repeated, slower"] += latency.verdict == "slower"
        before = rows[0]
        slowdowns.append(five.middle)
        rounds.append(len(first.processes))
        halves.append(same.high / same.middle - 1)
        noise.append(rows[0]["noise"]["level"])
        print(
            f"{number + 1}: same {same.middle:.3f} ({same.low:.3f} to {same.high:.3f}), slower {five.middle:.3f} "
            f"({five.low:.3f} to {five.high:.3f}), {len(first.processes)} rounds, {noise[-1]}",
            file=sys.stderr,
            flush=True,
        )
    row = {
        "runs": options.runs,
        "slower": options.slower,
        "slower_measured": round(statistics.median(slowdowns), 4),
        "case": case.label,
        "machine": rows[0]["machine"]["title"],
        "tool": rows[0]["tool"],
        "when": rows[0]["when"],
        "paired_itself": said["paired, itself"],
        "paired_slower_found": said["paired, slower"],
        "repeats": options.runs - 1,
        "repeated_itself": said["repeated, itself"],
        "repeated_cannot_be_told": said["repeated, cannot be told"],
        "repeated_slower_found": said["repeated, slower"],
        "half_width_median": round(statistics.median(halves), 4),
        "rounds_median": statistics.median(rounds),
        "noise": dict(Counter(noise)),
    }
    with options.output.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
