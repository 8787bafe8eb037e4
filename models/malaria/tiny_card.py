"""What train_tiny.py measured, recorded: models/malaria-tiny/README.md and metrics.json, and rows of bench.jsonl.

    python models/malaria/tiny_card.py OUT      (OUT: what train_tiny.py wrote)

No figure is typed by hand.
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

COMMAND = "python models/malaria/train_tiny.py OUT"
HEAD = """# malaria-tiny: how small can the reader of thin blood films be?

A study, and **not shipped**: networks that learned from better teachers than the [shipped reader](../malaria/README.md)
did. The smaller one, of {smaller:,} parameters on a coarse grid, is stored in {tiny:,} bytes (ONNX) or {tiny_lite:,}
(TFLite) of a bundle, graph and weights, reads single cells about as well, and comes near it on slides; the larger one
has the shipped shape ({parameters:,} parameters) in 8 bits: {onnx:,} and {tflite:,} bytes, {coded:,} and {coded_lite:,}
stored. On slides of people held out neither is better than what ships, and kilobytes are not what a tablet lacks, so
the bundle stays malaria.edge, whose card tells of use, data, labels, gate and limits. **Not a medical device, and not
for diagnosis.**

## Method

- **Teachers**: ten networks of the shipped reader's kind, each without two fifths of the training people, and boosted
  trees: of each cell a student hears those that never saw its person ({people} folds). Students of everybody hear a
  ResNet-18 as well (11.2 million parameters, the same lessons), with a third of the say. A healthy person's cell is
  clean, whatever teachers think of it.
- **Lessons**: healthy people's cells are shown 3 times, doubtful labels dropped among infected people's cells only;
  the teachers' word counts {soft:g}, the label's the rest; random turns, colours and blur; {epochs} epochs in float.
- **8 bits**: the shipped reader's shape. The trained student goes on learning, {tune} epochs, with its weights rounded
  to whole multiples of one step a layer, at most {most} to each side, with a bias on a grid of {bias} steps, and
  activations of 8 bits; the steps are learned too.
- **Coarse grid**: a smaller student ({smaller:,} parameters), the same with at most {levels} steps to each side, and a
  loss that charges {price:g} for each byte that the weights' code would take.
- **Files**: one set of integers, as ONNX (QLinearConv) and as TFLite. Activations share one scale, the picture's; a
  layer has one scale; names are letters. "Stored" is after entropy coding; devices decode it exactly.
- **Verdict**: calibrated as the shipped reader's, on {people} students that never saw the people they score, and that
  heard all teachers but the ResNet.

