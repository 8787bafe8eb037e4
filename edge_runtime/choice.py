"""Choice by measurement: which variant on which engine with how many threads is fastest here, found by trying.

Rules of thumb are wrong too often (int8 is faster on one core and slower on the next, two threads are slower than one):
the candidates that fit are raced on this machine, for seconds, and what was learned is kept for the next time.

How: every candidate is loaded into one guarded child; a first heat sorts out what is clearly slower; those that are
left and the default run again, in turn. Another than the default is taken only where it is faster by more than the
measurement leaves open and two percent, so that it is not chance that chooses. It is measured again when the
circumstances are no longer those it was made in: another engine version, governor, set of cores, or version of this
package.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from edge_runtime.cores import allowed_cores
from edge_runtime.errors import BudgetError, EdgeError
from edge_runtime.guard import Child, Limits
from edge_runtime.learned import Lap, Learned, circumstances, learned_file, recall, remember
from edge_runtime.machine import machine
from edge_runtime.planner import Candidate, Plan, is_roomy, usual_threads
from edge_runtime.stats import Interval, interval, median, round_figures

if TYPE_CHECKING:
    from edge_runtime.bundle import Bundle
    from edge_runtime.profile import DeviceProfile

Notice = Callable[[str], None]
SECONDS = 6.0
_SERVE = "edge_runtime.race:serve_race"
_SILENCE_S = 60.0  # of a candidate that hangs
# A first heat of a few slices, then the final; a candidate is out when it is so much slower than the best.
_HEAT_SLICES, _HEAT_SLICE_S, _OUT = 3, 0.015, 1.25
_FINAL_SLICES, _FINAL_SLICE_S = 10, 0.025
_SURE = 0.98  # what lies below is faster: slices of one process and many candidates make chance larger than an interval
_FINALS = 3  # at most, until it is clear
# A model that takes half a second an inference gets so many of its inferences' time, and so many seconds more at most.
_SLOW_TIMES, _SLOW_MOST_S = 40, 24.0


# ---------------------------------------------------------------- the race


def thread_options(device: DeviceProfile, usual: int, cores: int) -> list[int]:
    """How many threads are worth trying: one, the usual, all the big cores, all the cores that may be used."""
    return sorted({count for count in (1, 2, usual, device.threads, cores) if 1 <= count <= min(cores, 8)})


@dataclass
class _Entry:
    number: int
    candidate: Candidate
    threads: int
    roomy: bool = False
    first_ms: float = 0.0  # an input of the first inferences: of a slow model it is all that there is time for
    heats: dict[int, list[float]] = field(default_factory=dict)  # slices, ms an input
    failed: str = ""

    @property
    def slices(self) -> list[float]:
        return [ms for heat in self.heats.values() for ms in heat] or [self.first_ms]

    @property
    def label(self) -> str:
        return f"{self.candidate.variant} on {self.candidate.engine}, {self.threads}"

    def spec(self) -> dict[str, Any]:
        one = self.candidate
        return {"variant": one.variant, "engine": one.engine, "threads": self.threads, "roomy": self.roomy}

    def lap(self) -> Lap:
        ms = round_figures(median(self.slices))
        return Lap(self.candidate.variant, self.candidate.engine, self.threads, ms)


def race(
    bundle: Bundle,
    device: DeviceProfile,
    plan: Plan,
    *,
    threads: int | None = None,
    seconds: float = SECONDS,
) -> Learned | None:
    """Measure the candidates of `plan` that fit. None where nothing is left to choose, or nothing could be measured.

    The first candidate with its usual threads is the default. `seconds` bounds the measuring; loading comes on top.
    """
    cores = allowed_cores()
    entries: list[_Entry] = []
    for one in plan.fitting:
        usual = threads or usual_threads(bundle.variant(one.variant).file.read_bytes, device)
        options = [threads] if threads else thread_options(device, usual, cores)
        for count in sorted(options, key=lambda count, usual=usual: (count != usual, count)):  # type: ignore[misc]
            entries.append(_Entry(len(entries), one, count, is_roomy(one.cost.ram_bytes, device)))
    if len(entries) < 2:
        return None
    good = _heats(entries, bundle, device, seconds)
    if not good:
        return None
    default = next((one for one in entries if one in good), good[0])
    best, ratio = _winner(good, default)
    ranked = sorted((one for one in good if one is not best), key=lambda one: median(one.slices))
    laps = tuple(one.lap() for one in [best, *ranked])
    return Learned(
        bundle.digest,
        machine().id,
        circumstances(plan, threads),
        laps,
        best.lap(),
        default.lap(),
        round_figures(ratio, 4),
        datetime.now(UTC).isoformat(timespec="seconds"),
        {one.label: one.failed for one in entries if one.failed},
    )


def _winner(good: Sequence[_Entry], default: _Entry) -> tuple[_Entry, float]:
    """The fastest that is clearly faster than the default, with its ratio to it; else the default and 1."""
    sure = [(found.middle, one.number, one) for one in good if (found := _ratio(one, default)).high < _SURE]
    if not sure:
        return default, 1.0
    ratio, _, best = min(sure)
    return best, ratio


def _ratio(one: _Entry, default: _Entry) -> Interval:
    both = [heat for heat in one.heats if heat in default.heats]
    pairs = [pair for heat in both for pair in zip(one.heats[heat], default.heats[heat], strict=False)]
    if one is default or not pairs:
        return Interval(1.0, 1.0, 1.0, len(pairs))
    return interval([a / b for a, b in pairs])


def _heats(entries: list[_Entry], bundle: Bundle, device: DeviceProfile, seconds: float) -> list[_Entry]:
    """Run the race; returns the entries that were measured. Those whose engine dies or refuses carry the reason; those
    that there was no time for are left out."""
    child = _Runners(bundle, device)
    until = time.monotonic() + seconds
    try:
        return _together(child, entries, until, seconds)
    except BudgetError:
        child.close()
        return _apart(entries, bundle, device, max(until, time.monotonic() + seconds / 2))
    finally:
        child.close()


def _together(child: _Runners, entries: list[_Entry], until: float, seconds: float) -> list[_Entry]:
    """In one process. Raises BudgetError where they do not fit into the device's memory together."""
    for one in entries:
        if not child.loaded or time.monotonic() < until:
            child.load(one)
            if len(child.loaded) == 1:  # what a slow model takes is worth waiting longer for
                until += min(max(_SLOW_TIMES * one.first_ms / 1e3 - seconds, 0.0), _SLOW_MOST_S)
    measured = list(child.loaded)
    if not measured:
        return []
    child.race(0, measured, _HEAT_SLICES, _HEAT_SLICE_S, until)
    measured = [one for one in measured if not one.failed]
    least = min((median(one.slices) for one in measured), default=0.0)
    finalists = [one for one in measured if one is measured[0] or median(one.slices) <= _OUT * least]
    for heat in range(1, 1 + _FINALS if len(finalists) > 1 else 1):
        if heat > 1:  # where a model lies in memory is worth some percent, and chance
            child.again(finalists)
        child.race(heat, finalists, _FINAL_SLICES, _FINAL_SLICE_S, until)
        finalists = [one for one in finalists if not one.failed]
        if len(finalists) < 2 or time.monotonic() > until or _clear(finalists):
            break
    return [one for one in measured if not one.failed]


