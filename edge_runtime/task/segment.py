"""Whole microscope fields of a stained thin film, cut into cells on the device.

The recipe, on a copy reduced until a cell is about 28 pixels wide: flatten the light with a quadratic surface,
threshold between background and cells, fill pale centres, split touching cells at their necks (peaks of the distance
to the edge), and cut each cell from the full picture with black around it, as the training cells were cut.

What is not a whole single red cell is left out and counted: cells cut by the picture's border or by the rim of the
eyepiece (the counting rule of laboratories: a cell half seen is not read), platelets and dirt, white cells, and clumps
that have no necks. A field that cannot be read says why in `Field.problem`.

Memory: a working copy of about a megapixel at most and one crop at a time, whatever the size of the field.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_runtime.errors import InputError
from edge_runtime.task import light, regions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Segmentation:
    """Settings. Lengths are pixels of the working copy, shares are of the field's own typical cell."""

    first_side: int = 640  # longest side of the copy at first look
    longest_side: int = 1600  # and at most, when the cells turn out to be small
    cell_diameter: float = 28.0  # what the copy is rescaled for; under 14 necks are lost, over 40 only time is
    least_diameter: float = 10.0  # of the typical cell in the field: below it is texture, or no lens
    frame_level: float = 0.25  # darker than this share of the brightest, and joined to the border: the eyepiece's rim
    edge_level: float = 0.28  # where a cell ends: share of the way from background to the median cell
    crowd_level: float = 0.48  # the same where cells touch: plasma between them is darker than the background
    least_contrast: float = 0.04  # background 1, black 0: nothing that stands out less is a cell
    smallest: float = 0.36  # area: below it platelets, fragments, dirt
    largest: float = 2.60  # area: above it a clump without necks
    pale_centre: float = 0.40  # area: a gap up to this size is a cell's own pale centre
    neck: float = 0.92  # two peaks are one cell when the depth between them stays above this share of the lesser
    oversize: float = 2.1  # area: above it a cell is split again, at the level of `core_level`
    core_level: float = 0.62  # share of the way from background to the median cell
    double: float = 1.45  # area: above it a cell with several peaks is asked again whether it is two
    nucleus_level: float = 0.72  # red light passing, against the median cell: darker is nucleus or chromatin
    nucleus: float = 0.40  # area of it that makes a white cell: no parasite in a red cell has as much


@dataclass(frozen=True, eq=False)
class Cell:
    """One red cell: `box` is x, y, width, height in the field; `crop` uint8 (height,width,3) is black outside it."""

    box: Box
    crop: Pixels


@dataclass(frozen=True, eq=False)
class Field:
    """What was found. `labels` int32 (h,w) is the working copy; one of its pixels is `step` pixels of the field."""

    labels: NDArray[np.int32]
    step: int
    kept: tuple[tuple[int, Box], ...]  # label and its box (left, top, right, bottom) in the working copy
    # Why it cannot be read: "too small", "too dark", "empty", "washed out", "cells too small".
    problem: str | None = None
    diameter: float = 0.0  # of the typical cell, in pixels of the field
    contrast: float = 0.0  # how much darker the median cell is than the background, 0-1, in green light
    background: float = 0.0  # brightness of the background in green light, 0-255
    cut: int = 0  # left out: reaching the picture's border or the eyepiece's rim
    small: int = 0  # left out: platelets, fragments, dirt
    white: int = 0  # left out: white cells
    clumps: int = 0  # left out: several cells that could not be told apart

    def __len__(self) -> int:
        return len(self.kept)


def segment(rgb: Pixels, settings: Segmentation | None = None) -> Iterator[Cell]:
    """The whole single red cells of a field, uint8 (H,W,3), top to bottom, one at a time."""
    return cut_out(rgb, survey(rgb, settings))


def survey(rgb: Pixels, settings: Segmentation | None = None) -> Field:
    """Find the cells of a field, uint8 (H,W,3), without cutting them out."""
    settings = settings or Segmentation()
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype.name != "uint8":
        raise InputError(f"a field is uint8 (height, width, 3); got {rgb.dtype} {rgb.shape}")
    longest = max(rgb.shape[:2])
    step = max(1, round(longest / settings.first_side))
    look = _Look.at(rgb, step, settings)
    if look.diameter and not look.problem:
        wanted = max(1, round(step * look.diameter / settings.cell_diameter), round(longest / settings.longest_side))
        if not 0.6 < wanted / step < 1.6:
            look = _Look.at(rgb, wanted, settings)
    if look.problem:
        return look.field((), None)
    return _read(look, settings)


