"""The four picture networks on malaria-cells: trained, exported, measured."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import torch

from models.zoo import networks, pictures
from models.zoo.export import answers, to_onnx
from models.zoo.files import write_items, write_model
from models.zoo.learn import SETTINGS, train


def make(name: str, out: Path) -> dict[str, Any]:
    """OUT/NAME.onnx with its items beside it; the facts about it."""
    splits = pictures.load(out / "cells.npz")
    write_items(out, name, *(splits[part].arrays() for part in ("train", "val", "test")))
    settings = SETTINGS[name]
    torch.manual_seed(settings.seed)
    net = networks.BUILDERS[name]()
    began = time.monotonic()
    train(net, splits["train"], splits["val"], settings)
    spent = time.monotonic() - began
    content = to_onnx(net, (torch.rand(2, 3, pictures.SIZE, pictures.SIZE),), ("image",))
    return write_model(out, name, content, networks.parameters(net), dataclasses.asdict(settings), spent)


def measure(content: bytes, out: Path, part: str) -> dict[str, float]:
    """Share of right answers, on all labels and without the doubtful ones."""
    split = pictures.load(out / "cells.npz")[part]
    arrays = split.arrays()
    right = answers(content, {"image": arrays["image"]}).argmax(1) == split.labels
    return {"accuracy": float(right.mean()), "accuracy_without_suspects": float(right[~split.suspect].mean())}
