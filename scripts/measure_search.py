"""What `compress --device NAME --max-drop 0.5` finds for an example model, and what it takes on the test split:

    python scripts/measure_search.py NAME WORK --device DEVICE [--device ...] [--minutes N | --thorough] [--folder]

WORK as for compress_models.py (for malaria: models/malaria/items.py, whose items say whose cells they are). Chosen on
val; the variants in the bundle are then judged on test, once. Rows go to models/search.jsonl in place of those of the
same model and device; WORK/NAME-DEVICE.edge and its report stay.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from edge_runtime.bundle import load_bundle  # noqa: E402
from edge_runtime.compress import slide_figures, verify  # noqa: E402
from edge_runtime.compress.artifact import load_artifact, read_artifact  # noqa: E402
from edge_runtime.compress.outputs import specs  # noqa: E402
from edge_runtime.compress.prepare import prepare  # noqa: E402
from edge_runtime.compress.recipe import Target  # noqa: E402
from edge_runtime.compress.run import ENGINES, Job  # noqa: E402
from edge_runtime.compress.samples import load_samples  # noqa: E402
from edge_runtime.compress.search import Found, Goal, search  # noqa: E402
from edge_runtime.planner import plan  # noqa: E402
from edge_runtime.profile import load_profile  # noqa: E402
from scripts.compress_models import items, model_file  # noqa: E402

ROWS = ROOT / "models" / "search.jsonl"
TABLE = {"kind": "image", "top": 1, "scores": "logits"}


def describe(name: str, work: Path) -> Path:
    """What a bundle says of the model besides its files. Of models without a task of their own, only so much as a
    search needs: the bundle is to be measured, not to be used."""
    if name == "malaria":
        return ROOT / "models" / "malaria" / "malaria.edge"
    path = work / f"{name}-search.json"
    plain = {"name": name, "version": "1", "task": TABLE, "labels": ["0", "1"]}
    plain["preprocessing"] = {"size": [64, 64], "resize": "pad", "mean": [0.0] * 3, "std": [1.0] * 3}
    path.write_text(json.dumps(plain))
    return path


def run(name: str, work: Path, device: str, options: argparse.Namespace) -> dict[str, Any]:
    profile = load_profile(device)
    engines = tuple(one for one in ENGINES if one in profile.engines)
    out = work / f"{name}-{device}.edge" if options.bundle else work / f"{name}-{device}"
    job = Job(
        model=model_file(name, work),
        recipes=(),
        out=out,
        calibrate=items(name, work, "calibration"),
        judge=items(name, work, "val"),
        like=describe(name, work) if options.bundle else None,
        target=Target(profile.arch, engines),
        speed=False,
        robust=False,
        train=learned if (learned := items(name, work, "unlabelled")).is_file() else None,
        steps=work / f"steps-{name}-{profile.arch}",  # what was made for one device holds for others alike
    )
    goal = Goal(profile, options.max_drop, minutes=options.minutes, thorough=options.thorough)
    start = time.monotonic()
    found = search(job, goal, notice=lambda words: print(words[:200], file=sys.stderr, flush=True))
    seconds = time.monotonic() - start
    print("\n".join(found.words), file=sys.stderr)
    keep = ("device", "arch", "max_drop", "score", "judged", "taken_up", "answers", "ended")
    row: dict[str, Any] = {"model": name, **{key: found.search[key] for key in keep}}
    row |= {"seconds": round(seconds, 1), "seconds_of_candidates": _seconds(found)}
    row |= {"on_paper": len(found.search["on_paper"]), "given_bytes": job.model.stat().st_size}
    row["chosen"] = [_point(one) for one in found.search["points"] if one["chosen"]]
    row["front"] = [_point(one) for one in found.search["points"] if one["front"] and not one["misses"]]
    if found.report:
        row["test"] = tested(name, work, out)
    if options.bundle and found.report:
        choice = plan(load_bundle(out), profile).choice
        row["planned"] = [choice.variant, choice.engine] if choice else None
    return row


def _seconds(found: Found) -> float:
    """Of all that was judged, in this run and those before it that it took up."""
    seconds = {one["recipe"]: one["seconds"] for one in found.search["points"]}
    return round(sum(seconds.values()), 1)


def _point(one: dict[str, Any]) -> dict[str, Any]:
    keep = ("name", "engine", "stored_bytes", "ram_bytes", "macs", "drop", "score", "slide")
    return {key: one[key] for key in keep} | {"change_sd": one["drift"]["mean"]}


def tested(name: str, work: Path, out: Path) -> list[dict[str, Any]]:
    """The original and what is in the bundle or the folder, on the test split, on their engines."""
    original = prepare(load_artifact(model_file(name, work)))
    bundle = load_bundle(out) if out.suffix == ".edge" else None
    samples = load_samples(items(name, work, "test"), specs(original)[0], bundle)
    named = {"original": original}
    if bundle:
        named |= {one.name: read_artifact(bundle.read(one.file), one.name) for one in bundle.variants}
    else:
        made = json.loads((out / "report.json").read_text())["variants"]
        named |= {one["name"]: load_artifact(out / f"{one['name']}.{one['format']}") for one in made}
    rows, said = verify.judge(list(named.values()), original, samples)
    calibration = slide_figures.calibration_of(bundle.task) if bundle else None
    found = []
    for (variant, artifact), row, answer in zip(named.items(), rows, said, strict=True):
        one = {"variant": variant, "format": artifact.format, "scores": row["scores"], "items": samples.count}
        if calibration and samples.person is not None:
            one["slide"] = slide_figures.figures(next(iter(answer.values())), samples, calibration)
        found.append(one)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("work", type=Path)
    parser.add_argument("--device", action="append", required=True)
    parser.add_argument("--max-drop", type=float, default=0.5)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--thorough", action="store_true")
    parser.add_argument(
        "--folder", dest="bundle", action="store_false", help="plain files, for inputs that no task has"
    )
    options = parser.parse_args()
    for device in options.device:
        row = run(options.name, options.work, device, options)
        old = [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.is_file() else []
        kept = [one for one in old if (one["model"], one["device"]) != (row["model"], row["device"])]
        ROWS.write_text("".join(json.dumps(one) + "\n" for one in [*kept, row]))


if __name__ == "__main__":
    main()
