"""What is asked of a space, of items and of settings before an architecture search begins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.compress.learn.lessons import Lessons
from edge_runtime.compress.learn.nas import Search, search_architecture
from edge_runtime.compress.learn.space import Space
from edge_runtime.compress.learn.trial import Rung
from edge_runtime.errors import InputError, UsageError
from tests.conftest import small_device
from tests.unit.test_nas import FIXED, SHORT, SPACE, lessons

ITEMS = lessons()


def part(space: Space = SPACE, items: Lessons = ITEMS, val: Lessons = ITEMS, **settings: Any) -> Any:
    return search_architecture(space, items, val, small_device(), replace(SHORT, **settings))


def fixed(**more: Any) -> Space:
    return Space("separable", {"stem": (4, 8)}, FIXED | {"widths": (4, 4), "depth": 2} | more)


def changed(**more: Any) -> Lessons:
    return replace(ITEMS, **more)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("space", "items", "val", "said"),
    [
        (fixed(resolution=8), ITEMS, ITEMS, "inputs of 3x8x8, but lessons that give 3x16x16"),
        (fixed(resolution=32), ITEMS, ITEMS, "inputs of 3x32x32, but lessons that give 3x16x16"),
        (fixed(channels=1), ITEMS, ITEMS, "inputs of 1x16x16, but lessons that give 3x16x16"),
        (
            Space("separable", {"resolution": (8, 16)}, FIXED | {"widths": (4, 4), "depth": 2}),
            ITEMS,
            ITEMS,
            "inputs of 3x8x8 and 3x16x16",
        ),
        (SPACE, ITEMS, changed(inputs={"x": ITEMS.inputs["x"][..., :8]}), "but val that give 3x16x8"),
        (SPACE, ITEMS, changed(inputs=ITEMS.inputs | {"y": ITEMS.labels}), "give 3x16x16 with one number"),
        (SPACE, changed(labels=np.arange(32) % 3), ITEMS, "lessons: found 2 as the largest label"),
    ],
)
def test_another_net_than_is_taught_is_not_priced(space: Space, items: Lessons, val: Lessons, said: str):
    with pytest.raises(UsageError, match=said):
        part(space, items, val)


@pytest.mark.torch
def test_a_net_for_pictures_as_the_last_rung_shrinks_them_is_priced():
    found = part(fixed(resolution=8), rungs=(Rung(steps=2), Rung(steps=2, shrink=2)), trials=2)
    assert found.front[0].architecture["resolution"] == 8
    with pytest.raises(UsageError, match="shrink: found 32, wanted at most 16"):
        part(rungs=(Rung(steps=2, shrink=32), Rung(steps=2)))


def no_number(inputs: tuple[Any, ...], dice: Any) -> tuple[Any, ...]:
    return (inputs[0] * float("nan"),)


@pytest.mark.torch
def test_answers_that_are_no_numbers_are_no_score():
    pictures = ITEMS.inputs["x"].copy()
    pictures[3] = np.nan
    with pytest.raises(InputError, match="val: input 'x': found 1 of 32 items .* not finite, the first is 3"):
        part(val=changed(inputs={"x": pictures}))
    with pytest.raises(InputError, match="found 32 of 32 answers that are not finite"):
        part(val=changed(prepare=no_number))


@pytest.mark.torch
def test_a_search_without_time_says_so():
    with pytest.raises(UsageError, match="seconds 1e-09, half of which were over before a candidate was judged"):
        part(seconds=1e-9)


@pytest.mark.torch
def test_a_batch_may_be_larger_than_the_population():
    assert part(batch=4, population=2, trials=4).judged[0] == 4


@pytest.mark.torch
def test_a_device_and_a_record_may_be_names(tmp_path: Path):
    found = [
        search_architecture(SPACE, ITEMS, ITEMS, "raspberry-pi-5", SHORT, record=str(tmp_path / "rows")) for _ in "ab"
    ]
    assert found[1].recorded and found[0].front == found[1].front


def test_settings_that_make_no_sense_are_refused():
    for kind, wrong, said in (
        (Search, {"seconds": -1}, "seconds: found -1, wanted more than 0"),
        (Rung, {"epochs": 0}, "Rung: epochs: found 0"),
        (Rung, {"shrink": 0}, "Rung: shrink: found 0"),
        (Rung, {"steps": 0}, "Rung: steps: found 0"),
    ):
        with pytest.raises(UsageError, match=said):
            kind(**wrong)


def test_values_that_are_lists_are_values():
    space = Space("separable", {"widths": ([8, 16], [16, 16])}, {"strides": (2, 1), "depth": 2})
    one = space.decode((1,))
    assert one.widths == (16, 16) and space.encode(one) == (1,)
    with pytest.raises(UsageError, match="wanted a tuple of values"):
        Space("separable", {"stem": 8})
    with pytest.raises(UsageError, match="wanted numbers, words, or lists of them"):
        Space("separable", {"stem": ({"a": 1},)})
