"""Cells of other cameras, cut out by their labels: only to see that the gate refuses them. Nothing is fitted on these.

Outside of an ellipse in the label's box is black. chula-rbc gives points only; its cells are about 70 pixels wide.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from edge_runtime.task import cells

Pixels = npt.NDArray[np.uint8]
CHULA_DIAMETER = 70


def oval(rgb: Pixels, left: float, top: float, width: float, height: float) -> Pixels | None:
    """The ellipse in this box, black around it; None where the box leaves the picture."""
    x, y, w, h = (round(value) for value in (left, top, width, height))
    if x < 0 or y < 0 or w < 16 or h < 16 or y + h > rgb.shape[0] or x + w > rgb.shape[1]:
        return None
    crop = rgb[y : y + h, x : x + w].copy()
    rows, columns = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j]
    crop[rows**2 + columns**2 > 1] = 0
    return crop


def batches(root: Path, most: int = 60) -> Iterator[tuple[str, str, Pixels]]:
    """(source, image, squares uint8 (N,64,64,3)) for every image with at least 12 cells, `most` cells of each."""
    for split in ("train", "val", "test"):
        folder = root / "malaria-fields" / "iml-vivax" / split
        for entry in json.loads((folder / "annotations.json").read_text()):
            boxes = [(o["x"], o["y"], o["w"], o["h"]) for o in entry["objects"] if o["type"] != "difficult"]
            yield from _one("iml-vivax", folder / Path(entry["image"]).name, boxes[:most])
        folder = root / "malaria-fields" / "chula-rbc" / split
        for text in sorted(folder.glob("*.txt")):
            points = [line.split() for line in text.read_text().splitlines() if line.strip()]
            half = CHULA_DIAMETER / 2
            boxes = [(float(p[0]) - half, float(p[1]) - half, 2 * half, 2 * half) for p in points]
            image = next(path for path in folder.glob(f"{text.stem}.*") if path.suffix != ".txt")
            yield from _one("chula-rbc", image, boxes[:most])


def _one(source: str, path: Path, boxes: list[tuple[float, ...]]) -> Iterator[tuple[str, str, Pixels]]:
    with Image.open(path) as image:
        rgb = np.asarray(image.convert("RGB"))
    crops = [crop for crop in (oval(rgb, *box) for box in boxes) if crop is not None]
    if len(crops) >= 12:
        yield source, path.name, np.stack([cells.square(crop) for crop in crops])
