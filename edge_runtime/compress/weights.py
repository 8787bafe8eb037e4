"""Weights as integers: levels, and a scale for each output channel or for the whole layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_NEAR = 2e-6  # float32 products of level and scale are this near to a whole number of scales


def weight_scales(
    matrix: NDArray[np.float32], top: int, per_channel: bool = True, search: bool = False
) -> NDArray[np.float32]:
    """float32 (channels,), or () for one in all: levels from -top to top. Weights that stand on a grid already keep
    its step. `search`: the scale with the least squared error, not the one that reaches the largest weight."""
    import numpy as np

    peak = np.abs(matrix).max(axis=1) if per_channel else np.abs(matrix).max()
    scales = np.asarray(peak, np.float32) / np.float32(top)
    if search:
        scales = _searched(matrix, scales, top)
    known = find_grid(matrix, top)
    if known is not None and per_channel:
        scales = np.where(known > 0, known, scales)
    fallback = max(float(np.max(scales)), 1e-12)
    return np.where(scales > 1e-12, scales, np.float32(fallback)).astype(np.float32)


def _searched(matrix: NDArray[np.float32], scales: NDArray[np.float32], top: int) -> NDArray[np.float32]:
    import numpy as np

    best, least = scales, np.full(scales.shape, np.inf)
    for share in np.linspace(1.0, 0.4, 25):
        tried = np.maximum(scales * np.float32(share), np.float32(1e-20))
        by = tried[:, None] if tried.ndim else tried
        loss = ((np.clip(np.round(matrix / by), -top, top) * by - matrix) ** 2).sum(axis=1 if tried.ndim else None)
        best, least = np.where(loss < least, tried, best), np.minimum(loss, least)
    return np.asarray(best, np.float32)


def find_grid(matrix: NDArray[np.float32], top: int = 127) -> NDArray[np.float32] | None:
    """The step of each output channel, float32 (channels,), where all its weights are whole numbers of steps, at most
    `top` of them; 0 for a channel of zeros; None where some channel stands on no grid."""
    import numpy as np

    size = np.abs(matrix)
    least = np.where(size > 0, size, np.inf).min(axis=1)
    found = np.zeros(len(matrix), np.float32)
    open_rows = np.isfinite(least)
    for part in (1, 2, 3, 4, 5):  # the least weight may be some levels from 0
        rows = np.flatnonzero(open_rows)
        if not len(rows):
            break
        step = (least[rows] / part).astype(np.float32)
        with np.errstate(
            divide="ignore", over="ignore", invalid="ignore"
        ):  # a weight that training has all but taken away
            levels = matrix[rows] / step[:, None]
            whole = (np.abs(levels - np.round(levels)) <= _NEAR * np.maximum(1, np.abs(levels)) * 4).all(axis=1)
        fits = whole & (np.abs(levels).max(axis=1) <= top + 0.5)
        # the largest level gives the step best
        tall = np.abs(levels[fits]).argmax(axis=1)
        peak = np.abs(matrix[rows[fits], tall])
        found[rows[fits]] = peak / np.round(np.abs(levels[fits, tall]))
        open_rows[rows[fits]] = False
    return None if open_rows.any() else found


def to_levels(matrix: NDArray[np.float32], scales: NDArray[np.float32], top: int) -> NDArray[np.int8]:
    """int8 of the matrix's shape, each weight's nearest level."""
    import numpy as np

    by = scales[:, None] if scales.ndim else scales
    return np.clip(np.round(matrix / by), -top, top).astype(np.int8)
