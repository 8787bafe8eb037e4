"""How small the slide's reader can be, from the images to every figure of its card, in one command:

    python models/malaria/train_tiny.py OUT [--work CACHE]

trains a ResNet-18 with the slide's lessons, then a small network that learns from it, boosted trees and the labels,
then that network on coarse grids with a price on its bytes; trains the small one five times from the labels alone and
five times with the teachers; trains five more without a fifth of the people each, so that every training person has
scores from a network that never saw them; calibrates a verdict for each net on those and on val; measures on test, and
writes to OUT:

    large.onnx, student.onnx                          the teacher, and the student in float
    student-qat.onnx, .tflite, tiny.onnx, .tflite     the student in 8 bits, and on a coarse grid
    calibration-qat.json, calibration-tiny.json       of their verdicts
    metrics.json                                      every figure

The students without a fold learn from boosted trees that saw neither that fold nor the cell's own, and not from five
more ResNets, which would take more than two hours (the one took 26 minutes), and in float half as long.
Needs what train.py needs. Some 80 minutes of one core that others use, too (added up from its parts; the teacher takes
26 of them); CACHE keeps what was trained, so a second run only measures: a minute and a half.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

import dataset  # noqa: E402
import engines  # noqa: E402
import evaluate  # noqa: E402
import large  # noqa: E402
import numpy as np  # noqa: E402
import onnx_files  # noqa: E402
import people  # noqa: E402
import small  # noqa: E402
import tiny_files  # noqa: E402
import torch  # noqa: E402
import train as reader  # noqa: E402
from dataset import Cells  # noqa: E402
from network import CellNet, Floats, fold  # noqa: E402
from small import GridNet, Student, Views  # noqa: E402

from edge_runtime.bundle import load_bundle  # noqa: E402
from edge_runtime.compress.code import encode  # noqa: E402
from edge_runtime.task.verdict import Calibration  # noqa: E402
from models.zoo.export import answers  # noqa: E402

SEEDS, VIEWS = (1, 2, 3, 4, 5), 6
QAT = {"levels": 63, "price": 0.0}
NETS: dict[str, dict[str, Any]] = {"qat": QAT, "tiny": {}}
LARGE_PARAMETERS = sum(one.numel() for one in large.Large().parameters())


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def to_logit(chance: Floats) -> Floats:
    sure = np.clip(chance, 2e-3, 1 - 2e-3)
    return np.log(sure / (1 - sure)).astype(np.float32)


class Class:
    """Everything that students learn from: the lessons' views, labels, and what the teachers say."""

    def __init__(self, cells: Cells, work: Path) -> None:
        self.cells, self.work = cells, work
        self.learnt = cells.where(cells.split == "train")
        self.part = large.parts(cells)[cells.split == "train"]
        self.views = small.make_views(self.learnt, VIEWS, work)

    def opinion(self, left_out: int | None) -> Floats:
        """Logits (T,) of training cells: the mean of the ResNet's and the trees', or without a fold the trees' alone
        (NaN for that fold)."""
        train = self.cells.split == "train"
        trees = to_logit(large.trees(self.cells, self.work, left_out)[train])
        if left_out is not None:
            return trees
        return (large.opinions(self.cells, large.LargeSettings(), self.work)[train] + trees) / 2

    def subset(self, left_out: int | None) -> Views:
        """Views of people outside that fold."""
        if left_out is None:
            return self.views
        keep = np.flatnonzero(self.part[self.views.place] != left_out)
        return Views(self.views.pixels[keep], self.views.place[keep])

    def student(self, name: str, settings: Student, left_out: int | None = None, taught: bool = True) -> CellNet:
        net, file = CellNet(settings.shape), self.work / f"{name}.pt"
        if not file.is_file():
            views = self.subset(left_out)
            loss = small.loss_of(views, self.learnt.infected, self.opinion(left_out) if taught else None, settings)
            found = small.train_float(views, loss, settings, lambda words: say(f"{name} {words}"))
            torch.save(found.state_dict(), file)
        net.load_state_dict(torch.load(file, weights_only=True))
        return net.eval()

    def grid(self, name: str, start: CellNet, settings: Student, left_out: int | None = None) -> GridNet:
        file = self.work / f"{name}.pt"
        if not file.is_file():
            views = self.subset(left_out)
            known = self.learnt.healthy  # whatever a healthy person's cell looks like
            loss = small.loss_of(views, self.learnt.infected, self.opinion(left_out), settings, known)
            found = small.train_grid(start, views, loss, settings, lambda words: say(f"{name} {words}"))
            torch.save(found, file)
        net: GridNet = torch.load(file, weights_only=False)
        return net.eval()


