"""How small the slide's reader can be, from the images to every figure of its card, in one command:

    python models/malaria/train_tiny.py OUT [--work CACHE] [--jobs 2]

trains boosted trees, ten networks of the shipped reader's kind without two fifths of the people each, and a ResNet-18;
then students that learn from all of them and the labels: one of the shipped reader's shape and a smaller one, each in
float and then on a grid of few bits; each again five times without a fifth of the people, so that every training person
has scores from a network that never saw them; and one in float five times from the labels alone and five times with
the teachers. Calibrates a verdict for each net on the people held out and on val, measures on test, and writes to OUT:

    large.onnx                                        the largest teacher
    student.onnx, student-qat.onnx, .tflite           the student of the shipped shape in float, and in 8 bits
    tiny.onnx, .tflite                                the smaller one on a coarse grid, its bytes priced
    calibration-qat.json, calibration-tiny.json       of their verdicts
    metrics.json                                      every figure

The students without a fold learn from all teachers but the ResNet, which saw everybody: five more would take about
80 minutes. Needs what train.py needs. About an hour on two cores; CACHE keeps what was trained, so that a run that was
cut goes on, and a second one only measures. It is refused when the settings in the code are others.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

import crossed  # noqa: E402
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
from kept import check_settings, whole  # noqa: E402
from learn import Settings  # noqa: E402
from learn import train as taught_by  # noqa: E402
from network import CellNet, Floats, Shape, fold  # noqa: E402
from small import GridNet, Student  # noqa: E402

from edge_runtime.bundle import load_bundle  # noqa: E402
from edge_runtime.compress.code import encode  # noqa: E402
from edge_runtime.task.verdict import Calibration  # noqa: E402
from models.zoo.export import answers  # noqa: E402

SEEDS = (1, 2, 3, 4, 5)
SMALLER = Shape(12, ((24, 2), (32, 1), (48, 2), (48, 1)), 0.0)
NETS = {"qat": Student(), "tiny": Student(Settings(shape=SMALLER), levels=7, price=4e-6)}
LARGE_PARAMETERS = sum(one.numel() for one in large.Large().parameters())


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class School:
    """What students learn from. Every network is in a file of `work` once it is trained."""

    cells: Cells
    work: Path

    def opinion(self, left_out: int | None) -> Floats:
        """Probabilities (N,) by the teachers that such a student may hear, NaN for cells that it must not see. A
        healthy person's cell is clean, whatever they think of it."""
        logits = crossed.opinion(self.cells, self.work, left_out)
        if left_out is None:
            whole = large.opinions(self.cells, large.LargeSettings(), self.work)
            logits = (2 * logits + np.clip(whole, -crossed.SURE, crossed.SURE)) / 3
        chance: Floats = (1 / (1 + np.exp(-logits))).astype(np.float32)
        chance[self.cells.healthy & np.isfinite(chance)] = 0
        return chance

    def student(self, name: str, settings: Settings, left_out: int | None = None, taught: bool = True) -> CellNet:
        net, file = CellNet(settings.shape), self.work / f"{name}.pt"
        if not file.is_file():
            chance = self.opinion(left_out)
            may = np.isfinite(chance)
            found = taught_by(self.cells.where(may), settings, chance[may] if taught else None, name)
            with whole(file) as fresh:
                torch.save(found.state_dict(), fresh)
        net.load_state_dict(torch.load(file, weights_only=True))
        return net.eval()

    def grid(self, name: str, left_out: int | None = None) -> GridNet:
        """One of NETS: in float, then on its grid."""
        suffix, settings = "" if left_out is None else f"-{left_out}", NETS[name]
        start = self.student(f"student-{name}{suffix}", settings.lessons, left_out)
        file = self.work / f"{name}{suffix}.pt"
        if not file.is_file():
            chance = self.opinion(left_out)
            may = np.isfinite(chance)
            tell = partial(_tell, f"{name}{suffix}")
            made = small.train_grid(start, self.cells.where(may), chance[may], settings, tell)
            with whole(file) as fresh:
                torch.save(made, fresh)
        net: GridNet = torch.load(file, weights_only=False)
        return net.eval()


def _tell(name: str, words: str) -> None:
    say(f"{name} {words}")


# ---------------------------------------------------------------- in several processes


