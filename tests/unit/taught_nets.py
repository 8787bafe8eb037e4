"""Small lessons, a teacher that knows the answer and a student that does not, for tests of learning."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_runtime.compress.learn.lessons import Lessons
from edge_runtime.compress.learn.loop import Fit

torch = pytest.importorskip("torch", reason="torch is not installed")
QUICK = Fit(epochs=12, batch=16, rate=0.03, decay=0.0, average=0.9)


def lessons(labels: bool = True, **more: Any) -> Lessons:
    """Which of three numbers is the largest."""
    values = np.random.default_rng(3).normal(size=(96, 3)).astype(np.float32)
    return Lessons({"x": values}, values.argmax(1).astype(np.int64) if labels else None, **more)


class Exact(torch.nn.Module):
    """Knows the answer: three times the numbers."""

    def forward(self, x: Any) -> Any:
        return 3 * x


def student(outputs: int = 3, seed: int = 5) -> Any:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, outputs))
