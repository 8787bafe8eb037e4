"""Quantiles and intervals: right against known figures, and honest over many draws."""

from __future__ import annotations

import math
import random
import statistics
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.stats import in_turn, interval, median, quantile, spread, stdev, t95

POSITIVE = st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=30)


@given(POSITIVE, st.floats(0, 1))
def test_a_quantile_lies_between_the_ends_and_the_half_is_the_median(values: list[float], share: float):
    ordered = sorted(values)
    assert ordered[0] <= quantile(ordered, share) <= ordered[-1]
    assert median(values) == quantile(ordered, 0.5) == pytest.approx(statistics.median(ordered))
    assert stdev(values) == pytest.approx(statistics.stdev(values), rel=1e-6, abs=1e-9)


@given(POSITIVE)
def test_an_interval_holds_its_middle_and_scales_with_its_unit(values: list[float]):
    found, thousandfold = interval(values), interval([1000 * value for value in values])
    assert found.low <= found.middle <= found.high
    assert thousandfold.low == pytest.approx(1000 * found.low)
    assert thousandfold.high == pytest.approx(1000 * found.high)


def test_one_value_says_nothing_of_its_own_certainty():
    assert interval([3.0]) == (pytest.approx(3.0), 0.0, math.inf, 1)
    assert interval([3.0]).to_json() is None
    assert interval([1.0, 90.0]).to_json() is None, "finite, and it says nothing"
    assert interval([1.0, 1.1, 1.2]).to_json() is not None
    with pytest.raises(ValueError):
        quantile([], 0.5)


def test_students_quantiles():
    assert [t95(1), t95(4), t95(10)] == [12.706, 2.776, 2.228]
    assert t95(1000) == 1.96
    assert t95(0) == math.inf


@pytest.mark.parametrize("count", [5, 9])
@pytest.mark.parametrize("disturbed", [0.0, 0.1])
def test_the_interval_covers_the_truth_as_often_as_it_says(count: int, disturbed: float):
    """Of 2,000 draws with 2 % of noise, and then with one process in ten half as slow again."""
    random.seed(5)

    def draw() -> float:
        return math.exp(random.gauss(0, 0.02)) * (1.5 if random.random() < disturbed else 1)

    found = [interval([draw() for _ in range(count)]) for _ in range(2000)]
    assert 0.92 * 2000 <= sum(one.low <= 1 <= one.high for one in found) <= 0.99 * 2000


def test_spread_is_of_the_middle_half():
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(2 / 3)


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_in_turn_everything_has_each_place_alike_and_follows_itself_no_more_than_another(count: int):
    turns = [in_turn(range(count), turn) for turn in range(4 * count)]
    for item in range(count):
        places = [turn.index(item) for turn in turns]
        assert all(places.count(place) == 4 * count // count for place in range(count))
    sequence = [item for turn in turns for item in turn]
    repeats = [sum(a == b == item for a, b in pairwise(sequence)) for item in range(count)]
    assert max(repeats) - min(repeats) <= 1