def cut_out(rgb: Pixels, field: Field) -> Iterator[Cell]:
    """The cells of a surveyed field, cut from the same picture that was surveyed."""
    import numpy as np

    step = field.step
    for name, (left, top, right, bottom) in field.kept:
        # One working pixel of margin: training cells show their bright rim too. Never into the neighbour, though.
        left, top = max(left - 1, 0), max(top - 1, 0)
        part = field.labels[top : bottom + 1, left : right + 1]
        mine = part == name
        mask = regions.dilate(mine, 1) & (mine | (part == 0))
        # Stairs of one working pixel, as the training cells have them; a smoothed outline would be unlike those.
        inside = mask.repeat(step, axis=0).repeat(step, axis=1)[:, :, np.newaxis]
        x, y = left * step, top * step
        crop = rgb[y : y + inside.shape[0], x : x + inside.shape[1]]
        tall, wide = crop.shape[:2]
        yield Cell((x, y, wide, tall), crop * inside[:tall, :wide])


@dataclass(frozen=True, eq=False)
class _Look:
    """A working copy, flattened and thresholded."""

    step: int
    shape: tuple[int, int]
    problem: str | None = None
    mask: NDArray[np.bool_] | None = None  # pixels darker than the background
    core: NDArray[np.bool_] | None = None  # and those that are darker still
    frame: NDArray[np.bool_] | None = None  # pixels outside the eyepiece's circle
    red: NDArray[np.float32] | None = None  # red light passing, background 1
    diameter: float = 0.0
    contrast: float = 0.0
    background: float = 0.0

    @classmethod
    def at(cls, rgb: Pixels, step: int, settings: Segmentation) -> _Look:
        import numpy as np

        copy = light.reduced(rgb, step)
        shape = (copy.shape[0], copy.shape[1])
        if min(shape) < 16:
            return cls(step, shape, "too small")
        frame = light.frame(copy, settings.frame_level)
        seen = ~frame
        green = copy[:, :, 1].astype(np.float32)
        level = float(np.percentile(green[seen], 90)) if seen.any() else 0.0
        if level < 24 or seen.mean() < 0.05:
            return cls(step, shape, "too dark", background=level)
        lamp = light.surface(copy[:, :, 1], seen)
        flat = green / lamp
        clear, spread, dark = light.levels(flat[seen], settings.least_contrast)
        contrast = clear - dark
        if not contrast:
            return cls(step, shape, "washed out" if level > 250 else "empty", background=level)
        mask = _standing_out(flat, seen, clear, contrast, spread, settings)
        core = mask & (flat < clear - settings.core_level * contrast)
        red = np.asarray(copy[:, :, 0] / lamp, np.float32)
        red /= np.float32(max(float(np.median(red[seen & ~mask])), 1e-3))
        diameter = _typical_diameter(mask)
        problem = None if diameter * step > settings.least_diameter else "cells too small" if diameter else "empty"
        return cls(step, shape, problem, mask, core, frame, red, diameter, contrast, level)

    def field(self, kept: tuple[tuple[int, Box], ...], labels: NDArray[np.int32] | None, **left_out: int) -> Field:
        import numpy as np

        if labels is None:
            labels = np.zeros(self.shape, np.int32)
        wide = self.diameter * self.step
        return Field(labels, self.step, kept, self.problem, wide, self.contrast, self.background, **left_out)


def _standing_out(
    flat: NDArray[np.float32],
    seen: NDArray[np.bool_],
    clear: float,
    contrast: float,
    spread: float,
    settings: Segmentation,
) -> NDArray[np.bool_]:
    """Pixels of cells, bool (h,w): to the foot of the edge for a cell alone, so that pale ones stay whole, but only to
    the middle of the edge in a crowd, whose gaps would close.
    """
    import numpy as np

    crowd = (flat < clear - max(3.5 * spread, settings.crowd_level * contrast)) & seen
    wide = (flat < clear - max(3.5 * spread, settings.edge_level * contrast)) & seen
    typical = np.pi / 4 * _typical_diameter(crowd) ** 2
    names, count = regions.components(wide)
    single = regions.areas(names, count) <= 1.5 * typical
    mask = crowd | np.concatenate(([False], single))[names]
    # A gap too large for the corner between three cells, and nowhere as bright as the background, is a pale parasite.
    names, count = regions.components(~mask)
    pale = regions.areas(names, count) > 0.06 * typical
    pale &= np.bincount(names[~wide], minlength=count + 1)[1:] == 0
    return mask | np.concatenate(([False], pale))[names]


