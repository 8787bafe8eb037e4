"""Does the order of techniques matter? Pairs of them in both orders, on the same model and items:

    python scripts/measure_orders.py NAME WORK [--group plain|learned]

WORK as for compress_models.py (for malaria: models/malaria/items.py). Each order is made with the same settings, coded
for a bundle, and judged on val on both engines; an order that the forms forbid (what quantizes stands behind what
changes weights) is a row that says so. Rows go to models/orders.jsonl in place of those of the same model and steps.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from edge_runtime.compress import verify  # noqa: E402
from edge_runtime.compress.artifact import load_artifact  # noqa: E402
from edge_runtime.compress.outputs import specs  # noqa: E402
from edge_runtime.compress.prepare import prepare  # noqa: E402
from edge_runtime.compress.products import forms  # noqa: E402
from edge_runtime.compress.recipe import Context, Recipe, read_recipe  # noqa: E402
from edge_runtime.compress.samples import load_samples  # noqa: E402
from edge_runtime.compress.steps import run_recipe  # noqa: E402
from edge_runtime.errors import EdgeError, UsageError  # noqa: E402
from scripts.compress_models import items, model_file  # noqa: E402

PRUNE: dict[str, Any] = {"pass": "prune_channels", "macs": 0.75}
RANK: dict[str, Any] = {"pass": "low_rank", "macs": 0.75}
SPARSE: dict[str, Any] = {"pass": "prune_weights", "share": 0.3}
SHARE: dict[str, Any] = {"pass": "share_weights", "bits": 5}
GRID: dict[str, Any] = {"pass": "grid", "limit_sd": 0.06}
STATIC: dict[str, Any] = {"pass": "static_w8a8"}
REPAIR: dict[str, Any] = {"pass": "repair"}
REPAIR_VALUES: dict[str, Any] = {"pass": "repair", "keep_values": True}
TUNED: dict[str, Any] = {"pass": "prune_and_tune", "share": 0.5}
AWARE: dict[str, Any] = {"pass": "quantize_aware", "weights": "int4", "scale_grid": 8}
Steps = tuple[dict[str, Any], ...]
GROUPS: dict[str, tuple[tuple[Steps, Steps], ...]] = {
    "plain": tuple(
        ((one, other), (other, one))
        for one, other in (
            (PRUNE, SHARE),
            (PRUNE, GRID),
            (PRUNE, STATIC),
            (RANK, SHARE),
            (RANK, PRUNE),
            (RANK, STATIC),
            (SPARSE, SHARE),
            (SPARSE, GRID),
            (SHARE, STATIC),
        )
    ),
    # they learn from the answers of the net as it was given: a repair is a distillation into what is left
    "learned": (
        ((PRUNE, REPAIR, SHARE), (PRUNE, SHARE, REPAIR_VALUES)),
        ((TUNED, SHARE), (SHARE, TUNED)),
        ((PRUNE, AWARE), (AWARE, PRUNE)),
        ((TUNED, AWARE), (AWARE, TUNED)),
    ),
}
ROWS = ROOT / "models" / "orders.jsonl"


def measure(name: str, work: Path, groups: list[str], part: str = "val") -> list[dict[str, Any]]:
    original = prepare(load_artifact(model_file(name, work)))
    inputs, _ = specs(original)
    calibration = load_samples(items(name, work, "calibration"), inputs)
    judged = load_samples(items(name, work, part), inputs)
    context = Context(original, calibration, lessons=load_samples(items(name, work, "unlabelled"), inputs))
    before, _ = verify.judge([original], original, judged)
    rows = []
    for pair in (pair for group in groups for pair in GROUPS[group]):
        for order in pair:
            names = [one["pass"] for one in order]
            row: dict[str, Any] = {"model": name, "steps": list(order), "judged_on": part, "items": judged.count}
            recipe = read_recipe({"name": "-".join(names), "passes": list(order)}, name)
            try:
                row |= _made(recipe, context, before[0]["scores"], judged)
            except UsageError as error:
                row["forbidden"] = error.message
            except EdgeError as error:
                row["refused"] = error.message
            rows.append(row)
            print(f"{name}: {' -> '.join(names)}: {_said(row)}", file=sys.stderr, flush=True)
    return rows


def _made(recipe: Recipe, context: Context, before: dict[str, float], judged: Any) -> dict[str, Any]:
    made, _ = run_recipe(context.original, recipe, context, keep=None)
    found: dict[str, Any] = {"engines": {}}
    for one in forms(recipe, made, context.target.engines):
        ((row,), _) = verify.judge([one.artifact], context.original, judged)
        found["engines"][one.engine] = {
            "stored_bytes": verify.stored_bytes(one.artifact, True),
            "file_bytes": row["file_bytes"],
            "drop_points": round(100 * (before["accuracy"] - row["scores"]["accuracy"]), 4),
            "change_sd": round(row["drift"]["mean"], 5),
            "kept": round(row["drift"]["agreement"], 5),
        }
    return found


def _said(row: dict[str, Any]) -> str:
    if "engines" not in row:
        return "forbidden on paper" if "forbidden" in row else f"refused: {row['refused'][:90]}"
    one = row["engines"]["onnxruntime"]
    return f"{one['stored_bytes']} bytes, {one['drop_points']:.2f} points, {one['change_sd']:.4f} sd"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("work", type=Path)
    parser.add_argument("--group", choices=GROUPS, help="default: both")
    options = parser.parse_args()
    made = measure(options.name, options.work, [options.group] if options.group else list(GROUPS))
    old = [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.is_file() else []
    new = [(row["model"], row["steps"]) for row in made]
    kept = [row for row in old if (row["model"], row["steps"]) not in new]
    ROWS.write_text("".join(json.dumps(row) + "\n" for row in [*kept, *made]))


if __name__ == "__main__":
    main()
