"""The Pareto front in any number of objectives: what nothing else beats.

One point beats another where it is as good in every objective and better in one (K. Deb et al., "A fast and elitist
multiobjective genetic algorithm: NSGA-II", 2002, whose crowding distance also thins a front here). A figure that is not
known (missing, None or NaN) counts as worse than any that is: where no point has it, the objective says nothing, and a
point of which nothing is known stands only among its like. Points that are equal in all objectives all stand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edge_runtime.bench import plots

Point = Mapping[str, float | None]


@dataclass(frozen=True)
class Objective:
    """A figure of a point by its name; less is better, or `more`."""

    name: str
    more: bool = False

    def cost(self, point: Point) -> float:
        """Less is better; infinite where it is not known."""
        value = point.get(self.name)
        if value is None or math.isnan(value):
            return math.inf
        return -float(value) if self.more else float(value)


def costs(point: Point, objectives: Sequence[Objective]) -> tuple[float, ...]:
    return tuple(one.cost(point) for one in objectives)


def front(points: Sequence[Point], objectives: Sequence[Objective]) -> list[bool]:
    """For each point whether it stands on the front. No objectives: all do."""
    return plots.front([costs(one, objectives) for one in points])


def spread(points: Sequence[Point], objectives: Sequence[Objective], most: int) -> list[int]:
    """Places of at most `most` points of the front, of equal ones the first: the best in each objective (the earlier
    objective before the later), then those that stand most alone. In the order of the points."""
    seen: dict[tuple[float, ...], int] = {}
    for place, (one, stands) in enumerate(zip(points, front(points, objectives), strict=True)):
        if stands:
            seen.setdefault(costs(one, objectives), place)
    left = dict(seen)
    chosen: list[int] = []
    for which in range(len(objectives)):
        best = min(seen, key=lambda figures: (figures[which], figures), default=None)
        if best is None or len(chosen) >= most or best[which] in {one[which] for one in seen.keys() - left.keys()}:
            continue  # one that is taken already is as good in this
        chosen.append(left.pop(best))
    alone = _crowding(list(seen))
    rest = sorted(left.items(), key=lambda one: (-alone[one[0]], one[1]))
    chosen += [place for _, place in rest[: max(0, most - len(chosen))]]
    return sorted(chosen)


def _crowding(found: Sequence[tuple[float, ...]]) -> dict[tuple[float, ...], float]:
    """How far each point's neighbours are apart, by the objectives' ranges, summed; infinite at the ends."""
    alone = dict.fromkeys(found, 0.0)
    for which in range(len(found[0]) if found else 0):
        order = sorted(found, key=lambda figures: figures[which])
        known = [one[which] for one in order if math.isfinite(one[which])]
        extent = known[-1] - known[0] if known else 0.0
        for before, one, after in zip(order, order[1:], order[2:], strict=False):
            gap = after[which] - before[which]
            alone[one] += gap / extent if extent > 0 and math.isfinite(gap) else 0.0
        for end in order[:1] + order[-1:]:
            alone[end] = math.inf
    return alone
