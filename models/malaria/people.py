"""How people differ: the threshold that finds the smallest infection, the limit of detection.

A person here is a name with the scores of their cells, always from a network that never saw that person.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

# what judges compressed nets, too; those that are not used here are asked for by this file's users
from edge_runtime.compress.people import People, needed, spread_at
from edge_runtime.compress.people import by_person as by_person
from edge_runtime.compress.people import measured_limit as measured_limit
from edge_runtime.compress.people import rates as rates
from edge_runtime.compress.people import share_found as share_found
from edge_runtime.task.chances import binomial_at_least
from edge_runtime.task.gate import Gate
from edge_runtime.task.verdict import Calibration, detectable


@dataclass(frozen=True)
class Choice:
    """How the decision is fitted. The grid is the share of infected cells that a threshold calls."""

    sensitivities: tuple[float, ...] = tuple(np.round(np.arange(0.40, 0.951, 0.025), 3).tolist())
    slides: tuple[int, ...] = (1000, 5000)
    false_alarm: float = 0.05
    confidence: float = 0.95
    # None found is said where an infection of this share would be found: above about 2 % of red cells infected,
    # British guidelines take falciparum malaria for liable to become severe. That much must not hide behind "none".
    least_share: float = 0.02


def calibrate(
    healthy: People, infected: People, gate: Gate, choice: Choice, threshold: float | None = None
) -> Calibration:
    """The threshold with the smallest limit of detection (geometric mean over the slide sizes), and its spreads."""
    best: tuple[float, Calibration] | None = None
    pooled = np.concatenate(list(infected.values()))
    candidates = [float(np.quantile(pooled, 1 - share)) for share in choice.sensitivities]
    if threshold is not None:
        candidates = [threshold]
    for cut in candidates:
        trial = Calibration(
            cut, 1.0, 0.0, spread_at(healthy, cut), spread_at(infected, cut), gate,
            false_alarm=choice.false_alarm, confidence=choice.confidence,
        )  # fmt: skip
        if threshold is not None:
            return trial
        cost = sum(math.log(detectable(cells, trial)) for cells in choice.slides)
        if best is None or cost < best[0]:
            best = (cost, trial)
    assert best is not None
    return best[1]


def leave_one_out(healthy: People, infected: People, gate: Gate, choice: Choice) -> dict[int, float]:
    """Slide size -> mean share of a left-out healthy person's simulated slides that are called infected.

    Threshold and spreads are fitted anew on the other people. A slide is drawn with replacement from the person's own
    cells, so the number of called cells is binomial with their rate.
    """
    result = dict.fromkeys(choice.slides, 0.0)
    for name, scores in healthy.items():
        others = {other: values for other, values in healthy.items() if other != name}
        fitted = calibrate(others, infected, gate, choice)
        rate = float((scores >= fitted.threshold).mean())
        for cells in choice.slides:
            result[cells] += binomial_at_least(needed(cells, fitted), cells, rate) / len(healthy)
    return result


def least_cells_none(calibration: Calibration, choice: Choice) -> int:
    """Fewest cells (a round number) on which an infection of `least_share` would be found with `confidence`."""
    for cells in (50, 100, 150, 200, 300, 400, 500, 750, 1000, 1500, 2000):
        if detectable(cells, calibration) <= choice.least_share:
            return cells
    return 3000


def finish(calibration: Calibration, slope: float, offset: float, choice: Choice) -> Calibration:
    least = least_cells_none(calibration, choice)
    return replace(calibration, score_slope=slope, score_offset=offset, least_cells_none=least)
