"""Everything from the images to what ships, in one command:

    python models/malaria/train.py OUT [--work CACHE]

trains boosted trees as teachers, then six networks (one on all training people, five each without a fifth of them, so
that every training person has scores from a network that never saw them), quantizes, calibrates the slide's verdict
and the gate on train and val, measures on test, and writes to OUT:

    malaria-fp32.onnx malaria-int8.onnx malaria-int8.tflite malaria-fp32.tflite
    calibration.json     constants of the verdict: goes into the bundle's header
    metrics.json         every figure of the card

Needs torch, scikit-learn, onnx, onnxruntime, ai-edge-litert, Pillow. Data: EDGE_RUNTIME_DATA, else ../shared/data
beside the repository. About half an hour on one core; CACHE keeps trained networks, so a second run only measures.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

import damage  # noqa: E402
import dataset  # noqa: E402
import engines  # noqa: E402
import evaluate  # noqa: E402
import fields  # noqa: E402
import gate_fit  # noqa: E402
import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
import onnx_files  # noqa: E402
import people  # noqa: E402
import quantize  # noqa: E402
import teacher  # noqa: E402
import tflite_files  # noqa: E402
import torch  # noqa: E402
from dataset import Cells  # noqa: E402
from learn import Settings, train  # noqa: E402
from network import CellNet, Floats, fold, logits  # noqa: E402
from PIL import Image  # noqa: E402

from edge_runtime.task import cells as device  # noqa: E402
from edge_runtime.task.gate import Gate  # noqa: E402
from edge_runtime.task.verdict import Calibration  # noqa: E402

FOLDS = 5
WEIGHT_LEVELS = 63  # 7-bit weights: exact on x86 without VNNI too, where pairs of 8-bit products saturate
CALIBRATION_CELLS = 1024
DAMAGED_PER_PERSON, TAUGHT_PER_PERSON = 30, 16
FILES = {
    "fp32_onnx": "malaria-fp32.onnx",
    "int8_onnx": "malaria-int8.onnx",
    "int8_tflite": "malaria-int8.tflite",
    "fp32_tflite": "malaria-fp32.tflite",
}


def parts(cells: Cells) -> npt.NDArray[np.int64]:
    """Fold of each cell, -1 where it is not for training."""
    deal = dataset.folds(cells.person[cells.split == "train"], FOLDS)
    return np.array([deal.get(name, -1) for name in cells.person.tolist()])


def trained(cells: Cells, left_out: int | None, settings: Settings, work: Path) -> CellNet:
    """The network of all training people, or of all but one fold: from the cache, else trained now."""
    net, file = CellNet(settings.shape), work / ("final.pt" if left_out is None else f"fold{left_out}.pt")
    if not file.is_file():
        part = parts(cells)
        if not (work / "colours.npy").is_file():
            np.save(work / "colours.npy", teacher.colours(cells.pixels))
        opinion = teacher.opinions(cells, np.load(work / "colours.npy"), part, () if left_out is None else (left_out,))
        mask = np.isfinite(opinion)
        torch.save(train(cells.where(mask), settings, opinion[mask], file.stem).state_dict(), file)
    net.load_state_dict(torch.load(file, weights_only=True))
    return net.eval()


def held_out_scores(cells: Cells, settings: Settings, work: Path) -> Floats:
    """Logits (N,) of train cells, each from the network whose training left that person out; NaN elsewhere."""
    part, scores = parts(cells), np.full(len(cells), np.nan, np.float32)
    for number in range(FOLDS):
        net = trained(cells, number, settings, work)
        scores[part == number] = logits(net, cells.pixels[part == number])
    return scores


def score_scale(scores: Floats, infected: np.ndarray) -> tuple[float, float]:
    """Slope and offset of a logistic curve from logit to chance, classes weighted equally: Newton's method."""
    x = np.stack([scores, np.ones_like(scores)], axis=1).astype(np.float64)
    weight = np.where(infected, 0.5 / infected.mean(), 0.5 / (1 - infected.mean()))
    answer = np.array([1.0, 0.0])
    for _ in range(50):
        chance = 1 / (1 + np.exp(-x @ answer))
        slope = x.T @ (weight * (infected - chance))
        bend = (x * (weight * chance * (1 - chance))[:, None]).T @ x
        answer = answer + np.linalg.solve(bend, slope)
    return float(answer[0]), float(answer[1])


