"""One cell on its way into the network: the same two functions for training and for the device.

`square` makes the picture that the network reads; `features` measures the few numbers by which the quality gate
(verdict.py) tells a slide like the training slides from one that is blurred, badly exposed or from another camera.
A network is only as good as the sameness of its input, so training imports this file instead of repeating it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image

    Pixels = npt.NDArray[np.uint8]

SIZE = 64
"""Side in pixels of the picture that the network reads. Cells of the training set are 58-364 pixels wide."""

BLACK = 12
"""Pixels with more green than this belong to the cell. Outside is black, and resizing leaves a dark rim."""

FEATURES = (
    "red_dark", "red_mid", "red_bright",  # 5th, 50th and 95th percentile inside the cell, 0-1
    "green_dark", "green_mid", "green_bright",
    "blue_dark", "blue_mid", "blue_bright",
    "chroma_mid",  # mean of (largest - smallest channel), 0-1: a grey picture has none
    "chroma_spread",  # its standard deviation
    "contrast",  # standard deviation of green inside the cell
    "edges",  # mean absolute first difference of green from pixel to pixel, away from the rim of the cell
    "detail",  # mean absolute second difference of green, away from the rim
    "sharpness",  # detail / edges, 0-2: falls with defocus, rises with noise and hardly knows contrast
    "colour_detail",  # mean absolute second difference of red - blue: JPEG stores colour coarsely
)  # fmt: skip
"""What `features` measures, in order. Colours and differences are shares of full scale (255)."""


def square(rgb: Pixels, size: int = SIZE) -> Pixels:
    """Any RGB picture, uint8 (H,W,3) with H, W >= 1, to uint8 (size,size,3): shape kept, the rest black.

    Shrinking before padding gives the same picture as padding first, on a third fewer pixels.
    Pillow's bilinear filter widens with the reduction, so a large cell does not alias.
    """
    import numpy as np
    from PIL import Image

    return square_image(Image.fromarray(np.ascontiguousarray(rgb)), size)


def square_image(picture: Image, size: int = SIZE) -> Pixels:
    """`square` of a Pillow image (RGB), which a decoder gives: two copies fewer a cell."""
    import numpy as np
    from PIL import Image

    width, height = picture.size
    longest = max(height, width)
    wide, high = max(1, round(width * size / longest)), max(1, round(height * size / longest))
    result = np.zeros((size, size, 3), np.uint8)
    top, left = (size - high) // 2, (size - wide) // 2
    result[top : top + high, left : left + wide] = np.asarray(picture.resize((wide, high), Image.Resampling.BILINEAR))
    return result


def features(cell: Pixels) -> npt.NDArray[np.float32]:
    """A picture of `square`, uint8 (S,S,3), to float32 (len(FEATURES),): see FEATURES for each.

    Costs about a tenth of a millisecond on a desktop computer, where decoding and shrinking a cell takes one. The gate
    needs averages over a slide and not every cell: measure every second of the first hundred, then one in sixteen.
    Nearly empty pictures (fewer than 64 pixels of cell) give zeros, which no gate takes for a cell.
    """
    import numpy as np

    result = np.zeros(len(FEATURES), np.float32)
    coarse = np.ascontiguousarray(cell[::2, ::2].reshape(-1, 3).T)  # (3, pixels): colours need a quarter of them
    inside = coarse[1] > BLACK
    count = int(np.count_nonzero(inside))
    if count < 16:
        return result
    ranks = (count // 20, count // 2, count - 1 - count // 20)
    for channel in range(3):  # counting 256 levels is five times as fast as sorting, and takes the black out on the way
        levels = np.bincount(coarse[channel], minlength=256)
        levels[: BLACK + 1] = 0
        result[3 * channel : 3 + 3 * channel] = levels.cumsum().searchsorted(ranks, side="right")
    high, low = coarse.max(axis=0), coarse.min(axis=0)
    result[9], result[10] = _mean_and_spread((high - low)[inside].astype(np.float32))
    result[11] = _mean_and_spread(coarse[1][inside].astype(np.float32))[1]
    result[12], result[13], result[15] = _fine_structure(cell)
    result /= 255
    result[14] = result[13] / result[12] if result[12] else 0.0
    return result


def _mean_and_spread(values: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Mean and standard deviation of float32 (N,), by two dot products: numpy's own take five times as long here."""
    mean = float(values.sum()) / len(values)
    return mean, max(0.0, float(values @ values) / len(values) - mean * mean) ** 0.5


def _fine_structure(cell: Pixels) -> tuple[float, float, float]:
    """Mean absolute first and second difference of green, and second of red - blue, in levels of 0-255.

    Every other row is enough. A pixel counts when it and its neighbours, one to the left and two to the right, are
    cell: the rim against the black is left out.
    """
    import numpy as np

    rows = cell[::2].astype(np.float32)
    green = rows[:, :, 1]
    inside = green > BLACK
    whole = inside[:, :-3] & inside[:, 1:-2] & inside[:, 2:-1] & inside[:, 3:]
    weight = whole.ravel().astype(np.float32)
    pixels = max(1.0, float(weight.sum()))
    step = green[:, 1:] - green[:, :-1]
    bend = step[:, 1:] - step[:, :-1]
    tint = rows[:, :, 0] - rows[:, :, 2]
    tint_step = tint[:, 1:] - tint[:, :-1]
    tint_bend = tint_step[:, 1:] - tint_step[:, :-1]
    found = [
        float(np.abs(values).ravel() @ weight) / pixels for values in (step[:, 1:-1], bend[:, 1:], tint_bend[:, 1:])
    ]
    return found[0], found[1], found[2]
