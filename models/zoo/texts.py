"""MiniLM with a linear head that tells spam: the encoder stays as published, the head is a logistic regression."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from models.zoo.encoder import TOKENS, Sorter, embed, load, tokens
from models.zoo.export import answers, to_onnx
from models.zoo.files import data_folder, write_items, write_model

STRENGTHS = (1.0, 10.0, 100.0)
"""Inverse strengths of the head's regularisation that are tried; the best F1 on val is taken."""


def read(split: str) -> tuple[list[str], npt.NDArray[np.int64]]:
    """The split's messages, and 1 where one is spam."""
    lines = (data_folder("sms-spam") / f"{split}.tsv").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("\t", 1) for line in lines]
    return [text for _, text in pairs], np.array([label == "spam" for label, _ in pairs], np.int64)


def make(name: str, out: Path) -> dict[str, Any]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score

    torch.set_num_threads(1)
    began = time.monotonic()
    encoder = load()
    inputs, labels, vectors = {}, {}, {}
    for split in ("train", "val", "test"):
        messages, labels[split] = read(split)
        inputs[split] = tokens(messages)
    for split in ("train", "val"):
        vectors[split] = embed(encoder, inputs[split])
    fits = [
        LogisticRegression(C=one, class_weight="balanced", max_iter=2000).fit(vectors["train"], labels["train"])
        for one in STRENGTHS
    ]
    scores = [f1_score(labels["val"], fit.predict(vectors["val"])) for fit in fits]
    best = int(np.argmax(scores))
    head = nn.Linear(vectors["train"].shape[1], 2)
    half = torch.from_numpy(fits[best].coef_[0] / 2).float()
    with torch.no_grad():  # the two logits are apart by what the regression says
        head.weight.copy_(torch.stack([-half, half]))
        head.bias.copy_(torch.tensor([-1.0, 1.0]) * float(fits[best].intercept_[0]) / 2)
    net = Sorter(encoder, head)
    spent = time.monotonic() - began
    ids = torch.ones(2, TOKENS, dtype=torch.int64)
    content = to_onnx(net, (ids, ids.clone()), ("input_ids", "attention_mask"))
    write_items(out, name, *(inputs[part] | {"labels": labels[part]} for part in ("train", "val", "test")))
    settings = {"tokens": TOKENS, "strength": STRENGTHS[best], "class_weight": "balanced"}
    return write_model(out, name, content, sum(one.numel() for one in net.parameters()), settings, spent)


def measure(content: bytes, out: Path, part: str) -> dict[str, float]:
    """F1 of spam, and the share of right answers."""
    from sklearn.metrics import f1_score

    messages, labels = read(part)
    said = answers(content, tokens(messages)).argmax(1)
    return {"f1": float(f1_score(labels, said)), "accuracy": float((said == labels).mean())}
