"""Connected regions and distances in small masks, with numpy alone.

scipy and OpenCV would bring all of this and 40-90 MiB of libraries that a 512 MiB device does not have. What a
smear needs is little: which pixels hang together, how deep a pixel lies inside its region, and where the depth peaks.
Every function takes time linear in the pixels or in the runs of pixels; none loops over pixels in Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]
    Labels = NDArray[np.int32]
    Floats = NDArray[np.float32]
    Ints = NDArray[np.intp]


def components(mask: Mask) -> tuple[Labels, int]:
    """Number the regions that hang together by an edge (4-connected).

    mask: bool (H, W). Returns int32 (H, W), 0 outside and 1..n inside, and n.
    """
    import numpy as np

    height, width = mask.shape
    labels = np.zeros((height, width), np.int32)
    rows, starts, ends = _runs(mask)
    if not len(rows):
        return labels, 0
    upper, lower = _touching_runs(rows, starts, ends, width + 2)
    roots = _join(len(rows), upper, lower)
    _, numbers = np.unique(roots, return_inverse=True)
    # A mask's pixels in reading order are its runs in reading order: one assignment writes every run's number.
    labels[mask] = np.repeat(numbers.reshape(-1) + 1, ends - starts)
    return labels, int(numbers.max()) + 1


def _runs(mask: Mask) -> tuple[Ints, Ints, Ints]:
    """Horizontal runs of true pixels in reading order: row, first column, column after the last."""
    import numpy as np

    height, width = mask.shape
    padded = np.zeros((height, width + 2), np.int8)
    padded[:, 1:-1] = mask
    change = np.diff(padded, axis=1)
    rows, starts = np.nonzero(change == 1)
    return rows, starts, np.nonzero(change == -1)[1]


def _touching_runs(rows: Ints, starts: Ints, ends: Ints, stride: int) -> tuple[Ints, Ints]:
    """Pairs (a, b) where run b lies one row below run a and shares a column with it."""
    import numpy as np

    # One sorted key per run end lets two binary searches find each run's whole range of neighbours below.
    low = np.searchsorted(rows * stride + ends, (rows + 1) * stride + starts, side="right")
    high = np.searchsorted(rows * stride + starts, (rows + 1) * stride + ends, side="left")
    many = np.maximum(high - low, 0)
    upper = np.repeat(np.arange(len(rows)), many)
    first = np.repeat(np.cumsum(many) - many, many)
    lower = np.repeat(low, many) + np.arange(len(upper)) - first
    return upper, lower


def _join(count: int, left: Ints, right: Ints) -> Ints:
    """The smallest member of each node's group, given edges: hook roots together, then shorten the paths."""
    import numpy as np

    parent = np.arange(count)
    while True:
        a, b = parent[left], parent[right]
        open_edges = a != b
        if not open_edges.any():
            return parent
        a, b = a[open_edges], b[open_edges]
        np.minimum.at(parent, np.maximum(a, b), np.minimum(a, b))
        while True:
            shorter = parent[parent]
            if np.array_equal(shorter, parent):
                break
            parent = shorter


def groups(count: int, pairs: Ints) -> Ints:
    """Number groups 0..n-1 of `count` nodes joined by pairs (k, 2): intp (count,)."""
    import numpy as np

    if not count:
        return np.zeros(0, np.intp)
    return np.unique(_join(count, pairs[:, 0], pairs[:, 1]), return_inverse=True)[1].reshape(-1)


