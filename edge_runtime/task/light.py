"""The light of a microscope's field: how bright the empty background is at every place, and where the eyepiece ends.

A phone on an eyepiece sees a lamp off centre, corners that fall off, and often a bright circle in a black frame. Cells
stand out from the background next to them, not from one grey level for the whole picture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_runtime.task import regions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]


def reduced(rgb: Pixels, step: int) -> Pixels:
    """Means over step x step pixels, in bands, so that Pillow's own copy of a large field stays small."""
    import numpy as np
    from PIL import Image

    if step == 1 or not rgb.size:
        return rgb
    band = step * max(1, 256 // step)
    bands = (np.ascontiguousarray(rgb[top : top + band]) for top in range(0, rgb.shape[0], band))
    return np.concatenate([np.asarray(Image.fromarray(part).reduce(step)) for part in bands])


def frame(copy: Pixels, share: float) -> NDArray[np.bool_]:
    """The black around an eyepiece's circle (or a pointer reaching in): dark and joined to the border; bool (h,w)."""
    import numpy as np

    bright = copy.max(axis=2)
    dark = bright < share * float(np.percentile(bright, 95))
    if not (dark[0].any() or dark[-1].any() or dark[:, 0].any() or dark[:, -1].any()):
        return np.zeros(dark.shape, bool)
    names, count = regions.components(dark)
    rim = np.concatenate((names[0], names[-1], names[:, 0], names[:, -1]))
    joined = np.zeros(count + 1, bool)
    joined[rim] = True
    joined[1:] &= regions.areas(names, count) > 0.002 * dark.size
    joined[0] = False
    return regions.dilate(joined[names], 3)


def surface(green: Pixels, seen: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Brightness of the empty background everywhere, float32 (h,w), as a quadratic surface.

    Fitted to the bright end of each tile; asymmetric weights (1 against 19) let it rest on the tiles that show
    background and pass over those filled by cells. A quadratic follows a lamp off centre and a lens's vignetting.
    """
    import numpy as np

    height, width = green.shape
    tile = max(8, max(height, width) // 16)
    rows, columns = -(-height // tile), -(-width // tile)
    padded = np.zeros((rows * tile, columns * tile), np.uint8)
    padded[:height, :width] = np.where(seen, green, 0)
    tiles = np.sort(padded.reshape(rows, tile, columns, tile).swapaxes(1, 2).reshape(rows * columns, -1), axis=1)
    shown = (tiles > 0).sum(axis=1)
    top = tiles[np.arange(len(tiles)), np.maximum(tiles.shape[1] - 1 - shown // 10, 0)].astype(np.float64)
    used = shown > tile * tile // 4

    def terms(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack((np.ones_like(x), x, y, x * x, x * y, y * y), axis=-1)

    x, y = (part.ravel() for part in np.meshgrid(np.linspace(-1, 1, columns), np.linspace(-1, 1, rows)))
    basis, level = terms(x, y)[used], top[used]
    if len(level) < 12:
        return np.full(green.shape, max(float(level.max(initial=1.0)), 1.0), np.float32)
    weights = np.ones(len(level))
    for _ in range(12):
        ridge = np.diag([0, 1e-3, 1e-3, 1e-2, 1e-2, 1e-2]) * len(level)
        fit = np.linalg.solve((basis.T * weights) @ basis + ridge, (basis.T * weights) @ level)
        weights = np.where(level > basis @ fit, 0.95, 0.05)
    # Separable on purpose: six outer sums over the picture instead of a (h*w,6) matrix.
    step_x = (np.arange(width, dtype=np.float32) + 0.5) / tile - 0.5
    step_y = (np.arange(height, dtype=np.float32) + 0.5) / tile - 0.5
    px, py = step_x * 2 / max(columns - 1, 1) - 1, step_y * 2 / max(rows - 1, 1) - 1
    across = fit[0] + fit[1] * px + fit[3] * px * px
    down = fit[2] * py + fit[5] * py * py
    surface = across[np.newaxis] + down[:, np.newaxis] + (fit[4] * py)[:, np.newaxis] * px[np.newaxis]
    highest = float(level.max())
    return np.asarray(np.clip(surface, 0.25 * highest, 1.1 * highest), np.float32)


def levels(flat: NDArray[np.float32], least: float) -> tuple[float, float, float]:
    """Background level, its spread (one standard deviation) and the median of what is darker; equal when nothing is.

    The spread is taken above the background's own peak, where no cell can add to it.
    """
    import numpy as np

    counts, edges = np.histogram(flat, bins=256, range=(0.0, 1.28))
    smooth = np.convolve(counts, np.ones(5), "same")
    low = int(0.8 / 0.005)
    clear = float(edges[low + int(smooth[low:].argmax())]) + 0.0025
    above = flat[flat > clear] - clear
    spread = float(np.percentile(above, 68)) if len(above) else 0.0
    darker = flat[flat < clear - max(5 * spread, least)]
    if len(darker) < 0.0005 * len(flat):
        return clear, spread, clear
    return clear, spread, float(np.median(darker))
