"""How people differ in how many of their cells a network calls: rates between persons, and what of an infection is
found at these rates.

A person here is a name with the scores of their cells, always from a network that never saw that person.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from edge_runtime.task.chances import Spread, binomial_at_least
from edge_runtime.task.verdict import Calibration

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
People = dict[str, Floats]  # name -> logits of that person's cells (all infected, or all of a healthy person)
_fitted: dict[tuple[bytes, bytes], Spread] = {}


def by_person(scores: Floats, person: npt.NDArray[np.str_], mask: npt.NDArray[np.bool_]) -> People:
    return {name: scores[mask & (person == name)] for name in sorted(set(person[mask].tolist()))}


def fit_spread(called: npt.NDArray[np.int64], cells: npt.NDArray[np.int64]) -> Spread:
    """Beta distribution of a rate between persons from counts (P,) of called among cells.

    Not the likeliest one: with a handful of events that one is far too sure of itself. The posterior over the mean
    (Jeffreys' prior) and the shape of the rarer side (how unequal people are: logarithm flat from 0.3 to 10, so a
    coefficient of variation of about 1.8 to 0.3) on a grid is summed up by the beta distribution with the same mean
    and variance of the rate of a person drawn anew.
    """
    means = 1 / (1 + np.exp(-np.linspace(-11, 5, 161)))
    shapes = np.exp(np.linspace(math.log(0.3), math.log(10), 29))
    sizes = shapes[None, :] / np.minimum(means, 1 - means)[:, None]  # alpha + beta, (means, shapes)
    # A step of the logit grid is mean(1-mean) wide; Jeffreys' prior is the inverse square root of that.
    weights = 0.5 * np.log(means * (1 - means))[:, None] + _log_likelihood(
        called, cells, means[:, None] * sizes, (1 - means)[:, None] * sizes
    )
    weights = np.exp(weights - weights.max())
    weights /= weights.sum()
    mean = float((weights * means[:, None]).sum())
    square = float((weights * (means[:, None] * (means[:, None] * sizes + 1) / (sizes + 1))).sum())
    size = max(1.0, mean * (1 - mean) / max(square - mean * mean, 1e-12) - 1)
    return Spread(mean * size, (1 - mean) * size)


def _log_likelihood(called: npt.NDArray[np.int64], cells: npt.NDArray[np.int64], a: Doubles, b: Doubles) -> Doubles:
    """Beta-binomial, for a grid of alpha and beta; people with equal counts are reckoned once."""
    total = np.zeros_like(a)
    pairs, times = np.unique(np.stack([called, cells]), axis=1, return_counts=True)
    before = _log_beta(a, b)
    for (k, n), people in zip(pairs.T.tolist(), times.tolist(), strict=True):
        total += people * (_log_beta(a + k, b + n - k) - before)
    return total


def _log_beta(a: Doubles, b: Doubles) -> Doubles:
    return _log_gamma(a) + _log_gamma(b) - _log_gamma(a + b)


def _log_gamma(x: Doubles) -> Doubles:
    """Of numbers above 0, by Stirling's series from x + 8 on: right to about 13 digits, without scipy."""
    far = x + 8
    inverse = 1 / far
    square = inverse * inverse
    series = inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square * (1 / 1680 - square / 1188))))
    below = np.log(x * (x + 1) * (x + 2) * (x + 3)) + np.log((x + 4) * (x + 5) * (x + 6) * (x + 7))
    found: Doubles = (far - 0.5) * np.log(far) - far + 0.5 * math.log(2 * math.pi) + series - below
    return found


def spread_at(people: People, threshold: float) -> Spread:
    """The spread of these people's rates; fits are kept, since leaving people out asks for the same ones again."""
    called = np.array([(scores >= threshold).sum() for scores in people.values()])
    cells = np.array([len(scores) for scores in people.values()])
    key = (called.tobytes(), cells.tobytes())
    if key not in _fitted:
        _fitted[key] = fit_spread(called, cells)
    return _fitted[key]


def needed(cells: int, calibration: Calibration) -> int:
    """Called cells from which on a slide of so many cells is called infected."""
    return max(calibration.least_called, calibration.healthy.fewest(cells, calibration.false_alarm))


def share_found(count: int, cells: int, share: float, healthy: Floats, infected: Floats) -> float:
    """Share of slides with `count` or more called cells: every infected rate (P,) on every healthy rate (Q,)."""
    rates = (share * infected[:, None] + (1 - share) * healthy[None, :]).ravel()
    unique, times = np.unique(np.round(rates, 7), return_counts=True)
    found = [binomial_at_least(count, cells, float(rate)) for rate in unique]
    return float(np.average(found, weights=times))


def measured_limit(count: int, cells: int, confidence: float, healthy: Floats, infected: Floats) -> float:
    """Smallest share of infected cells found on `confidence` of slides simulated from real people's rates."""
    low, high = 0.0, 1.0
    for _ in range(14):
        middle = (low + high) / 2
        if share_found(count, cells, middle, healthy, infected) >= confidence:
            high = middle
        else:
            low = middle
    return high


def rates(people: People, threshold: float) -> Floats:
    return np.array([(scores >= threshold).mean() for scores in people.values()], np.float32)
