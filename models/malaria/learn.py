"""Training one network: which cells it sees how often, how they are varied, and the loop itself."""

from __future__ import annotations

import copy
import math
import sys
import time
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from dataset import Cells
from network import CellNet, Shape
from torch.nn import functional


@dataclass(frozen=True)
class Settings:
    """The recipe. Strengths are the largest change; each cell draws its own between none and that."""

    shape: Shape = field(default_factory=Shape)
    epochs: int = 16
    batch: int = 64
    rate: float = 4e-3
    decay: float = 0.02
    average: float = 0.998  # weight of the past in the running average of the weights, which is what ships
    smoothing: float = 0.02
    healthy_times: int = 3
    soft: float = 0.6  # weight of a teacher's opinion beside the label, where there is a teacher
    brightness: float = 0.15
    contrast: float = 0.2
    saturation: float = 0.3
    hue: float = 0.03  # of a turn
    tint: float = 0.06  # gain of each channel by itself
    zoom: float = 0.15
    blur: float = 0.25  # share of cells that are blurred
    seed: int = 1


def lesson_weights(cells: Cells, times: int = 3) -> npt.NDArray[np.int64]:
    """How often each cell is shown in an epoch, (N,).

    A doubtful label is dropped where it stands on an infected person's cell. A healthy person's cell is clean
    whatever it looks like, and the ones that look infected are just the ones to learn: kept, and shown `times`.
    """
    return np.where(cells.healthy, times, np.where(cells.suspect, 0, 1))


def targets(cells: Cells, settings: Settings, teacher: npt.NDArray[np.float32] | None) -> npt.NDArray[np.float32]:
    """What the answer (N,) to each cell shall be: its label, softened, and a teacher's opinion, a probability (N,)."""
    label = cells.infected.astype(np.float32) * (1 - settings.smoothing) + settings.smoothing / 2
    mixed = label if teacher is None else settings.soft * teacher + (1 - settings.soft) * label
    return mixed.astype(np.float32)


def vary(x: torch.Tensor, settings: Settings, dice: torch.Generator) -> torch.Tensor:
    """Augment float32 (B,3,64,64) in 0-1. Black around the cell stays black.

    Contrast, saturation, hue, tint and brightness are one 3 x 3 matrix and shift a cell: one pass over the pixels.
    """
    count = len(x)

    def draw(strength: float) -> torch.Tensor:
        return (torch.rand(count, 1, 1, 1, generator=dice) * 2 - 1) * strength

    mask = (x[:, 1:2] > 0.04).float()
    mean = (x * mask).sum(dim=(2, 3)) / mask.sum(dim=(2, 3)).clamp(min=1)  # (B,3): colour of the cell
    contrast = torch.exp(draw(settings.contrast))[:, :, 0, 0]
    tint = (torch.rand(count, 3, generator=dice) * 2 - 1) * settings.tint
    gains = torch.exp(tint + draw(settings.brightness)[:, :, 0, 0])
    hue = _hue_matrix(draw(settings.hue)[:, 0, 0, 0] * 2 * math.pi)
    change = _saturation_matrix(1 + draw(settings.saturation)[:, 0, 0, 0]) @ hue
    change = change * gains[:, :, None]
    shift = (change @ mean[:, :, None]) * (1 - contrast[:, :, None])
    flat = torch.baddbmm(shift, change * contrast[:, :, None], x.flatten(2))
    x = (flat.view_as(x) * mask).clamp_(0, 1)
    blurred = torch.rand(count, generator=dice) < settings.blur
    if blurred.any():
        x[blurred] = _blur(x[blurred], dice)
    return _move(x, settings.zoom, dice)


def _hue_matrix(angle: torch.Tensor) -> torch.Tensor:
    """Rotation of colours about the grey axis by `angle` (B,) radians, (B,3,3): Rodrigues' formula, axis (1,1,1)."""
    cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3)
    cos, sin = torch.cos(angle)[:, None, None], torch.sin(angle)[:, None, None]
    return torch.eye(3) * cos + cross * sin + torch.full((3, 3), 1 / 3) * (1 - cos)


