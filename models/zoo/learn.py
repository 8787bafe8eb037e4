"""Training a picture network on one processor core: few epochs, the first ones on smaller pictures."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from models.zoo.pictures import Split


@dataclass(frozen=True)
class Settings:
    """`sides` is the side of the pictures in each epoch: 48 costs about half of 64."""

    sides: tuple[int, ...] = (48, 64, 64, 64)
    batch: int = 32
    rate: float = 2e-3
    decay: float = 0.05
    smoothing: float = 0.05
    colour: float = 0.1  # largest change of each channel's gain
    warm: float = 0.25  # share of the steps in which the rate rises
    threads: int = 1
    seed: int = 1


SETTINGS = {
    "resnet18": Settings(),
    "mobilenetv2": Settings(sides=(48, 48, 64, 64, 64, 64), rate=3e-3),
    "squeezenet": Settings(sides=(64,) * 12, rate=1e-3),
    "vgg": Settings(sides=(32, 32, 64), rate=1e-3),
}
"""A deep net on a small picture costs most: VGG takes seven times ResNet's work for a cell."""


def vary(x: torch.Tensor, colour: float, dice: torch.Generator) -> torch.Tensor:
    """float32 (B,3,S,S): each cell lies any of the eight ways round, and each of its channels a little lighter."""

    def coin() -> torch.Tensor:
        return torch.rand(len(x), 1, 1, 1, generator=dice) < 0.5

    x = torch.where(coin(), x.flip(3), x)
    x = torch.where(coin(), x.flip(2), x)
    x = torch.where(coin(), x.transpose(2, 3), x)
    return (x * (1 + (torch.rand(len(x), 3, 1, 1, generator=dice) * 2 - 1) * colour)).clamp_(0, 1)


def train(net: nn.Module, lessons: Split, held_out: Split, settings: Settings, steps: int | None = None) -> nn.Module:
    """`net` taught on `lessons` without their doubtful labels, in place; `held_out` is only told about, on stderr.

    `steps` ends training early, for a test.
    """
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    dice = torch.Generator().manual_seed(settings.seed)
    lessons = lessons.where(~lessons.suspect)
    pixels = torch.from_numpy(lessons.pixels).permute(0, 3, 1, 2)  # channels last in memory: several times as fast
    labels = torch.from_numpy(lessons.labels)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(net.parameters(), settings.rate, weight_decay=settings.decay, fused=True)
    an_epoch = len(lessons) // settings.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.rate, total_steps=an_epoch * len(settings.sides), pct_start=settings.warm
    )
    began, done = time.monotonic(), 0
    for epoch, side in enumerate(settings.sides):
        net.train()
        total = 0.0
        order = torch.randperm(len(lessons), generator=dice)[: an_epoch * settings.batch]
        for some in order.split(settings.batch):
            x = pixels[some].float() / 255
            x = x if side == x.shape[3] else functional.interpolate(x, (side, side), mode="bilinear", antialias=True)
            x = vary(x, settings.colour, dice).contiguous(memory_format=torch.channels_last)
            loss = functional.cross_entropy(net(x), labels[some], label_smoothing=settings.smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
            done += 1
            if done == steps:
                return net.eval()
        right = logits(net, held_out).argmax(1) == held_out.labels
        spent = time.monotonic() - began
        print(f"epoch {epoch + 1} ({side}): loss {total / an_epoch:.4f}, val {right.mean():.4f}, {spent:.0f} s",
              file=sys.stderr, flush=True)  # fmt: skip
    return net.eval()


@torch.inference_mode()
def logits(net: nn.Module, split: Split, batch: int = 64) -> npt.NDArray[np.float32]:
    """float32 (N,2) of every cell of `split`."""
    net.eval()
    parts = []
    for start in range(0, len(split), batch):
        x = torch.from_numpy(split.pixels[start : start + batch]).permute(0, 3, 1, 2).float() / 255
        parts.append(net(x.contiguous(memory_format=torch.channels_last)).numpy())
    return np.concatenate(parts)
