"""The decision on a slide: its probabilities against counting, its promises on made-up slides, its JSON."""

import json
import math
import random
from dataclasses import replace

import pytest

from edge_runtime.errors import BundleError, InputError
from edge_runtime.task.chances import Spread, beta_below, binomial_at_least
from edge_runtime.task.gate import Gate
from edge_runtime.task.verdict import VERDICTS, Calibration, Tally, decide, detectable, parasitaemia

GATE = Gate(
    names=("a", "b"),
    middle=(0.5, 0.5),
    scale=(0.1, 0.1),
    rows=((1.0, 0.0), (0.0, 1.0)),
    between=(1.0, 1.0),
    limit=3.0,
    linear=(0.0, -2.0),
    products=(0.5, 0.0, 0.5),
    offset=-6.0,
    damage_limit=0.5,
)
CALIBRATION = Calibration(3.0, 1.0, 0.0, Spread(0.5, 600.0), Spread(6.0, 1.5), GATE)


def slide(cells: int, called: int, means: tuple[float, float] = (0.5, 0.5)) -> dict[str, object]:
    tally = Tally(CALIBRATION, cells, called, max(cells, 1), [value * max(cells, 1) for value in means])
    return decide(tally, CALIBRATION)


def test_binomial_tail_is_the_sum_of_its_terms() -> None:
    for n, k, p in ((10, 3, 0.2), (1000, 7, 0.004), (50, 50, 0.9), (5, 0, 0.1), (5, 6, 0.5)):
        terms = sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))
        assert binomial_at_least(k, n, p) == pytest.approx(terms, rel=1e-9, abs=1e-15)


def test_beta_binomial_tail_agrees_with_drawing() -> None:
    spread, dice = Spread(2.0, 30.0), random.Random(1)
    drawn = [binomial_at_least(5, 40, dice.betavariate(2.0, 30.0)) for _ in range(20_000)]
    assert spread.at_least(5, 40) == pytest.approx(sum(drawn) / len(drawn), abs=0.01)


def test_fewest_is_the_first_count_below_the_chance() -> None:
    spread = Spread(0.5, 500.0)
    for cells in (30, 1000, 100_000):
        count = spread.fewest(cells, 0.05)
        assert spread.at_least(count, cells) <= 0.05 < spread.at_least(count - 1, cells)


def test_points_are_quantiles() -> None:
    spread = Spread(3.0, 40.0)
    for place, rate in enumerate(spread.points(8)):
        assert beta_below(rate, 3.0, 40.0) == pytest.approx((place + 0.5) / 8, abs=1e-3)


@pytest.mark.parametrize(
    ("cells", "called", "verdict"),
    [
        (0, 0, "repeat"), (1, 1, "repeat"), (29, 29, "repeat"), (60, 40, "parasites_found"), (60, 0, "repeat"),
        (1000, 0, "none_found"), (1000, 1, "none_found"), (1000, 60, "parasites_found"), (100_000, 20, "none_found"),
    ],
)  # fmt: skip
def test_verdicts(cells: int, called: int, verdict: str) -> None:
    found = slide(cells, called)
    assert found["verdict"] == verdict
    assert found["verdict"] in VERDICTS
    assert found["reasons"]
    assert (found["not_excluded_below_per_ul"] is not None) is (verdict == "none_found")
    assert "negative" not in json.dumps(found).lower()


def test_more_called_cells_never_turn_a_finding_into_none() -> None:
    verdicts = [slide(1000, called)["verdict"] for called in range(0, 1001, 5)]
    first = verdicts.index("parasites_found")
    assert set(verdicts[first:]) == {"parasites_found"}


def test_interval_holds_the_estimate_and_stays_wide_on_a_huge_slide() -> None:
    for called, cells in ((0, 50), (3, 1000), (500, 1000), (1000, 1000), (2000, 100_000)):
        share, low, high = parasitaemia(called, cells, CALIBRATION)
        assert 0 <= low <= share <= high <= 1
    _, low, high = parasitaemia(2000, 100_000, CALIBRATION)
    assert high / low > 1.3  # people differ in how many of their parasites are seen: more cells do not help


def test_limit_of_detection_falls_with_cells_but_not_to_nothing() -> None:
    limits = [detectable(cells, CALIBRATION) for cells in (50, 500, 5000, 100_000)]
    assert limits == sorted(limits, reverse=True)
    assert limits[-1] > 0.001


def test_what_cannot_be_excluded_is_at_least_the_limit_of_detection() -> None:
    assert slide(1000, 0)["not_excluded_below_per_ul"] >= 5e6 * detectable(1000, CALIBRATION)  # type: ignore[operator]


@pytest.mark.parametrize("means", [(1.2, 0.5), (0.5, 0.1), (0.5, -3.0)])
def test_the_gate_comes_before_any_finding(means: tuple[float, float]) -> None:
    found = slide(1000, 500, means)
    assert found["verdict"] == "repeat"
    assert len(found["reasons"]) > 1  # type: ignore[arg-type]


def test_a_broken_model_is_not_read_as_clean() -> None:
    with pytest.raises(InputError, match="finite"):
        Tally(CALIBRATION).add(math.nan)


def test_json_round_trip() -> None:
    assert Calibration.from_json(json.loads(json.dumps(CALIBRATION.to_json()))) == CALIBRATION


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": "3"}, {"threshold": math.inf}, {"threshold": True}, {"confidence": 1.0}, {"healthy": {}},
        {"healthy": {"alpha": 0, "beta": 1}}, {"gate": []}, {"gate": {}}, {"unknown": 1}, {"least_cells": 0},
    ],
)  # fmt: skip
def test_bad_json_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(BundleError, match="calibration"):
        Calibration.from_json(CALIBRATION.to_json() | change)


@pytest.mark.parametrize(
    "change",
    [{"rows": []}, {"rows": [[1.0]]}, {"products": [1.0]}, {"scale": [0.0, 1.0]}, {"limit": 0}, {"names": ["a", 1]}],
)
def test_bad_gates_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(BundleError, match="gate"):
        Gate.from_json(GATE.to_json() | change)


def test_calibrations_can_be_changed_by_a_laboratory() -> None:
    richer = replace(CALIBRATION, red_cells_per_ul=4_000_000.0)
    found = decide(Tally(richer, 1000, 60, 1, [0.5, 0.5]), richer)
    assert "4,000,000" in found["formula"]
