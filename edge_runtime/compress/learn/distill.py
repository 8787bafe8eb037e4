"""Distillation: a student that learns from a teacher's answers, features and attention, with or without labels.

    from edge_runtime.compress.learn.distill import Distillation, distill
    student = distill(student, OnnxTeacher(Path("large.onnx")), Lessons({"image": images}, labels))

Answers: Hinton, Vinyals and Dean, 2015; features: FitNets (Romero and others, 2015); features and attention layer by
layer: TinyBERT (Jiao and others, 2020); generations that learn from the one before: born-again networks (Furlanello and
others, 2018). A teacher does best that sees the very view of an item that the student sees, and over many epochs (Beyer
and others, 2022): so it answers every batch anew where lessons are varied.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.compress.learn.asked import ask_once
from edge_runtime.compress.learn.checkpoint import stages
from edge_runtime.compress.learn.checks import check_answer, check_free
from edge_runtime.compress.learn.heard import check_decisions, heard, spread_of
from edge_runtime.compress.learn.lessons import Lessons
from edge_runtime.compress.learn.likeness import (
    answer_loss,
    attention_loss,
    channels,
    check_pair,
    feature_loss,
    label_loss,
    number_loss,
)
from edge_runtime.compress.learn.loop import Fit, Hook, Loss, check_logits, cross_entropy, fit, own_state
from edge_runtime.compress.learn.teachers import LOGITS, Teacher, TorchTeacher, as_numbers, modules_of, named, widened
from edge_runtime.compress.torch_graph import need_torch
from edge_runtime.errors import InputError, UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edge_runtime.compress.learn.teachers import Ask, Parts

USUAL = Fit()


@dataclass(frozen=True)
class Distillation:
    """`temperature`: one, or several whose losses are averaged; `hard`: the labels' share of the loss on answers, the
    rest is the teacher's; `smoothing` of the labels; `answers`: weight of the loss on answers (0: features alone, as in
    TinyBERT's first stage).

    `numbers`: answers are numbers, as of a regression, and no logits: the mean square of the difference, output by
    output in the teacher's standard deviation, is made small; temperature and labels do not count.

    `features`, `attention`: weights of the imitation of the pairs in `layers`, the student's part -> the teacher's;
    `mask`: the lessons' input that is 1 where a token counts. `once`: whether the teacher is asked once an item, as it
    is, or at every batch; None: once unless the lessons are varied. `folder` keeps such answers for other runs.

    Raises ValueError for settings that make no sense.
    """

    temperature: float | tuple[float, ...] = 4.0
    hard: float = 0.1
    smoothing: float = 0.0
    answers: float = 1.0
    numbers: bool = False
    features: float = 0.0
    attention: float = 0.0
    layers: tuple[tuple[str, str], ...] = ()
    mask: str | None = None
    once: bool | None = None
    folder: Path | None = None

    def __post_init__(self) -> None:
        if not self.temperatures or not all(0 < one < math.inf for one in self.temperatures):
            raise ValueError(f"found temperature {self.temperature}, wanted numbers above 0")
        if not 0 <= self.hard <= 1 or not 0 <= self.smoothing < 1:
            raise ValueError(f"found hard {self.hard} and smoothing {self.smoothing}, wanted from 0 to 1")
        weights = (self.answers, self.features, self.attention)
        if min(weights) < 0 or not any(weights):
            raise ValueError(f"found weights {list(weights)}, wanted 0 or more and one above 0")
        for kind, weight in (("features", self.features), ("attention", self.attention)):
            if (weight > 0) != any(ours.startswith(kind) for ours, _ in self.layers):
                raise ValueError(
                    f"found {kind} {weight} and layers {list(self.layers)}: one is nothing without the other"
                )
        if strange := [ours for ours, _ in self.layers if not ours.startswith(("features", "attention"))]:
            raise ValueError(f"found layers {', '.join(strange)}, wanted names that begin with features or attention")

    @property
    def temperatures(self) -> tuple[float, ...]:
        return self.temperature if isinstance(self.temperature, tuple) else (self.temperature,)


def distill(
    student: nn.Module,
    teacher: Teacher | nn.Module | None,
    lessons: Lessons,
    settings: Distillation = Distillation(),
    how: Fit = USUAL,
    *,
    steps: int | None = None,
    before: Hook | None = None,
    after: Hook | None = None,
    gradients: Hook | None = None,
    notice: Callable[[str], None] | None = None,
    keep: Path | None = None,
    stay: bool = False,
) -> Any:
    """The student, taught; the rest is as in `fit`. Without labels the teacher's word alone counts, whatever `hard`
    says; without a teacher the labels'. For several teachers give `Several`.

    The layers that make the student's features as wide as the teacher's are learned along and thrown away.

    Raises InputError: neither labels nor a teacher; parts that are missing or that cannot be compared. EngineError
    without PyTorch.
    """
    need_torch()
    asked = None if teacher is None else named(teacher)
    asked = as_numbers(asked) if asked and settings.numbers else asked
    tag = str(replace(settings, folder=None)) + (f" {asked.digest()}" if asked and keep else "")
    with own_state(how.seed, how.threads):
        loss, more = _to_learn(student, asked, lessons, settings, how, notice)
        hooks: dict[str, Any] = {"before": before, "after": after, "gradients": gradients, "notice": notice}
        kept: dict[str, Any] = {"keep": keep, "stay": stay, "tag": tag}
        taught = [*student.parameters(), *more]
        return fit(student, lessons, loss, how, steps=steps, parameters=taught, **hooks, **kept)


def _to_learn(
    student: nn.Module,
    teacher: Teacher | None,
    lessons: Lessons,
    settings: Distillation,
    how: Fit,
    notice: Callable[[str], None] | None,
) -> tuple[Loss, list[Any]]:
    """The loss, and its own parameters."""
    if teacher is None:
        if settings.numbers:
            raise InputError("found numbers=True without a teacher, wanted one whose numbers are to be learned")
        if lessons.labels is None:
            raise InputError("found neither a teacher nor labels, wanted one of them to learn from")
        return cross_entropy(lessons, settings.smoothing), []
    _apart(student, teacher)
    check_free(student.parameters(), f"student {type(student).__name__}")
    ask = _asked(teacher, lessons, settings, how.threads)
    need_torch().manual_seed(how.seed)  # projections are drawn alike, whatever a teacher drew
    projections = _check(student, ask, lessons, settings)
    spread = None
    if settings.answers:
        said = heard(ask, lessons)
        if settings.numbers:
            spread = spread_of(said)
        else:
            check_decisions(said, lessons, max(settings.temperatures), notice)
    loss = distillation_loss(ask, lessons, settings, projections, spread)
    return loss, [one for net in projections.values() for one in net.parameters()]


def _apart(student: nn.Module, teacher: Teacher) -> None:
    """Raises UsageError where the teacher would change while it teaches, or the student's mode with it."""
    theirs = list(modules_of(teacher))
    held = {id(one) for net in theirs for one in net.parameters()}
    if any(one is student for one in theirs) or any(
        id(one) in held for one in student.parameters() if one.requires_grad
    ):
        raise UsageError(
            "found a student that has weights of its teacher in common, wanted two networks",
            hint="learn_from_itself(net, lessons), or distill(copy.deepcopy(net), net, lessons)",
        )