def _saturation_matrix(gain: torch.Tensor) -> torch.Tensor:
    """Stretch colours away from grey by `gain` (B,): (B,3,3)."""
    return torch.full((3, 3), 1 / 3) + (torch.eye(3) - 1 / 3) * gain[:, None, None]


def _blur(x: torch.Tensor, dice: torch.Generator) -> torch.Tensor:
    """Gaussian of 0.3-1.1 pixels, one width a batch: a fresh kernel for every cell would double the cost."""
    sigma = 0.3 + 0.8 * float(torch.rand(1, generator=dice))
    taps = torch.exp(-0.5 * (torch.arange(-2.0, 3.0) / sigma) ** 2)
    taps = taps / taps.sum()
    x = functional.conv2d(x, taps.view(1, 1, 1, 5).repeat(3, 1, 1, 1), padding=(0, 2), groups=3)
    return functional.conv2d(x, taps.view(1, 1, 5, 1).repeat(3, 1, 1, 1), padding=(2, 0), groups=3)


def _move(x: torch.Tensor, zoom: float, dice: torch.Generator) -> torch.Tensor:
    """Any rotation, mirror, small shift and zoom at once, bilinear. Cells lie every way round on a slide."""
    count = len(x)
    angle = torch.rand(count, generator=dice) * 2 * math.pi
    scale = torch.exp((torch.rand(count, generator=dice) * 2 - 1) * zoom)
    mirror = (torch.rand(count, generator=dice) < 0.5).float() * 2 - 1
    shift = (torch.rand(count, 2, generator=dice) * 2 - 1) * 0.05
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = torch.stack([cos * mirror, -sin, shift[:, 0], sin * mirror, cos, shift[:, 1]], dim=1).view(count, 2, 3)
    grid = functional.affine_grid(rows, list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def train(cells: Cells, settings: Settings, teacher: npt.NDArray[np.float32] | None = None, name: str = "") -> CellNet:
    """One network from `cells`; `teacher` gives a probability for each of them, float32 (N,)."""
    torch.manual_seed(settings.seed)
    dice = torch.Generator().manual_seed(settings.seed)
    shown = lesson_weights(cells, settings.healthy_times)
    order = np.concatenate([np.flatnonzero(shown), np.repeat(np.arange(len(cells)), np.maximum(shown - 1, 0))])
    pixels = torch.from_numpy(cells.pixels).permute(0, 3, 1, 2).contiguous()
    wanted = torch.from_numpy(targets(cells, settings, teacher))
    net = CellNet(settings.shape).to(memory_format=torch.channels_last)
    mean = copy.deepcopy(net)
    optimizer = torch.optim.AdamW(net.parameters(), lr=settings.rate, weight_decay=settings.decay)
    steps = settings.epochs * (len(order) // settings.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.rate, total_steps=steps, pct_start=0.2)
    began, step = time.monotonic(), 0
    for epoch in range(settings.epochs):
        net.train()
        shuffled = torch.from_numpy(order)[torch.randperm(len(order), generator=dice)]
        total = 0.0
        for start in range(0, len(order) - settings.batch + 1, settings.batch):
            pick = shuffled[start : start + settings.batch]
            x = vary(pixels[pick].float() / 255, settings, dice).contiguous(memory_format=torch.channels_last)
            loss = functional.binary_cross_entropy_with_logits(net(x)[:, 0], wanted[pick])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
            _blend(mean, net, min(settings.average, step / (step + 10)))
            total += float(loss.detach())
        if epoch % 5 == 4 or epoch < 2:
            spent = time.monotonic() - began
            loss_now = total * settings.batch / len(order)
            print(f"{name} epoch {epoch + 1} loss {loss_now:.4f} {spent:.0f}s", file=sys.stderr)
    mean.eval()
    return mean


@torch.no_grad()
def _blend(mean: CellNet, net: CellNet, keep: float) -> None:
    """Running average of weights and of normalisation statistics."""
    for old, new in zip(mean.state_dict().values(), net.state_dict().values(), strict=True):
        if old.dtype.is_floating_point:
            old.mul_(keep).add_(new, alpha=1 - keep)
