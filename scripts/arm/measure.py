"""Every variant of bundles on every engine that works here, one thread, each in a fresh process: JSON lines on stdout.

    python measure.py [--choice COMMAND] [--inferences N] BUNDLE ...

A plain loop around the engine layer: load, warm up, N inferences in the batches that a session makes, the median of
time.perf_counter by the input. Then, where COMMAND
is given, what the runtime chooses by itself: COMMAND with {bundle} filled in, whose last line is JSON with `choice` as
`edge-runtime fit --json` prints it. Runs on any machine; scripts/arm/race runs it where the clock counts instructions.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import time

WARM_UP = 5


def measure(path: str, name: str, engine_name: str, inferences: int) -> None:
    """One variant in this process: prints a line with the median and the quartiles in nanoseconds."""
    import numpy as np

    from edge_runtime.bundle import load_bundle
    from edge_runtime.server import load_variant

    bundle = load_bundle(path)
    spec = {"bundle": path, "digest": bundle.digest, "variant": name, "engine": engine_name, "threads": 1}
    spec["roomy"] = True
    _task, program, version, batch = load_variant(spec)
    draw = np.random.default_rng(0)
    feeds = {}
    for tensor in program.inputs:
        shape = [size or batch for size in tensor.shape]
        values = draw.random(shape) if tensor.dtype.startswith("float") else draw.integers(-128, 128, shape)
        feeds[tensor.name] = values.astype(tensor.dtype)
    for _ in range(WARM_UP):
        program.run(feeds)
    times_ns = []
    for _ in range(inferences):
        start = time.perf_counter()
        program.run(feeds)
        times_ns.append((time.perf_counter() - start) * 1e9 / batch)
    low, middle, high = statistics.quantiles(times_ns, n=4)
    row: dict[str, object] = {
        "bundle": bundle.name,
        "variant": name,
        "engine": engine_name,
        "engine_version": version,
        "batch": batch,
    }
    row |= {"threads": 1, "n": inferences, "ns": round(middle), "quartiles_ns": [round(low), round(high)]}
    row["least_ns"] = round(min(times_ns))
    print(json.dumps(row), flush=True)


def run(words: list[str]) -> str:
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{shlex.join(words)}: exit code {done.returncode}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--choice", metavar="COMMAND")
    parser.add_argument("--inferences", type=int, default=15, metavar="N")
    parser.add_argument("--one", nargs=2, metavar=("VARIANT", "ENGINE"), help="this one, in this process")
    parser.add_argument("bundles", nargs="+", metavar="BUNDLE")
    options = parser.parse_args()
    if options.one:
        variant, engine = options.one
        measure(options.bundles[0], variant, engine, options.inferences)
        return
    from edge_runtime.bundle import load_bundle
    from edge_runtime.engine import ENGINES, find_engine, probe

    for path in options.bundles:
        bundle = load_bundle(path)
        for one in bundle.variants:
            for engine in ENGINES:
                if one.format not in find_engine(engine).FORMATS:
                    continue
                if reason := probe(engine).reason:
                    print(f"{bundle.name}: {one.name} on {engine} is left out: {reason}", file=sys.stderr)
                else:
                    words = [sys.executable, __file__, "--inferences", str(options.inferences)]
                    sys.stdout.write(run([*words, "--one", one.name, engine, path]))
                    sys.stdout.flush()
        if options.choice:
            words = [word.replace("{bundle}", path) for word in shlex.split(options.choice)]
            words[0] = sys.executable if words[0] == "python3" else words[0]
            choice = json.loads(run(words).splitlines()[-1])["choice"]
            rule = [sys.executable, "-m", "edge_runtime", "fit", path, "--here", "--json"]
            default = json.loads(run(rule).splitlines()[-1])["choice"]
            print(json.dumps({"bundle": bundle.name, "choice": choice, "default": default}), flush=True)


main()