def figures(cells: Cells, scores: Floats, part: str) -> dict[str, float]:
    """Of val or test, the cut from val."""
    cut = float(np.quantile(scores[(cells.split == "val") & cells.infected], 0.1))
    some = cells.split == part
    return evaluate.cell_figures(cells.where(some), scores[some], cut)


def seeds(lessons: Class, cells: Cells, short: Student) -> dict[str, Any]:
    """Figures of the same student, five times alone and five times taught; the margin against its own spread."""
    rest, made = cells.split != "train", {}
    for arm, taught in (("alone", False), ("distilled", True)):
        rows = []
        for seed in SEEDS:
            file = lessons.work / f"scores-{arm}-{seed}.npy"
            if not file.is_file():
                net = lessons.student(f"{arm}-{seed}", replace(short, seed=seed), taught=taught)
                scores = np.full(len(cells), np.nan, np.float32)
                scores[rest] = large.logits(net, cells.pixels[rest])
                np.save(file, scores)
            scores = np.load(file)
            rows.append({part: figures(cells, scores, part) for part in ("val", "test")})
        made[arm] = rows
    return made


def margins(rows: dict[str, Any], part: str) -> dict[str, Any]:
    """By figure: means and standard deviations, and the margin in standard deviations of the student alone."""
    made = {}
    for key in rows["alone"][0][part]:
        alone, taught = (np.array([row[part][key] for row in rows[arm]]) for arm in ("alone", "distilled"))
        made[key] = {
            "alone": [float(alone.mean()), float(alone.std(ddof=1))],
            "distilled": [float(taught.mean()), float(taught.std(ddof=1))],
            "margin": float(taught.mean() - alone.mean()),
            # every taught one beyond every lone one: by chance 1 of 126 for five against five
            "apart": bool(taught.min() > alone.max() or taught.max() < alone.min()),
        }
    return made


def write(net: GridNet, out: Path, name: str) -> None:
    integers = small.integers(net)
    tiny_files.write_onnx(integers, out / f"{name}.onnx")
    tiny_files.write_tflite(integers, out / f"{name}.tflite")


def stored(path: Path) -> int:
    content = path.read_bytes()
    return min(len(content), len(encode(content, path.suffix[1:]).content))


def large_scores(path: Path, cells: Cells) -> Floats:
    image = cells.pixels.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    logit: Floats = answers(path.read_bytes(), {"image": np.ascontiguousarray(image)})[:, 0]
    return logit


def scored(path: Path, cells: Cells, work: Path) -> Floats:
    """Of val and test, by the real engine; NaN for training cells."""
    rest, scores = cells.split != "train", np.full(len(cells), np.nan, np.float32)
    some = cells.where(rest)
    scores[rest] = large_scores(path, some) if path.name == "large.onnx" else engines.run(path, some.pixels)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--work", type=Path, default=None, help="keeps decoded cells and trained networks")
    parser.add_argument("--no-test", action="store_true", help="choose on train and val only, and stop there")
    options = parser.parse_args()
    out, work = options.out, options.work or options.out / "work"
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    began, settings = time.monotonic(), Student()
    cells = dataset.load_cells(work)
    lessons = Class(cells, work)
    lessons.opinion(None)
    (out / "large.onnx").write_bytes((work / "large.onnx").read_bytes())
    student = lessons.student("student", settings)
    onnx_files.write_float(fold(student), out / "student.onnx")
    write(lessons.grid("qat", student, replace(settings, **QAT)), out, "student-qat")
    write(lessons.grid("tiny", student, settings), out, "tiny")
    rows = seeds(lessons, cells, replace(settings, epochs=1))
    held = {name: held_out(lessons, cells, settings, name) for name in NETS}
    metrics = measured(cells, held, rows, settings, out, work, not options.no_test)
    metrics["seconds"] = round(time.monotonic() - began)
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")


