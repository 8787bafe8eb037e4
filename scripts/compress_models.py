"""Compress an example model by every recipe beside it, judge the results, and keep a row for each technique:

    python scripts/compress_models.py NAME WORK [--judge val|test] [--only RECIPE ...] [--quick]

WORK holds NAME.onnx and NAME-{calibration,unlabelled,val,test}.npz, made by models/zoo/train.py (for malaria the net in
the shipped bundle and the cells of resnet18). Recipes are models/NAME/recipes/*.json; rows go to
models/NAME/bench.jsonl in place of those of the same recipe. Choose on val; report on test once.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from edge_runtime.bundle import load_bundle  # noqa: E402
from edge_runtime.compress.recipe import load_recipe, pass_name  # noqa: E402
from edge_runtime.compress.run import Job, compress  # noqa: E402


def model_file(name: str, work: Path) -> Path:
    path = work / f"{name}.onnx"
    if name == "malaria" and not path.is_file():
        bundle = load_bundle(name)
        path.write_bytes(bundle.read(bundle.variant("fp32").file))
    return path


def items(name: str, work: Path, part: str) -> Path:
    """The malaria net takes the same cells as resnet18."""
    own = work / f"{name}-{part}.npz"
    return work / f"resnet18-{part}.npz" if name == "malaria" and not own.is_file() else own


def rows(name: str, judge: str, report: dict[str, Any]) -> list[dict[str, Any]]:
    made = []
    for one in [*report["originals"], *report["variants"]]:
        row = {key: one[key] for key in ("recipe", "engine", "file_bytes", "stored_bytes", "drift", "scores")}
        row["sibling"] = one.get("sibling")
        speed = one.get("speed")
        row["speed"] = {key: speed[key] for key in ("p50_ms", "ratio", "interval", "peak_bytes")} if speed else None
        about = {"kind": "compress", "model": name, "judged_on": judge, "items": report["judged_on"]["items"]}
        made.append(about | {"given_bytes": report["model"]["bytes"]} | row)
    return made


def keep(path: Path, made: list[dict[str, Any]]) -> None:
    """Rows of other kinds and of other recipes stay."""
    new = {(row["recipe"], row["engine"]) for row in made}
    old = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    kept = [row for row in old if row.get("kind") != "compress" or (row["recipe"], row["engine"]) not in new]
    order = {"original": 0}
    ours = sorted(
        (row for row in [*kept, *made] if row.get("kind") == "compress"),
        key=lambda row: (order.get(row["recipe"], 1), row["recipe"], row["engine"]),
    )
    others = [row for row in kept if row.get("kind") != "compress"]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*others, *ours]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("work", type=Path)
    parser.add_argument("--judge", choices=("val", "test"), default="val")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--quick", action="store_true", help="no speed")
    parser.add_argument("--robust", action="store_true", help="with the report, on damaged pictures: long")
    options = parser.parse_args()
    folder = ROOT / "models" / options.name
    recipes = [load_recipe(path) for path in sorted((folder / "recipes").glob("*.json"))]
    recipes = [one for one in recipes if not options.only or one.name in options.only]
    # what learns wants more items than what calibrates
    learning = [one for one in recipes if any(pass_name(step) == "repair" for step in one.passes)]
    groups = (("calibration", [one for one in recipes if one not in learning]), ("unlabelled", learning))
    made: list[dict[str, Any]] = []
    for part, group in groups:
        if group:
            job = Job(
                model=model_file(options.name, options.work),
                recipes=tuple(group),
                out=options.work / f"{options.name}-compressed-{part}",
                calibrate=items(options.name, options.work, part),
                judge=items(options.name, options.work, options.judge),
                speed=not options.quick,
                robust=options.robust,
                steps=options.work / "steps",
            )
            report = compress(job, notice=lambda words: print(words, file=sys.stderr, flush=True))
            made += rows(options.name, options.judge, report)
    if options.judge == "test" and not options.quick:
        keep(folder / "bench.jsonl", made)
    for row in made:
        drift, scores, speed = row["drift"], row["scores"] or {}, row["speed"] or {}
        print(
            f"{row['recipe']:<28} {row['engine']:<12} x{row['given_bytes'] / row['stored_bytes']:<6.2f} "
            f"{drift['mean']:.4f} sd, at most {drift['largest']:.3f}, {drift['agreement']:.2%} kept, "
            f"accuracy {scores.get('accuracy', 0):.2%}, F1 {scores.get('f1', 0):.2%}, "
            f"time x{speed.get('ratio') or 0:.2f}"
        )


if __name__ == "__main__":
    main()