def damaged_cells(cells: Cells, split: str, most: int) -> tuple[Cells, Iterator[tuple[str, np.ndarray]]]:
    """Up to `most` cells of each person, and one by one: name of damage, squares uint8 (N,64,64,3); "none" is first."""
    dice, places = np.random.default_rng(17), []
    for name in sorted(set(cells.person[cells.split == split].tolist())):
        mine = np.flatnonzero((cells.person == name) & (cells.split == split))
        places += dice.permutation(mine)[:most].tolist()
    some = cells.where(np.array(places))

    def damaged() -> Iterator[tuple[str, np.ndarray]]:
        pictures = []
        for path in some.path.tolist():
            with Image.open(dataset.data_root() / path) as image:
                pictures.append(np.array(image.convert("RGB")))
        yield "none", some.pixels
        for name, (deed, strengths) in damage.DAMAGES.items():
            for strength in strengths:
                yield f"{name} {strength}", np.stack([device.square(deed(rgb, strength)) for rgb in pictures])

    return some, damaged()


def fitted_gate(cells: Cells, features: Floats, work: Path) -> Gate:
    """From training people alone. What damage does to their cells is measured once and kept."""
    some, damaged = damaged_cells(cells, "train", TAUGHT_PER_PERSON)
    file = work / "damage.npz"
    if not file.is_file():
        np.savez(file, **{name: measure(pixels) for name, pixels in damaged})  # type: ignore[arg-type]
    learnt = cells.split == "train"
    with np.load(file) as arrays:
        hurt = {name: arrays[name] for name in arrays.files}
    return gate_fit.fit(features[learnt], cells.where(learnt), some, hurt, gate_fit.GateSettings())


def measure(pixels: np.ndarray) -> Floats:
    return np.array([device.features(cell) for cell in pixels])


def foreign_batches(gate: Any) -> dict[str, Any]:
    counts: dict[str, list[float]] = {}
    for source, _, pixels in fields.batches(dataset.data_root()):
        counts.setdefault(source, []).append(gate_fit.distance(gate, measure(pixels).mean(axis=0), len(pixels)))
    return {
        source: {"batches": len(d), "refused": float(np.mean(np.array(d) > 1)), "nearest": round(min(d), 2)}
        for source, d in counts.items()
    }


def fit_decision(cells: Cells, scores: Floats, gate: Gate, choice: people.Choice) -> Calibration:
    """Threshold, spreads and scale, from train (held out) and val alone."""
    use = cells.split != "test"
    healthy = people.by_person(scores, cells.person, use & cells.healthy)
    infected = people.by_person(scores, cells.person, use & cells.infected & ~cells.suspect)
    sure = use & (cells.healthy | ~cells.suspect)
    slope, offset = score_scale(scores[sure], cells.infected[sure])
    return people.finish(people.calibrate(healthy, infected, gate, choice), slope, offset, choice)


def write_files(net: CellNet, cells: Cells, out: Path) -> None:
    folded = fold(net)
    learnt = np.flatnonzero(cells.split == "train")
    pick = np.random.default_rng(3).permutation(learnt)[:CALIBRATION_CELLS]
    integers = quantize.quantize(folded, cells.pixels[pick], WEIGHT_LEVELS)
    onnx_files.write_float(folded, out / FILES["fp32_onnx"])
    onnx_files.write_int8(integers, out / FILES["int8_onnx"])
    tflite_files.write_int8(integers, out / FILES["int8_tflite"])
    tflite_files.write_float(folded, out / FILES["fp32_tflite"])


