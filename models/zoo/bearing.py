"""A 1-D convolution network on vibration windows. For testing only: the data states no licence.

Nothing made from it is committed or shipped; this file alone stands in the repository.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from models.zoo.export import answers, to_onnx
from models.zoo.files import data_folder, write_items, write_model

CLASSES = ("normal", "ir7", "ir14", "ir21", "b7", "b14", "b21", "or7", "or14", "or21")
WINDOW, STEP = 1024, {"train": 256, "val": 512, "test": 512}
EPOCHS, BATCH, RATE, SEED = 6, 32, 3e-3, 1


def read(split: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """float32 (N,1,1024), 21 ms of acceleration each, and the class's place in CLASSES."""
    windows, labels = [], []
    for place, name in enumerate(CLASSES):
        signal = np.load(data_folder("bearing-cwru") / split / f"{name}.npy", allow_pickle=False)
        cut = np.lib.stride_tricks.sliding_window_view(signal, WINDOW)[:: STEP[split]]
        windows.append(cut[:, None, :].astype(np.float32))
        labels.append(np.full(len(cut), place, np.int64))
    return np.concatenate(windows), np.concatenate(labels)


def network() -> nn.Module:
    """Five convolutions with normalisation, each halving the length or more; mean over time; one dense layer."""
    layers: list[nn.Module] = []
    channels = 1
    for outputs, kernel, stride in ((16, 64, 8), (32, 5, 2), (64, 5, 2), (64, 3, 2), (64, 3, 2)):
        convolution = nn.Conv1d(channels, outputs, kernel, stride, kernel // 2, bias=False)
        layers += [convolution, nn.BatchNorm1d(outputs), nn.ReLU()]
        channels = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(1), nn.Linear(channels, len(CLASSES)))


def make(name: str, out: Path) -> dict[str, Any]:
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    splits = {split: read(split) for split in ("train", "val", "test")}
    write_items(out, name, *({"window": x, "labels": y} for x, y in splits.values()))
    began = time.monotonic()
    net = network()
    windows, labels = (torch.from_numpy(one) for one in splits["train"])
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=EPOCHS * (len(labels) // BATCH))
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(labels))[: len(labels) // BATCH * BATCH].split(BATCH):
            loss = functional.cross_entropy(net(windows[chosen]), labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    spent = time.monotonic() - began
    content = to_onnx(net, (torch.rand(2, 1, WINDOW),), ("window",))
    settings = {"epochs": EPOCHS, "batch": BATCH, "rate": RATE, "seed": SEED}
    return write_model(out, name, content, sum(one.numel() for one in net.parameters()), settings, spent)


def measure(content: bytes, out: Path, part: str) -> dict[str, float]:
    """Share of right answers among the ten classes."""
    x, y = read(part)
    return {"accuracy": float((answers(content, {"window": x}).argmax(1) == y).mean())}
