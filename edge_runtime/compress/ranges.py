"""From what a tensor was seen to hold to the range that its integers shall cover."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_runtime.compress.calibrate import Seen

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

METHODS = ("minmax", "percentile", "mse", "entropy")


@dataclass(frozen=True)
class Scale:
    """real = (integer - zero) * scale. `bits` 8: uint8. 16: int16 with zero 0, which is what kernels of 16-bit
    activations take."""

    scale: float
    zero: int
    bits: int = 8

    @property
    def low(self) -> float:
        return -self.zero * self.scale if self.bits == 8 else -32767 * self.scale

    @property
    def high(self) -> float:
        return (255 - self.zero) * self.scale if self.bits == 8 else 32767 * self.scale


def scale_of(low: float, high: float, bits: int = 8) -> Scale:
    """0 becomes an integer exactly. In float32, as the engines hold it; never reaching beyond `high` where low is 0,
    so that a clip which an operator does at `high` can be left to the integers."""
    import numpy as np

    low, high = min(0.0, low), max(0.0, high)
    if bits == 16:
        step = max(-low, high) / 32767
        return Scale(float(np.float32(step)) or 1.0, 0, 16)
    step = float(np.float32((high - low) / 255))
    if not step > 1e-30:
        return Scale(1.0, 0)
    if low == 0 and np.float32(step) * np.float32(255) > np.float32(high):
        step = float(np.nextafter(np.float32(step), np.float32(0)))
    return Scale(step, int(np.clip(round(-low / step), 0, 255)))


def choose(seen: Seen, method: str, percentile: float, bits: int = 8) -> tuple[float, float]:
    """Low and high. `percentile`: of the values that stay within, 99.99 say; for that method alone."""
    if method == "minmax" or seen.counts is None or bits == 16:
        return seen.low, seen.high
    if method == "percentile":
        return _percentile(seen, percentile)
    return _mse(seen) if method == "mse" else _entropy(seen)


def _percentile(seen: Seen, percentile: float) -> tuple[float, float]:
    import numpy as np

    assert seen.counts is not None
    share = np.cumsum(seen.counts) / seen.counts.sum()
    out = (1 - percentile / 100) / 2 if seen.low < 0 else 1 - percentile / 100
    edges = np.linspace(seen.low, seen.high, len(seen.counts) + 1)
    high = edges[min(int(np.searchsorted(share, 1 - out)) + 1, len(edges) - 1)]
    low = edges[int(np.searchsorted(share, out))] if seen.low < 0 else 0.0
    return min(0.0, float(low)), max(0.0, float(high))


def _middles(seen: Seen) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    import numpy as np

    assert seen.counts is not None
    edges = np.linspace(seen.low, seen.high, len(seen.counts) + 1)
    return (edges[1:] + edges[:-1]) / 2, seen.counts.astype(np.float64)


def _candidates(seen: Seen) -> list[tuple[float, float]]:
    import numpy as np

    shares = np.linspace(1.0, 0.2, 41)
    if seen.low == 0 or seen.high == 0:
        return [(seen.low * one, seen.high * one) for one in shares]
    return [(seen.low * one, seen.high * other) for one in shares for other in shares]


def _mse(seen: Seen) -> tuple[float, float]:
    """The least mean squared error of value against integer."""
    middles, counts = _middles(seen)
    return min(_candidates(seen), key=lambda one: _loss(one, middles, counts))


def _loss(bounds: tuple[float, float], middles: NDArray[np.float64], counts: NDArray[np.float64]) -> float:
    import numpy as np

    scale = scale_of(*bounds)
    if scale.high <= scale.low:
        return float("inf")
    out = np.clip(middles, scale.low, scale.high) - middles
    return float((counts * out**2).sum() + counts.sum() * scale.scale**2 / 12)  # clipping, and rounding within


def _entropy(seen: Seen) -> tuple[float, float]:
    """The least divergence (Kullback-Leibler) of the distribution after from the one before."""
    import numpy as np

    middles, counts = _middles(seen)
    before = counts / counts.sum()

    def divergence(bounds: tuple[float, float]) -> float:
        scale = scale_of(*bounds)
        if scale.high <= scale.low:
            return float("inf")
        inside = np.flatnonzero((middles >= scale.low) & (middles <= scale.high))
        if not len(inside):
            return float("inf")
        first, last = inside[0], inside[-1] + 1
        kept = before[first:last].copy()
        place = np.clip(np.round(middles[first:last] / scale.scale) + scale.zero, 0, 255).astype(np.int64)
        used = kept > 0
        mass, spread = np.bincount(place, kept, 256), np.bincount(place[used], minlength=256)
        after = np.where(used, mass[place] / np.maximum(spread[place], 1), 0.0)
        kept[0] += before[:first].sum()  # what is clipped lands on the last integer
        kept[-1] += before[last:].sum()
        used = kept > 0
        after = after[used] / max(after.sum(), 1e-12)
        return float((kept[used] * np.log(kept[used] / np.maximum(after, 1e-9))).sum())

    shares = np.linspace(1.0, 0.2, 41)  # both ends alike: the divergence is flat, a search of both is noise
    return min(((seen.low * one, seen.high * one) for one in shares), key=divergence)
