"""The cells as lessons of edge_runtime.compress.learn: shown as often, and varied as, learn.py does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import evaluate
import numpy as np
import numpy.typing as npt
import torch
from dataset import Cells
from learn import Settings, lesson_weights, vary

from edge_runtime.compress.learn.lessons import Lessons


@dataclass(frozen=True)
class Prepare:
    """uint8 (N,64,64,3) to float32 (N,3,64,64), pixels / 255."""

    settings: Settings

    def __call__(self, inputs: tuple[torch.Tensor, ...], dice: Any) -> tuple[torch.Tensor, ...]:
        x = inputs[0].permute(0, 3, 1, 2).float().contiguous() / 255
        x = x if dice is None else vary(x, self.settings, dice)
        return (x.contiguous(memory_format=torch.channels_last),)


def to_learn(cells: Cells, settings: Settings) -> Lessons:
    return _lessons(cells, lesson_weights(cells, settings.healthy_times), settings)


def to_judge(cells: Cells, settings: Settings) -> Lessons:
    """Only the cells of malaria-cells whose label is not doubtful count."""
    return _lessons(cells, (balanced(cells) & ~cells.suspect).astype(np.int64), settings)


def area(logits: npt.NDArray[np.float32], lessons: Lessons) -> float:
    """Under the ROC curve, of the cells that count: it tells nets apart that were taught too briefly for their logits
    to lie about 0."""
    assert lessons.labels is not None
    counts = np.ones(lessons.count, bool) if lessons.times is None else lessons.times > 0
    infected = lessons.labels > 0
    return evaluate.area(logits[counts & infected, 0], logits[counts & ~infected, 0])


def balanced(cells: Cells) -> npt.NDArray[np.bool_]:
    """Of malaria-cells, where half are infected."""
    return np.char.startswith(cells.path, "malaria-cells")


def _lessons(cells: Cells, times: npt.NDArray[np.int64], settings: Settings) -> Lessons:
    return Lessons({"image": cells.pixels}, cells.infected.astype(np.int64), times, Prepare(settings))