def _clear(finalists: Sequence[_Entry]) -> bool:
    """Whether to measure longer would change nothing that matters: the choice is known, and no other is faster by more
    than 3 %."""
    best, _ = _winner(finalists, finalists[0])
    return all(_ratio(one, best).low > 0.97 for one in finalists if one is not best)


def _apart(entries: list[_Entry], bundle: Bundle, device: DeviceProfile, until: float) -> list[_Entry]:
    """Each in a process of its own, several times round: they do not fit into the device's memory together."""
    for one in entries:
        one.heats, one.failed = {}, ""
    for heat in range(_FINALS):
        for one in entries:
            if one.failed or (entries[0].slices and time.monotonic() > until):
                continue
            child = _Runners(bundle, device)
            try:
                child.load(one)
                if not one.failed:
                    child.race(heat, [one], _HEAT_SLICES, _FINAL_SLICE_S, until)
            except BudgetError as error:
                one.failed = error.message
            finally:
                child.close()
    return [one for one in entries if one.heats]


class _Runners:
    """A child with the candidates loaded. A candidate that takes it down is marked, and the others are loaded again."""

    def __init__(self, bundle: Bundle, device: DeviceProfile) -> None:
        self._spec = {"bundle": str(bundle.path.resolve()), "digest": bundle.digest}
        self._limits = Limits(device.budget.ram_bytes, silence_s=_SILENCE_S, loads_later=True)
        self._child: Child | None = None
        self.loaded: list[_Entry] = []

    def load(self, one: _Entry) -> None:
        """Raises BudgetError where it does not fit with the others."""
        try:
            one.first_ms = self._running().call("load", {"number": one.number, "candidate": one.spec()})[0]["ms"]
            self.loaded.append(one)
        except BudgetError:
            raise
        except EdgeError as error:
            one.failed = error.message
            if self._child and not self._child.alive:
                self.again(self.loaded)

    def race(self, heat: int, entries: Sequence[_Entry], slices: int, slice_s: float, until: float) -> None:
        """Slices of each in turn; fewer, or none, where the time is short."""
        left = until - time.monotonic()
        if left <= 0:
            return
        order = {"numbers": [one.number for one in entries], "slices": slices, "slice_s": slice_s, "seconds": left}
        try:
            found = self._running().call("race", order)[0]["slices"]
        except EdgeError as error:
            if len(entries) == 1:
                entries[0].failed = error.message
                return
            for one in entries:  # one of them took the others down: alone, each answers for itself
                self.again([one])
                if not one.failed:
                    self.race(heat, [one], slices, slice_s, until)
            self.again([one for one in entries if not one.failed])
            return
        for one in entries:
            if found[str(one.number)]:
                one.heats[heat] = found[str(one.number)]

    def _running(self) -> Child:
        if self._child is None:
            self._child = Child(_SERVE, self._spec, self._limits)
            self._child.ready()
        return self._child

    def again(self, entries: Sequence[_Entry]) -> None:
        """A new process with these loaded."""
        self.close()
        self.loaded = []
        for one in list(entries):
            self.load(one)

    def close(self) -> None:
        if self._child:
            self._child.close()
            self._child = None


