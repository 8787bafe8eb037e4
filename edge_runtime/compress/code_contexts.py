"""Contexts and tables: what is worth knowing of a token before it is read, which distributions are worth storing."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from edge_runtime.lanes import (
    BITS,
    DEPTH,
    FORECASTS,
    MAX_CLASSES,
    PRIOR_ROWS,
    SLOTS,
    ZERO,
    Contexts,
    Shape,
    spread_tables,
    walk,
)

if TYPE_CHECKING:
    from edge_runtime.lanes import Array

MIN_ROW = 32  # values in a row for which the scale of the row is worth a stored byte
MIN_COUNT = 2048  # values in a tensor for which forecasts are worth storing
MOST_A_TENSOR = 32
MOST_A_FILE = 240
_FLOAT = np.float64
_NO_LIMITS = np.zeros(0, np.uint16)


class Coded(NamedTuple):
    """A tensor in the order in which it is read: `tokens`, and the `cell` of each, class * 16 + forecast (uint8);
    `blocks`: how many are read with one forecast."""

    shape: Shape
    contexts: Contexts
    limits: Array
    tokens: Array
    cells: Array
    blocks: list[int]


def order(shape: Shape, lying: Array) -> Array:
    """(rows, places, columns) -> flat, as `walk` reads."""
    parts = [
        lying[first : first + shape.group].transpose(1, 0, 2).reshape(-1) for first in range(0, shape.rows, shape.group)
    ]
    return np.concatenate(parts)


def fit(shape: Shape, tokens: Array) -> Coded:
    """`tokens`: (rows, places, columns) uint8."""
    sizes = np.abs(tokens.view(np.int8) - np.int8(ZERO)).astype(np.float32)
    prior = int(64 * sizes.mean())
    flat = order(shape, tokens)
    plain = Contexts(np.zeros((shape.places, 3), np.int32), prior, np.zeros(0, np.uint8), np.arange(DEPTH))
    if flat.size < MIN_COUNT:
        cells, blocks = _record(shape, plain, flat)
        return Coded(shape, plain, _NO_LIMITS, flat, cells.astype(np.uint8), blocks)
    found = plain._replace(weights=_weights(shape, sizes, prior))
    forecasts, blocks = _record(shape, found, flat)
    total = np.cumsum(np.bincount(forecasts, minlength=DEPTH))
    wanted = total[-1] * (np.arange(1, FORECASTS) / FORECASTS)
    limits = np.minimum(np.searchsorted(total, wanted) + 1, DEPTH).astype(np.uint16)
    classes = _classes(sizes)
    cells = spread_tables(limits, np.arange(max(1, int(classes.max(initial=0)) + 1) * FORECASTS))
    final = found._replace(classes=classes, tables=cells)
    return Coded(shape, final, limits, flat, _record(shape, final, flat)[0].astype(np.uint8), blocks)


def _record(shape: Shape, contexts: Contexts, flat: Array) -> tuple[Array, list[int]]:
    """The forecast of each token, and in which pieces they are read."""
    given: list[Array] = []
    at = 0

    def step(wanted: Array) -> Array:
        nonlocal at
        given.append(wanted.astype(np.uint16))
        at += wanted.size
        return flat[at - wanted.size : at]

    for _ in walk(shape, contexts, 1 << 30, step):
        pass
    return np.concatenate(given), [one.size for one in given]


def _classes(sizes: Array) -> Array:
    """The class of each row's mean magnitude, or none."""
    if sizes.shape[0] < 4 or sizes[0].size < MIN_ROW:
        return np.zeros(0, np.uint8)
    means = np.log2(sizes.mean(axis=(1, 2)) + 0.01)
    low = means.min()
    step = max(1 / 5, (means.max() - low) / (MAX_CLASSES - 1))
    classes = np.rint((means - low) / step).astype(np.uint8)
    return classes if classes.max() > 0 else np.zeros(0, np.uint8)


