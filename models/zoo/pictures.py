"""malaria-cells as arrays: decoded and squared once as the device does it, then cached.

The data root is the environment variable EDGE_RUNTIME_DATA, else `../shared/data` beside the repository.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from edge_runtime.task import cells
from models.zoo.files import data_folder, write_arrays

SIZE = cells.SIZE


@dataclass(frozen=True)
class Split:
    """N cells: pixels uint8 (N,64,64,3) RGB, labels int64 (N,) with 1 = infected; the rest is one value a cell."""

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    suspect: npt.NDArray[np.bool_]  # the label is doubtful

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, mask: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> Split:
        return Split(self.pixels[mask], self.labels[mask], self.suspect[mask])

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What the networks take, float32 (N,3,64,64), pixels / 255; and the labels."""
        image = np.ascontiguousarray(self.pixels.transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(255)
        return {"image": image, "labels": self.labels}


def load(cache: Path) -> dict[str, Split]:
    """train, val and test, in the order of the manifest. The first call decodes every PNG, later ones read `cache`."""
    if not cache.is_file():
        write_arrays(cache, _decode())
    with np.load(cache) as arrays:
        whole = Split(arrays["pixels"], arrays["labels"], arrays["suspect"])
        names = arrays["split"]
    return {name: whole.where(names == name) for name in ("train", "val", "test")}


def _decode() -> dict[str, npt.NDArray[np.generic]]:
    root = data_folder("malaria-cells")
    with open(root / "suspects.csv", newline="") as text:
        doubtful = {row["path"] for row in csv.DictReader(text)}
    with open(root / "manifest.csv", newline="") as text:
        rows = list(csv.DictReader(text))
    pixels = []
    for row in rows:
        with Image.open(root / row["path"]) as picture:
            pixels.append(cells.square_image(picture.convert("RGB")))
    return {
        "pixels": np.stack(pixels),
        "labels": np.array([row["label"] == "Parasitized" for row in rows], np.int64),
        "suspect": np.array([row["path"] in doubtful for row in rows]),
        "split": np.array([row["path"].split("/")[0] for row in rows]),
    }
