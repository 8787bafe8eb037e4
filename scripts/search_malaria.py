"""Find a malaria net for a device, in one command:

    python scripts/search_malaria.py raspberry-pi-zero-2w WORK          some 17 minutes of one core
    python scripts/search_malaria.py lenovo-tab-2-a7-10 WORK            the same WORK: only what is new is judged
    python scripts/search_malaria.py raspberry-pi-5 WORK [--test]       --test: also on test people, once, at the end
    python scripts/search_malaria.py exhaustive WORK                    a small space, searched and tried out whole
    python scripts/search_malaria.py seeds WORK                         what was found, and the hand-made net, again

A supernet of depthwise-separable nets is taught first, evolution reads its slices, the promising are trained, and the
best are quantized by a recipe of `compress` and judged on onnxruntime and LiteRT. The net that was designed by hand
(models/malaria/network.py) is in the space: it is taught and judged in the same way. Rows go to
models/architectures.jsonl.

WORK keeps the cells, the supernet, the record of every judgement and the weights; a run that was cut goes on there.
A Dask cluster's workers import what this file does: PYTHONPATH=.:models/malaria dask worker ADDRESS.
Limits tighter than the device's: --max-bytes 12KiB --max-ram 60MiB --max-macs 500000 --max-ms 3.
Needs the extra `train`, and EDGE_RUNTIME_DATA or ../shared/data.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "models" / "malaria")]

import cell_lessons  # noqa: E402
import dataset  # noqa: E402
import evaluate  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from dataset import Cells  # noqa: E402
from learn import Settings  # noqa: E402

from edge_runtime.compress.artifact import load_artifact  # noqa: E402
from edge_runtime.compress.export import from_torch  # noqa: E402
from edge_runtime.compress.learn import supernet  # noqa: E402
from edge_runtime.compress.learn.builders import Separable  # noqa: E402
from edge_runtime.compress.learn.exhaustive import exhaustive  # noqa: E402
from edge_runtime.compress.learn.loop import Fit, answers  # noqa: E402
from edge_runtime.compress.learn.nas import Candidate, Found, Search, search_architecture  # noqa: E402
from edge_runtime.compress.learn.prices import Limits, words  # noqa: E402
from edge_runtime.compress.learn.record import Record  # noqa: E402
from edge_runtime.compress.learn.space import Space, from_plain, key_of  # noqa: E402
from edge_runtime.compress.learn.trial import Rung, School, accuracy, as_trial, load_trained, run_trial  # noqa: E402
from edge_runtime.compress.learn.workers import open_workers  # noqa: E402
from edge_runtime.compress.outputs import answers as said  # noqa: E402
from edge_runtime.compress.prepare import prepare  # noqa: E402
from edge_runtime.compress.recipe import read_recipe  # noqa: E402
from edge_runtime.compress.run import Job, compress  # noqa: E402
from edge_runtime.compress.samples import Samples  # noqa: E402
from edge_runtime.digest import sha256  # noqa: E402
from edge_runtime.errors import UsageError  # noqa: E402
from edge_runtime.profile import DeviceProfile, load_profile  # noqa: E402
from edge_runtime.units import parse_bytes, parse_ms  # noqa: E402
from scripts.search_table import against  # noqa: E402

ROWS = ROOT / "models" / "architectures.jsonl"
RECIPE = read_recipe(  # the drift is not limited here: what counts is the accuracy, which is judged
    {"name": "w8a8_coded", "passes": [{"pass": "static_w8a8", "limit_sd": 0.2, "agreement": 0.98}, {"pass": "code"}]},
    "search_malaria.py",
)
HAND_MADE = Separable()
SPACE = Space(
    "separable",
    {
        "stem": (8, 12, 16, 24),
        "widths.0": (16, 24, 32, 48),
        "widths.1": (24, 32, 48, 64),
        "widths.2": (32, 48, 64, 96),
        "widths.3": (32, 48, 64, 96),
        "strides.1": (1, 2),
        "depth": (2, 3, 4),
        "shrink": (1, 2),
        "most": (False, True),
    },
    {"widths": (0, 0, 0, 0), "strides": (2, 0, 2, 1)},
)
SMALL = Space(
    "separable",
    {"stem": (8, 16), "widths.0": (16, 32), "widths.1": (24, 48), "widths.2": (32, 64), "depth": (1, 2, 3)},
    {"widths": (0, 0, 0), "strides": (2, 1, 2), "shrink": 2},
)
SMALL_RUNG = Rung(epochs=2, steps=200)
RUNGS = (Rung(), Rung(epochs=2), Rung(epochs=10))
SEARCH = Search(trials=100, population=24, sample=6, rungs=RUNGS, keep=8, eta=2, task="slides")
SEEDS = (2, 3)  # beside the first, by which was chosen
TEACH = Fit(rate=4e-3, decay=0.02, average=0.998)
SUPER = replace(TEACH, epochs=6)


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def school_of(cells: Cells) -> School:
    recipe = Settings()
    learnt, judged = (cells.where(cells.split == name) for name in ("train", "val"))
    lessons, val = cell_lessons.to_learn(learnt, recipe), cell_lessons.to_judge(judged, recipe)
    return School(lessons, val, TEACH, recipe.smoothing, cell_lessons.area)


def taught(space: Space, school: School, work: Path) -> supernet.Shared:
    """The supernet from WORK, else taught now."""
    file = work / "supernet.npz"
    if not file.is_file():
        began = time.monotonic()
        made = supernet.teach(space, school, SUPER, notice=say, keep=work / "supernet.pt")
        (work / "supernet.seconds").write_text(f"{time.monotonic() - began:.0f}\n")
        made.save(file)
    return supernet.load_shared(space, file)


def limits_of(options: argparse.Namespace) -> Limits:
    return Limits(
        parse_bytes(options.max_bytes) if options.max_bytes else None,
        parse_bytes(options.max_ram) if options.max_ram else None,
        options.max_macs,
        parse_ms(options.max_ms) if options.max_ms else None,
    )


def settled(architecture: Any, school: School, work: Path, seed: int = 1) -> tuple[Any, float]:
    """The trained net for cells of which half are infected, and its accuracy on val.

    Lessons show healthy people's cells three times, so infected ones are fewer: the logarithm of those odds is taken
    out of the last bias."""
    net = load_trained(work / "weights", as_trial(architecture, RUNGS[-1], seed))
    assert school.lessons.labels is not None
    share = float(school.lessons.labels[school.lessons.shown()].mean())
    last = [module for module in net.modules() if isinstance(module, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.bias += math.log((1 - share) / share)
    return net, accuracy(answers(net, school.val), school.val)


def chosen(nets: Sequence[tuple[Candidate, Any, float]]) -> tuple[Any, Any]:
    """Of those that are no worse on val than the hand-made net, the smallest; and the hand-made net, taught alike.

    That one counts with the better of its two accuracies, settled or not. Where it does not fit, the best is taken."""
    hand = next((one for one in nets if one[0].seeded), None)
    best = max(nets, key=lambda one: (one[2], one[0].score))
    least = max(hand[2], hand[0].accuracy) if hand else best[2]
    able = [one for one in nets if one[2] >= least] or [best]
    smallest = min(able, key=lambda one: (one[0].price.stored_bytes, one[0].price.macs, -one[2]))
    return smallest, hand or smallest


def arrays(cells: Cells) -> dict[str, Any]:
    image = np.ascontiguousarray(cells.pixels.transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(255)
    return {"labels": cells.infected.astype(np.int64), "image": image}


def files(net: Any, cells: Cells, split: str, out: Path) -> dict[str, dict[str, Any]]:
    """The net in 8 bits, stored coded, judged on each engine on all of malaria-cells of a split; by engine."""
    out.mkdir(parents=True, exist_ok=True)
    artifact = prepare(from_torch(net, HAND_MADE.example()))
    (name,) = (value.name for value in artifact.model().graph.inputs)
    plain = cell_lessons.balanced(cells)
    learnt = np.flatnonzero(plain & (cells.split == "train"))[::11]
    for part, mask in (("learn", learnt), (split, plain & (cells.split == split))):
        made = arrays(cells.where(mask))
        np.savez(out / f"{part}.npz", **{name: made["image"], "labels": made["labels"]})
    report = compress(
        Job(
            artifact,
            (RECIPE,),
            out / "files",
            out / "learn.npz",
            out / f"{split}.npz",
            speed=False,
            resume=False,
        )
    )
    keys = ("file_bytes", "stored_bytes", "scores", "drift")
    found = {f"{one['engine']} {one['recipe']}": {key: one[key] for key in keys} for one in report["originals"]}
    return found | {f"{one['engine']} {one['recipe']}": {key: one[key] for key in keys} for one in report["variants"]}


def on_test(file: Path, cells: Cells) -> dict[str, float]:
    """The card's figures of the int8 file on onnxruntime; the cut of 90 % sensitivity is from val."""
    artifact = load_artifact(file)
    (name,) = (value.name for value in artifact.model().graph.inputs)

    def logits(split: str) -> Any:
        made = arrays(cells.where(cells.split == split))["image"]
        return next(iter(said(artifact, Samples(split, len(made), None, {name: made}), 64).values()))[:, 0]

    cut = float(np.quantile(logits("val")[cells.infected[cells.split == "val"]], 0.1))
    figures = evaluate.cell_figures(cells.where(cells.split == "test"), logits("test"), cut)
    return {key: round(value, 5) for key, value in figures.items()}