def held_out(lessons: Class, cells: Cells, settings: Student, name: str) -> Floats:
    """Logits (N,) of training cells, each by such a student that never saw the person; NaN elsewhere."""
    part, scores = large.parts(cells), np.full(len(cells), np.nan, np.float32)
    for number in range(large.FOLDS):
        start = lessons.student(f"student-{number}", replace(settings, epochs=1), number)
        net = lessons.grid(f"{name}-{number}", start, replace(settings, **NETS[name]), number)
        mine = part == number
        scores[mine] = large.logits(net, cells.pixels[mine])
    return scores


FILES = {"teacher": "large.onnx", "student": "student.onnx", "qat": "student-qat.onnx",
         "qat_lite": "student-qat.tflite", "tiny": "tiny.onnx", "tiny_lite": "tiny.tflite"}  # fmt: skip


def measured(
    cells: Cells, held: dict[str, Floats], rows: dict[str, Any], settings: Student, out: Path, work: Path, test: bool
) -> dict[str, Any]:
    """Every figure, and the calibration of the net that ships."""
    parts = ("val", "test") if test else ("val",)
    steps, scores = {}, {}
    for name, file in FILES.items():
        scores[name] = scored(out / file, cells, work)
        count = LARGE_PARAMETERS if name == "teacher" else small_parameters(settings)
        steps[name] = {"parameters": count, "bytes": (out / file).stat().st_size, "stored": stored(out / file)}
        steps[name] |= {part: figures(cells, scores[name], part) for part in parts}
    cells = replace(cells, pixels=np.zeros((len(cells), 0), np.uint8))  # drawing people a thousand times copies cells
    made: dict[str, Any] = {"settings": asdict(settings), "parameters": small_parameters(settings), "steps": steps}
    made |= {"teacher": asdict(large.LargeSettings()), "bias_grid": small.BIAS_GRID, "folds": large.FOLDS}
    made["seeds"] = {part: margins(rows, part) for part in parts}
    for name in NETS:
        known = np.where(cells.split == "train", held[name], scores[name])
        made[name], calibration = of_slides(cells, known, scores[f"{name}_lite"], test)
        (out / f"calibration-{name}.json").write_text(json.dumps(calibration.to_json(), indent=1) + "\n")
    return made


def of_slides(cells: Cells, known: Floats, lite: Floats, test: bool) -> tuple[dict[str, Any], Calibration]:
    """Figures of slides of one net, with a calibration of its own. `known`: logits (N,) of all cells, those of training
    people by a net that never saw them; `lite`: by LiteRT."""
    choice = people.Choice()
    gate = Calibration.from_json(load_bundle(REPOSITORY / "models/malaria/malaria.edge").task["calibration"]).gate
    calibration = reader.fit_decision(cells, known, gate, choice)
    use, val, train = cells.split != "test", cells.split == "val", cells.split == "train"
    cut = float(np.quantile(known[val & cells.infected], 0.1))
    healthy = people.by_person(known, cells.person, use & cells.healthy)
    infected = people.by_person(known, cells.person, use & cells.infected & ~cells.suspect)
    made: dict[str, Any] = {
        "held_out": {
            "train": evaluate.with_intervals(cells.where(train), known[train], cut),
            "train_and_val": evaluate.cell_figures(cells.where(use), known[use], cut),
            "slides": evaluate.slide_figures(healthy, infected, calibration, choice),
        }
    }
    if test:
        made |= test_figures(cells, known, lite, calibration, choice, cut)
    return made, calibration


def small_parameters(settings: Student) -> int:
    return fold(CellNet(settings.shape).eval()).parameters


def test_figures(
    cells: Cells, known: Floats, lite: Floats, calibration: Calibration, choice: people.Choice, cut: float
) -> dict[str, Any]:
    """With intervals, and slides; and whether both engines agree."""
    test = cells.split == "test"
    healthy = people.by_person(known, cells.person, test & cells.healthy)
    infected = people.by_person(known, cells.person, test & cells.infected & ~cells.suspect)
    everyone = people.by_person(known, cells.person, cells.healthy)
    others = people.by_person(known, cells.person, ~test & cells.infected & ~cells.suspect)
    return {
        "test": evaluate.with_intervals(cells.where(test), known[test], cut),
        "test_slides": evaluate.slide_figures(healthy, infected, calibration, choice),
        "leave_one_out": people.leave_one_out(everyone, others, calibration.gate, choice),
        "same_label_on_both_engines": float(((known > 0) == (lite > 0))[test].mean()),
        "largest_difference_between_engines": float(np.abs(known - lite)[test].max()),
    }


if __name__ == "__main__":
    main()