def _weights(shape: Shape, sizes: Array, prior: int) -> Array:
    """(places, 3) int32: a token's magnitude by least squares from its column's mean and its kernel's sum, scaled so
    that forecasts fill their range."""
    rows, places, columns, group = shape
    starts = np.arange(0, rows, group)
    sums = np.add.reduceat(sizes, starts, axis=0, dtype=_FLOAT)
    before = np.concatenate([np.zeros((1, places, columns)), np.cumsum(sums, axis=0)[:-1]])
    mean = (before * 64 + prior * PRIOR_ROWS) // (starts + PRIOR_ROWS)[:, None, None]
    found = np.zeros((places, 3))
    highest = 0.0
    near = np.zeros((rows, columns), np.float32)
    for place in range(places):
        known = np.stack(
            [np.repeat(mean[:, place], group, axis=0)[:rows].ravel(), near.ravel(), np.ones(near.size)], axis=1
        )
        wanted = sizes[:, place].ravel()
        found[place] = np.linalg.lstsq(known.T @ known, known.T @ wanted, rcond=1e-10)[0]
        highest = max(highest, float(np.quantile(known @ found[place], 0.998)))
        near += sizes[:, place]
    scaled = found * (256 * (DEPTH - 32) / max(highest, 1e-3))
    bounds = np.array([(1 << 29) / (64 * 112), (1 << 29) / (112 * places), 1 << 29])
    return np.clip(np.rint(scaled), -bounds, bounds).astype(np.int32)


# ---------------------------------------------------------------- tables


def _code_length(counts: Array) -> Array:
    """Bits that symbols with these counts take, along the last axis."""
    total = counts.sum(axis=-1)
    inner = counts * np.log2(np.maximum(counts, 1))
    made: Array = total * np.log2(np.maximum(total, 1)) - inner.sum(axis=-1)
    return made


def _stored_bits(counts: Array) -> Array:
    """About what a table takes in the file, along the last axis: its logarithms are smooth, so they pack."""
    present = counts > 0
    some = present.any(axis=-1)
    width = counts.shape[-1] - present[..., ::-1].argmax(axis=-1) - present.argmax(axis=-1)
    return np.where(some, 24 + 5.0 * width, 0)


def merge(counts: Array, most: int, extra_bits: float = 0.0) -> Array:
    """Cluster histograms, (n, tokens), by what coding them together costs: returns the cluster of each, from 0 on.
    Two are one where that takes fewer bits than a second table, or where there are more than `most`."""
    sums = counts.astype(_FLOAT)
    parent = np.arange(len(sums))
    alive = sums.sum(axis=1) > 0
    if not alive.any():
        return np.zeros(len(sums), np.int64)
    sums = sums[:, sums.any(axis=0)]
    cost = _code_length(sums) + _stored_bits(sums) + extra_bits
    gain = np.full((len(sums), len(sums)), -np.inf)

    def refresh(one: int) -> None:
        both = sums[one] + sums
        gains = cost[one] + cost - (_code_length(both) + _stored_bits(both) + extra_bits)
        gains[~alive] = -np.inf
        gains[one] = -np.inf
        gain[one], gain[:, one] = gains, gains

    for place in np.flatnonzero(alive):
        refresh(int(place))
    while alive.sum() > 1:
        best, other = divmod(int(gain.argmax()), len(sums))
        if gain[best, other] <= 0 and alive.sum() <= most:
            break
        sums[best] += sums[other]
        alive[other] = False
        parent[parent == other] = best
        gain[other], gain[:, other] = -np.inf, -np.inf
        cost[best] = _code_length(sums[best]) + _stored_bits(sums[best]) + extra_bits
        refresh(best)
    parent[~np.isin(parent, np.flatnonzero(alive))] = np.flatnonzero(alive)[0]
    return np.unique(parent, return_inverse=True)[1].astype(np.int64)


def logarithms(counts: Array) -> Array:
    """Counts -> what is stored of them, see `lanes.frequencies`: 0 for none, else 16ths of octaves, uint8."""
    share = counts / counts.sum() * SLOTS
    stored = np.rint(16 * np.log2(np.maximum(share, 2.0**-1)) + 17)
    return np.where(counts > 0, np.clip(stored, 1, 16 * BITS + 33), 0).astype(np.uint8)
