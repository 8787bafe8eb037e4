"""The little probability that a slide's verdict needs, on `math` alone: a device has no scipy.

A rate (of false alarms, of parasites recognised) differs from person to person. `Spread` says how: a beta
distribution, so the number of called cells on the slide of a person drawn anew is beta-binomial.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class Spread:
    """Beta(alpha, beta) of a rate between persons."""

    alpha: float
    beta: float

    @property
    def mean(self) -> float:
        return self.alpha / (self.alpha + self.beta)

    def points(self, count: int) -> tuple[float, ...]:
        """`count` rates that stand for equal shares of persons: the quantiles at (i + 1/2) / count."""
        return _quantiles(self.alpha, self.beta, count)

    def at_least(self, called: int, cells: int) -> float:
        """Chance of `called` or more among `cells` of a person drawn anew: the tail of the beta-binomial."""
        if called <= 0:
            return 1.0
        a, b = self.alpha, self.beta
        term = math.exp(math.lgamma(b + cells) + math.lgamma(a + b) - math.lgamma(a + b + cells) - math.lgamma(b))
        below = term
        for k in range(1, called):  # P(k) from P(k - 1)
            term *= (cells - k + 1) / k * (a + k - 1) / (b + cells - k)
            below += term
        return max(0.0, 1 - below)

    def fewest(self, cells: int, chance: float) -> int:
        """Smallest count that such a person reaches with at most `chance`; `cells` + 1 if there is none."""
        a, b = self.alpha, self.beta
        term = math.exp(math.lgamma(b + cells) + math.lgamma(a + b) - math.lgamma(a + b + cells) - math.lgamma(b))
        below = 0.0
        for k in range(cells + 1):
            if 1 - below <= chance:
                return k
            below += term
            term *= (cells - k) / (k + 1) * (a + k) / (b + cells - k - 1) if k < cells else 0.0
        return cells + 1


@lru_cache(maxsize=32)  # asked again for every slide, of the few spreads of one bundle
def _quantiles(alpha: float, beta: float, count: int) -> tuple[float, ...]:
    """Quantiles of Beta(alpha, beta) at (i + 1/2) / count, by straight lines on a grid of 601 log-odds."""
    steps = 600
    grid = [1 / (1 + math.exp(-(-18 + 28 * step / steps))) for step in range(steps + 1)]
    below = [beta_below(rate, alpha, beta) for rate in grid]
    result, step = [], 0
    for place in range(count):
        share = (place + 0.5) / count
        while step < steps - 1 and below[step + 1] < share:
            step += 1
        low, high = below[step], below[step + 1]
        part = min(1.0, max(0.0, (share - low) / (high - low))) if high > low else 0.0
        result.append(grid[step] + part * (grid[step + 1] - grid[step]))
    return tuple(result)


def beta_below(x: float, a: float, b: float) -> float:
    """Share of Beta(a, b) below `x`: the regularised incomplete beta function, by Lentz's continued fraction."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):  # there the fraction converges slowly; the mirror image converges fast
        return 1 - beta_below(1 - x, b, a)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    tiny = 1e-30
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1) or tiny)
    value = d
    for m in range(1, 2000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for part in (even, odd):
            d = 1 / (1 + part * d or tiny)
            c = 1 + part / c or tiny
            value *= d * c
        if abs(d * c - 1) < 1e-12:
            break
    return math.exp(front) * value / a


def binomial_at_least(called: int, cells: int, rate: float) -> float:
    """Chance of `called` or more among `cells` at a known rate."""
    if called <= 0:
        return 1.0
    return 0.0 if called > cells else beta_below(rate, called, cells - called + 1)
