"""What levels cost a coder, in bits: to choose levels by, and to foretell the size of a file before it is coded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge_runtime.compress.rounding import Rounder

_CLASSES = 12
_TALL = 40  # levels beyond cost as this one and a little more for each step


@dataclass(frozen=True)
class Price:
    """Bits of a level by how large weights are thereabouts: `classes` int64 (O, K), `bits` float32 (classes, _TALL+1)
    by size of the level, the sign within."""

    classes: NDArray[np.int64]
    bits: NDArray[np.float32]

    def rounder(self, trade: float, top: int) -> Rounder:
        """Levels of the least squared change + trade * bits, among the nearest, the one below it, and 0."""
        import numpy as np

        def cost(level: NDArray[np.float32], classes: NDArray[np.int64]) -> NDArray[np.float32]:
            size = np.abs(level)
            found: NDArray[np.float32] = self.bits[classes, np.minimum(size, _TALL).astype(np.int64)]
            made: NDArray[np.float32] = found + np.float32(0.1) * np.maximum(size - _TALL, 0)
            return made

        def choose(column: int, target: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
            classes = self.classes[:, column]
            best = np.clip(np.round(target), -top, top)
            least = (target - best) ** 2 * weight + np.float32(trade) * cost(best, classes)
            for other in (best - np.sign(best), np.zeros_like(best)):
                loss = (target - other) ** 2 * weight + np.float32(trade) * cost(other, classes)
                better = loss < least
                best, least = np.where(better, other, best), np.where(better, loss, least)
            return best

        return choose


def activity(matrix: NDArray[np.float32]) -> NDArray[np.int64]:
    """Classes int64 (O, K) of the size that a weight (in steps) may be expected to have: from the mean size in its row
    and in its column."""
    import numpy as np

    size = np.abs(matrix).astype(np.float64)
    row, column = size.mean(axis=1), size.mean(axis=0)
    expected = row[:, None] * column / max(float(size.mean()), 1e-12)
    made = np.round(2 * np.log2(np.maximum(expected, 1e-6))) + _CLASSES // 2 + 1
    classes: NDArray[np.int64] = np.clip(made, 0, _CLASSES - 1).astype(np.int64)
    return classes


def learn(levels: NDArray[np.float32], classes: NDArray[np.int64]) -> Price:
    """Prices from how often levels occur."""
    import numpy as np

    size = np.minimum(np.abs(levels), _TALL).astype(np.int64)
    counts = np.bincount((classes * (_TALL + 1) + size).ravel(), minlength=_CLASSES * (_TALL + 1))
    counts = counts.reshape(_CLASSES, _TALL + 1).astype(np.float64)
    whole = counts.sum(axis=0) + 0.05 * 0.8 ** np.arange(_TALL + 1)
    counts += 8 * whole / whole.sum()  # a class that has seen little believes what all have seen
    bits = -np.log2(counts / counts.sum(axis=1, keepdims=True))
    bits[:, 1:] += 1  # the sign
    return Price(classes, bits.astype(np.float32))


def entropy_bits(levels: NDArray[np.float32]) -> float:
    """Bits of all levels (O, K) under one static distribution for the layer: zeroth order, tables not counted."""
    import numpy as np

    _, counts = np.unique(levels, return_counts=True)
    return float(-(counts * np.log2(counts / counts.sum())).sum())


def adaptive_bits(levels: NDArray[np.float32]) -> float:
    """Bits that a coder needs that learns as it goes, with rows sorted into 8 classes by how large their levels are:
    tables cost nothing then, a row's class 3 bits."""
    import numpy as np

    mean = np.abs(levels).mean(axis=1)
    edges = np.quantile(mean, np.linspace(0, 1, 9)[1:-1])
    classes = np.searchsorted(edges, mean)
    total = 3.0 * len(levels)
    for one in range(8):
        found = levels[classes == one]
        if found.size:
            _, counts = np.unique(found, return_counts=True)
            total += _learning(counts.astype(np.float64))
    return total


def _learning(counts: NDArray[np.float64]) -> float:
    """-log2 of the chance that a coder with counts from 1/2 upwards gives a sequence with these counts."""
    import math

    kinds, whole = len(counts), float(counts.sum())
    chance = sum(math.lgamma(one + 0.5) - math.lgamma(0.5) for one in counts)
    chance += math.lgamma(kinds * 0.5) - math.lgamma(whole + kinds * 0.5)
    return -chance / math.log(2)
