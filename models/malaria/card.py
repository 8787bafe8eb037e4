"""Writes README.md, the model card, from metrics.json: no figure in it is typed by hand.

python models/malaria/card.py OUT      (OUT: what train.py wrote)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

Json = dict[str, Any]

HEAD = """# malaria: a reader of thin blood films

Tells infected red cells from clean ones, one cell at a time, and gives a slide one of three verdicts: *parasites
found*, *none found* (always with the infection that cannot be excluded), *repeat*.

**Not a medical device, and not for diagnosis.** Nobody has tried it in a clinic.

## Use

- For: Giemsa-stained **thin** films, *P. falciparum*, photographed with a phone through the eyepiece, as in the
  training data; research, teaching, and engineering of readers that must run without a network on a small device.
- Not for: deciding on a treatment; thick films; other species and stages (never shown to it); other microscopes and
  cameras, which its gate refuses, as it should: a fixed threshold does not carry over to them.
- It cannot exclude malaria. Its limit of detection lies in the tens of thousands of parasites per microlitre; an expert
  on a thick film sees 50 to 100. A slide with no finding needs that expert or a rapid test.

## Data

Cells cut out of films from Chittagong, Bangladesh, 127 infected and 43 healthy people (NLM's malaria data; the part of
it in malaria-cells and malaria-healthy), split by person: train 124, val 19, test 27. **Courtesy of the U.S. National
Library of Medicine**; Rajaraman et al., PeerJ 6:e4568 (2018). About 5 % of the labels are doubtful (Fuhad et al.,
Diagnostics 10(5):329, 2020), so figures are given twice. malaria-fields (other microscopes) only measured the gate.

## Method

- **Network**: {parameters:,} parameters; 3x3 convolution, four depthwise-separable blocks, averages and maxima of the
  last map side by side (a ring of a few pixels drowns in an average), one raw logit. Input 64 x 64 RGB, pixels / 255.
- **Training**: doubtful labels dropped among infected people's cells only; healthy people's cells are all kept and
  shown {healthy_times} times, for they are the false alarms of the clinic. Part label, part (weight {soft}) the opinion
  of boosted trees on colour percentiles that never saw that person. Random turns, mirrors, zoom, colour, contrast and
  blur; running average of the weights; {epochs} epochs.
- **8 bit**: one set of integers for ONNX and TFLite, activations unsigned, weights of 7 bits by channel: with 8 bits,
  kernels on x86 without VNNI add two products in 16 bits and saturate, and the two files disagree.
- **Verdict** (`edge_runtime/task/verdict.py`): a cell is called from a strict logit on. How often healthy people's
  cells are called, and infected people's parasites, differs between persons: two beta distributions, fitted on people
  whose cells the network had not seen. Parasites are found where as many called cells would be seen on at most
  {false_alarm:.0%} of healthy people's slides. The threshold is the one with the smallest limit of detection on slides
  of 1,000 and 5,000 cells. None found is said from {least_none} cells on, where an infection of {least_share:.0%} of
  cells would be found on 95 % of slides.
- **Gate** (`edge_runtime/task/gate.py`): Mahalanobis distance to the training people, and a quadratic logistic
  regression taught on training people's cells that were damaged on purpose.

