"""A layer's weights as a product of smaller ones, the answers to real inputs counted and not the weights themselves.

Two ways, of which the better at equal cost is taken: one cut, k x k to few channels and 1 x 1 from there (Zhang et al.,
2015), optimal for the layer's answers; or Tucker-2 by higher-order SVD (Kim et al., 2016): 1 x 1, k x k, 1 x 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Matrix = NDArray[np.float64]

DAMP = 1e-6  # of the mean square of an input: what never varied cannot be divided by


@dataclass(frozen=True)
class Factors:
    """`macs` that the layer then takes, `error` the mean square of what its answers miss, as a share of their own.

    `weights`: (r, I, *k) and (O, r), or (r1, I), (r2, r1, *k) and (O, r2); float32; dense layers have no k.
    """

    kind: str
    ranks: tuple[int, ...]
    macs: int
    error: float
    weights: tuple[Any, ...]


@dataclass(frozen=True)
class Spots:
    """How often a layer is worked out for one item: `before` at its input's places, `after` at its output's."""

    before: int
    after: int


class Splitter:
    """All that is worked out once for a layer, to try many ranks. `matrix` (O, I * taps), `shape` (O, I, *k),
    `moment` (I * taps, I * taps) the second moment of what each output sums."""

    def __init__(self, matrix: Any, shape: tuple[int, ...], moment: Matrix, spots: Spots) -> None:
        self.matrix, self.shape, self.spots = matrix.astype(np.float64), shape, spots
        self.taps = int(np.prod(shape[2:])) if len(shape) > 2 else 1
        self.whiten = _root(moment)
        self.white = self.matrix @ self.whiten
        self.left, self.sizes, self.right = np.linalg.svd(self.white, full_matrices=False)
        self.whole = max(float((self.sizes**2).sum()), 1e-300)
        # one channel's second moment, over all taps together
        channel = np.einsum("itjt->ij", moment.reshape(shape[1], self.taps, shape[1], self.taps))
        self.lower = _root(channel)
        self.white_32 = self.whiten.astype(np.float32)
        self.macs = spots.after * self.matrix.size

    @cached_property
    def real(self) -> Matrix:
        """(O, I * taps): the right singular vectors, for inputs as they are. Once for all ranks: it is most work."""
        made: Matrix = np.linalg.solve(self.whiten.T, self.right.T).T
        return made

    @cached_property
    def inner(self) -> tuple[Matrix, Matrix]:
        """(I, I): directions of the inputs, those in which the kernel varies most first; (O, I, taps): it in them."""
        outputs, inputs = self.shape[:2]
        kernel = np.moveaxis(self.matrix.reshape(outputs, inputs, self.taps), 1, 2) @ self.lower  # (O, taps, I)
        basis = _leading(kernel.reshape(-1, inputs).T, inputs)
        return basis, np.ascontiguousarray(np.moveaxis(kernel @ basis, 2, 1))

    def svd_at(self, macs: float, multiple: int) -> Factors | None:
        """The largest rank within `macs`; None where there is none."""
        each = self.spots.after * sum(self.matrix.shape)
        rank = _rounded(int(macs // each), multiple, len(self.sizes))
        return self.svd(rank) if rank else None

    def svd(self, rank: int) -> Factors:
        first = self.real[:rank] * self.sizes[:rank, None]
        error = float((self.sizes[rank:] ** 2).sum()) / self.whole
        weights = (_float32(first.reshape(rank, *self.shape[1:])), _float32(self.left[:, :rank]))
        return Factors("svd", (rank,), self.spots.after * sum(self.matrix.shape) * rank, error, weights)

    def tucker_at(self, macs: float, multiple: int) -> Factors | None:
        """Both ranks the same share of their side, the largest within `macs`."""
        if self.taps == 1:
            return None
        outputs, inputs = self.shape[:2]
        found = None
        for share in np.arange(0.02, 1.0, 0.02):
            ranks = (_rounded(int(inputs * share), multiple, inputs), _rounded(int(outputs * share), multiple, outputs))
            if all(ranks) and self._tucker_macs(*ranks) <= macs:
                found = ranks
        return self.tucker(*found) if found else None

    def _tucker_macs(self, into: int, out: int) -> int:
        outputs, inputs = self.shape[:2]
        return self.spots.before * inputs * into + self.spots.after * (into * out * self.taps + out * outputs)

    def tucker(self, into: int, out: int) -> Factors:
        outputs, lower = self.shape[0], self.lower
        basis, whole = self.inner
        core = whole[:, :into]
        last = _leading(core.reshape(outputs, -1), out)
        core = (last.T @ core.reshape(outputs, -1)).reshape(out, into, self.taps)
        first = np.linalg.solve(lower.T, basis[:, :into]).T
        # the columns of `last` are at right angles: what it makes of its inputs misses no more than they do
        made = np.einsum("srt,ri->sit", core, first).reshape(out, -1).astype(np.float32) @ self.white_32
        error = max(1 + float(((made - 2 * (last.T @ self.white)) * made).sum()) / self.whole, 0.0)
        weights = (_float32(first), _float32(core.reshape(out, into, *self.shape[2:])), _float32(last))
        return Factors("tucker", (into, out), self._tucker_macs(into, out), error, weights)

    def at(self, macs: float, multiple: int) -> Factors | None:
        """The better of both within `macs`."""
        found = [one for one in (self.svd_at(macs, multiple), self.tucker_at(macs, multiple)) if one is not None]
        return min(found, key=lambda one: one.error, default=None)


def _root(moment: Matrix) -> Matrix:
    """Cholesky's factor, damped as little as makes the matrix positive in float64: inputs that always move together
    leave it without an inverse."""
    size = max(float(np.trace(moment)) / len(moment), 1e-12)
    damp = DAMP
    while True:
        try:
            return np.linalg.cholesky(moment + damp * size * np.eye(len(moment))).astype(np.float64)
        except np.linalg.LinAlgError:
            damp *= 10
            if damp > 1:  # not a moment: numbers that are not finite
                raise


def _leading(unfolded: Matrix, rank: int) -> Matrix:
    """(rows, rank): directions in which the rows vary most."""
    _, vectors = np.linalg.eigh(unfolded @ unfolded.T)
    made: Matrix = vectors[:, ::-1][:, :rank]
    return made


def _rounded(rank: int, multiple: int, most: int) -> int:
    """Down to a multiple, as kernels work on whole vectors; small ranks as they are; 0 for none."""
    rank = min(rank, most)
    return rank // multiple * multiple if rank >= multiple else rank


def _float32(array: Any) -> Any:
    return np.ascontiguousarray(array, np.float32)
