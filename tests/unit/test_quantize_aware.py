"""The pass quantize_aware keeps the better of taught and only rounded, as items judge that taught nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.drift import compare
from edge_runtime.compress.learn.qat import QuantAware, plainly_rounded
from edge_runtime.compress.passes.quantize_aware import ROUNDED, TAUGHT, QuantizeAware, lessons_of
from edge_runtime.compress.passes.repair import apart
from edge_runtime.errors import InputError
from tests.unit.small_nets import answer, context, items, residual

pytestmark = pytest.mark.torch


def aware(samples: Any, **settings: Any) -> tuple[Artifact, dict[str, Any]]:
    """What the pass makes of a small net, and its word on items that it held out."""
    original, settings = residual(), {"epochs": 4, "rate": 3e-3, "average": 0.9} | settings
    where = context(original, samples)
    made = QuantizeAware(**settings)(original, where)
    return made, where.facts["held_out"]


@pytest.mark.parametrize(("weights", "rate", "kept"), [("ternary", 3e-3, "taught"), ("int8", 0.3, "only rounded")])
def test_the_better_of_taught_and_only_rounded_is_kept(weights: str, rate: float, kept: str):
    original, samples = residual(), items(residual(), 128)
    made, said = aware(samples, weights=weights, rate=rate)
    assert said["kept"] == kept == min((TAUGHT, ROUNDED), key=lambda name: said[name]["mean_sd"])
    held, rest = apart(samples, 0.15, "test")
    drift = compare({"y": answer(original, held)}, {"y": answer(made, held)})
    assert said["items"] == held.count == 19 and drift.mean == said[kept]["mean_sd"]
    assert drift.agreement == said[kept]["agreement"]
    plain = plainly_rounded(original, lessons_of(rest), QuantAware(weights)).artifact
    assert (made == plain) == (kept == ROUNDED)
    drift = compare({"y": answer(original, held)}, {"y": answer(plain, held)})
    assert drift.mean == said[ROUNDED]["mean_sd"]


def test_items_that_judge_teach_nothing():
    samples = items(residual(), 128)
    held, _ = apart(samples, 0.15, "test")
    (name, array), *_ = samples.arrays.items()
    others = array.copy()
    others[np.isin(array, held.arrays[name]).all((1, 2, 3))] *= 1.5
    assert int((others != array).any((1, 2, 3)).sum()) == 19
    found = [aware(one, weights="ternary") for one in (samples, replace(samples, arrays={name: others}))]
    assert found[0][0] == found[1][0] and found[0][1] != found[1][1]
    with pytest.raises(InputError, match="found 1 items to train with, wanted at least 2"):
        aware(items(residual(), 1))
