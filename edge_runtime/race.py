"""Candidates of one bundle raced in one guarded child: the same machine, the same moment, slice by slice in turn.

One process for all of them, engines side by side: what disturbs the machine disturbs each alike, and a race of eight
candidates costs one start. Its memory is that of all of them; where that is more than the device allows, choice.py has
each raced in a process of its own.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_runtime.errors import UsageError
from edge_runtime.server import load_variant
from edge_runtime.stats import in_turn, median
from edge_runtime.timing import made_up

if TYPE_CHECKING:
    from edge_runtime.child import Progress, Reply
    from edge_runtime.engine import Program
    from edge_runtime.tensors import Array

_SLOW_MS = 300.0


@dataclass
class _Runner:
    program: Program
    feeds: dict[str, Array]
    batch: int
    last_ms: float = 0.0

    def slice_ms(self, seconds: float) -> float:
        """Median milliseconds an input, of as many inferences as fit; one at the least."""
        taken: list[float] = []
        begin = time.perf_counter()
        if seconds and self.last_ms * self.batch < 1e3 * seconds / 8:
            self.program.run(self.feeds)  # another one's data are in the caches
        while not taken or time.perf_counter() - begin < seconds:
            start = time.perf_counter()
            self.program.run(self.feeds)
            taken.append((time.perf_counter() - start) * 1e3 / self.batch)
        self.last_ms = median(taken)
        return self.last_ms


class RaceServer:
    """Handler. "load" makes a candidate ready, "race" runs some of them in turn."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._spec = spec
        self._runners: dict[int, _Runner] = {}
        self.about: dict[str, Any] = {}

    def handle(self, op: str, meta: dict[str, Any], arrays: dict[str, Array], progress: Progress) -> Reply:
        if op == "load":
            return self._load(meta["number"], meta["candidate"]), {}
        if op == "race":
            found: dict[str, list[float]] = {str(number): [] for number in meta["numbers"]}
            until = time.perf_counter() + meta["seconds"]
            for turn in range(meta["slices"]):
                for number in in_turn(meta["numbers"], turn):
                    if time.perf_counter() < until:
                        found[str(number)].append(self._runners[number].slice_ms(meta["slice_s"]))
                progress(turn, None)
            return {"slices": found}, {}
        raise UsageError(f"race: found question {op!r}")

    def _load(self, number: int, candidate: dict[str, Any]) -> dict[str, Any]:
        _task, program, version, batch = load_variant({**self._spec, **candidate})
        feeds = {one.name: made_up(one, batch, {}) for one in program.inputs}
        runner = _Runner(program, feeds, batch)
        ms = runner.slice_ms(0.0)
        if ms * batch < _SLOW_MS:  # the first inference sets up what the next ones find
            ms = runner.slice_ms(0.005)
        self._runners[number] = runner
        return {"ms": ms, "engine_version": version}


def serve_race(spec: dict[str, Any]) -> RaceServer:
    """Made in the child. `spec` has the bundle's path and digest."""
    return RaceServer(spec)