def _task(work: Path, deed: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    deed(School(dataset.load_cells(work), work), *arguments)


def _teach_large(school: School) -> None:
    large.opinions(school.cells, large.LargeSettings(), school.work)


def _teach_pair(school: School, pair: tuple[int, int]) -> None:
    crossed.judged(school.cells, school.work, pair)


def _seed(school: School, arm: str, seed: int) -> None:
    """Scores of everybody else by the student in float, half as long as the one that goes on to the grid."""
    file = school.work / f"scores-{arm}-{seed}.npy"
    if not file.is_file():
        some = NETS["qat"].lessons
        settings = replace(some, epochs=some.epochs // 2, seed=seed)
        net = school.student(f"{arm}-{seed}", settings, taught=arm == "distilled")
        scores, rest = np.full(len(school.cells), np.nan, np.float32), school.cells.split != "train"
        scores[rest] = large.logits(net, school.cells.pixels[rest])
        with whole(file) as fresh:
            np.save(fresh, scores)


def train_all(work: Path, jobs: int) -> None:
    """Everything that is not in `work` yet: the largest teacher beside those that the first students wait for."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:

        def begin(deed: Callable[..., Any], *arguments: Any) -> Future[None]:
            return pool.submit(_task, work, deed, arguments)

        largest = begin(_teach_large)
        for one in [begin(_teach_pair, pair) for pair in crossed.PAIRS]:
            one.result()
        students = [begin(School.grid, name, number) for name in NETS for number in range(large.FOLDS)]
        largest.result()
        students += [begin(School.grid, name) for name in NETS]
        students += [begin(_seed, arm, seed) for arm in ("alone", "distilled") for seed in SEEDS]
        for one in students:
            one.result()


def figures(cells: Cells, scores: Floats, part: str) -> dict[str, float]:
    """Of val or test, the cut from val."""
    cut = float(np.quantile(scores[(cells.split == "val") & cells.infected], 0.1))
    some = cells.split == part
    return evaluate.cell_figures(cells.where(some), scores[some], cut)


def seeds(cells: Cells, work: Path) -> dict[str, Any]:
    """Figures of the same student, five times alone and five times taught."""
    made: dict[str, Any] = {}
    for arm in ("alone", "distilled"):
        scores = [np.load(work / f"scores-{arm}-{seed}.npy") for seed in SEEDS]
        made[arm] = [{part: figures(cells, one, part) for part in ("val", "test")} for one in scores]
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
    parser.add_argument("--jobs", type=int, default=2, help="processes, each on one core")
    options = parser.parse_args()
    out, work = options.out, options.work or options.out / "work"
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    began, cells = time.monotonic(), dataset.load_cells(work)
    asked = {name: asdict(one) for name, one in NETS.items()}
    check_settings(work, asked | {"teacher": asdict(large.LargeSettings()), "pairs": asdict(Settings())})
    large.trees(cells, work)
    train_all(work, options.jobs)
    school = School(cells, work)
    (out / "large.onnx").write_bytes((work / "large.onnx").read_bytes())
    onnx_files.write_float(fold(school.student("student-qat", NETS["qat"].lessons)), out / "student.onnx")
    write(school.grid("qat"), out, "student-qat")
    write(school.grid("tiny"), out, "tiny")
    held = {name: held_out(school, name) for name in NETS}
    metrics = measured(school, held, out, not options.no_test)
    metrics["seconds"] = round(time.monotonic() - began)
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")


def held_out(school: School, name: str) -> Floats:
    """Logits (N,) of training cells, each by such a student that never saw the person; NaN elsewhere."""
    part, scores = large.parts(school.cells), np.full(len(school.cells), np.nan, np.float32)
    for number in range(large.FOLDS):
        mine = part == number
        scores[mine] = large.logits(school.grid(name, number), school.cells.pixels[mine])
    return scores


FILES = {"teacher": "large.onnx", "student": "student.onnx", "qat": "student-qat.onnx",
         "qat_lite": "student-qat.tflite", "tiny": "tiny.onnx", "tiny_lite": "tiny.tflite"}  # fmt: skip


def measured(school: School, held: dict[str, Floats], out: Path, test: bool) -> dict[str, Any]:
    """Every figure, and the calibrations."""
    parts, cells = ("val", "test") if test else ("val",), school.cells
    steps, scores = {}, {}
    for name, file in FILES.items():
        scores[name] = scored(out / file, cells, school.work)
        count = LARGE_PARAMETERS if name == "teacher" else parameters(name.split("_")[0])
        steps[name] = {"parameters": count, "bytes": (out / file).stat().st_size, "stored": stored(out / file)}
        steps[name] |= {part: figures(cells, scores[name], part) for part in parts}
    crowd = np.mean([crossed.judged(cells, school.work, pair) for pair in crossed.PAIRS], axis=0)
    steps["crossed"] = {"parameters": len(crossed.PAIRS) * parameters("qat")}
    steps["crossed"] |= {part: figures(cells, crowd, part) for part in parts}
    settings = {name: asdict(one) | {"parameters": parameters(name)} for name, one in NETS.items()}
    made: dict[str, Any] = {"settings": settings, "steps": steps, "teacher": asdict(large.LargeSettings())}
    made |= {"bias_grid": small.BIAS_GRID, "folds": large.FOLDS}
    rows = seeds(cells, school.work)
    made["seeds"] = {part: margins(rows, part) for part in parts}
    light = replace(cells, pixels=np.zeros((len(cells), 0), np.uint8))  # drawing people a thousand times copies cells
    for name in NETS:
        known = np.where(cells.split == "train", held[name], scores[name])
        made[name], calibration = of_slides(light, known, scores[f"{name}_lite"], test)
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


def parameters(name: str) -> int:
    """Of one of NETS; a student in float has the shape of the one in 8 bits."""
    shape = NETS.get(name, NETS["qat"]).lessons.shape
    return fold(CellNet(shape).eval()).parameters


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