def _typical_diameter(mask: NDArray[np.bool_]) -> float:
    """Diameter of most cells in pixels of the mask; 0.0 when there is nothing of a cell's shape.

    The commonest of the radii of the discs that fit into the mask, counted by area: many platelets, one white
    cell or one clump are outvoted by the cells.
    """
    import numpy as np

    solid = regions.fill_holes(mask, mask.size * 0.02)
    found = regions.peaks(regions.smooth(regions.depths(solid)), 3, 1.5)
    if not len(found):
        return 0.0
    radius = found[:, 2].astype(np.float64)
    # Bins of 3 % on a logarithmic scale, summed over 11 of them: alike means within 18 %.
    bins = (np.log(radius) / 0.03).astype(int)
    votes = np.convolve(np.bincount(bins, weights=radius**2, minlength=11), np.ones(11), "same")
    return float(2.1 * np.median(radius[np.abs(bins - int(votes.argmax())) <= 5]))


def _read(look: _Look, settings: Segmentation) -> Field:
    """Split, sort out and count the cells of a working copy."""
    import numpy as np

    assert look.mask is not None and look.frame is not None and look.red is not None
    typical = np.pi / 4 * look.diameter**2
    mask = regions.fill_holes(look.mask, settings.pale_centre * typical, host_size=1.6 * typical)
    labels, count = _split(mask, look.diameter / 2, settings)
    labels, count = _split_again(labels, count, look, settings)
    if not count:
        return look.field((), labels)
    area = regions.areas(labels, count)
    box = regions.boxes(labels, count)
    small = area < settings.smallest * typical
    cut = _reaching_out(labels, count, look.frame)
    white = _white(look, mask, labels, count, settings)
    clump = area > settings.largest * typical
    keep = ~(small | cut | white | clump)
    order = [index for index in np.lexsort((box[:, 0], box[:, 1])) if keep[index]]
    kept = tuple((int(index) + 1, tuple(int(edge) for edge in box[index])) for index in order)
    return look.field(
        kept,  # type: ignore[arg-type]
        labels,
        cut=int((cut & ~small).sum()),
        small=int(small.sum()),
        white=int((white & ~cut & ~small).sum()),
        clumps=int((clump & ~white & ~cut).sum()),
    )


def _split_again(
    labels: NDArray[np.int32], count: int, look: _Look, settings: Segmentation
) -> tuple[NDArray[np.int32], int]:
    """Split what came out too large once more, at the dark end of the edge, where narrow gaps are still open."""
    import numpy as np

    assert look.core is not None
    typical = np.pi / 4 * look.diameter**2
    large = np.concatenate(([False], regions.areas(labels, count) > settings.oversize * typical))
    if not large.any():
        return labels, count
    core = look.core & large[labels]
    core = regions.fill_holes(core, 0.2 * typical, host_size=1.3 * typical)
    parts, more = _split(core, look.diameter / 2, settings)
    return np.where(large[labels], np.where(parts > 0, parts + count, 0), labels).astype(np.int32), count + more


