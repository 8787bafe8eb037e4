"""A small model, items to judge it with, and searches of them, for the tests of the search."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from onnx import helper

from edge_runtime.compress.artifact import read_artifact
from edge_runtime.compress.candidates import FAMILIES
from edge_runtime.compress.goal import Goal
from edge_runtime.compress.outputs import answers
from edge_runtime.compress.recipe import Target
from edge_runtime.compress.run import Job
from edge_runtime.compress.samples import Samples
from edge_runtime.profile import Budget, load_profile

from .compress_models import onnx_file

ABOUT = {
    "name": "t",
    "version": "1",
    "task": {"kind": "image", "top": 3, "scores": "logits"},
    "labels": ["a", "b", "c"],
}
ABOUT |= {"preprocessing": {"size": [16, 16], "resize": "stretch", "mean": [0, 0, 0], "std": [1, 1, 1]}}
BOTH = ("onnxruntime", "litert")


def some(*names: str):
    return tuple(one for one in FAMILIES if one.name in names)


def dice(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3, 16, 16)).astype(np.float32)


def net() -> bytes:
    """Three classes of 2,304 weights."""
    weights = np.random.default_rng(0).normal(size=(768, 3)).astype(np.float32) / 28
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("Gemm", ["f", "w", "b"], ["y"], name="head")]
    return onnx_file(nodes, {"w": weights, "b": np.zeros(3, np.float32)}, ["batch", 3, 16, 16])


def write_work(tmp_path: Path) -> Path:
    (tmp_path / "net.onnx").write_bytes(net())
    (tmp_path / "about.json").write_text(json.dumps(ABOUT))
    x = dice(90, 1)
    found = next(iter(answers(read_artifact(net(), "net"), Samples("x", 90, None, {"x": x}), 8).values()))
    np.savez(tmp_path / "judge.npz", x=x, labels=found.argmax(axis=1))
    np.savez(tmp_path / "items.npz", x=dice(32, 2))
    return tmp_path


def goal(storage: int = 1 << 20, ram: int = 1 << 30, latency: float | None = None, drop: float = 5, **more) -> Goal:
    device = replace(load_profile("raspberry-pi-zero-2w"), budget=Budget(ram, storage, latency))
    return Goal(device, drop, **more)


def job(work: Path, out: str = "out.edge", engines=BOTH, **more) -> Job:
    like = work / "about.json"
    files = {
        "calibrate": work / "items.npz",
        "judge": work / "judge.npz",
        "like": like,
        "target": Target("aarch64", engines),
    }
    files |= {"recipes": (), "speed": False, "robust": False}
    return Job(work / "net.onnx", out=work / out, **(files | more))
