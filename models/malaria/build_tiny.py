"""Pack malaria-tiny.edge from what train_tiny.py wrote:

    python models/malaria/build_tiny.py OUT

Takes OUT's models, calibration.json and metrics.json and the card (models/malaria-tiny/README.md, see tiny_card.py),
and writes malaria-tiny.edge and metrics.json to models/malaria-tiny, and rows of the kind "learn" to this folder's
bench.jsonl. Its verdict has a calibration of its own, so it is a bundle of its own: a bundle has one. The same inputs
give the same bytes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parent / "malaria-tiny"
sys.path.insert(0, str(HERE.parents[1]))

from edge_runtime.bundle import Bundle  # noqa: E402
from edge_runtime.compress.code import for_bundle  # noqa: E402
from edge_runtime.compress.costs import foresee  # noqa: E402
from edge_runtime.packing import CARD, MANIFEST, pack_folder  # noqa: E402

VERSION = "1.0.0"
RECIPE = [
    {"pass": "distil", "teacher": "ResNet-18"},
    {"pass": "qat", "weights": "a step for each layer, bytes priced", "activations": "8 bits, one scale"},
]
VARIANTS = {"int8": ("tiny", "tiny.onnx", "onnx"), "int8-lite": ("tiny_lite", "tiny.tflite", "tflite")}
COMMAND = "python models/malaria/train_tiny.py OUT"


def build(out: Path, folder: Path, metrics: dict[str, Any]) -> Bundle:
    variants = []
    for name, (key, file, form) in VARIANTS.items():
        shutil.copy(out / file, folder / file)
        about = {"name": name, "format": form, "file": file, "recipe": RECIPE, "coding": "entropy"}
        variants.append(about | {"metrics": {"test": metrics["steps"][key]["test"]}})
    shutil.copy(FOLDER / "README.md", folder / CARD)
    manifest = {
        "name": "malaria-tiny",
        "version": VERSION,
        "task": {"kind": "slides", "calibration": json.loads((out / "calibration.json").read_text())},
        "labels": ["uninfected", "infected"],
        "preprocessing": {"size": [64, 64], "resize": "pad", "mean": [0.0] * 3, "std": [1.0] * 3},
        "variants": variants,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return pack_folder(folder, FOLDER / "malaria-tiny.edge", for_bundle, foresee)


def bench(metrics: dict[str, Any]) -> None:
    """A row for each step, in place of those of before."""
    path = HERE / "bench.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    old = [row for row in rows if not (row.get("kind") == "learn" and row.get("command") == COMMAND)]
    for step, made in metrics["steps"].items():
        engine = "litert" if step == "tiny_lite" else "onnxruntime"
        row = {"kind": "learn", "model": "malaria", "step": step, "engine": engine}
        row |= {"parameters": made["parameters"], "file_bytes": made["bytes"], "stored_bytes": made["stored"]}
        old.append(row | {"scores": made["test"], "judged_on": "test", "command": COMMAND})
    path.write_text("".join(json.dumps(row) + "\n" for row in old))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    metrics = json.loads((options.out / "metrics.json").read_text())
    with tempfile.TemporaryDirectory() as scratch:
        bundle = build(options.out, Path(scratch), metrics)
    if options.out.resolve() != FOLDER:
        shutil.copy(options.out / "metrics.json", FOLDER / "metrics.json")
    bench(metrics)
    print(f"{bundle.path}: {bundle.size} bytes, digest {bundle.digest}")


if __name__ == "__main__":
    main()