def _reaching_out(labels: NDArray[np.int32], count: int, frame: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which labels reach the border of the picture or the eyepiece's rim: bool (count,)."""
    import numpy as np

    found = np.zeros(count + 1, bool)
    for rim in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        found[rim] = True
    if frame.any():
        found[labels[regions.dilate(frame, 2)]] = True
    return found[1:]


def _white(
    look: _Look, mask: NDArray[np.bool_], labels: NDArray[np.int32], count: int, settings: Segmentation
) -> NDArray[np.bool_]:
    """Which labels are (part of) a white cell: bool (count,). Lobes of one nucleus count together."""
    import numpy as np

    assert look.red is not None
    none = np.zeros(count, bool)
    nucleus = mask & (look.red < settings.nucleus_level * float(np.median(look.red[mask])))
    typical = np.pi / 4 * look.diameter**2
    if nucleus.sum() < settings.nucleus * typical:
        return none
    names, blobs = regions.components(regions.dilate(nucleus, max(1, round(look.diameter / 10))))
    large = np.bincount(names[nucleus], minlength=blobs + 1) > settings.nucleus * typical
    large[0] = False
    within = np.bincount(labels[large[names]], minlength=count + 1)[1:]
    return within > 0.35 * np.maximum(regions.areas(labels, count), 1)


def _split(mask: NDArray[np.bool_], radius: float, settings: Segmentation) -> tuple[NDArray[np.int32], int]:
    """Number the cells of a mask, touching ones apart: int32 (h,w) and how many.

    Each peak of the depth map is a disc; discs without a neck between them are one cell; every pixel of a region goes
    to the disc whose edge is nearest. Regions with one cell, most of them, need no such search.
    """
    import numpy as np

    regions_of, count = regions.components(mask)
    depth = regions.smooth(regions.depths(mask, int(3 * radius) + 2))
    discs = regions.peaks(depth, max(2, round(0.4 * radius)), max(1.2, 0.3 * radius))
    if not len(discs):
        return np.zeros_like(regions_of), 0
    home = regions_of[discs[:, 1].round().astype(int), discs[:, 0].round().astype(int)]
    discs, home = discs[home > 0], home[home > 0]
    pairs, necks = _necks(discs, home, depth)
    cell = regions.groups(len(discs), pairs[necks > settings.neck])
    # Two cells that overlap far have a shallow neck only: what came out too large for one is judged more strictly.
    size = np.bincount(cell, weights=discs[:, 2] ** 2)[cell] / radius**2
    lone = np.bincount(home, minlength=count + 1)[home] == np.bincount(cell)[cell]
    too_large = np.where(lone, regions.areas(regions_of, count)[home - 1] / (np.pi * radius**2), size) > settings.double
    cell = regions.groups(len(discs), pairs[(necks > settings.neck) & ~(too_large[pairs[:, 0]] & (necks < 0.97))])
    most, least = np.full(count + 1, -1), np.full(count + 1, len(discs))
    np.maximum.at(most, home, cell)
    np.minimum.at(least, home, cell)
    shared = most > least
    labels = np.where(shared, 0, most + 1).astype(np.int32)[regions_of]
    _nearest_disc(labels, regions_of, discs, home, cell, shared, radius)
    return labels, int(cell.max()) + 1


def _necks(
    discs: NDArray[np.float32], home: NDArray[np.int32], depth: NDArray[np.float32]
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Pairs of near discs in a region, intp (k,2), and the least depth between them over the lesser's: float32 (k,)."""
    import numpy as np

    x, y, r = discs.T
    order = np.argsort(y)
    pairs = [np.zeros((0, 2), np.intp)]
    # Sorted by height, the k-th next disc is soon too low for all: no table of all pairs, which noise would blow up.
    for ahead in range(1, len(order)):
        a, b = order[:-ahead], order[ahead:]
        if (y[b] - y[a]).min() > 2.6 * r.max():
            break
        near = (home[a] == home[b]) & (np.hypot(x[a] - x[b], y[a] - y[b]) < 1.3 * (r[a] + r[b]))
        pairs.append(np.stack((a[near], b[near]), axis=1))
    pair = np.concatenate(pairs)
    a, b = pair.T
    along = np.linspace(0, 1, 11, dtype=np.float32)[1:-1, np.newaxis]
    rows, columns = (y[a] + (y[b] - y[a]) * along).round(), (x[a] + (x[b] - x[a]) * along).round()
    between = depth[rows.astype(int), columns.astype(int)]
    return pair, np.asarray(between.min(axis=0) / np.minimum(r[a], r[b]), np.float32)


def _nearest_disc(
    labels: NDArray[np.int32],
    regions_of: NDArray[np.int32],
    discs: NDArray[np.float32],
    home: NDArray[np.int32],
    cell: NDArray[np.intp],
    shared: NDArray[np.bool_],
    radius: float,
) -> None:
    """In regions shared by several cells, give each pixel to the disc whose edge is nearest; writes into `labels`."""
    import numpy as np

    height, width = labels.shape
    best = np.full((height, width), np.inf, np.float32)
    for (x, y, r), region, owner in zip(discs, home, cell, strict=True):
        if not shared[region]:
            continue
        # No pixel of a cell lies further from its deepest point than this, unless it is a tail: then it is left out.
        reach = r + 1.2 * radius
        left, right = max(int(x - reach), 0), min(int(x + reach) + 2, width)
        top, bottom = max(int(y - reach), 0), min(int(y + reach) + 2, height)
        dx = np.arange(left, right, dtype=np.float32) - x
        dy = np.arange(top, bottom, dtype=np.float32) - y
        off = np.sqrt(dx[np.newaxis] ** 2 + dy[:, np.newaxis] ** 2) - r
        window = (slice(top, bottom), slice(left, right))
        wins = (off < best[window]) & (regions_of[window] == region)
        best[window][wins] = off[wins]
        labels[window][wins] = owner + 1
