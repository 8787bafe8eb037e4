"""Rounding the weights of one layer together: the error that one weight makes, its neighbours take back.

As in GPTQ (Frantar 2022): columns in order, each weight is rounded after the errors of those before it were added in
the proportion in which their inputs move together. With H = R R^T (R upper triangular) the squared change of the
layer's output is the sum over columns of ((t - q) R_jj)^2, t being the weight with what it takes back; so R_jj^2 says
what a rounding costs, and a coder's price for a level can be weighed against it (rate and distortion together).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    # (columns' place, targets in steps, error weight of one step) -> levels, for one column of all rows
    Rounder = Callable[[int, NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]

_BLOCK = 64


def factor(second: NDArray[np.float32], damping: float = 0.01) -> NDArray[np.float32]:
    """R, float32 (K, K), of the second moments (K, K) with `damping` of their mean diagonal added."""
    import numpy as np

    size = len(second)
    mean = float(np.trace(second)) / size
    more = max(damping * mean, 1e-9)
    for _ in range(8):
        try:
            turned = second[::-1, ::-1] + np.float32(more) * np.eye(size, dtype=np.float32)
            return np.ascontiguousarray(np.linalg.cholesky(turned)[::-1, ::-1])
        except np.linalg.LinAlgError:  # not positive in float32
            more *= 4
    alone: NDArray[np.float32] = np.sqrt(np.diag(np.maximum(np.diag(second), more))).astype(np.float32)
    return alone


def shrunk(second: NDArray[np.float32], rows: int) -> NDArray[np.float32]:
    """Moments of few positions say too much about how inputs move together: the fewer, the more is taken off."""
    import numpy as np

    size = len(second)
    share = np.float32(min(0.5, size / (size + 8.0 * rows)))
    made = second * (1 - share)
    made[np.diag_indices(size)] = np.diag(second)
    return made


def round_together(
    matrix: NDArray[np.float32], steps: NDArray[np.float32], r: NDArray[np.float32], choose: Rounder
) -> tuple[NDArray[np.float32], float]:
    """Levels float32 (O, K) for weights (O, K), steps (O,) or (O, K), R (K, K); and the squared change of the output,
    summed over the rows. `choose` picks the level of one column."""
    import numpy as np

    rows, size = matrix.shape
    by = np.broadcast_to(steps[:, None] if steps.ndim == 1 else steps, matrix.shape)
    levels = np.zeros_like(matrix)
    errors = np.zeros_like(matrix)
    diagonal = np.maximum(np.diag(r), np.float32(1e-12))
    loss = 0.0
    for start in range(0, size, _BLOCK):
        end = min(size, start + _BLOCK)
        back = errors[:, :start] @ r[:start, start:end] if start else np.zeros((rows, end - start), np.float32)
        for column in range(start, end):
            inner, step = back[:, column - start], by[:, column]
            if column > start:
                inner = inner + errors[:, start:column] @ r[start:column, column]
            target = (matrix[:, column] + inner / diagonal[column]) / step
            weight = (step * diagonal[column]) ** 2
            level = choose(column, target, weight)
            levels[:, column] = level
            errors[:, column] = matrix[:, column] - level * step
            loss += float(((target - level) ** 2 * weight).sum())
    return levels, loss


def nearest(top: int, low: int | None = None) -> Rounder:
    """From `low` (-top where none is given) to `top`."""
    import numpy as np

    least = -top if low is None else low

    def choose(column: int, target: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.clip(np.round(target), least, top)

    return choose
