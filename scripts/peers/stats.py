"""What is computed from the measured processes. Standard library alone."""

from __future__ import annotations

import math
from collections.abc import Sequence


def median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def dropped_averages(count: int) -> int:
    """How many pairwise averages to leave out at either end of Wilcoxon's signed-rank interval for 95 %.

    The largest rank sum of `count` fair signs in the lower 2.5 %, counted exactly; 0 below 7 pairs.
    """
    ways = [1]  # ways[w]: subsets of the ranks so far with sum w
    for rank in range(1, count + 1):
        longer = ways + [0] * rank
        for sum_, number in enumerate(ways):
            longer[sum_ + rank] += number
        ways = longer
    total = largest = 0
    for sum_, number in enumerate(ways):
        total += number
        if total > 0.025 * 2**count:
            break
        largest = sum_
    return largest


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, list[float]]:
    """ours / theirs, round by round, and the interval in which 95 % of such runs would have it.

    Hodges and Lehmann's estimate on logarithms with Wilcoxon's interval: one disturbed round moves neither much.
    With fewer than six rounds the interval is the whole range. Raises ValueError where the rounds do not pair up.
    """
    if len(ours) != len(theirs) or not ours:
        raise ValueError(f"found {len(ours)} and {len(theirs)} rounds, wanted as many of both and at least one")
    logs = [math.log(one / other) for one, other in zip(ours, theirs, strict=True)]
    averages = sorted((logs[i] + logs[j]) / 2 for i in range(len(logs)) for j in range(i, len(logs)))
    out = dropped_averages(len(logs))
    return math.exp(median(averages)), [math.exp(averages[out]), math.exp(averages[-1 - out])]


def agreement(found: Sequence[float], wanted: Sequence[float], outputs: int) -> tuple[float, float]:
    """Share of the same decisions, and the mean difference of an output in standard deviations of `wanted`.

    Flat lists of images x outputs. One output decides by its sign, several by the largest. A list that has another
    length, or numbers that are none, agree in nothing.
    """
    if len(found) != len(wanted) or not all(map(math.isfinite, found)):
        return 0.0, math.inf

    def decide(values: Sequence[float], place: int) -> int:
        row = values[place : place + outputs]
        return int(row[0] > 0) if outputs == 1 else max(range(outputs), key=lambda one: row[one])

    places = range(0, len(wanted), outputs)
    same = sum(decide(found, place) == decide(wanted, place) for place in places) / len(places)
    mean = sum(wanted) / len(wanted)
    spread = math.sqrt(sum((one - mean) ** 2 for one in wanted) / len(wanted)) or 1.0
    return same, sum(abs(one - other) for one, other in zip(found, wanted, strict=True)) / len(wanted) / spread