def boxes(labels: Labels, count: int) -> Ints:
    """Bounding boxes of the labels 1..count: intp (count, 4) as left, top, right, bottom, the last two exclusive.

    A label that does not occur has right <= left.
    """
    import numpy as np

    height, width = labels.shape
    edge = np.ones((height, width), bool)
    edge[:, 1:] = labels[:, 1:] != labels[:, :-1]
    flat = np.flatnonzero(edge.ravel())
    after = np.append(flat[1:], labels.size)
    names = labels.ravel()[flat]
    inside = names > 0
    flat, after, names = flat[inside], after[inside], names[inside] - 1
    found = np.empty((count, 4), np.intp)
    found[:, :2] = max(height, width)
    found[:, 2:] = 0
    np.minimum.at(found[:, 0], names, flat % width)
    np.minimum.at(found[:, 1], names, flat // width)
    np.maximum.at(found[:, 2], names, (after - 1) % width + 1)
    np.maximum.at(found[:, 3], names, flat // width + 1)
    return found


def areas(labels: Labels, count: int) -> Ints:
    """Pixels of each label 1..count: intp (count,)."""
    import numpy as np

    return np.bincount(labels.ravel(), minlength=count + 1)[1 : count + 1]


def fill_holes(mask: Mask, largest: float, host_size: float = 0.0) -> Mask:
    """Fill the gaps of at most `largest` pixels that the mask encloses: bool (H, W), a new array.

    A gap is filled when it is round, like the pale centre of a cell; what three or four touching cells leave between
    them is a star and stays open. In a region of at most `host_size` pixels, one cell, a gap of any shape is filled.
    """
    import numpy as np

    gaps, count = components(~mask)
    if not count:
        return mask.copy()
    area, box = areas(gaps, count), boxes(gaps, count)
    wide, tall = box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]
    fill = (area > 0.58 * wide * tall) & (np.minimum(wide, tall) > 0.4 * np.maximum(wide, tall))
    if host_size:
        names, hosts = components(mask)
        single = np.concatenate(([False], areas(names, hosts) <= host_size))
        # Reversed, so that the first pixel in reading order is written last; left of it lies the host.
        where = np.flatnonzero(gaps.ravel())[::-1]
        first = np.zeros(count, np.intp)
        first[gaps.ravel()[where] - 1] = where
        fill |= single[names.ravel()[np.maximum(first - 1, 0)]]
    fill &= area <= largest
    rim = np.concatenate((gaps[0], gaps[-1], gaps[:, 0], gaps[:, -1]))
    fill[rim[rim > 0] - 1] = False
    return mask | np.concatenate(([False], fill))[gaps]


def erode(mask: Mask, diagonal: bool) -> Mask:
    """Take one pixel off every edge (the picture's border counts as outside); `diagonal` also takes corners."""
    import numpy as np

    if diagonal:
        wide = np.zeros_like(mask)
        wide[:, 1:-1] = mask[:, 1:-1] & mask[:, :-2] & mask[:, 2:]
        out = np.zeros_like(mask)
        out[1:-1] = wide[1:-1] & wide[:-2] & wide[2:]
        return out
    out = np.zeros_like(mask)
    out[1:-1, 1:-1] = mask[1:-1, 1:-1] & mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    return out


def dilate(mask: Mask, steps: int) -> Mask:
    """Grow a mask by `steps` pixels in an octagon."""
    import numpy as np

    rim = steps + 1
    # Erode the outside, with a rim of outside around it for `erode` to eat: the picture's border must not grow inwards.
    outside = np.pad(~mask, rim, constant_values=True)
    for step in range(steps):
        outside = erode(outside, diagonal=step % 2 == 1)
    return ~outside[rim : rim + mask.shape[0], rim : rim + mask.shape[1]]


def depths(mask: Mask, deepest: int = 255) -> Floats:
    """How many pixels a pixel lies inside its region, by repeated erosion: float32 (H, W).

    Cross and square erosions in turn make an octagon: within 6 % of the Euclidean distance, without square roots.
    """
    import numpy as np

    depth = mask.astype(np.uint8)
    inner = mask
    for step in range(min(deepest, 254)):
        inner = erode(inner, diagonal=step % 2 == 1)
        if not inner.any():
            break
        depth += inner
    return depth.astype(np.float32)


def smooth(values: Floats) -> Floats:
    """Mean of a pixel and its neighbours (weights 1 2 1 both ways); the border repeats itself: float32 (H, W)."""
    import numpy as np

    padded = np.pad(values, 1, mode="edge")
    across = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    return np.asarray((across[:-2] + 2 * across[1:-1] + across[2:]) / 16, np.float32)


def peaks(values: Floats, reach: int, lowest: float) -> Any:
    """Places where `values` is at least `lowest` and the largest within `reach` pixels: float32 (n, 3) as x, y, value.

    A flat top counts once, at its middle.
    """
    import numpy as np

    height, width = values.shape
    padded = np.pad(values, reach)
    across = padded[:, :width].copy()
    for step in range(1, 2 * reach + 1):
        np.maximum(across, padded[:, step : step + width], out=across)
    top = across[:height].copy()
    for step in range(1, 2 * reach + 1):
        np.maximum(top, across[step : step + height], out=top)
    names, count = components((values >= top) & (values >= lowest))
    ys, xs = np.nonzero(names)
    which = names[ys, xs] - 1
    size = np.maximum(np.bincount(which, minlength=count), 1)
    x = np.bincount(which, weights=xs, minlength=count) / size
    y = np.bincount(which, weights=ys, minlength=count) / size
    value = np.bincount(which, weights=values[ys, xs], minlength=count) / size
    return np.stack((x, y, value), axis=1).astype(np.float32)
