"""Images, and the larger network trained on them. Runs in the converters' environment:

    python train.py images WORK      -> images/{malaria,mobilenet}-{test,calibration}.u8, uint8 (N,S,S,3), and labels
    python train.py train WORK       -> models/mobilenet/trained.pt

Two epochs on 5,400 cells: enough that its decisions mean something, not a model to use.
"""

from __future__ import annotations

import csv
import os
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from edge_runtime.task.cells import square  # noqa: E402

SIZES = {"malaria": 64, "mobilenet": 96}
TEST, CALIBRATION = 400, 200
EPOCHS, BATCH, SEED = (64, 96), 64, 7  # each epoch's size of the pictures: half the work in the first


def rows(split: str, count: int | None = None) -> list[dict[str, str]]:
    """The split's cells, or `count` spread evenly over it: the manifest's order is by class and patient."""
    root = Path(os.environ.get("EDGE_RUNTIME_DATA") or ROOT.parent / "shared" / "data") / "malaria-cells"
    if not (root / "manifest.csv").is_file():
        raise SystemExit(f"{root}: found no malaria-cells there; set EDGE_RUNTIME_DATA to the folder that holds it")
    with open(root / "manifest.csv", newline="") as text:
        found = [
            row | {"path": str(root / row["path"])} for row in csv.DictReader(text) if row["path"].startswith(split)
        ]
    if count is None:
        return found
    return [found[place] for place in np.linspace(0, len(found) - 1, count).round().astype(int)]


def pixels(cells: list[dict[str, str]], size: int) -> np.ndarray:
    found = []
    for row in cells:
        with Image.open(row["path"]) as image:
            found.append(square(np.asarray(image.convert("RGB")), size))
    return np.stack(found)


def labels(cells: list[dict[str, str]]) -> np.ndarray:
    return np.array([row["label"] == "Parasitized" for row in cells], np.uint8)


def images(work: Path) -> None:
    folder = work / "images"
    folder.mkdir(parents=True, exist_ok=True)
    for name, size in SIZES.items():
        for split, part, count in (("test", "test", TEST), ("train", "calibration", CALIBRATION)):
            cells = rows(split, count)
            pixels(cells, size).tofile(folder / f"{name}-{part}.u8")
            labels(cells).tofile(folder / f"{name}-{part}-labels.u8")


def train(work: Path) -> None:
    import torch
    from network import MobileNetV2
    from torch.nn import functional

    torch.manual_seed(SEED)
    cells = rows("train")
    x = torch.from_numpy(pixels(cells, SIZES["mobilenet"])).permute(
        0, 3, 1, 2
    )  # channels last in memory: five times as fast here
    y = torch.from_numpy(labels(cells)).long()
    net: torch.nn.Module = MobileNetV2().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    steps = len(EPOCHS) * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, steps, pct_start=0.2)
    began, done = time.monotonic(), 0
    for side in EPOCHS:
        for some in torch.randperm(len(x))[: len(x) // BATCH * BATCH].split(BATCH):
            batch = functional.interpolate(x[some].float() / 255, (side, side), mode="area")
            batch = batch.contiguous(memory_format=torch.channels_last)
            if done % 2:
                batch = batch.flip(3)
            loss = functional.cross_entropy(net(batch), y[some])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            done += 1
            if done % 20 == 0:
                print(
                    f"  step {done} of {steps}, loss {loss:.3f}, {time.monotonic() - began:.0f} s",
                    flush=True,
                    file=sys.stderr,
                )
    folder = work / "models" / "mobilenet"
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(net.to(memory_format=torch.contiguous_format).eval().state_dict(), folder / "trained.pt")


if __name__ == "__main__":
    {"images": images, "train": train}[sys.argv[1]](Path(sys.argv[2]))
