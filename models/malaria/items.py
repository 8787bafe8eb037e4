"""The shipped net and the cells as `compress` takes them, to compress it again and judge slides by it:

    python models/malaria/items.py OUT

-> OUT/malaria.onnx                          the float32 net of the shipped bundle
   OUT/malaria-calibration.npz               512 cells of the train split, without labels
   OUT/malaria-unlabelled.npz                2,048 cells of the train split, for what learns from the net's own answers
   OUT/malaria-{val,test}.npz                image float32 (N,3,64,64), labels, and whose cells they are: `person`, and
                                             `healthy` where the person has no malaria
It wants the data (dataset.py) and takes about half a minute. Choose on val; report on test once.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from dataset import Cells, load_cells  # noqa: E402

from edge_runtime.bundle import load_bundle  # noqa: E402

CALIBRATION, UNLABELLED = 512, 2048


def images(cells: Cells) -> np.ndarray:
    """uint8 (N,64,64,3) to what the net takes."""
    return np.ascontiguousarray(cells.pixels.transpose(0, 3, 1, 2), np.float32) / np.float32(255)


def write(path: Path, cells: Cells, labels: bool = True, people: bool = True) -> None:
    arrays = {"image": images(cells)}
    if labels:
        arrays["labels"] = cells.infected.astype(np.int64)
    if people:
        arrays |= {"person": cells.person, "healthy": cells.healthy}
    np.savez(path, **arrays)  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    cells = load_cells(out)
    bundle = load_bundle(HERE / "malaria.edge")
    (out / "malaria.onnx").write_bytes(bundle.read(bundle.variant("fp32").file))
    train = np.flatnonzero(cells.split == "train")
    for name, count in (("calibration", CALIBRATION), ("unlabelled", UNLABELLED)):
        few = np.sort(np.random.default_rng(3).choice(train, count, replace=False))
        write(out / f"malaria-{name}.npz", cells.where(few), labels=False, people=False)
    for split in ("val", "test"):
        write(out / f"malaria-{split}.npz", cells.where(cells.split == split))


if __name__ == "__main__":
    main()
