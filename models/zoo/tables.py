"""Small dense networks on the milling machine's table: one by PyTorch, one by scikit-learn through its own exporter."""

from __future__ import annotations

import copy
import csv
import sys
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

GRADES = {"L": 0.0, "M": 1.0, "H": 2.0}
COLUMNS = ("Air temperature", "Process temperature", "Rotational speed", "Torque", "Tool wear")
EPOCHS, BATCH, RATE, DECAY, SEED = 120, 128, 5e-3, 1e-3, 1


def read(split: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """float32 (N,6): grade of the product 0-2, two temperatures in K, turns a minute, torque in Nm, wear in minutes;
    and 1 where the machine failed. The columns that name the failure are left out: they give the answer away."""
    with open(data_folder("machine-failure-ai4i") / f"{split}.csv", newline="") as text:
        rows = list(csv.DictReader(text))
    values = [[GRADES[row["Type"]], *(float(row[name]) for name in COLUMNS)] for row in rows]
    return np.array(values, np.float32), np.array([row["Machine failure"] == "1" for row in rows], np.int64)


class Dense(nn.Module):
    """features float32 (N,6) as read, to logits float32 (N,2): sound, failed. Standardising is part of the model."""

    def __init__(self, mean: npt.NDArray[np.float32], spread: npt.NDArray[np.float32]) -> None:
        super().__init__()
        self.mean, self.gain = (nn.Buffer(torch.from_numpy(one)) for one in (mean, 1 / spread))
        self.body = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body((x - self.mean) * self.gain)


def teach(x: npt.NDArray[np.float32], y: npt.NDArray[np.int64], epochs: int = EPOCHS) -> Dense:
    """The running average of the weights over the steps: with 220 failures single steps jump."""
    torch.manual_seed(SEED)
    net = Dense(x.mean(0), x.std(0))
    mean = copy.deepcopy(net)
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=DECAY)
    steps = epochs * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for _ in range(epochs):
        for some in torch.randperm(len(x))[: len(x) // BATCH * BATCH].split(BATCH):
            loss = functional.cross_entropy(net(inputs[some]), labels[some])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                for old, new in zip(mean.parameters(), net.parameters(), strict=True):
                    old.lerp_(new, 0.005)
    return mean.eval()


def make(name: str, out: Path) -> dict[str, Any]:
    """`ai4i` by PyTorch, `ai4i-sklearn` by scikit-learn: the same items, the same facts."""
    torch.set_num_threads(1)
    splits = {split: read(split) for split in ("train", "val", "test")}
    write_items(out, name, *({"features": x, "labels": y} for x, y in splits.values()))
    began = time.monotonic()
    content, parameters, settings = (_by_sklearn if name == "ai4i-sklearn" else _by_torch)(*splits["train"])
    return write_model(out, name, content, parameters, settings, time.monotonic() - began)


def measure(content: bytes, out: Path, part: str) -> dict[str, float]:
    """Average precision of failures: at 3.4 % of them accuracy means nothing."""
    import onnx
    from sklearn.metrics import average_precision_score

    x, y = read(part)
    output = onnx.load_from_string(content).graph.output[-1].name
    said = answers(content, {"features": x}, output)
    return {"average_precision": float(average_precision_score(y, said[:, 1] - said[:, 0]))}


def _by_torch(x: npt.NDArray[np.float32], y: npt.NDArray[np.int64]) -> tuple[bytes, int, dict[str, Any]]:
    net = teach(x, y)
    facts = {"epochs": EPOCHS, "batch": BATCH, "rate": RATE, "decay": DECAY, "seed": SEED}
    content = to_onnx(net, (torch.from_numpy(x[:2]),), ("features",))
    return content, sum(one.numel() for one in net.parameters()), facts


def _by_sklearn(x: npt.NDArray[np.float32], y: npt.NDArray[np.int64]) -> tuple[bytes, int, dict[str, Any]]:
    """A pipeline as people write one, through skl2onnx with its defaults but the dictionary of probabilities."""
    from skl2onnx import to_onnx as sklearn_to_onnx
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    net = MLPClassifier((64, 64), alpha=1e-3, learning_rate_init=2e-3, max_iter=150, random_state=SEED)
    pipeline = make_pipeline(StandardScaler(), net).fit(x, y)
    model = sklearn_to_onnx(pipeline, x[:1], options={"zipmap": False}, target_opset=18)
    model.graph.input[0].name, old = "features", model.graph.input[0].name
    for node in model.graph.node:
        node.input[:] = ["features" if one == old else one for one in node.input]
    print("operators:", sorted({f"{one.domain}:{one.op_type}" for one in model.graph.node}), file=sys.stderr)
    parameters = sum(one.size for one in net.coefs_ + net.intercepts_)
    return model.SerializeToString(), parameters, {"alpha": 1e-3, "rate": 2e-3, "epochs": int(net.n_iter_)}