def _asked(teacher: Teacher, lessons: Lessons, settings: Distillation, threads: int) -> Ask:
    names = tuple(dict.fromkeys(theirs for _, theirs in settings.layers))
    once = lessons.prepare is None if settings.once is None else settings.once
    if once:
        teacher = ask_once(teacher, lessons, names, settings.folder, threads=threads)
    return teacher.bind(lessons, names)


def distillation_loss(
    ask: Ask,
    lessons: Lessons,
    settings: Distillation,
    projections: Mapping[str, nn.Module],
    spread: Tensor | None = None,
) -> Loss:
    """For `fit`: how unlike the teacher, and the labels, a network is. `projections` by the student's part; `spread` of
    answers that are numbers."""
    torch = need_torch()
    labels = None if lessons.labels is None else torch.from_numpy(lessons.labels.astype(np.int64))
    hard = settings.hard if labels is not None else 0.0
    place = _mask_place(lessons, settings)

    def loss(net: Any, inputs: tuple[Tensor, ...], index: Tensor) -> Tensor:
        ours, theirs = _parts(net, inputs, settings), ask(inputs, index)
        mask = None if place is None else inputs[place]
        total = torch.zeros(())
        if settings.answers and spread is not None:
            total = total + settings.answers * number_loss(ours[LOGITS], theirs[LOGITS], spread)
        elif settings.answers:
            soft = [answer_loss(ours[LOGITS], theirs[LOGITS], one) for one in settings.temperatures]
            total = total + settings.answers * (1 - hard) * sum(soft) / len(soft)
            if hard and labels is not None:
                total = total + settings.answers * hard * label_loss(ours[LOGITS], labels[index], settings.smoothing)
        for name, other in settings.layers:
            share = 1 / sum(one.split(".")[0] == name.split(".")[0] for one, _ in settings.layers)
            if name.startswith("attention"):
                total = total + settings.attention * share * attention_loss(ours[name], theirs[other], mask)
            else:
                change = feature_loss(ours[name], theirs[other], projections[name], mask)
                total = total + settings.features * share * change
        return total

    return loss