def variant_figures(
    cells: Cells, scores: dict[str, Floats], features: Floats, calibration: Calibration, out: Path
) -> dict[str, Any]:
    """Test figures of each file, and how it agrees with fp32 ONNX: cells and verdicts."""
    test, val = cells.split == "test", cells.split == "val"
    some = cells.where(test)
    verdicts = {
        name: evaluate.read_people(some, values[test], features[test], calibration) for name, values in scores.items()
    }
    plain, result = "fp32_onnx", {}
    for name, values in scores.items():
        cut = float(np.quantile(values[val & cells.infected], 0.1))
        same = [v["verdict"] == verdicts[plain][who]["verdict"] for who, v in verdicts[name].items()]
        result[name] = {
            "bytes": (out / FILES[name]).stat().st_size,
            "test": evaluate.with_intervals(some, values[test], cut),
            "cut": round(cut, 4),
            "same_label_as_fp32_onnx": float(((values > 0) == (scores[plain] > 0))[test].mean()),
            "same_label_as_int8_onnx": float(((values > 0) == (scores["int8_onnx"] > 0))[test].mean()),
            "same_verdict_as_fp32_onnx": float(np.mean(same)),
            "verdicts": evaluate.verdict_table(verdicts[name], some),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--work", type=Path, default=None, help="keeps decoded cells and trained networks")
    parser.add_argument("--no-test", action="store_true", help="choose on train and val only, and stop there")
    options = parser.parse_args()
    out, work = options.out, options.work or options.out / "work"
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    began, settings, choice = time.monotonic(), Settings(), people.Choice()
    cells = dataset.load_cells(work)
    held = held_out_scores(cells, settings, work)
    net = trained(cells, None, settings, work)
    write_files(net, cells, out)
    features, rest = measure(cells.pixels), cells.split != "train"
    scores = {}
    for name, file in FILES.items():
        scores[name] = engines.run(out / file, cells.pixels)
    shipped = np.where(rest, scores["int8_onnx"], held)
    calibration = fit_decision(cells, shipped, fitted_gate(cells, features, work), choice)
    (out / "calibration.json").write_text(json.dumps(calibration.to_json(), indent=1) + "\n")
    metrics = {"settings": asdict(settings), "choice": asdict(choice), "parameters": fold(net).parameters}
    metrics |= chosen_figures(cells, shipped, features, calibration, choice)
    if not options.no_test:
        metrics |= {"variants": variant_figures(cells, scores, features, calibration, out)}
        metrics |= test_figures(cells, shipped, features, calibration, choice, out)
    metrics["seconds"] = round(time.monotonic() - began)
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")


def chosen_figures(
    cells: Cells, scores: Floats, features: Floats, calibration: Calibration, choice: people.Choice
) -> dict[str, Any]:
    """Figures on train (held out) and val: what the choices were made by."""
    use = cells.split != "test"
    healthy = people.by_person(scores, cells.person, use & cells.healthy)
    infected = people.by_person(scores, cells.person, use & cells.infected & ~cells.suspect)
    val = cells.split == "val"
    cut = float(np.quantile(scores[val & cells.infected], 0.1))
    return {
        "held_out": {
            "train": evaluate.with_intervals(cells.where(cells.split == "train"), scores[cells.split == "train"], cut),
            "val": evaluate.with_intervals(cells.where(val), scores[val], cut),
            "slides": evaluate.slide_figures(healthy, infected, calibration, choice),
            "leave_one_out": people.leave_one_out(healthy, infected, calibration.gate, choice),
            "val_people_refused": evaluate.refused(calibration.gate, features[val], cells.person[val]),
        }
    }


def test_figures(
    cells: Cells, scores: Floats, features: Floats, calibration: Calibration, choice: people.Choice, out: Path
) -> dict[str, Any]:
    """The figures of the floors: slides, people left out in turn, gate, damage."""
    test, everyone = cells.split == "test", np.ones(len(cells), bool)
    infected = {
        name: people.by_person(scores, cells.person, test & cells.infected & mask)
        for name, mask in (("all_labels", everyone), ("without_suspects", ~cells.suspect))
    }
    healthy_test = people.by_person(scores, cells.person, test & cells.healthy)
    healthy_all = people.by_person(scores, cells.person, cells.healthy)
    held = people.by_person(scores, cells.person, ~test & cells.infected & ~cells.suspect)
    some, damaged = damaged_cells(cells, "test", DAMAGED_PER_PERSON)
    file = out / FILES["int8_onnx"]
    table = {name: (engines.run(file, pixels), measure(pixels)) for name, pixels in damaged}
    uninfected = test & ~cells.infected
    return {
        "test_slides": {
            name: evaluate.slide_figures(healthy_test, ill, calibration, choice) for name, ill in infected.items()
        },
        "test_infected_all_healthy": evaluate.slide_figures(
            healthy_all, infected["without_suspects"], calibration, choice
        ),
        "leave_one_out": people.leave_one_out(healthy_all, held, calibration.gate, choice),
        "gate": {
            "other_cameras": foreign_batches(calibration.gate),
            "test_people_refused": evaluate.refused(calibration.gate, features[test], cells.person[test]),
            "test_people_clean_cells_refused": evaluate.refused(
                calibration.gate, features[uninfected], cells.person[uninfected]
            ),
            "damage": evaluate.damage_table(table, some, calibration),
        },
    }


if __name__ == "__main__":
    main()
