"""MiniLM's student: what each step of its teaching buys, over seeds on val; and the one that was chosen.

    python models/zoo/distilled.py OUT [--seeds 5] [--only STEP ...]    # rows of models/minilm-student/bench.jsonl
    python models/zoo/train.py minilm-student OUT                       # the chosen step and seed, for card.py

Wants what train.py minilm OUT has made. Teachers are MiniLM as published with its head, the ONNX file, and MiniLM
taught further (tuned.py); their answers are computed once and kept in OUT/answers.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # before numpy and PyTorch count the cores
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import numpy.typing as npt
import torch

from edge_runtime.compress.learn.asked import ask_once
from edge_runtime.compress.learn.distill import Distillation, distill
from edge_runtime.compress.learn.lessons import Lessons
from edge_runtime.compress.learn.loop import Fit, answers
from edge_runtime.compress.learn.teachers import LOGITS, OnnxTeacher, StoredTeacher, TorchTeacher
from models.zoo.encoder import TOKENS, Sorter, load, tokens
from models.zoo.export import answers as file_answers
from models.zoo.export import to_onnx
from models.zoo.files import REPOSITORY, write_bytes, write_items, write_model
from models.zoo.student import Shape, Student, Vocabulary, made_up, read_with, stored_with
from models.zoo.texts import read
from models.zoo.tuned import logits, trimmed, tune

HOW = Fit(epochs=1000, batch=32, rate=2e-3, decay=0.02, warm=0.15, average=0.995, clip=1.0)
STEPS = 1200
FIRST = 0.3
"""Of them, where hidden layers and attention are imitated before the answers (TinyBERT's two stages)."""

MADE_UP = 2
"""Texts that nobody wrote, by message."""

DROPPED = 0.1
"""Share of the pieces that each showing leaves out."""

SOFT = Distillation(temperature=4.0, hard=0.3, once=True)
LAYERS = (("features.1", "features.6"), ("attention.0", "attention.5"))
INNER = Distillation(answers=0.0, features=1.0, attention=1.0, layers=LAYERS, mask="attention_mask", once=True)


@dataclass(frozen=True)
class Step:
    """`words`: the embedding starts as the teacher's; `teacher`: published, tuned or none; `more`: texts made up;
    `inner`: hidden layers and attention first."""

    about: str
    words: bool = False
    teacher: str = ""
    more: bool = False
    inner: bool = False


TEACHING = {
    "alone": Step("labels alone, everything from nothing"),
    "words": Step("labels alone, the embedding from MiniLM's", words=True),
    "published": Step("and the answers of MiniLM as published, with its head", words=True, teacher="published"),
    "tuned": Step("and the answers of MiniLM taught further", words=True, teacher="tuned"),
    "inner": Step("tuned, after its last hidden layer and attention", words=True, teacher="tuned", inner=True),
    "more": Step("tuned, and its answers to texts made of the messages", words=True, teacher="tuned", more=True),
}
CHOSEN = ("more", 3)
"""Step and seed, by F1 on val."""


def varied(inputs: tuple[torch.Tensor, ...], dice: Any) -> tuple[torch.Tensor, ...]:
    """Without filling; taught, some pieces are unknown (1), the two that frame a text aside."""
    ids, mask = trimmed(inputs)
    if dice is None:
        return ids, mask
    gone = (torch.rand(ids.shape, generator=dice) < DROPPED) & (ids > 3)
    return torch.where(gone, torch.ones_like(ids), ids), mask


class School:
    """Lessons, teachers and held-out messages, made once for all steps and seeds."""

    def __init__(self, out: Path) -> None:
        torch.set_num_threads(1)
        self.out = out
        texts, self.labels = read("train")
        self.vocabulary = Vocabulary.of(texts)
        order = np.argsort(self.vocabulary.read(texts)["attention_mask"].sum(1), kind="stable")  # cheap to ask about
        self.texts, self.labels = [texts[place] for place in order], self.labels[order]
        self.inputs = self.vocabulary.read(self.texts)
        held, self.held_labels = read("val")
        self.held = self.vocabulary.read(held)
        self.embedding = load().words.weight.detach().numpy()[self.vocabulary.theirs]  # tuning leaves it
        self.said: dict[str, npt.NDArray[np.float32]] = {}

    @cached_property
    def tuned(self) -> Sorter:
        return tune(self.out)

    def answers(self, teacher: str) -> npt.NDArray[np.float32]:
        """Of the messages, then of the texts made up; the published one is asked about the messages alone."""
        if teacher not in self.said:
            theirs = tokens(self.texts)
            if teacher == "published":
                asked = OnnxTeacher(self.out / "minilm.onnx")
                self.said[teacher] = ask_once(asked, Lessons(theirs), (), self.out / "answers").parts[LOGITS]
            else:
                made = tokens(self.more())
                both = {name: np.concatenate([array, made[name]]) for name, array in theirs.items()}
                self.said[teacher] = logits(self.tuned, both)
        return self.said[teacher]

    def more(self) -> list[str]:
        return made_up(self.texts, MADE_UP * len(self.texts))

    def lessons(self, step: Step) -> tuple[Lessons, StoredTeacher | None]:
        plain = Lessons(dict(self.inputs), self.labels, prepare=varied)
        if not step.teacher:
            return plain, None
        said = self.answers(step.teacher)
        if not step.more:
            return plain, StoredTeacher.of(said[: plain.count])
        made = self.vocabulary.read(self.more())
        inputs = {name: np.concatenate([array, made[name]]) for name, array in self.inputs.items()}
        labels = np.concatenate([self.labels, said[plain.count :].argmax(1)])  # a text made up is what the teacher says
        return Lessons(inputs, labels, prepare=varied), StoredTeacher.of(said)

    def inner(self, lessons: Lessons) -> StoredTeacher:
        """The teacher's hidden layers and attention on the student's own pieces."""
        places = torch.from_numpy(self.vocabulary.theirs)
        teacher = TorchTeacher(self.tuned, lambda inputs: (places[inputs[0]], inputs[1]))
        return ask_once(teacher, lessons, [theirs for _, theirs in LAYERS], self.out / "answers", 32)

    def teach(self, name: str, seed: int, steps: int = STEPS) -> Student:
        step, how = TEACHING[name], replace(HOW, seed=seed)
        torch.manual_seed(seed)
        net = Student(len(self.vocabulary.pieces), Shape())
        if step.words:
            net.start_from(self.embedding)
        if step.inner:
            first = Lessons(dict(self.inputs), prepare=varied)
            net = distill(net, self.inner(first), first, INNER, how, steps=round(FIRST * steps))
            steps -= round(FIRST * steps)
        lessons, teacher = self.lessons(step)
        return distill(net, teacher, lessons, SOFT, how, steps=steps)

    def judged(self, net: Student) -> dict[str, float]:
        """On val, in PyTorch, to choose by: what is shipped is judged on the engines."""
        said = answers(net, Lessons(dict(self.held), prepare=varied))
        spread = torch.nn.functional.cross_entropy(torch.from_numpy(said), torch.from_numpy(self.held_labels))
        return scored(said, self.held_labels) | {"log_loss": float(spread)}


def scored(said: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> dict[str, float]:
    from sklearn.metrics import f1_score

    found = said.argmax(1)
    return {"f1": float(f1_score(labels, found)), "accuracy": float((found == labels).mean())}


# ---------------------------------------------------------------- the one that is chosen


def export(net: Student) -> bytes:
    ids = torch.ones(2, TOKENS, dtype=torch.int64)
    return to_onnx(net, (ids, ids.clone()), ("input_ids", "attention_mask"))


def make(name: str, out: Path) -> dict[str, Any]:
    """OUT/minilm-student.onnx, its items, and the tokenizer that belongs to it."""
    school = School(out)
    step, seed = CHOSEN
    began = time.monotonic()
    net = school.teach(step, seed)
    spent = time.monotonic() - began
    write_bytes(out / f"{name}-tokenizer.json", json.dumps(school.vocabulary.tokenizer()).encode())
    parts = []
    for split in ("train", "val", "test"):
        messages, labels = read(split)
        parts.append(school.vocabulary.read(messages) | {"labels": labels})
    write_items(out, name, *parts)
    settings = {"step": step, "seed": seed, "steps": STEPS, "words": len(school.vocabulary.pieces)}
    return write_model(out, name, export(net), sum(one.numel() for one in net.parameters()), settings, spent)


def measure(content: bytes, out: Path, part: str) -> dict[str, float]:
    """F1 of spam, and the share of right answers."""
    messages, labels = read(part)
    return scored(file_answers(content, read_with(stored_with(out), messages)), labels)


# ---------------------------------------------------------------- what each step buys


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=STEPS, help="of the optimizer")
    parser.add_argument("--only", nargs="*", choices=TEACHING, default=[])
    arguments = parser.parse_args()
    school = School(arguments.out)
    path = REPOSITORY / "models" / "minilm-student" / "bench.jsonl"
    for name in arguments.only or TEACHING:
        found = []
        school.lessons(TEACHING[name])  # teachers are asked outside the time that is noted
        for seed in range(1, arguments.seeds + 1):
            began = time.process_time()
            found.append(school.judged(school.teach(name, seed, arguments.steps)) | {"seed": seed})
            found[-1]["seconds"] = round(time.process_time() - began, 1)
            print(name, json.dumps(found[-1]), flush=True)
        keep(path, name, arguments.steps, found)


def keep(path: Path, name: str, steps: int, found: list[dict[str, float]]) -> None:
    """One row a step, in place of an older one."""
    old = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    label = name if steps == STEPS else f"{name}, {steps} steps"
    row = {
        "kind": "learn", "model": "minilm-student", "step": label, "about": TEACHING[name].about, "judged_on": "val",
        "engine": "torch", "parameters": None, "file_bytes": None, "stored_bytes": None, "speed": None,
        "scores": {key: float(np.mean([one[key] for one in found])) for key in ("f1", "accuracy", "log_loss")},
        "spread": {key: float(np.std([one[key] for one in found], ddof=1)) for key in ("f1", "accuracy", "log_loss")}
        if len(found) > 1 else None,
        "seeds": found,
        "command": f"python models/zoo/distilled.py OUT --seeds {len(found)} --steps {steps} --only {name}",
    }  # fmt: skip
    kept = [one for one in old if (one.get("kind"), one.get("step"), one.get("judged_on")) != ("learn", label, "val")]
    made = sorted(
        [row, *(one for one in kept if (one["kind"], one["judged_on"]) == ("learn", "val"))],
        key=lambda one: ("," in one["step"], list(TEACHING).index(one["step"].split(",")[0])),
    )
    rest = [one for one in kept if (one["kind"], one["judged_on"]) != ("learn", "val")]
    write_bytes(path, "".join(json.dumps(one) + "\n" for one in [*made, *rest]).encode())


if __name__ == "__main__":
    main()
