#!/usr/bin/env python3
"""Whether memory stays what it is: resident memory of child and parent over many inferences and many slides.

    scripts/check_drift [--inferences 10000] [--slides 500] [-o models/drift.jsonl]

Drift is the median of the last tenth over that of an early tenth (from the twentieth on, when everything has been
called once). Inferences: the malaria net through `open_program`; slides: rendered ones of three small sizes, in turn,
through `run_loop` into a journal, as in the clinic. Both engines, in turn. Exit code 1 where one drifts by 1 %.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from array import array
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import edge_runtime as edge
from edge_runtime.child import resident_bytes
from edge_runtime.items import Item
from edge_runtime.phantom import Phantom, write_slide
from edge_runtime.units import format_bytes

MOST = 0.01
VARIANTS = {"onnxruntime": "fp32", "litert": "int8-lite"}


def inferences(engine: str, count: int, folder: Path) -> Iterator[tuple[int, int]]:
    """(child, parent) resident bytes after each."""
    import numpy as np

    bundle = edge.load_bundle("malaria")
    variant = bundle.variant(VARIANTS[engine])
    path = folder / f"m.{variant.format}"
    path.write_bytes(bundle.read(variant.file))
    with edge.open_program(path) as program:
        given = [np.full([size or 1 for size in program.inputs[0].shape], value) for value in (0.0, 0.5, 1.0)]
        for number in range(count):
            program.run({program.inputs[0].name: given[number % 3]})
            yield program.resident_ram_bytes, resident_bytes(os.getpid())


def slides(engine: str, count: int, folder: Path) -> Iterator[tuple[int, int]]:
    """Three slides under many names: a loop records each once. Each is a small part of a field, of a size of its own:
    all of the way is gone, in a tenth of the time."""
    from PIL import Image

    for number, size in enumerate(((320, 240), (400, 300), (480, 360))):
        write_slide(folder / f"slide{number}", Phantom(80, 5 * number, number))
        for path in (folder / f"slide{number}").glob("*.png"):
            with Image.open(path) as field:
                part = field.crop((0, 0, *size))
            part.save(path)
    items = [Item(f"slide{number:05d}", (folder / f"slide{number % 3}",)) for number in range(count)]
    device = edge.load_profile("this-device")
    with (
        edge.Journal(folder / f"{engine}.db") as journal,
        edge.open_session("malaria", device, engine=engine, variant=VARIANTS[engine], threads=1, measure=False) as one,
    ):
        for outcome in edge.run_loop(one, items, journal):
            if outcome.error:
                raise SystemExit(f"{outcome.item}: {outcome.error}")
            yield one.resident_ram_bytes, resident_bytes(os.getpid())


def drift(samples: list[int]) -> tuple[int, int, float]:
    """An early tenth, the last tenth, and what the last is over the early one."""
    size = len(samples)
    early = statistics.median(samples[size // 20 : size // 20 + max(1, size // 10)])
    late = statistics.median(samples[-max(1, size // 10) :])
    return round(early), round(late), late / early - 1


def check(kind: str, engine: str, count: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="edge-runtime-") as folder:
        # room for every sample before the first is taken: they are in the parent's memory
        child, parent = array("q", bytes(8 * count)), array("q", bytes(8 * count))
        made = {"inferences": inferences, "slides": slides}[kind](engine, count, Path(folder))
        for number, sample in enumerate(made):
            child[number], parent[number] = sample
    rows = []
    for who, samples in (("child", child), ("parent", parent)):
        early, late, over = drift(list(samples))
        row = {"kind": kind, "count": count, "engine": engine, "process": who, "early_bytes": early}
        rows.append(row | {"late_bytes": late, "most_bytes": max(samples), "drift": round(over, 5)})
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inferences", type=int, default=10_000)
    parser.add_argument("--slides", type=int, default=500)
    parser.add_argument("--engines", default=",".join(VARIANTS))
    parser.add_argument("-o", "--output", type=Path, help="append JSON lines to this file")
    options = parser.parse_args()
    when, worst = datetime.now(UTC).isoformat(timespec="seconds"), 0.0
    for kind, count in (("inferences", options.inferences), ("slides", options.slides)):
        for engine in options.engines.split(",") if count else ():
            for row in check(kind, engine, count):
                worst = max(worst, row["drift"])
                said = f"{format_bytes(row['early_bytes'])} -> {format_bytes(row['late_bytes'])}"
                print(
                    f"{count} {kind} on {engine:<12} {row['process']:<7} {said} ({100 * row['drift']:+.2f} %)",
                    flush=True,
                )
                if options.output:
                    with options.output.open("a") as stream:
                        stream.write(json.dumps({"when": when, **row}) + "\n")
    return int(worst >= MOST)


if __name__ == "__main__":
    sys.exit(main())