def row_of(one: Candidate, net: Any, right: float, cells: Cells, work: Path, test: bool) -> dict[str, Any]:
    """Everything that is known of a candidate that was trained to the end."""
    out = work / "out" / sha256(key_of(from_plain(one.architecture)).encode()).hexdigest()[:12]
    made = {"architecture": one.architecture, **asdict(one.price), "val_area": one.score}
    made |= {"val_accuracy_without_suspects": right, "val_accuracy_before_settling": one.accuracy}
    made["val"] = files(net, cells, "val", out)
    if test:
        made["test"] = files(net, cells, "test", out)
        made["test_card_int8"] = on_test(out / "files" / "w8a8_coded.onnx", cells)
    return made


def command(options: argparse.Namespace) -> str:
    """As it was given, without where the work lies."""
    given = ["WORK" if word == str(options.work) else word for word in sys.argv[1:]]
    return " ".join(["python", "scripts/search_malaria.py", *given])


def hunted(
    device: DeviceProfile, school: School, shared: supernet.Shared, options: argparse.Namespace, seconds: float
) -> Found:
    settings = replace(SEARCH, weights=options.work / "weights", seconds=seconds)
    return search_architecture(
        SPACE,
        school.lessons,
        school.val,
        device,
        settings,
        school=school,
        limits=limits_of(options),
        seeds=[HAND_MADE],
        supernet=shared,
        record=options.work / "record.jsonl",
        workers=options.workers,
        notice=say,
    )


