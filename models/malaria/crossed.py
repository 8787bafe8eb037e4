"""Teachers that never saw the cell's person: networks of the students' own kind, cross-fitted.

Training people are dealt into folds. For each pair of folds one network learns from all others as the shipped reader
did, from the label and boosted trees, and judges the cells of its pair. Of each cell a student of everybody hears the
mean of the networks that never saw its fold; a student that must not see another fold either, hears the one of that
pair. So no teacher repeats a doubtful label that it learnt by heart, and nothing of the people whose scores calibrate
the verdict reaches the students that give these scores.

Pupils of their own kind: born-again networks (Furlanello and others, 2018). Opinions from the other folds: stacking
(Wolpert, 1992).
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import large
import numpy as np
from dataset import Cells
from kept import whole
from learn import Settings, train
from network import Floats

PAIRS = tuple(combinations(range(large.FOLDS), 2))
SURE = 8.0  # logits beyond it are not surer, only larger


def judged(cells: Cells, work: Path, pair: tuple[int, int]) -> Floats:
    """Logits (N,) of all cells by the network that saw neither fold of the pair: trained now, or kept from before."""
    file = work / f"pair-{large.without(pair)}.npy"
    if not file.is_file():
        opinion = large.trees(cells, work, pair)
        mask = np.isfinite(opinion)
        net = train(cells.where(mask), Settings(), opinion[mask], file.stem)
        with whole(file) as fresh:
            np.save(fresh, large.logits(net, cells.pixels))
    found: Floats = np.load(file)
    return found


def opinion(cells: Cells, work: Path, left_out: int | None) -> Floats:
    """Logits (N,): the mean of networks' and trees', all without that fold and the cell's own; NaN for cells of that
    fold and for those that are not for training."""
    part, found = large.parts(cells), np.full(len(cells), np.nan, np.float32)
    for fold in range(large.FOLDS):
        if fold != left_out:
            mine = [pair for pair in PAIRS if fold in pair and (left_out is None or left_out in pair)]
            mean = np.mean([judged(cells, work, pair)[part == fold] for pair in mine], axis=0)
            found[part == fold] = np.clip(mean, -SURE, SURE)
    trees = large.to_logit(large.trees(cells, work, () if left_out is None else (left_out,)))
    return (found + trees) / 2
