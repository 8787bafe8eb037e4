"""Measure what each variant of a bundle costs on each engine that works here: one JSON object a line.

    python scripts/measure_costs.py BUNDLE SLIDE [--where "a Raspberry Pi 4"] [--repeat 3]

Each variant reads the slide in a fresh process, one image at a time; the figure is the median of its peak resident
memory. `pack` takes the lines as they are: see models/malaria/build.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edge_runtime import load_bundle
from edge_runtime.costing import measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("slide")
    parser.add_argument("--where", default="")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    bundle = load_bundle(options.bundle)
    for one in measure(bundle, options.slide, options.repeat):
        row = asdict(one) | {"where": options.where, "sha256": bundle.variant(one.variant).sha256}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
