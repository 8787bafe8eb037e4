"""Measure what each variant of a bundle costs on each engine that works here: one JSON object a line.

    python scripts/measure_costs.py BUNDLE SLIDE [--where "a Raspberry Pi 4"] [--repeat 3]

Each variant reads the slide in a fresh process; the figure is the median of its peak resident memory, and latency is
of the whole item. `pack` takes the lines as they are: see models/malaria/build.py.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edge_runtime import load_bundle, load_profile, open_session
from edge_runtime.engine import ENGINES, find_engine, probe
from edge_runtime.profile import Budget


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("slide")
    parser.add_argument("--where", default="")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    bundle = load_bundle(options.bundle)
    device = load_profile("this-device")
    # no limit: this is how limits are found
    device = replace(device, engines=ENGINES, budget=Budget(4 << 30, 4 << 30))
    for variant in bundle.variants:
        for engine in ENGINES:
            if variant.format not in find_engine(engine).FORMATS or probe(engine).reason:
                continue
            peaks = []
            for _ in range(options.repeat):
                with open_session(bundle, device, engine=engine, variant=variant.name, threads=1) as session:
                    outcome = session.run(options.slide)
                    if outcome.error or not outcome.peak_ram_bytes:
                        raise SystemExit(f"{variant.name} on {engine}: {outcome.error}")
                    peaks.append(outcome.peak_ram_bytes)
                    version = session.origin.engine_version
            row = {"variant": variant.name, "engine": engine, "arch": device.arch, "engine_version": version}
            row |= {"ram_bytes": round(statistics.median(peaks)), "spread_bytes": max(peaks) - min(peaks)}
            print(json.dumps(row | {"where": options.where, "sha256": variant.sha256}), flush=True)


if __name__ == "__main__":
    main()