def search(options: argparse.Namespace) -> None:
    began = time.monotonic()
    device, work = load_profile(options.device), options.work
    cells = dataset.load_cells(work)
    school = school_of(cells)
    old = (work / "supernet.npz").is_file()
    shared = taught(SPACE, school, work)
    # what this search would take had it found nothing in WORK
    taught_s = float((work / "supernet.seconds").read_text()) if old else 0.0
    found = hunted(device, school, shared, options, 60 * options.minutes - (time.monotonic() - began))
    if found.candidates[0].rung != len(RUNGS) - 1:
        raise UsageError("found no time to train candidates to the end", hint="the same command again goes on")
    nets = [(one, *settled(one.architecture, school, work)) for one in found.candidates]
    pair = chosen(nets)
    for name, (one, _, right) in zip(("chosen", "hand-made"), pair, strict=True):
        say(f"{name}: {one.score:.4f}, accuracy {right:.4f}, {words(one.price)}: {one.architecture}")
    rows = [row_of(*one, cells, work, options.test) for one in pair]
    wall = time.monotonic() - began
    keep(
        {
            "kind": "search",
            "device": device.name,
            "command": command(options),
            "wall_seconds": round(wall),
            "seconds_from_nothing": round(wall - found.seconds + max(found.seconds, found.judging_seconds) + taught_s),
            "limits": asdict(limits_of(options)),
            "space": SPACE.size,
            "judged": found.judged,
            "over_budget": found.refused,
            "from_record": found.recorded,
            "chosen": rows[0],
            "hand_made": rows[1],
            "against": against(device, RECIPE.name, *rows),
            "front": [one.to_json() for one in found.front],
            "trained": [one.to_json() | {"settled_accuracy": right} for one, _, right in nets],
        },
        ("kind", "device", "limits"),
    )
    print(json.dumps({"device": device.name, "chosen": rows[0], "wall_seconds": round(wall)}, indent=1))