def _parts(net: Any, inputs: tuple[Tensor, ...], settings: Distillation) -> Parts:
    found: Parts = net.forward_parts(*inputs) if settings.layers else {LOGITS: net(*inputs)}
    return found


def _mask_place(lessons: Lessons, settings: Distillation) -> int | None:
    if settings.mask is None:
        return None
    names = list(lessons.inputs)
    if settings.mask not in names:
        raise InputError(f"mask: found inputs {', '.join(names)}, wanted {settings.mask!r} among them")
    return names.index(settings.mask)


def _check(student: nn.Module, ask: Ask, lessons: Lessons, settings: Distillation) -> dict[str, nn.Module]:
    """On two items, before anything is learned. Projections by the student's part, freshly drawn."""
    torch = need_torch()
    who = type(student).__name__
    if settings.layers and not hasattr(student, "forward_parts"):
        raise InputError(
            f"student {who}: layers are to be imitated, found no method forward_parts",
            hint='add forward_parts(*inputs), which returns {"logits": ..., "features.0": ...}',
        )
    index = torch.arange(min(2, lessons.count))
    inputs = lessons.take(index)
    was = student.training
    with torch.no_grad():
        ours, theirs = _parts(student.eval(), inputs, settings), ask(inputs, index)
    student.train(was)
    if settings.answers:
        _check_answers(ours[LOGITS], theirs[LOGITS], lessons, settings, f"student {who}")
    made = {}
    for name, other in settings.layers:
        if name not in ours:
            raise InputError(f"student {who}: found {', '.join(ours)}, wanted {name} besides")
        check_pair(name, ours[name], other, theirs[other])
        if name.startswith("features"):
            made[name] = torch.nn.Linear(channels(ours[name]), channels(theirs[other]))
    return made


def _check_answers(ours: Tensor, theirs: Tensor, lessons: Lessons, settings: Distillation, who: str) -> None:
    if settings.numbers:
        check_answer(ours, who)
        check_answer(theirs, "teacher")
        alike = ours.shape == theirs.shape
    else:
        check_logits(ours, lessons.largest_label if settings.hard else None, who)
        check_logits(theirs, None, "teacher")
        alike = widened(ours).shape == widened(theirs).shape
    if not alike:
        raise InputError(
            f"found answers {list(ours.shape[1:])} an item of the student, {list(theirs.shape[1:])} of "
            f"the teacher, wanted {'as many numbers' if settings.numbers else 'logits of the same classes'}",
            hint="give the student as many outputs, or learn features alone: Distillation(answers=0, features=1, ...)",
        )


# ---------------------------------------------------------------- a model that teaches itself


def born_again(
    make: Callable[[int], nn.Module],
    lessons: Lessons,
    settings: Distillation = Distillation(),
    how: Fit = USUAL,
    *,
    generations: int = 3,
    first: nn.Module | None = None,
    steps: int | None = None,
    notice: Callable[[str], None] | None = None,
    keep: Path | None = None,
) -> list[Any]:
    """Networks of which each learned from the one before; the first (`first`, else one taught by the labels) included.

    `make(generation)` gives a fresh network; each generation has a seed of its own, and a checkpoint: `keep` is
    numbered by generations, and those that are done are not taught again where a later one was cut. All of them as one
    teacher, `Several(tuple(TorchTeacher(one) for one in nets))`, are better than any (Furlanello and others, 2018).
    """
    if generations < 1:
        raise UsageError(f"found {generations} generations, wanted 1 or more")
    found: list[Any] = [] if first is None else [first]
    with stages(keep, generations) as places:
        for generation in range(len(found), generations):
            seeded = replace(how, seed=how.seed + generation)
            teacher = found[-1] if found else None
            with own_state(seeded.seed, how.threads):
                student = make(generation)
            more: dict[str, Any] = {"steps": steps, "notice": notice, "keep": places[generation], "stay": True}
            found.append(distill(student, teacher, lessons, settings, seeded, **more))
            if notice:
                notice(f"generation {generation + 1} of {generations} is taught")
    return found


def learn_from_itself(
    net: nn.Module,
    lessons: Lessons,
    settings: Distillation = Distillation(temperature=(1.0, 2.0, 4.0)),
    how: Fit = USUAL,
    *,
    steps: int | None = None,
    notice: Callable[[str], None] | None = None,
    keep: Path | None = None,
) -> Any:
    """A trained network taught on, towards what it says now at several temperatures at once; the one given stays. The
    rest is as in `fit`."""
    student, teacher = copy.deepcopy(net), TorchTeacher(copy.deepcopy(net))
    return distill(student, teacher, lessons, settings, how, steps=steps, notice=notice, keep=keep)
