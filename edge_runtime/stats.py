"""What repeated measurements say, on the standard library alone: quantiles, intervals, and whether a machine was quiet.

Times are compared as logarithms: what disturbs a measurement multiplies it. An interval is of 95 % and is taken between
processes, because what differs between two runs of a program (where its memory lies, which core it got) is the same for
all inferences of one process: ten thousand inferences of one process are one observation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

_T = TypeVar("_T")

# Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom; the normal's beyond.
_T95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


class Interval(NamedTuple):
    """A middle with what the 95 % interval reaches from `low` to `high`; `n` observations were behind it."""

    middle: float
    low: float
    high: float
    n: int

    def to_json(self) -> list[float] | None:
        """None where it says nothing: wider than a factor of a thousand, as two values that differ much make it."""
        if not self.high <= 1000 * self.middle:
            return None
        return [round_figures(self.low), round_figures(self.high)]


def quantile(ordered: Sequence[float], share: float) -> float:
    """Of numbers in ascending order, interpolated; `share` from 0 to 1. Raises ValueError where there are none."""
    if not ordered:
        raise ValueError("no numbers")
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def median(values: Iterable[float]) -> float:
    """As the statistics module's, which loads random, fractions and decimal: in a child, the model's budget pays."""
    return quantile(sorted(values), 0.5)


def stdev(values: Sequence[float]) -> float:
    """Of a sample: n - 1 in the denominator. Raises ValueError for fewer than two."""
    if len(values) < 2:
        raise ValueError("fewer than two numbers")
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def t95(freedom: int) -> float:
    return _T95[min(freedom, len(_T95)) - 1] if 1 <= freedom <= len(_T95) else 1.96 if freedom else math.inf


def deviation(values: Sequence[float]) -> float:
    """The standard deviation, which a disturbed value among five or more does not move: of those within six median
    deviations, and never less than the median deviation tells. Six, because few values can lie close by chance: with
    four, an interval of 95 % would hold the truth in 90 of 100 draws of five (tests/unit/test_stats.py)."""
    if len(values) < 2:
        return math.inf
    middle = median(values)
    typical = 1.4826 * median(abs(value - middle) for value in values)
    near = [value for value in values if abs(value - middle) <= 6 * typical]
    trusted = near if len(near) >= 3 and 2 * len(near) > len(values) else values
    return max(typical, stdev(trusted))


def interval(values: Sequence[float], floor: float = 0.0) -> Interval:
    """Of positive numbers, one a process: their median with the interval of it. `floor` is the least relative half
    width; with one value the interval is everything."""
    logs = [math.log(value) for value in values]
    middle = median(logs)
    half = math.hypot(1.2533 * t95(len(logs) - 1) * deviation(logs) / math.sqrt(len(logs)), floor)
    if math.isinf(half):
        return Interval(math.exp(middle), 0.0, math.inf, len(logs))
    return Interval(math.exp(middle), math.exp(middle - half), math.exp(middle + half), len(logs))


def spread(ordered: Sequence[float]) -> float:
    """(p75 - p25) / p50 of numbers in ascending order."""
    middle = quantile(ordered, 0.5)
    return (quantile(ordered, 0.75) - quantile(ordered, 0.25)) / middle if middle else 0.0


def in_turn(items: Sequence[_T], turn: int) -> list[_T]:
    """The items in the order of this turn: the other way round every second time where there are two, else from the
    next one on. Nothing may come after itself more often than another does: it would find its caches warm."""
    if len(items) == 2:
        return list(items[:: 1 if turn % 2 == 0 else -1])
    begin = turn % len(items) if items else 0
    return [*items[begin:], *items[:begin]]


def round_figures(value: float, figures: int = 6) -> float:
    """Rounded to significant figures: what JSON carries of a measurement."""
    return float(f"{value:.{figures}g}")