def check(options: argparse.Namespace, courses: int = 50) -> None:
    """All of the small space against what searches of half of it find; courses beyond the first cost nothing."""
    began = time.monotonic()
    school, record = school_of(dataset.load_cells(options.work)), Record(options.work / "small.jsonl")
    scores = exhaustive(SMALL, school, SMALL_RUNG, 1, record, open_workers(options.workers), say)
    order, rows = sorted(scores.values(), reverse=True), []
    trials = len(order) // 2
    for seed in range(courses):
        settings = Search(trials=trials, population=6, sample=3, batch=1, rungs=(SMALL_RUNG,), aim="score", seed=seed)
        device = load_profile("raspberry-pi-zero-2w")
        found = search_architecture(
            SMALL, school.lessons, school.val, device, settings, school=school, record=record
        ).candidates[0]
        rows.append((sum(one > found.score for one in order) + 1, order[0] - found.score))
    size = len(order)
    # the best of as many drawn without looking: all of them at place k or behind, one of them at k
    chances = [math.comb(size - k - 1, trials - 1) / math.comb(size, trials) for k in range(size)]
    regret = sum(chance * (order[0] - score) for chance, score in zip(chances, order, strict=True))
    keep(
        {
            "kind": "search_check",
            "command": command(options),
            "architectures": size,
            "judged_by_each_search": trials,
            "rung": asdict(SMALL_RUNG),
            "score": "area under the ROC curve on val",
            "pixels": 32,
            "best": order[0],
            "median": float(np.median(order)),
            "worst": order[-1],
            "first_course": {"rank": rows[0][0], "regret": round(rows[0][1], 5)},
            "courses": courses,
            "found_the_best": round(sum(rank == 1 for rank, _ in rows) / courses, 3),
            "mean_rank": round(float(np.mean([rank for rank, _ in rows])), 2),
            "mean_regret": round(float(np.mean([lost for _, lost in rows])), 5),
            "mean_regret_of_random": round(regret, 5),
            "wall_seconds": round(time.monotonic() - began),
        },
        ("kind",),
    )


def again(options: argparse.Namespace) -> None:
    """How much of the difference between two nets is luck: both taught with other seeds."""
    began, work = time.monotonic(), options.work
    school, record = school_of(dataset.load_cells(work)), Record(work / "seeds.jsonl")
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()]
    found = {key_of(from_plain(row["chosen"]["architecture"])) for row in rows if row["kind"] == "search"}
    figures: dict[str, list[dict[str, float]]] = {}
    for key in (*sorted(found), key_of(HAND_MADE)):
        for seed in SEEDS:
            trial = as_trial(json.loads(key), RUNGS[-1], seed) | {"weights": str(work / "weights")}
            row = record.get(f"{seed} {key}") or record.put(f"{seed} {key}", run_trial(school, trial))
            right = settled(json.loads(key), school, work, seed)[1]
            figures.setdefault(key, []).append({"seed": seed, "area": row["score"], "accuracy": right})
            say(f"{figures[key][-1]} {key}")
    nets = [{"architecture": json.loads(key), "val": rows} for key, rows in figures.items()]
    wall = round(time.monotonic() - began)
    keep({"kind": "search_seeds", "command": command(options), "nets": nets, "wall_seconds": wall}, ("kind",))


def keep(row: dict[str, Any], by: Sequence[str]) -> None:
    """In place of the row with the same of these fields."""
    old = [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.is_file() else []
    kept = [one for one in old if [one.get(key) for key in by] != [row[key] for key in by]]
    ROWS.write_text("".join(json.dumps(one) + "\n" for one in [*kept, row]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("device", help="a profile's name or file, or: exhaustive, seeds")
    parser.add_argument("work", type=Path)
    parser.add_argument("--minutes", type=float, default=55.0)
    parser.add_argument("--workers", default="1", help="processes, or the address of a Dask scheduler")
    parser.add_argument("--test", action="store_true")
    for name in ("bytes", "ram", "ms"):
        parser.add_argument(f"--max-{name}")
    parser.add_argument("--max-macs", type=int)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.device in ("exhaustive", "seeds"):
        (check if options.device == "exhaustive" else again)(options)
    else:
        search(options)


if __name__ == "__main__":
    main()
