"""Run a benchmark: cases in fresh processes, in turn, until what they say is certain enough; rows come out.

A round starts a process for every case, and then measures slices of some milliseconds in turn: A B C, B C A, and so on.
What disturbs the machine for longer than a slice disturbs all of them alike, and drops out of their ratio. A new round
has new processes, because a process differs from the next one of the same program by more than two slices do. Where the
processes would not fit into the free memory together, each case of a round has its whole window after the other's.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from edge_runtime.bench.cases import Case
from edge_runtime.errors import EdgeError
from edge_runtime.guard import Child, Limits
from edge_runtime.stats import Interval, in_turn, interval, median, quantile

if TYPE_CHECKING:
    from edge_runtime.items import Item
    from edge_runtime.power import Energy, Idle, Recorder
    from edge_runtime.profile import DeviceProfile

Notice = Callable[[str], None]


@dataclass(frozen=True)
class Protocol:
    """How it is measured. `rounds` at the least and `most_rounds` at the most: more are made until every interval is
    within `wanted` of its middle, relative. `window_s` is what a process infers in all, in slices of `slice_s`.
    `batches` are the sizes for throughput; `item` is what the bundle's task reads, None for no task; `shapes` are free
    sizes by input name; `idle_s` is how long the idle machine's power is measured, where there is a meter."""

    form: str = "quick"
    rounds: int = 5
    most_rounds: int = 12
    window_s: float = 0.6
    slice_s: float = 0.03
    wanted: float = 0.02
    batches: tuple[int, ...] = (1, 8)
    item: Item | None = None
    shapes: dict[str, list[int]] = field(default_factory=dict)
    idle_s: float = 10.0


QUICK = Protocol()
# As MLPerf Tiny does it: five windows of ten seconds and more, each in a process of its own here.
OFFICIAL = Protocol("official", 5, 5, 10.0, 0.1, idle_s=60.0)
_TASK_ROUNDS = BATCH_ROUNDS = 3
_AT_PACE = 1.1
_LEAST_SLICES = 3
# What is not paired is left out where it would take minutes: batches of a slow model, a task again and again.
_SLOW_MS, _LONG_TASK_MS = 500.0, 20_000.0


@dataclass
class Process:
    """What one fresh process said of a case."""

    cold_ms: float
    load_ms: float
    first_ms: float
    warm_up: dict[str, Any]
    memory: dict[str, Any]
    loaded_bytes: int
    trace: list[tuple[float, int]]
    slices: list[float] = field(default_factory=list)  # median latency of each, ms
    chunks: list[list[float]] = field(default_factory=list)
    latencies: list[Any] = field(default_factory=list)
    spent_s: float = 0.0  # inferring in windows
    batches: dict[int, list[list[float]]] = field(default_factory=dict)  # chunks, ms a batch
    task: dict[str, Any] | None = None
    energies: list[Energy] = field(default_factory=list)  # of each slice, gross
    task_energy: Energy | None = None
    inferences: int = 0

    def done(self, window_s: float) -> bool:
        return self.spent_s >= window_s and len(self.slices) >= _LEAST_SLICES

    def at_pace(self, limit_ms: float) -> tuple[float, float] | None:
        """(median latency, median pace), both ms, of what was measured while the machine's pace was within the limit;
        None where that was less than a fifth of it."""
        return at_pace(self.chunks, limit_ms)


@dataclass
class Gathered:
    """All processes of a case, by round, and why it ended early where it did."""

    case: Case
    about: dict[str, Any] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)
    error: EdgeError | None = None


@dataclass
class Measured:
    """What `run_cases` gives: rows are made of it (report.py)."""

    gathered: list[Gathered]
    protocol: Protocol
    together: bool
    idle: Idle | None = None
    interrupted: KeyboardInterrupt | None = None

    @property
    def full_pace_ms(self) -> float:
        """The pace that a tenth of the run kept or beat."""
        paces = [chunk[1] for one in self.gathered for process in one.processes for chunk in process.chunks]
        return quantile(sorted(paces), 0.1) if paces else math.inf