Made and measured by one command: `python models/malaria/train.py OUT`, then `python models/malaria/card.py OUT`.
Training again gives another network of the same kind, not the same bytes: rounding differs between runs and machines,
and training magnifies it. What ships is the better of two runs of this recipe by the limit of detection on held-out
people; test people were looked at once, after that.
"""


def main() -> None:
    out = Path(sys.argv[1])
    metrics: Json = json.loads((out / "metrics.json").read_text())
    calibration: Json = json.loads((out / "calibration.json").read_text())
    settings, choice = metrics["settings"], metrics["choice"]
    text = HEAD.format(
        parameters=metrics["parameters"],
        healthy_times=settings["healthy_times"],
        soft=settings["soft"],
        epochs=settings["epochs"],
        least_none=calibration["least_cells_none"],
        least_share=choice["least_share"],
        false_alarm=choice["false_alarm"],
    )
    parts = [
        text,
        cells(metrics["variants"]),
        slides(metrics),
        gate(metrics["gate"], metrics["held_out"]),
        floors(metrics),
        LIMITS,
    ]
    Path(__file__).with_name("README.md").write_text("\n".join(part.strip() + "\n" for part in parts))


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def cells(variants: Json) -> str:
    """Test figures of each file with their intervals."""
    names = list(variants)
    label = {
        "accuracy": "accuracy, all labels",
        "accuracy_without_suspects": "accuracy without suspects",
        "auc": "AUC, all labels",
        "auc_without_suspects": "AUC without suspects",
        "auc_infected_against_all_healthy": "AUC, infected against all healthy people's cells",
        "sensitivity_at_cut": "sensitivity at the cut of 90 % on val",
        "sensitivity_at_cut_without_suspects": "the same without suspects",
        "false_positives_per_5000_healthy": "false positives per 5,000 healthy cells at that cut",
    }
    rows = [[text, *(_range(variants[name]["test"][key]) for name in names)] for key, text in label.items()]
    rows.append(["bytes", *(f"{variants[name]['bytes']:,}" for name in names)])
    for key, text in (
        ("same_label_as_fp32_onnx", "same label as fp32 ONNX"),
        ("same_label_as_int8_onnx", "same label as int8 ONNX"),
        ("same_verdict_as_fp32_onnx", "same verdict as fp32 ONNX, test people"),
    ):
        rows.append([text, *(f"{variants[name][key]:.4f}" for name in names)])
    head = "## Cells: test people, with 95 % intervals by drawing persons anew\n\n"
    return head + table(["", *(name.replace("_", " ") for name in names)], rows)


def _range(figure: list[float]) -> str:
    digits = 1 if figure[0] > 1 else 4
    return f"{figure[0]:.{digits}f} ({figure[1]:.{digits}f}-{figure[2]:.{digits}f})"


def slides(metrics: Json) -> str:
    """Limits of detection, infected per 1,000 cells, and healthy slides called infected."""
    groups = {
        "train and val people, held out": metrics["held_out"]["slides"],
        "test infected x test healthy": metrics["test_slides"]["without_suspects"],
        "the same, all labels": metrics["test_slides"]["all_labels"],
        "test infected x all healthy": metrics["test_infected_all_healthy"],
    }
    rows = []
    for name, group in groups.items():
        for size in ("1000", "5000"):
            row = group[size]
            rows.append(
                [
                    f"{name}, {int(size):,} cells",
                    str(row["needed"]),
                    f"{row['healthy_called']:.3f}",
                    f"{row['limit_shipped']:.1f}",
                    f"{row['limit_at_95']:.1f}",
                    f"{row['limit_model']:.1f}",
                ]
            )
    left = metrics["leave_one_out"]
    text = """## Slides

Slides are simulated: cells drawn with replacement from real people's own cells, scores from networks that never saw
them. The limit of detection is the smallest number of infected cells per 1,000 at which 95 % of slides are found, over
all pairs of an infected person's infected cells with a healthy person's cells: by the shipped rule; by the count that
keeps 95 % of these very healthy people's slides below it; and by the fitted spreads alone. Ten per 1,000 is about
50,000 parasites per microlitre.

"""
    head = ["", "called cells needed", "healthy slides called", "limit: shipped rule", "at 95 %", "fitted spreads"]
    text += table(head, rows)
    shares = ", ".join(f"{share:.1%} of slides of {int(size):,} cells" for size, share in left.items())
    return (
        text
        + f"\nEach healthy person left out in turn, everything fitted anew on the others: {shares} called infected.\n"
    )


def gate(figures: Json, held: Json) -> str:
    rows = [
        [
            row["damage"],
            f"{row['sensitivity_lost_at_0']:.1f}",
            f"{row['sensitivity_lost']:.1f}",
            f"{row['healthy_called']:.4f}",
            f"{row['refused']:.0%}",
        ]
        for row in figures["damage"]
    ]
    people, val = figures["test_people_refused"], held["val_people_refused"]
    clean = figures["test_people_clean_cells_refused"]
    cameras = "; ".join(f"{name} {f['refused']:.0%} of {f['batches']}" for name, f in figures["other_cameras"].items())
    return f"""## Gate