# ---------------------------------------------------------------- the plan after it


def choose(
    bundle: Bundle,
    device: DeviceProfile,
    plan: Plan,
    *,
    threads: int | None = None,
    notice: Notice | None = None,
) -> Plan:
    """`plan` with its choice made by measurement: remembered, else raced now. The plan as it was where there is nothing
    to choose, or where nothing can be measured."""
    measured_before = all(one.cost.latency_ms is not None for one in plan.fitting)
    if measured_before or (len(plan.fitting) == 1 and threads):
        return plan
    found = recall(bundle, circumstances(plan, threads), machine().id)
    if found is None:
        if notice:
            notice(f"measuring what is fastest here (once, about {SECONDS:.0f} seconds)")
        found = race(bundle, device, plan, threads=threads)
        if found is None:
            return plan
        if not remember(found) and notice:
            notice(f"{learned_file()}: cannot be written, so it will be measured again the next time")
    return reorder(plan, found)


def reorder(plan: Plan, found: Learned) -> Plan:
    """The plan with what was measured: its choice first, then the others as they came in, each with its threads."""
    known = {(one.variant, one.engine): one for one in reversed(found.laps)}
    laps = [found.choice, *(one for one in found.laps if one != found.choice)]
    order = {(one.variant, one.engine): place for place, one in reversed(list(enumerate(laps)))}

    def measured(one: Candidate) -> Candidate:
        lap = found.choice if (one.variant, one.engine) == (found.choice.variant, found.choice.engine) else None
        lap = lap or known.get((one.variant, one.engine))
        if lap is None or one.objections:
            return one
        where = f"{one.cost.where}; latency measured here, {found.when[:10]}"
        cost = one.cost._replace(latency_ms=lap.ms, where=where.removeprefix("; "))
        return replace(one, cost=cost, threads=lap.threads)

    candidates = sorted(
        plan.candidates, key=lambda one: (bool(one.objections), order.get((one.variant, one.engine), len(order)))
    )
    return replace(plan, candidates=tuple(measured(one) for one in candidates), reason=reason(found))


def reason(found: Learned) -> str:
    if found.choice == found.default:
        return f"the usual choice; nothing measured here is clearly faster ({found.when[:10]})"
    share = f"{found.ratio:.2g}" if found.ratio < 0.995 else f"{found.ratio:.3g}"
    return f"the fastest measured here ({found.when[:10]}): {share} of the time of {found.default.label}"
