"""Models through a guarded child that is used until it dies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from edge_runtime.errors import EdgeError
from edge_runtime.guard import Child, Limits
from tests.hostile.judge import Tally, cpu_limit, end_of
from tests.hostile.models import Case

# A watchdog that looks every 50 ms sees an allocation late: what came between must not be more than this.
SLACK_BYTES = 96 << 20
ENDLESS_S = 2.0


class Trial:
    """`time_limit_s`: far more than a model of this suite needs on a busy machine, and less than for ever."""

    def __init__(self, ram_bytes: int = 320 << 20, time_limit_s: float = 20) -> None:
        self.limits = Limits(ram_bytes, time_limit_s, loads_later=True)
        self.child: Child | None = None
        self.children = 0

    def judge(self, tally: Tally, name: str, engine: str, model: bytes) -> None:
        end, words = "accepted", ""
        child = self._running()
        if name.startswith("endless"):  # it has started, so the machine's haste no longer counts
            child.limits = replace(self.limits, silence_s=ENDLESS_S)
        try:
            with cpu_limit():
                child.call("try", {"engine": engine}, {"model": np.frombuffer(model, np.uint8)})
        except EdgeError as error:
            end, words = end_of(error), error.message
        except Exception as error:
            end, words = "crashed", f"{type(error).__name__}: {error}"
        allowed = self.limits.ram_bytes or 0
        if child.peak_bytes > allowed + SLACK_BYTES or (child.peak_bytes > allowed and child.alive):
            end, words = "over budget", f"{child.peak_bytes >> 20} MiB, {end}: {words}"
        tally.add(name, end, words)

    def _running(self) -> Child:
        if self.child is None or not self.child.alive:
            self.close()
            self.child = Child("tests.hostile.server:serve", {}, self.limits)
            self.child.ready()
            self.children += 1
        return self.child

    def close(self) -> None:
        if self.child:
            self.child.close()
            self.child = None


def try_models(tally: Tally, cases: Iterable[Case], **limits: Any) -> int:
    """How many children it took."""
    trial = Trial(**limits)
    try:
        for name, (engine, model) in cases:
            trial.judge(tally, name, engine, model)
    finally:
        trial.close()
    return trial.children
