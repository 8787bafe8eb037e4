"""A teacher of another kind: boosted trees on colour percentiles.

Trees on colours and a network on pictures fail on different cells. The network learns from the label and from the
trees' opinion; the opinion on a cell always comes from trees that never saw its person, so a cell that is merely
labelled wrongly is softened, and nothing of a held-out person leaks into the scores by which the slide is calibrated.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
from dataset import Cells
from learn import lesson_weights
from sklearn.ensemble import HistGradientBoostingClassifier

from edge_runtime.task.cells import BLACK

Floats = npt.NDArray[np.float32]
_PERCENT = (0.5, 1, 2, 5, 10, 25, 50, 75, 90, 95, 98, 99, 99.5)


def colours(pixels: npt.NDArray[np.uint8]) -> Floats:
    """uint8 (N,64,64,3) to float32 (N,F): percentiles of six colour planes inside the cell, absolute and from their
    median, standard deviations, and the size."""
    rows = []
    for cell in pixels:
        ink = cell.reshape(-1, 3).astype(np.float32)
        ink = ink[ink[:, 1] > BLACK]
        if len(ink) < 10:
            ink = np.zeros((10, 3), np.float32)
        red, green, blue = ink.T
        planes = np.stack([red, green, blue, ink.max(axis=1) - ink.min(axis=1), red - green, blue - green])
        found = np.percentile(planes, _PERCENT, axis=1)
        apart = (found - np.median(planes, axis=1))[[0, 1, 2, 3, -1, -2, -3]]
        rows.append(np.concatenate([found.ravel(), apart.ravel(), planes.std(axis=1), [len(ink)]]))
    return np.array(rows, np.float32)


def opinions(cells: Cells, measured: Floats, part: npt.NDArray[np.int64], left_out: Collection[int] = ()) -> Floats:
    """Probability (N,) of "infected" for every cell of the folds but those `left_out`, by trees that saw neither the
    cell's own fold nor those; NaN for all other cells. `part` int64 (N,): fold of each cell, -1 for not in training."""
    result = np.full(len(cells), np.nan, np.float32)
    for number in range(int(part.max()) + 1):
        if number in left_out:
            continue
        seen = np.flatnonzero((part >= 0) & ~np.isin(part, [number, *left_out]))
        weight = lesson_weights(cells.where(seen))
        seen, weight = seen[weight > 0], weight[weight > 0]
        trees = HistGradientBoostingClassifier(
            max_iter=200,
            learning_rate=0.06,
            max_leaf_nodes=15,
            min_samples_leaf=15,
            l2_regularization=1.0,
            random_state=0,
        )
        trees.fit(measured[seen], cells.infected[seen], sample_weight=weight)
        asked = part == number
        result[asked] = trees.predict_proba(measured[asked])[:, 1]
    return result