def run_cases(
    cases: Sequence[Case],
    protocol: Protocol,
    device: DeviceProfile,
    *,
    recorder: Recorder | None = None,
    free_bytes: int | None = None,
    notice: Notice | None = None,
) -> Measured:
    """Measure. A case that fails is kept with its error, and the others go on; an interrupt ends it with what there is.
    `free_bytes`: of memory, now."""
    done = Measured([Gathered(case) for case in cases], protocol, _together(cases, free_bytes))
    if recorder:
        if notice:
            notice(f"measuring what the idle device takes for {protocol.idle_s:.0f} s: leave it alone")
        done.idle = recorder.idle(protocol.idle_s)
        # a meter that is read once a second says nothing of thirty milliseconds
        least_s = 5 * recorder.sensor.period_s
        done.protocol = protocol = replace(
            protocol, slice_s=max(protocol.slice_s, least_s), window_s=max(protocol.window_s, 2 * least_s)
        )
    try:
        for number in range(protocol.most_rounds):
            running = [one for one in done.gathered if one.error is None]
            if not running or (number >= protocol.rounds and certain(done, protocol.wanted)):
                break
            if notice:
                notice(f"round {number + 1} of {protocol.rounds} to {protocol.most_rounds}")
            for group in [running] if done.together else [[one] for one in running]:
                _round(number, group, protocol, device, recorder)
    except KeyboardInterrupt as interrupt:  # what was measured so far is worth showing
        done.interrupted = interrupt
    return done