Made and measured by `{command}`, then `python models/malaria/tiny_card.py OUT`.
Everything was chosen on training people held out and on val; test people were looked at after that.
"""

STEPS = {
    "teacher": "teacher: ResNet-18, float",
    "crossed": "teachers: mean of ten networks, float",
    "student": "student, taught, float",
    "qat": "8 bits: ONNX",
    "qat_lite": "the same integers: TFLite",
    "tiny": "coarse grid, bytes priced: ONNX",
    "tiny_lite": "the same integers: TFLite",
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
    for name, key in (("the shipped reader, float", "fp32_onnx"), ("the shipped reader, 8 bit", "int8_onnx")):
        made = shipped["variants"][key]
        rows.append([name, f"{shipped['parameters']:,}", f"{made['bytes']:,}", ""])
        rows[-1] += [cell(one, made["test"][one][0]) for one in FIGURES]
    for step, name in STEPS.items():
        made = metrics["steps"][step]
        rows.append([name, f"{made['parameters']:,}"])
        rows[-1] += [f"{made[key]:,}" if key in made else "" for key in ("bytes", "stored")]
        rows[-1] += [cell(one, made["test"][one]) for one in FIGURES]
        if step == "crossed":
            for arm, text in (("alone", "student alone, float: mean of 5"), ("distilled", "student taught: mean of 5")):
                some = metrics["seeds"]["test"]
                rows.append([text, f"{metrics['settings']['qat']['parameters']:,}", "", ""])
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
        "## Taught, or alone?\n\nThe same student, float, from five seeds each, half as long as the one above; alone: "
        f"labels and nothing else.\n\n{table(head, rows)}\n{verdict}\n"
    )


def gain(key: str, some: Json) -> float:
    """Above 0 where teaching made the figure better."""
    return -some[key]["margin"] if key.startswith("false") else float(some[key]["margin"])


def slides(metrics: Json, shipped: Json) -> str:
    rows, left = [], []
    for net, title in (("qat", "8 bits"), ("tiny", "coarse grid")):
        some = metrics[net]
        for name, ours, theirs in (
            ("people held out", some["held_out"]["slides"], shipped["held_out"]["slides"]),
            ("test people", some["test_slides"], shipped["test_slides"]["without_suspects"]),
        ):
            for size in ("1000", "5000"):
                rows.append([f"{title}: {name}, {int(size):,} cells", f"{ours[size]['needed']}"])
                rows[-1] += [f"{ours[size]['healthy_called']:.3f}"]
                rows[-1] += [f"{one[size]['limit_shipped']:.1f}" for one in (ours, theirs)]
        false = some["held_out"]["train"]["false_positives_per_5000_healthy"][0]
        shares = ", ".join(f"{share:.1%} of {int(size):,} cells" for size, share in some["leave_one_out"].items())
        left.append(f"- {title}: {shares}; {false:.1f} false positives")
    false = shipped["held_out"]["train"]["false_positives_per_5000_healthy"][0]
    shares = ", ".join(f"{share:.1%} of {int(size):,} cells" for size, share in shipped["leave_one_out"].items())
    left.append(f"- the shipped reader: {shares}; {false:.1f} false positives")
    head = ["", "called cells needed", "healthy called", "limit", "shipped reader's"]
    return (
        "## Slides\n\nInfected cells per 1,000 at which 95 % of slides are found; how they are simulated is in the "
        f"shipped reader's card.\n\n{table(head, rows)}\nSlides called infected with each healthy person left out in "
        "turn, and false positives per 5,000 cells of healthy\ntraining people, held out:\n\n" + "\n".join(left) + "\n"
    )


def goals(metrics: Json, shipped: Json) -> str:
    plain, teacher = shipped["variants"]["fp32_onnx"]["test"], metrics["steps"]["teacher"]
    false, rows = "false_positives_per_5000_healthy", []
    for net, title in (("qat", "8 bits"), ("tiny", "coarse grid")):
        ours, lite = metrics["steps"][net], metrics["steps"][f"{net}_lite"]
        test = ours["test"]
        rows += [
            _goal(f"{title}: entry in a bundle, ONNX, bytes", ours["stored"], 16384, 4096),
            _goal(f"{title}: entry in a bundle, TFLite, bytes", lite["stored"], 16384, 4096),
            _goal(
                f"{title}: accuracy below the float net that shipped", plain["accuracy"][0] - test["accuracy"], 0.005
            ),
            _goal(f"{title}: false positives, times those of it", test[false] / plain[false][0], 1.25),
            _goal(f"{title}: accuracy below the teacher", teacher["test"]["accuracy"] - test["accuracy"], 0.005),
            _goal(f"{title}: bytes, share of the teacher's file", ours["stored"] / teacher["bytes"], 1e-3, 1e-4),
            _goal(
                f"{title}: labels that differ between engines", 1 - metrics[net]["same_label_on_both_engines"], 0.005
            ),
        ]
    return "## Goals\n\n" + table(["test people", "goal", "stretch", "reached", ""], rows)


def _goal(name: str, value: float, goal: float, stretch: float | None = None) -> list[str]:
    near = 1e-9  # shares of cells are sums of fractions: what is the goal itself is met
    verdict = "met" if value <= goal + near else f"**missed by {value - goal:.4g}**"
    if stretch is not None and value <= goal + near:
        verdict = "met, stretch too" if value <= stretch + near else f"met, stretch missed by {value - stretch:.4g}"
    shown = "" if stretch is None else f"<= {stretch:g}"
    return [name, f"<= {goal:g}", shown, f"{value:,}" if isinstance(value, int) else f"{value:.4g}", verdict]


def write(metrics: Json, shipped: Json) -> str:
    settings, stored = metrics["settings"], {name: one.get("stored") for name, one in metrics["steps"].items()}
    qat, tiny = settings["qat"], settings["tiny"]
    text = HEAD.format(
        parameters=qat["parameters"],
        onnx=metrics["steps"]["qat"]["bytes"],
        tflite=metrics["steps"]["qat_lite"]["bytes"],
        coded=stored["qat"],
        coded_lite=stored["qat_lite"],
        tiny=stored["tiny"],
        tiny_lite=stored["tiny_lite"],
        smaller=tiny["parameters"],
        soft=qat["lessons"]["soft"],
        epochs=qat["lessons"]["epochs"],
        tune=qat["tune_epochs"],
        most=qat["levels"],
        levels=tiny["levels"],
        price=tiny["price"],
        bias=metrics["bias_grid"],
        people=metrics["folds"],
        command=COMMAND,
    )
    parts = [text, steps(metrics, shipped), seeds(metrics), slides(metrics, shipped), goals(metrics, shipped)]
    return "\n".join(part.strip() + "\n" for part in parts)


def bench(metrics: Json) -> None:
    """A row for each step, in place of those of before."""
    path = HERE / "bench.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    kept = [row for row in rows if not (row.get("kind") == "learn" and row.get("command") == COMMAND)]
    for step, made in metrics["steps"].items():
        if "bytes" not in made:
            continue
        row = {"kind": "learn", "model": "malaria", "step": step}
        row |= {"engine": "litert" if step.endswith("_lite") else "onnxruntime"}
        row |= {"parameters": made["parameters"], "file_bytes": made["bytes"], "stored_bytes": made["stored"]}
        kept.append(row | {"scores": made["test"], "judged_on": "test", "command": COMMAND})
    path.write_text("".join(json.dumps(row) + "\n" for row in kept))


def main() -> None:
    metrics: Json = json.loads((Path(sys.argv[1]) / "metrics.json").read_text())
    if "test" not in metrics["steps"]["qat"]:
        raise SystemExit(
            f"{sys.argv[1]}: found figures of val alone, wanted test, too: run train_tiny.py without --no-test"
        )
    shipped: Json = json.loads((HERE / "metrics.json").read_text())
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "README.md").write_text(write(metrics, shipped))
    (FOLDER / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    bench(metrics)


if __name__ == "__main__":
    main()