Refused: {people[0]} of {people[1]} test people's slides ({clean[0]} of {clean[1]} by their clean cells alone) and
{val[0]} of {val[1]} val people's; batches of other cameras: {cameras}.
Damage, on test people's cells (points of sensitivity without suspects; strengths are explained in damage.py):

""" + table(["damage", "lost at logit 0", "lost at the strict threshold", "healthy cells called", "refused"], rows)


def floors(metrics: Json) -> str:
    """What was asked for, what was reached, and by how much it was missed."""
    cell = metrics["variants"]["int8_onnx"]["test"]
    plain = metrics["variants"]["fp32_onnx"]["test"]
    agree = metrics["variants"]["int8_tflite"]["same_label_as_int8_onnx"]
    slide, people = metrics["test_slides"]["without_suspects"], metrics["gate"]["test_people_refused"]
    left = metrics["leave_one_out"]
    foreign = metrics["gate"]["other_cameras"].values()
    rows = [
        _floor("accuracy, all labels", cell["accuracy"][0], 0.95, True),
        _floor("accuracy without suspects", cell["accuracy_without_suspects"][0], 0.983, True),
        _floor("AUC without suspects", cell["auc_without_suspects"][0], 0.998, True),
        _floor("AUC against all healthy people's cells", cell["auc_infected_against_all_healthy"][0], 0.996, True),
        _floor("accuracy lost by 8 bit", plain["accuracy"][0] - cell["accuracy"][0], 0.003, False),
        _floor("same verdict as fp32", metrics["variants"]["int8_onnx"]["same_verdict_as_fp32_onnx"], 1.0, True),
        _floor("int8 TFLite agrees with int8 ONNX", agree, 0.995, True),
        _floor("false positives per 5,000", cell["false_positives_per_5000_healthy"][0], 45, False, 20),
        *(_floor(f"left out, called infected, {n} cells", left[n], 0.12, False, 0.05) for n in left),
        _floor("limit of detection, 1,000 cells", slide["1000"]["limit_shipped"], 22, False, 10),
        _floor("limit of detection, 5,000 cells", slide["5000"]["limit_shipped"], 18, False, 6),
        _floor("gate: other cameras refused", min(f["refused"] for f in foreign), 0.95, True),
        _floor("gate: test people refused", people[0] / people[1], 0.10, False),
    ]
    costly = [
        row
        for row in metrics["gate"]["damage"]
        if row["sensitivity_lost_at_0"] > 3 and row["refused"] < 0.95 and row["damage"] != "none"
    ]
    missed = "; ".join(f"{r['damage']} ({r['sensitivity_lost_at_0']} points, {r['refused']:.0%})" for r in costly)
    text = "## Goals\n\n" + table(["test people, int8 ONNX", "goal", "stretch", "reached", ""], rows)
    return (
        text + f"\nCosts more than 3 points at logit 0 and passes on more than 5 % of slides: {missed or 'nothing'}.\n"
    )


def _floor(name: str, value: float, goal: float, least: bool, stretch: float | None = None) -> list[str]:
    def met(bound: float) -> bool:
        return value >= bound if least else value <= bound

    verdict = "met" if met(goal) else f"**missed by {abs(value - goal):.4g}**"
    if stretch is not None and met(goal):
        verdict = "met, stretch too" if met(stretch) else f"met, stretch missed by {abs(value - stretch):.4g}"
    sign = ">=" if least else "<="
    return [name, f"{sign} {goal:g}", "" if stretch is None else f"{sign} {stretch:g}", f"{value:.4g}", verdict]


LIMITS = """## Limits

- One hospital, one species, one way of staining, cells already cut out by NLM: how the whole path does on fields of a
  real phone is not measured.
- Slide figures are simulations from about 70 cells a person, not slides that somebody read: one called cell among 70 is
  a rate of 1.4 %, and nothing between that and none can be seen. 43 healthy people are few; the fitted spread between
  them leans on a prior (people.py).
- On simulated slides clean cells are healthy people's and infected cells infected people's: never from one film.
- The gate knows the damage it was taught, and what is far from the training people. Hue shifts and moderate loss of
  colour lie among people's own differences and partly pass: see the table.
- A slide of parasites that the network cannot see (other species, mature stages) is read as clean.
"""


if __name__ == "__main__":
    main()
