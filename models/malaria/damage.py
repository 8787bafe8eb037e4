"""What goes wrong at a microscope, imitated on cell images at their original size: the gate is measured against it.

Every damage keeps the black outside of the cell black, as cutting out the cell afterwards would.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageFilter

from edge_runtime.task.cells import BLACK

Pixels = npt.NDArray[np.uint8]


def blur(rgb: Pixels, share: float) -> Pixels:
    """Defocus: a Gaussian whose sigma is `share` of the cell's diameter."""
    radius = share * max(rgb.shape[:2])
    inside = (rgb[:, :, 1] > BLACK).astype(np.float32)
    weight = _smooth(inside * 255, radius) / 255
    parts = [_smooth(rgb[:, :, c].astype(np.float32), radius) for c in range(3)]
    return _keep(np.stack(parts, axis=2) / np.maximum(weight, 0.02)[:, :, None], rgb)


def exposure(rgb: Pixels, gain: float) -> Pixels:
    return _keep(rgb.astype(np.float32) * gain, rgb)


def saturation(rgb: Pixels, factor: float) -> Pixels:
    return _keep(np.asarray(ImageEnhance.Color(Image.fromarray(rgb)).enhance(factor)), rgb)


def contrast(rgb: Pixels, factor: float) -> Pixels:
    inside = rgb[:, :, 1] > BLACK
    mean = rgb[inside].mean(axis=0) if inside.any() else 0
    return _keep(mean + (rgb.astype(np.float32) - mean) * factor, rgb)


def hue(rgb: Pixels, turn: float) -> Pixels:
    """Shift of hue by `turn` of a full circle: a wrong white balance, another stain."""
    hsv = np.array(Image.fromarray(rgb).convert("HSV"))
    hsv[:, :, 0] = (hsv[:, :, 0].astype(int) + round(256 * turn)) % 256
    return _keep(np.asarray(Image.fromarray(hsv, "HSV").convert("RGB")), rgb)


def jpeg(rgb: Pixels, quality: float) -> Pixels:
    data = io.BytesIO()
    Image.fromarray(rgb).save(data, "JPEG", quality=int(quality))
    return _keep(np.asarray(Image.open(data)), rgb)


def small(rgb: Pixels, pixels: float) -> Pixels:
    """Too little magnification: a cell is only `pixels` wide."""
    height, width = rgb.shape[:2]
    factor = pixels / max(height, width)
    little = Image.fromarray(rgb).resize((max(1, round(width * factor)), max(1, round(height * factor))))
    return _keep(np.asarray(little.resize((width, height))), rgb)


def noise(rgb: Pixels, levels: float) -> Pixels:
    """Sensor noise of `levels` standard deviation in each channel; the seed is the picture, so runs repeat."""
    dice = np.random.default_rng(int(rgb.sum()))
    return _keep(rgb + dice.normal(0, levels, rgb.shape), rgb)


DAMAGES: dict[str, tuple[Callable[[Pixels, float], Pixels], tuple[float, ...]]] = {
    "blur": (blur, (0.01, 0.02, 0.03, 0.04, 0.06)),
    "exposure": (exposure, (0.4, 0.55, 0.7, 0.85, 1.15, 1.3, 1.5, 1.8)),
    "saturation": (saturation, (0.0, 0.25, 0.5, 0.75, 1.5, 2.0)),
    "contrast": (contrast, (0.3, 0.5, 0.7, 1.4)),
    "hue": (hue, (-0.15, -0.08, -0.04, 0.04, 0.08, 0.15)),
    "jpeg": (jpeg, (5, 10, 20, 40)),
    "small": (small, (16, 24, 32, 48)),
    "noise": (noise, (4, 8, 16)),
}
"""Name: (function, strengths)."""


def _smooth(plane: npt.NDArray[np.float32], radius: float) -> npt.NDArray[np.float32]:
    picture = Image.fromarray(np.clip(plane, 0, 255).astype(np.uint8))
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(radius)), np.float32)


def _keep(changed: npt.NDArray[np.floating] | Pixels, rgb: Pixels) -> Pixels:
    """To uint8, and black where the original is black."""
    result = np.clip(np.rint(changed), 0, 255).astype(np.uint8)
    result[rgb.max(axis=2) <= BLACK] = 0
    return result
