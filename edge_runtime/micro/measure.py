"""Times micro-models on one engine: the child's side, and `calibrate`, which makes an operator table of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from edge_runtime.engine import EngineOptions, find_engine, probe
from edge_runtime.errors import BudgetError, EngineError
from edge_runtime.guard import Child, Limits
from edge_runtime.micro.build import alone, pair
from edge_runtime.micro.shapes import FLOAT, Spec, specs
from edge_runtime.operators import OperatorTable, Point, node_ns
from edge_runtime.probe import read_machine

if TYPE_CHECKING:
    from edge_runtime.child import Progress, Reply
    from edge_runtime.engine import Engine, Program
    from edge_runtime.tensors import Array

# Activations in 8 bits as the usual tools quantize them for each engine.
DTYPES = {"onnxruntime": (FLOAT, "uint8"), "litert": (FLOAT, "int8")}
BUDGET_S = 20.0
_POINT_S, _ROUNDS, _MOST_ROUNDS = 0.015, 3, 40
_TOO_LONG_S = 2.0
_MOST_PASSES, _FIRST_PASS = 4, 4  # on a slow device the first pass may take that many times the budget
_DEATHS = 8
_CALL_EVERY, _UNKNOWN_NS = 60, 10**9


class Bench:
    """Asked to measure one Spec; says the nanoseconds of one operator, or none where the engine has no such one."""

    def __init__(self, name: str, threads: int) -> None:
        self._name, self._engine, self._options = name, find_engine(name), EngineOptions(threads)
        # a thread's own processor time is not disturbed by other programs; more threads need the wall clock
        self._clock = time.thread_time_ns if threads == 1 else time.perf_counter_ns
        self.about = {"engine_version": self._engine.version()}
        end = time.perf_counter() + 0.3  # a governor that sees no work keeps a clock low
        while time.perf_counter() < end:
            self._call_ns()

    def handle(self, op: str, meta: dict[str, Any], arrays: dict[str, Array], progress: Progress) -> Reply:
        if op == "call":
            return {"ns": self._call_ns()}, {}
        made = pair(self._name, Spec(**meta))
        if made is None:
            return {"ns": None}, {}
        less, more = _times([_run(self._engine, model, self._options) for model in (made.less, made.more)], self._clock)
        return {"ns": [less, more], "times": made.times, "heads": made.heads}, {}

    def _call_ns(self) -> int:
        return max(1, _times([_run(self._engine, alone(self._name), self._options)], self._clock)[0])


def open_bench(spec: dict[str, Any]) -> Bench:
    """Made in the child."""
    return Bench(spec["engine"], spec["threads"])


def _run(engine: Engine, model: bytes, options: EngineOptions) -> Callable[[], object]:
    import numpy as np

    program: Program = engine.load(model, options)
    rng = np.random.default_rng(2)
    feeds = {}
    for one in program.inputs:
        shape = [size or 1 for size in one.shape]
        if one.dtype == FLOAT:
            feeds[one.name] = rng.standard_normal(shape).astype(np.float32)
        else:
            feeds[one.name] = rng.integers(0, 100, shape).astype(one.dtype)
    return lambda: program.run(feeds)


def _times(runs: list[Callable[[], object]], clock: Callable[[], int]) -> list[int]:
    """Nanoseconds of each, in turn: the lowest tenth, as whatever disturbs makes it longer."""
    found: list[list[int]] = [[] for _ in runs]
    for run in runs:
        run()
    end = time.perf_counter() + _POINT_S
    while len(found[0]) < _ROUNDS or (time.perf_counter() < end and len(found[0]) < _MOST_ROUNDS):
        for times, run in zip(found, runs, strict=True):
            start = clock()
            run()
            times.append(clock() - start)
        if sum(times[-1] for times in found) > _TOO_LONG_S * 1e9:
            break
    return [sorted(times)[len(times) // 10] for times in found]


def calibrate(
    engine: str,
    *,
    threads: int = 1,
    limits: Limits | None = None,
    budget_s: float = BUDGET_S,
    progress: Progress | None = None,
) -> OperatorTable:
    """Measure single operators on `engine` in a guarded child for `budget_s` seconds; a slow device may take four times
    as long to meet every shape once. Progress in percent.

    Raises EngineError where the engine does not work here or nothing could be measured.
    """
    if reason := probe(engine).reason:
        raise EngineError(f"{engine} does not work here: {reason}", hint="edge-runtime doctor")
    wanted = _interleaved([specs(dtype) for dtype in DTYPES[engine]])
    session = _Session(engine, threads, limits)
    best: dict[Spec, _Timed] = {}
    start = time.monotonic()
    try:
        for turn in range(_MOST_PASSES):  # what disturbs lasts seconds: each shape is met again later, the best counts
            for number, spec in enumerate(wanted):
                if number % _CALL_EVERY == 0:
                    session.measure_call()
                spent = time.monotonic() - start
                if session.ended or spent > (budget_s if turn else _FIRST_PASS * budget_s):
                    break
                found = session.measure(spec)
                if found is not None:
                    best[spec] = found.better(best.get(spec, found))
                if progress:
                    step = max(number / len(wanted) if not turn else 0.0, spent / budget_s)
                    progress(min(99, int(100 * step)), 100)
        session.measure_call()
    finally:
        session.close()
    if not best:
        raise EngineError(f"{engine}: no operator could be measured", hint="edge-runtime doctor --self-test")
    when = datetime.now(UTC).isoformat(timespec="seconds")
    table = OperatorTable(engine, session.engine_version, read_machine().arch, threads, when, session.call_ns, {})
    return replace(table, points=_points(engine, best))


@dataclass(frozen=True)
class _Timed:
    """Nanoseconds of the two models of a Pair, and what the second has more."""

    less: int
    more: int
    times: int
    heads: int

    def better(self, other: _Timed) -> _Timed:
        return replace(self, less=min(self.less, other.less), more=min(self.more, other.more))

    def one(self, head_ns: float) -> float:
        """Of one operator; zero or less where it drowns in what surrounds it."""
        return (self.more - self.less - self.heads * head_ns) / self.times


class _Session:
    """A child that measures; made again when a shape takes it down, a few times: `ended` when it was too often."""

    def __init__(self, engine: str, threads: int, limits: Limits | None) -> None:
        self._spec, self._limits = {"engine": engine, "threads": threads}, limits
        self._child: Child | None = None
        self._refused: set[Spec] = set()
        self._deaths = 0
        self.ended = False
        self.engine_version = ""
        self.call_ns = _UNKNOWN_NS

    def measure(self, spec: Spec) -> _Timed | None:
        """None where the engine cannot. Raises EngineError or BudgetError where no child can be had at all."""
        if spec in self._refused or self.ended:
            return None
        try:
            if self._child is None:
                self._child = Child(f"{__name__}:open_bench", self._spec, self._limits)
                self.engine_version = self._child.ready()["engine_version"]
            found = self._child.call("measure", asdict(spec))[0]
        except (EngineError, BudgetError):  # this shape needs too much here, or takes the engine down
            self._refused.add(spec)
            if self._child is None or not self._child.alive:
                self._deaths += 1
                self.close()
                self.ended = self._deaths > _DEATHS
                if not self.engine_version:
                    raise
            return None
        if found["ns"] is None:
            self._refused.add(spec)
            return None
        less, more = found["ns"]
        return _Timed(less, more, found["times"], found["heads"])

    def measure_call(self) -> None:
        """What one call of the engine takes: the best so far."""
        if self._child is not None:
            try:
                self.call_ns = min(self.call_ns, self._child.call("call", {})[0]["ns"])
            except (EngineError, BudgetError):
                self.close()

    def close(self) -> None:
        if self._child is not None:
            self._child.close()
        self._child = None


def _interleaved(lists: list[list[Spec]]) -> list[Spec]:
    return [spec for group in zip(*lists, strict=False) for spec in group] + [
        spec for one in lists for spec in one[min(map(len, lists)) :]
    ]


def _points(engine: str, best: dict[Spec, _Timed]) -> dict[str, tuple[Point, ...]]:
    """By kind and dtype, without the heads that ended micro-models."""
    points: dict[str, list[Point]] = {}
    heads: dict[str, list[Point]] = {}
    least: dict[str, float] = {}
    for spec, timed in best.items():
        if spec.kind == "binary":  # no operator takes less than the smallest addition
            least[spec.dtype] = max(1.0, min(timed.one(0.0), least.get(spec.dtype, math.inf)))
    for spec, timed in best.items():
        if _is_head(engine, spec):
            heads.setdefault(spec.dtype, []).append(_point(spec, timed.one(0.0), least))
    for spec, timed in best.items():
        head = 0.0
        if timed.heads and spec.dtype in heads:
            like = Point(spec.rows, 1, spec.width, 1, 1, 1) if engine == "litert" else Point(1, 4, spec.width, 4, 2, 1)
            head = node_ns(heads[spec.dtype], like, "globalpool")
        points.setdefault(f"{spec.kind}.{spec.dtype}", []).append(_point(spec, timed.one(head), least))
    return {name: tuple(rows) for name, rows in sorted(points.items())}


def _is_head(engine: str, spec: Spec) -> bool:
    """What OnnxWriter.head and LiteWriter.head add."""
    return spec.kind == "globalpool" if engine == "litert" else spec.kind == "pool" and spec.rows == 1


def _point(spec: Spec, ns: float, least: dict[str, float]) -> Point:
    ns = max(ns, least.get(spec.dtype, 1.0))
    return Point(spec.rows, spec.depth, spec.width, spec.kernel, spec.stride, round(ns))
