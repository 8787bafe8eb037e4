"""The large teacher: a ResNet-18 (He and others, 2015) with the slide's own lessons, and what it thinks of each cell.

It has seen all training people, so a student whose scores calibrate the verdict must not learn from it: those have
teachers that never saw the people left out (teacher.py, crossed.py).
"""

from __future__ import annotations

import copy
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import dataset
import numpy as np
import numpy.typing as npt
import teacher
import torch
from dataset import Cells
from kept import whole
from learn import Settings, lesson_weights, targets, vary
from torch import nn
from torch.nn import functional

from models.zoo.export import to_onnx
from models.zoo.networks import resnet18

Floats = npt.NDArray[np.float32]
FOLDS = 5


@dataclass(frozen=True)
class LargeSettings:
    """`sides`: side of the pictures in each epoch. `half`: convolutions in bfloat16, several times as fast where the
    processor has tiles for them, and slow where it has not; the network itself stays in float32."""

    sides: tuple[int, ...] = (48, 48, 48, 64, 64, 64, 64, 64)
    batch: int = 64
    rate: float = 2e-3
    decay: float = 0.05
    warm: float = 0.25
    average: float = 0.99
    soft: float = 0.5  # weight of the boosted trees' opinion beside the label
    smoothing: float = 0.02
    half: bool = True
    seed: int = 1


class Large(nn.Module):
    """ResNet-18's two answers as one logit of "infected": (B,3,S,S) to (B,1)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = resnet18()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer = self.net(x)
        return answer[:, 1:] - answer[:, :1]


def parts(cells: Cells) -> npt.NDArray[np.int64]:
    """Fold of each cell, -1 where it is not for training."""
    deal = dataset.folds(cells.person[cells.split == "train"], FOLDS)
    return np.array([deal.get(name, -1) for name in cells.person.tolist()])


def trees(cells: Cells, work: Path, left_out: tuple[int, ...] = ()) -> Floats:
    """The boosted trees' opinion (N,), NaN for cells of folds that this training must not see."""
    file = work / f"trees-{without(left_out)}.npy"
    if not file.is_file():
        if not (work / "colours.npy").is_file():
            with whole(work / "colours.npy") as fresh:
                np.save(fresh, teacher.colours(cells.pixels))
        with whole(file) as fresh:
            np.save(fresh, teacher.opinions(cells, np.load(work / "colours.npy"), parts(cells), left_out))
    opinion: Floats = np.load(file)
    return opinion


def to_logit(chance: Floats) -> Floats:
    sure = np.clip(chance, 2e-3, 1 - 2e-3)
    return np.log(sure / (1 - sure)).astype(np.float32)


def without(left_out: tuple[int, ...]) -> str:
    """For names of files: the folds left out."""
    return "-".join(map(str, left_out)) or "all"


def shown(cells: Cells) -> npt.NDArray[np.int64]:
    """Places of the cells of an epoch, each as often as it is shown."""
    return np.repeat(np.arange(len(cells)), lesson_weights(cells))


def train(cells: Cells, opinion: Floats, settings: LargeSettings, name: str) -> Large:
    """From scratch on `cells`, in the label and the trees' `opinion` (N,); the running average of the weights."""
    torch.manual_seed(settings.seed)
    dice = torch.Generator().manual_seed(settings.seed)
    net = Large().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    mean = copy.deepcopy(net)
    pixels = torch.from_numpy(cells.pixels).permute(0, 3, 1, 2)
    change = Settings(soft=settings.soft, smoothing=settings.smoothing)
    wanted = torch.from_numpy(targets(cells, change, opinion))
    order = torch.from_numpy(shown(cells))
    length = len(order) // settings.batch
    optimizer = torch.optim.AdamW(net.parameters(), settings.rate, weight_decay=settings.decay, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.rate, total_steps=length * len(settings.sides), pct_start=settings.warm
    )
    began, step = time.monotonic(), 0
    for epoch, side in enumerate(settings.sides):
        net.train()
        total = 0.0
        mixed = order[torch.randperm(len(order), generator=dice)][: length * settings.batch]
        for some in mixed.split(settings.batch):
            x = vary(pixels[some].float() / 255, change, dice)
            x = x if side == 64 else functional.interpolate(x, (side, side), mode="bilinear", antialias=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.half):
                answer = net(x.contiguous(memory_format=torch.channels_last))[:, 0]
            loss = functional.binary_cross_entropy_with_logits(answer.float(), wanted[some])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            step += 1
            blend(mean, net, min(settings.average, step / (step + 10)))
            total += float(loss.detach())
        spent = time.monotonic() - began
        print(f"{name} epoch {epoch + 1} ({side}) loss {total / length:.4f} {spent:.0f}s", file=sys.stderr, flush=True)
    return mean.eval()


@torch.no_grad()
def blend(mean: nn.Module, net: nn.Module, keep: float) -> None:
    """Running average of weights and of normalisation statistics."""
    pairs = zip(mean.state_dict().values(), net.state_dict().values(), strict=True)
    olds, news = zip(*((old, new) for old, new in pairs if old.dtype.is_floating_point), strict=True)
    torch._foreach_lerp_(olds, news, 1 - keep)


@torch.inference_mode()
def logits(net: nn.Module, pixels: npt.NDArray[np.uint8], batch: int = 128) -> Floats:
    """uint8 (N,64,64,3) to float32 (N,), in float32."""
    net.eval()
    found = []
    for start in range(0, len(pixels), batch):
        x = torch.from_numpy(pixels[start : start + batch]).permute(0, 3, 1, 2).float() / 255
        found.append(net(x.contiguous(memory_format=torch.channels_last))[:, 0].numpy())
    return np.concatenate(found)


def opinions(cells: Cells, settings: LargeSettings, work: Path) -> Floats:
    """The teacher's logit of every cell (N,): trained now, or kept from before, as is its file, large.onnx."""
    file = work / "large.npy"
    if not file.is_file():
        opinion = trees(cells, work)
        mask = np.isfinite(opinion)
        net = train(cells.where(mask), opinion[mask], settings, "teacher")
        with whole(work / "large.onnx") as fresh:
            fresh.write_bytes(to_onnx(net, (torch.rand(2, 3, 64, 64),), ("image",)))
        with whole(file) as fresh:
            np.save(fresh, logits(net, cells.pixels))
    found: Floats = np.load(file)
    return found
