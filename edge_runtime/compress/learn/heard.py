"""What a teacher says of some items, before anything is learned: whether a student can learn from it, and how."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from edge_runtime.compress.learn.lessons import Lessons
from edge_runtime.compress.learn.teachers import AS_LOGITS, LOGITS, refuse_shares, widened
from edge_runtime.compress.torch_graph import need_torch
from edge_runtime.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from edge_runtime.compress.learn.teachers import Ask

MOST, AT_A_TIME = 256, 64
FEW = 16
"""Of fewer items one decision says nothing."""
SURE = 0.99
"""From here on a probability has no say in the loss beside the decision."""


def heard(ask: Ask, lessons: Lessons) -> Tensor:
    """The answers to up to 256 items, evenly spread and unvaried."""
    torch = need_torch()
    places = np.unique(np.linspace(0, lessons.count - 1, min(MOST, lessons.count)).round().astype(np.int64))
    parts = torch.from_numpy(places).split(AT_A_TIME)
    found: Tensor = torch.cat([ask(lessons.take(index), index)[LOGITS] for index in parts])
    return found


def spread_of(said: Tensor) -> Tensor:
    """The standard deviation of each number over the items; 1 where it never changes."""
    torch = need_torch()
    spread = said.double().std(0, correction=0)
    still = spread <= 1e-6 * said.double().abs().mean(0)
    found: Tensor = torch.where(still, torch.ones_like(spread), spread).float()
    return found


def check_decisions(
    said: Tensor, lessons: Lessons, temperature: float, notice: Callable[[str], None] | None = None
) -> None:
    """Raises InputError for probabilities in place of logits, and where one class is beyond doubt for every item, as
    where numbers are taken for logits. One class with doubt is told to `notice`: there is something to learn."""
    torch = need_torch()
    refuse_shares(said, "teacher", AS_LOGITS)
    one_class = lessons.labels is not None and bool((lessons.labels == lessons.labels[0]).all())
    if len(said) < FEW or one_class:
        return
    most, which = torch.softmax(widened(said) / temperature, 1).max(1)
    if len(which.unique()) > 1:
        return
    words = f"teacher: found class {int(which[0])} as its answer to each of {len(said)} items"
    hint = "Distillation(numbers=True), where its answers are numbers rather than logits of classes"
    if float(most.min()) >= SURE:
        raise InputError(f"{words}, beyond doubt at temperature {temperature:g}: wanted logits that differ", hint=hint)
    if notice:
        notice(f"{words}; {hint}")
