"""Cells of malaria-cells and malaria-healthy as arrays, decoded and squared once, then cached.

The data root is the environment variable EDGE_RUNTIME_DATA, else `../shared/data` beside the repository.
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from edge_runtime.task import cells

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Cells:
    """N cells: pixels uint8 (N,64,64,3) RGB; the rest is one value a cell."""

    pixels: npt.NDArray[np.uint8]
    infected: npt.NDArray[np.bool_]
    suspect: npt.NDArray[np.bool_]
    healthy: npt.NDArray[np.bool_]  # the person has no malaria, so no cell of theirs can hold a parasite
    person: npt.NDArray[np.str_]
    split: npt.NDArray[np.str_]
    path: npt.NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.infected)

    def where(self, mask: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> Cells:
        return Cells(*(getattr(self, name)[mask] for name in self.__dataclass_fields__))


def data_root() -> Path:
    return Path(os.environ.get("EDGE_RUNTIME_DATA") or REPOSITORY.parent / "shared" / "data")


def is_healthy_case(person: str) -> bool:
    """NLM names infected cases C<case>P<patient>; a name without P is a healthy control."""
    return "P" not in person


def load_cells(cache: Path) -> Cells:
    """Both folders, all splits. The first call decodes every PNG (about half a minute), later ones read the cache."""
    cache.mkdir(parents=True, exist_ok=True)
    file = cache / "cells.npz"
    if not file.is_file():
        np.savez(file, **_decode())  # type: ignore[arg-type]
    with np.load(file) as arrays:
        return Cells(**{name: arrays[name] for name in Cells.__dataclass_fields__})


def _decode() -> dict[str, npt.NDArray[np.generic]]:
    root = data_root()
    with open(root / "malaria-cells" / "suspects.csv", newline="") as text:
        suspects = {row["path"] for row in csv.DictReader(text)}
    pixels, infected, suspect, person, split, path = [], [], [], [], [], []
    for folder in ("malaria-cells", "malaria-healthy"):
        with open(root / folder / "manifest.csv", newline="") as text:
            for row in csv.DictReader(text):
                with Image.open(root / folder / row["path"]) as image:
                    pixels.append(cells.square(np.asarray(image.convert("RGB")), cells.SIZE))
                infected.append(row["label"] == "Parasitized")
                suspect.append(folder == "malaria-cells" and row["path"] in suspects)
                person.append(row["patient"])
                split.append(row["path"].split("/")[0])
                path.append(f"{folder}/{row['path']}")
    return {
        "pixels": np.stack(pixels),
        "infected": np.array(infected),
        "suspect": np.array(suspect),
        "healthy": np.array([is_healthy_case(name) for name in person]),
        "person": np.array(person),
        "split": np.array(split),
        "path": np.array(path),
    }


def folds(people: npt.NDArray[np.str_], count: int) -> dict[str, int]:
    """Person -> fold, dealt like cards within infected and healthy, by hash-free name order: same everywhere."""
    result: dict[str, int] = {}
    for healthy in (False, True):
        names = sorted(name for name in set(people.tolist()) if is_healthy_case(name) is healthy)
        order = np.random.default_rng(5).permutation(len(names))
        result.update({names[where]: place % count for place, where in enumerate(order)})
    return result