def _together(cases: Sequence[Case], free_bytes: int | None) -> bool:
    return len(cases) > 1 and (free_bytes is None or sum(one.ram_bytes for one in cases) <= free_bytes // 2)


def certain(done: Measured, wanted: float) -> bool:
    """Whether every ratio to the first case is known within `wanted`, or, where there is no ratio, every latency."""
    good = [one for one in done.gathered if one.error is None]
    if done.together and len(good) > 1:
        found = [ratio_between(one, good[0]) for one in good[1:]]
    else:
        found = [interval(settled(one, done.full_pace_ms).latencies_ms) for one in good]
    return all(math.log(one.high / one.middle) <= wanted for one in found)


def ratio_between(one: Gathered, other: Gathered) -> Interval:
    """Latency of `one` by that of `other`: of the slices of a round in pairs, their median; then over the rounds."""
    ratios = []
    for mine, theirs in zip(one.processes, other.processes, strict=False):
        pairs = [a / b for a, b in zip(mine.slices, theirs.slices, strict=False)]
        if pairs:
            ratios.append(median(pairs))
    return interval(ratios)


class Settled(NamedTuple):
    """Latency and pace of each process of a case, in ms, at the machine's full pace where enough of them saw it;
    `dropped` are those that did not."""

    latencies_ms: list[float]
    paces_ms: list[float]
    dropped: int


def at_pace(chunks: Sequence[Sequence[float]], limit_ms: float) -> tuple[float, float] | None:
    """As Process.at_pace, of any chunks."""
    good = [chunk for chunk in chunks if chunk[1] <= limit_ms]
    if not good or 5 * len(good) < len(chunks):
        return None
    return median(chunk[0] for chunk in good), median(chunk[1] for chunk in good)


def batch_ms(processes: Sequence[Process], batch: int, full_pace_ms: float) -> float:
    """Milliseconds of a batch, by the same rule as the latency beside which it stands."""
    chunks = [process.batches[batch] for process in processes if batch in process.batches]
    good = [found[0] for one in chunks if (found := at_pace(one, _AT_PACE * full_pace_ms))]
    return median(good or [median(chunk[0] for chunk in one) for one in chunks])


def settled(one: Gathered, full_pace_ms: float) -> Settled:
    """A shared machine works at two paces, alone and beside somebody: the processes that never saw the full one are
    left out, when three that did are left."""
    processes = [process for process in one.processes if process.chunks]
    at_pace = [process.at_pace(_AT_PACE * full_pace_ms) for process in processes]
    good = [found for found in at_pace if found]
    if len(good) < min(3, len(processes)):
        good = [
            (median(chunk[0] for chunk in process.chunks), median(chunk[1] for chunk in process.chunks))
            for process in processes
        ]
    return Settled([one[0] for one in good], [one[1] for one in good], len(processes) - len(good))


# ---------------------------------------------------------------- one round


def _round(
    number: int, group: list[Gathered], protocol: Protocol, device: DeviceProfile, recorder: Recorder | None
) -> None:
    with contextlib.ExitStack() as stack:
        children: dict[str, Child] = {}
        order = group if number % 2 == 0 else group[::-1]
        for one in order:
            with _failure(one):
                children[one.case.label] = _start(one, protocol, device, stack)
        slices = max(1, round(protocol.window_s / protocol.slice_s))
        for turn in range(slices):
            for one in in_turn(order, turn):
                # twenty slices of a slow model would be many times the window
                if one.error is None and not one.processes[-1].done(protocol.window_s):
                    with _failure(one):
                        _slice(one.processes[-1], children[one.case.label], protocol.slice_s, recorder)
        for one in order:
            if one.error is None:
                with _failure(one):
                    _extras(number, one, children[one.case.label], protocol, recorder)


@contextlib.contextmanager
def _failure(one: Gathered) -> Any:
    try:
        yield
    except EdgeError as error:
        one.error = error


def _start(one: Gathered, protocol: Protocol, device: DeviceProfile, stack: contextlib.ExitStack) -> Child:
    child, process = start_process(one.case, protocol, device, one.about)
    stack.callback(child.close)
    one.processes.append(process)
    return child


def start_process(
    case: Case, protocol: Protocol, device: DeviceProfile, about: dict[str, Any] | None = None
) -> tuple[Child, Process]:
    """A fresh process, warm, and what it said on the way; `about` is filled with what it says of itself. Close the
    child. Raises EdgeError where the model does not start or does not answer."""
    start = time.perf_counter()
    child = Child(case.target, case.spec(protocol.shapes), Limits(device.budget.ram_bytes))
    try:
        child.trace = []
        said = child.ready()
        first = child.call("first", {})[0]["ms"]
        cold_ms = (time.perf_counter() - start) * 1e3
        warm_up = child.call("warm_up", {})[0]
        memory = child.call("memory", {})[0]
    except BaseException:
        child.close()
        raise
    trace, child.trace = child.trace, None
    if about is not None:
        about.update(said)
    return child, Process(cold_ms, said["load_ms"], first, warm_up, memory, said["loaded_bytes"], trace or [])


def _slice(process: Process, child: Child, seconds: float, recorder: Recorder | None) -> None:
    before = recorder.mark() if recorder else None
    meta, arrays = child.call("window", {"seconds": seconds})
    process.slices.append(median(chunk[0] for chunk in meta["chunks"]))
    process.chunks += meta["chunks"]
    process.latencies.append(arrays["ms"])
    process.inferences += meta["n"]
    process.spent_s += meta["seconds"]
    if recorder and before is not None:
        process.energies.append(recorder.energy(before, recorder.mark()))


def _extras(number: int, one: Gathered, child: Child, protocol: Protocol, recorder: Recorder | None) -> None:
    """What is not paired: throughput by batch, and the whole task."""
    process = one.processes[-1]
    if number < BATCH_ROUNDS and one.about["batched"] and process.first_ms < _SLOW_MS:
        for batch in protocol.batches:
            if batch > 1:
                child.call("window", {"seconds": 0.0, "batch": batch})  # the first one prepares
                meta, _ = child.call("window", {"seconds": min(protocol.window_s / 3, 1.0), "batch": batch})
                process.batches[batch] = meta["chunks"]
    tasks = [process.task["latency_ms"] for process in one.processes if process.task]
    if number < _TASK_ROUNDS and protocol.item and one.case.bundle and sum(tasks) < _LONG_TASK_MS:
        before = recorder.mark() if recorder else None
        paths = [str(path.absolute()) for path in protocol.item.paths]
        process.task = child.call("task", {"name": protocol.item.name, "paths": paths})[0]
        if recorder and before is not None:
            process.task_energy = recorder.energy(before, recorder.mark())
