"""Writes models/malaria-tiny/README.md, the card of the small reader, from metrics.json: no figure is typed by hand.

python models/malaria/tiny_card.py OUT      (OUT: what train_tiny.py wrote)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from card import table

Json = dict[str, Any]
HERE = Path(__file__).resolve().parent
FOLDER = HERE.parent / "malaria-tiny"

HEAD = """# malaria-tiny: the reader of thin blood films in a few kilobytes

What [malaria](../malaria/README.md) does, by a network of {parameters:,} parameters whose whole entry in the bundle,
graph and weights, is {onnx:,} bytes for ONNX Runtime and {tflite:,} for LiteRT. Use, data, labels, gate and limits are
those of that card; all of them hold here.

**Not a medical device, and not for diagnosis.** It finds {worse} than the larger reader: see the slides below. Take
this one where kilobytes count, and malaria.edge everywhere else.

## Method

- **Teacher**: a ResNet-18 (11.2 million parameters) on the same lessons: healthy people's cells shown 3 times, doubtful
  labels dropped among infected people's cells only, boosted trees' opinion beside the label.
- **Student**: 3x3 convolution, {blocks} depthwise-separable blocks, averages and maxima of the last map. It learns from
  the label and, with a weight of {soft}, from the teacher's logit at temperature {temperature:g}.
- **Coarse grid**: the trained student goes on learning with its weights rounded to whole multiples of one step a layer,
  at most {levels} to each side, with a bias on a grid of {bias} steps, and activations of 8 bits; the steps are
  learned too. The loss charges {price:g} for each byte that the weights' code would take.
- **Files**: one set of integers, as ONNX (QLinearConv) and as TFLite. Activations share one scale, the picture's; a
  layer has one scale; names are letters. Then entropy-coded; devices decode them exactly.
- **Verdict**: calibrated as the larger reader's, on {people} students that never saw the people they score. Those
  learned from boosted trees, not from ResNets of their own, and in float half as long: what ships should do no worse.

