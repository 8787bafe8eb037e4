"""The Pareto front: what stands is beaten by nothing, what does not is beaten by something that stands."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.bench import plots
from edge_runtime.compress.pareto import Objective, costs, front, spread

BYTES, RAM, DROP, ACCURACY = Objective("bytes"), Objective("ram"), Objective("drop"), Objective("accuracy", more=True)
_ALL = (BYTES, RAM, DROP, ACCURACY)
_FIGURE = st.one_of(st.none(), st.just(math.nan), st.integers(0, 6), st.floats(-2, 2, width=16))
_POINTS = st.lists(st.fixed_dictionaries({}, optional={one.name: _FIGURE for one in _ALL}), max_size=24)


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and one != other


@given(_POINTS, st.integers(1, 4))
def test_what_stands_is_beaten_by_nothing_and_the_rest_by_something_that_stands(points, many):
    objectives = _ALL[:many]
    standing = front(points, objectives)
    figures = [costs(one, objectives) for one in points]
    for one, stands in zip(figures, standing, strict=True):
        beaten_by = [other for other in figures if _beats(other, one)]
        assert stands != bool(beaten_by)
        if not stands:
            assert any(other in beaten_by for other, fine in zip(figures, standing, strict=True) if fine)
    assert any(standing) or not points


@given(_POINTS, st.randoms(use_true_random=False))
def test_the_order_of_points_does_not_matter(points, dice):
    order = list(range(len(points)))
    dice.shuffle(order)
    standing = front(points, _ALL)
    assert front([points[place] for place in order], _ALL) == [standing[place] for place in order]


def test_what_is_not_known_is_worse_than_what_is_and_says_nothing_where_nobody_knows_it():
    points = [{"bytes": 1, "ram": None}, {"bytes": 1, "ram": 9}, {"bytes": 2, "ram": math.nan}, {"bytes": 3, "ram": 1}]
    assert front(points, (BYTES, RAM)) == [False, True, False, True]
    assert front([{"bytes": 1}, {"bytes": 2}], (BYTES, RAM)) == [True, False]
    assert front([{}, {}], _ALL) == [True, True] and front([], _ALL) == []


def test_more_is_better_where_it_is_said_and_equals_all_stand():
    points = [{"bytes": 5, "accuracy": 0.9}, {"bytes": 5, "accuracy": 0.9}, {"bytes": 5, "accuracy": 0.8}]
    assert front(points, (BYTES, ACCURACY)) == [True, True, False]


@given(_POINTS, st.integers(0, 6))
def test_a_thinned_front_is_of_the_front_without_equals_and_keeps_the_best_of_each_objective(points, most):
    places = spread(points, _ALL, most)
    standing = front(points, _ALL)
    kept = [costs(points[place], _ALL) for place in places]
    assert len(places) <= most and all(standing[place] for place in places) and len(set(kept)) == len(kept)
    for which in range(len(_ALL) if points and most >= len(_ALL) else min(most, 1) if points else 0):
        assert min(costs(one, _ALL)[which] for one in points) == min(one[which] for one in kept)
    different = {costs(one, _ALL) for one, stands in zip(points, standing, strict=True) if stands}
    assert len(places) == min(most, len(different))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=30))
def test_the_plots_front_is_the_same_in_two_figures(points):
    named = [{"x": x, "y": y} for x, y in points]
    assert plots.front(points) == front(named, (Objective("x"), Objective("y")))
