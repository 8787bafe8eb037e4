"""Pack the shipped bundle from what train.py wrote:

    python models/malaria/build.py OUT

Takes OUT's models, calibration.json and metrics.json, this folder's card (README.md) and measured costs (costs.jsonl,
lines of scripts/measure_costs.py; those of another model file are passed over), and writes malaria.edge and
metrics.json here. The same inputs give the same bytes.
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
sys.path.insert(0, str(HERE.parents[1]))

from edge_runtime.bundle import Bundle  # noqa: E402
from edge_runtime.digest import sha256  # noqa: E402
from edge_runtime.packing import CARD, MANIFEST, pack_folder  # noqa: E402

VERSION = "1.0.0"
# name in the bundle -> (name in metrics.json, file of train.py, format, what was done to it)
INT8 = {"pass": "static_w8a8", "weights": "int8 per channel, 7 bits used", "activations": "uint8"}
VARIANTS: dict[str, tuple[str, str, str, list[dict[str, str]]]] = {
    "fp32": ("fp32_onnx", "malaria-fp32.onnx", "onnx", []),
    "int8": ("int8_onnx", "malaria-int8.onnx", "onnx", [INT8]),
    "fp32-lite": ("fp32_tflite", "malaria-fp32.tflite", "tflite", []),
    "int8-lite": ("int8_tflite", "malaria-int8.tflite", "tflite", [{**INT8, "activations": "int8"}]),
}


def costs(path: Path, digest: str) -> dict[str, Any]:
    """Costs by "engine/arch" of the model file with this SHA-256."""
    found = {}
    for line in path.read_text().splitlines() if path.is_file() else []:
        row = json.loads(line)
        if row["sha256"] == digest:
            version = row["engine_version"].removeprefix(row["engine"]).strip()
            where = f"reading a 12-megapixel JPEG of a field on {row['where']}; {row['engine']} {version}"
            cost = {"ram_bytes": row["ram_bytes"], "storage_bytes": 0, "basis": "measured", "where": where}
            found[f"{row['engine']}/{row['arch']}"] = cost
    return found


def build(out: Path, folder: Path) -> Bundle:
    metrics = json.loads((out / "metrics.json").read_text())
    variants = []
    for name, (key, file, form, recipe) in VARIANTS.items():
        content = (out / file).read_bytes()
        (folder / file).write_bytes(content)
        measured = costs(HERE / "costs.jsonl", sha256(content).hexdigest())
        about = {"name": name, "format": form, "file": file, "recipe": recipe, "costs": measured}
        variants.append(about | {"metrics": {"test": metrics["variants"][key]["test"]}})
    shutil.copy(HERE / "README.md", folder / CARD)
    calibration = json.loads((out / "calibration.json").read_text())
    manifest = {
        "name": "malaria",
        "version": VERSION,
        "task": {"kind": "slides", "calibration": calibration},
        "labels": ["uninfected", "infected"],
        "preprocessing": {"size": [64, 64], "resize": "pad", "mean": [0.0] * 3, "std": [1.0] * 3},
        "variants": variants,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return pack_folder(folder, HERE / "malaria.edge")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        bundle = build(options.out, Path(scratch))
    if options.out.resolve() != HERE:
        shutil.copy(options.out / "metrics.json", HERE / "metrics.json")
    print(f"{bundle.path}: {bundle.size} bytes, digest {bundle.digest}")


if __name__ == "__main__":
    main()