Made and measured by one command: `{command}`, then `python models/malaria/tiny_card.py OUT` and
`python models/malaria/build_tiny.py OUT`. Everything was chosen on training people held out and on val; test people
were looked at once, after that.
"""

STEPS = {
    "teacher": "teacher: ResNet-18, float",
    "student": "student, taught, float",
    "qat": "8-bit network, weights of 7 bits by layer",
    "tiny": "coarse grid, bytes priced: ONNX, ships",
    "tiny_lite": "the same integers: TFLite, ships",
}
FIGURES = {
    "accuracy": "accuracy",
    "accuracy_without_suspects": "without suspects",
    "auc": "AUC",
    "auc_without_suspects": "AUC without suspects",
    "auc_infected_against_all_healthy": "AUC, all healthy",
    "false_positives_per_5000_healthy": "false positives per 5,000",
}


def cell(key: str, value: float) -> str:
    return f"{value:.1f}" if key.startswith("false") else f"{value:.4f}"


def steps(metrics: Json, shipped: Json) -> str:
    """What each step bought, on test people."""
    rows = []
    for name, key in (("the larger reader, float", "fp32_onnx"), ("the larger reader, 8 bit", "int8_onnx")):
        made = shipped["variants"][key]
        rows.append([name, f"{shipped['parameters']:,}", f"{made['bytes']:,}", ""])
        rows[-1] += [cell(one, made["test"][one][0]) for one in FIGURES]
    for step, name in STEPS.items():
        made = metrics["steps"][step]
        rows.append([name, f"{made['parameters']:,}", f"{made['bytes']:,}", f"{made['stored']:,}"])
        rows[-1] += [cell(one, made["test"][one]) for one in FIGURES]
        if step == "teacher":
            for arm, text in (("alone", "student alone, float: mean of 5"), ("distilled", "student taught: mean of 5")):
                some = metrics["seeds"]["test"]
                rows.append([text, f"{metrics['parameters']:,}", "", ""])
                rows[-1] += [cell(one, some[one][arm][0]) for one in FIGURES]
    head = ["", "parameters", "bytes", "stored, coded", *FIGURES.values()]
    return (
        "## What each step bought\n\nTest people. False positives are those among 5,000 cells of healthy people where "
        "90 % of val's infected cells\nare called; one cell of test's 481 is 10.4.\n\n" + table(head, rows)
    )


def seeds(metrics: Json) -> str:
    rows, apart = [], []
    for part in ("val", "test"):
        for key, text in FIGURES.items():
            one = metrics["seeds"][part][key]
            rows.append([f"{part}: {text}"])
            rows[-1] += [f"{cell(key, one[arm][0])} ({one[arm][1]:.2g})" for arm in ("alone", "distilled")]
            rows[-1] += [f"{one['margin']:+.2g}", "yes" if one["apart"] else "no"]
            if one["apart"] and part == "test":
                apart.append(text)
    better = [
        key for key in FIGURES if metrics["seeds"]["test"][key]["apart"] and gain(key, metrics["seeds"]["test"]) > 0
    ]
    words = ", ".join(FIGURES[key] for key in better)
    verdict = (
        f"On test people the taught students beat the lone ones outside the spread between seeds in: {words}; in "
        "nothing else."
        if better
        else "On test people no figure of the taught students beats the lone ones outside the spread between seeds."
    )
    head = ["mean (standard deviation) of 5 seeds", "alone", "taught", "margin", "all 5 beyond all 5"]
    return (
        "## Taught, or alone?\n\nThe same student, float, from five seeds each, half as long as what ships; alone: "
        f"labels and nothing else.\n\n{table(head, rows)}\n{verdict}\n"
    )


def gain(key: str, some: Json) -> float:
    """Above 0 where teaching made the figure better."""
    return -some[key]["margin"] if key.startswith("false") else float(some[key]["margin"])


def slides(metrics: Json, shipped: Json) -> str:
    rows = []
    for name, ours, theirs in (
        ("train and val people, held out", metrics["held_out"]["slides"], shipped["held_out"]["slides"]),
        ("test people", metrics["test_slides"], shipped["test_slides"]["without_suspects"]),
    ):
        for size in ("1000", "5000"):
            rows.append(
                [f"{name}, {int(size):,} cells", f"{ours[size]['needed']}", f"{ours[size]['healthy_called']:.3f}"]
            )
            rows[-1] += [f"{one[size][key]:.1f}" for key in ("limit_shipped", "limit_model") for one in (ours, theirs)]
    left = ", ".join(f"{share:.1%} of {int(size):,} cells" for size, share in metrics["leave_one_out"].items())
    held = metrics["held_out"]
    head = [
        "",
        "called cells needed",
        "healthy called",
        "limit",
        "larger reader's",
        "by fitted spreads",
        "larger reader's",
    ]
    return (
        "## Slides\n\nInfected cells per 1,000 at which 95 % of slides are found; how they are simulated is in the "
        f"larger reader's card.\n\n{table(head, rows)}\n"
        f"Each healthy person left out in turn: slides called infected, {left}. False positives per 5,000 cells of "
        f"healthy\ntraining people, held out: {held['train']['false_positives_per_5000_healthy'][0]:.1f} "
        f"(larger reader: {shipped['held_out']['train']['false_positives_per_5000_healthy'][0]:.1f}).\n"
    )


def goals(metrics: Json, shipped: Json) -> str:
    plain, ours = shipped["variants"]["fp32_onnx"]["test"], metrics["steps"]["tiny"]
    teacher, lite = metrics["steps"]["teacher"], metrics["steps"]["tiny_lite"]
    false = "false_positives_per_5000_healthy"
    rows = [
        _goal("entry in the bundle, ONNX, bytes", ours["stored"], 16384, 4096),
        _goal("entry in the bundle, TFLite, bytes", lite["stored"], 16384, 4096),
        _goal("accuracy below the float net that shipped", plain["accuracy"][0] - ours["test"]["accuracy"], 0.005),
        _goal("false positives, times those of it", ours["test"][false] / plain[false][0], 1.25),
        _goal("accuracy below the teacher", teacher["test"]["accuracy"] - ours["test"]["accuracy"], 0.005),
        _goal("bytes, share of the teacher's file", ours["stored"] / teacher["bytes"], 1e-3, 1e-4),
        _goal("labels that differ between engines", 1 - metrics["same_label_on_both_engines"], 0.005),
    ]
    return "## Goals\n\n" + table(["test people", "goal", "stretch", "reached", ""], rows)


def _goal(name: str, value: float, goal: float, stretch: float | None = None) -> list[str]:
    verdict = "met" if value <= goal else f"**missed by {value - goal:.4g}**"
    if stretch is not None and value <= goal:
        verdict = "met, stretch too" if value <= stretch else f"met, stretch missed by {value - stretch:.4g}"
    shown = "" if stretch is None else f"<= {stretch:g}"
    return [name, f"<= {goal:g}", shown, f"{value:,}" if isinstance(value, int) else f"{value:.4g}", verdict]


def write(metrics: Json, shipped: Json) -> str:
    settings = metrics["settings"]
    ours, theirs = metrics["test_slides"]["1000"], shipped["test_slides"]["without_suspects"]["1000"]
    text = HEAD.format(
        parameters=metrics["parameters"], onnx=metrics["steps"]["tiny"]["stored"],
        tflite=metrics["steps"]["tiny_lite"]["stored"], blocks=len(settings["shape"]["blocks"]), soft=settings["soft"],
        temperature=settings["temperature"], levels=settings["levels"], bias=metrics["bias_grid"],
        price=settings["price"], people=metrics["folds"], command="python models/malaria/train_tiny.py OUT",
        worse="fewer infections" if ours["limit_shipped"] > theirs["limit_shipped"] else "no fewer infections",
    )  # fmt: skip
    parts = [text, steps(metrics, shipped), seeds(metrics), slides(metrics, shipped), goals(metrics, shipped)]
    return "\n".join(part.strip() + "\n" for part in parts)


def main() -> None:
    metrics: Json = json.loads((Path(sys.argv[1]) / "metrics.json").read_text())
    shipped: Json = json.loads((HERE / "metrics.json").read_text())
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "README.md").write_text(write(metrics, shipped))


if __name__ == "__main__":
    main()
