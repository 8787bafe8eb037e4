"""Energy with its uncertainty, and what follows from it. Pure arithmetic: nothing is read here.

An uncertainty is one standard deviation's worth, put together from parts that are independent: the sensor's stated
accuracy (proportional), its offset (grows with time), and what is left by chance: few readings, a coarse step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from edge_runtime.errors import MeterError
from edge_runtime.power.meter import Sample, Sensor

FEW_SAMPLES = 5
GAP_PERIODS = 5.0
LEAST_GAP_S = 1.0  # shorter ones are a busy machine's, and the scatter of the readings covers them
_SECONDS_A_DAY = 86_400.0


@dataclass(frozen=True)
class Energy:
    """Joules in a window of `seconds`, by `samples` readings inside it.

    `random_j` and `offset_j` are parts of the uncertainty, `accuracy` the relative one (None: nobody knows). `notes`
    say what to mind. `valid` is false where the figure must not be used: on charge, or most of the window unread.
    """

    joules: float
    seconds: float
    basis: str
    about: str
    samples: int
    accuracy: float | None
    random_j: float = 0.0
    offset_j: float = 0.0
    notes: tuple[str, ...] = ()
    valid: bool = True

    @property
    def mean_w(self) -> float:
        return self.joules / self.seconds if self.seconds else 0.0

    @property
    def uncertainty_j(self) -> float | None:
        """One standard deviation; None where the meter's accuracy is not known (modelled)."""
        if self.accuracy is None:
            return None
        return math.hypot(self.accuracy * self.joules, self.random_j, self.offset_j)

    def to_json(self) -> dict[str, Any]:
        plain: dict[str, Any] = {"basis": self.basis, "about": self.about, "joules": self.joules}
        plain |= {"seconds": self.seconds, "mean_w": self.mean_w, "uncertainty_j": self.uncertainty_j}
        return plain | {"samples": self.samples, "notes": list(self.notes), "valid": self.valid}

    def __str__(self) -> str:
        from edge_runtime.units import format_mj

        doubt = self.uncertainty_j
        spread = "" if doubt is None else f" ± {format_mj(1e3 * doubt)}"
        return f"{format_mj(1e3 * self.joules)}{spread} ({self.basis})"


@dataclass(frozen=True)
class Idle:
    """What the device takes when nothing is asked of it: watts, their spread over the parts of the window, and the
    error of the mean. Subtract it with `net`."""

    watts: float
    spread_w: float
    error_w: float
    seconds: float
    basis: str
    notes: tuple[str, ...] = ()
    valid: bool = True


def integrate(
    samples: Sequence[Sample], start_s: float, end_s: float, sensor: Sensor, seen: tuple[float, float] | None = None
) -> Energy:
    """A sampler's energy from start to end, by trapezoids; the readings just outside bound the ends, and without one
    the nearest is held.

    `seen`: lowest and highest watts that this meter has shown at all; with too few readings in the window, the mean
    may lie anywhere between them, and the uncertainty says so. Raises MeterError where there is no reading.
    """
    if not samples:
        raise MeterError(f"{sensor.name}: found no reading, wanted one at least")
    if end_s < start_s:
        raise MeterError(f"{sensor.name}: the window ends {start_s - end_s:.3g} s before it begins")
    seconds = end_s - start_s
    points = _clip(samples, start_s, end_s)
    joules = sum((b.at_s - a.at_s) * (a.value + b.value) / 2 for a, b in pairwise(points))
    inside = [one.value for one in samples if start_s <= one.at_s <= end_s]
    low, high = seen or (min(one.value for one in samples), max(one.value for one in samples))
    notes = []
    if len(inside) < FEW_SAMPLES:
        notes.append(f"{len(inside)} readings in the window, wanted {FEW_SAMPLES} or more: measure for longer")
        scatter_w = (high - low) / 2 or (abs(high) if len(samples) < 2 else 0.0)
    else:
        mean = sum(inside) / len(inside)
        scatter_w = math.sqrt(sum((one - mean) ** 2 for one in inside) / (len(inside) - 1)) / math.sqrt(len(inside))
    gaps = _gaps(samples, start_s, end_s, sensor.period_s)
    if gaps:
        notes.append(f"no reading for {max(gaps):.3g} s, {len(gaps)} gap{'s' if len(gaps) > 1 else ''}")
    # a step's error does not average out where the load is steady: it is counted whole
    random_j = seconds * math.hypot(scatter_w, sensor.step / math.sqrt(12))
    return Energy(
        joules,
        seconds,
        sensor.basis,
        sensor.about,
        len(inside),
        sensor.accuracy,
        random_j,
        sensor.offset_w * seconds,
        tuple(notes),
        valid=sum(gaps) <= 0.1 * seconds,
    )


def _clip(samples: Sequence[Sample], start_s: float, end_s: float) -> list[Sample]:
    inside = [one for one in samples if start_s < one.at_s < end_s]
    return [Sample(start_s, _at(samples, start_s)), *inside, Sample(end_s, _at(samples, end_s))]


def _at(samples: Sequence[Sample], at_s: float) -> float:
    """The reading at a moment, between its neighbours by a straight line, beyond the ends as the nearest."""
    before = after = None
    for one in samples:
        if one.at_s <= at_s:
            before = one
        else:
            after = one
            break
    if before is None or after is None:
        return (before or after or samples[0]).value
    part = (at_s - before.at_s) / (after.at_s - before.at_s)
    return before.value + part * (after.value - before.value)


def _gaps(samples: Sequence[Sample], start_s: float, end_s: float, period_s: float) -> list[float]:
    """How long, inside the window, nothing was read for far longer than the meter's period."""
    longest = max(GAP_PERIODS * period_s, LEAST_GAP_S)
    times = [one.at_s for one in samples]
    edges = [start_s, *(one for one in times if start_s < one < end_s), end_s]
    if times[0] <= start_s:  # what was read just before reaches into the window
        edges[0] = max(one for one in times if one <= start_s)
    return [min(b, end_s) - max(a, start_s) for a, b in pairwise(edges) if b - a > longest]


def difference(start: Sample, end: Sample, sensor: Sensor, step_j: float, samples: int) -> Energy:
    """A counter's energy between two readings; `step_j`: the smallest step that it has been seen to take."""
    seconds = end.at_s - start.at_s
    joules = end.value - start.value
    step = max(step_j, sensor.step)
    notes: tuple[str, ...] = ()
    if abs(joules) < FEW_SAMPLES * step:
        notes = (f"the counter moved by {joules:.3g} J, its step is {step:.3g} J: measure for longer",)
    # a reading is anywhere in its step, at either end
    return Energy(
        joules,
        seconds,
        sensor.basis,
        sensor.about,
        samples,
        sensor.accuracy,
        step / math.sqrt(6),
        sensor.offset_w * seconds,
        notes,
    )


def idle_of(parts: Sequence[Energy]) -> Idle:
    """The idle power from windows one after the other, in which nothing ran. Raises MeterError for fewer than two."""
    if len(parts) < 2:
        raise MeterError(f"idle: found {len(parts)} window, wanted two or more to see the spread")
    seconds = sum(one.seconds for one in parts)
    watts = sum(one.joules for one in parts) / seconds
    spread = math.sqrt(sum((one.mean_w - watts) ** 2 for one in parts) / (len(parts) - 1))
    chance = math.sqrt(sum(one.random_j**2 for one in parts)) / seconds
    notes = tuple(dict.fromkeys(note for one in parts for note in one.notes if not note.startswith("0 readings")))
    valid = all(one.valid for one in parts)
    return Idle(
        watts, spread, math.hypot(spread / math.sqrt(len(parts)), chance), seconds, parts[0].basis, notes, valid
    )


def net(energy: Energy, idle: Idle) -> Energy:
    """What was taken above idle. The sensor's offset is in both and cancels; the error of the idle power does not."""
    if idle.basis != energy.basis:
        raise MeterError(f"idle was taken as {idle.basis} and the energy as {energy.basis}: wanted the same meter")
    joules = energy.joules - idle.watts * energy.seconds
    random_j = math.hypot(energy.random_j, idle.error_w * energy.seconds)
    notes = energy.notes
    if joules < 2 * random_j:
        notes += ("net energy does not stand out from idle: measure for longer, or with more load",)
    return replace(
        energy, joules=joules, random_j=random_j, offset_j=0.0, notes=notes, valid=energy.valid and idle.valid
    )


def total(parts: Iterable[Energy]) -> Energy:
    """Windows of one meter added up; errors of chance add as squares, the sensor's own in proportion."""
    found = list(parts)
    if not found:
        raise MeterError("energy: found no window to add up")
    return replace(
        found[0],
        joules=sum(one.joules for one in found),
        seconds=sum(one.seconds for one in found),
        samples=sum(one.samples for one in found),
        random_j=math.sqrt(sum(one.random_j**2 for one in found)),
        offset_j=sum(one.offset_j for one in found),
        notes=tuple(dict.fromkeys(note for one in found for note in one.notes)),
        valid=all(one.valid for one in found),
    )


def joules_per_item(energy: Energy, items: int) -> Energy:
    """The energy of one of `items`, with its uncertainty. Raises MeterError for no item."""
    if items < 1:
        raise MeterError(f"joules per item: found {items} items, wanted one or more")
    return replace(
        energy,
        joules=energy.joules / items,
        seconds=energy.seconds / items,
        random_j=energy.random_j / items,
        offset_j=energy.offset_j / items,
    )


def battery_joules(mah: float, volts: float = 3.85) -> float:
    """What a full battery holds: 5,000 mAh at 3.85 V are 69,300 J."""
    return mah * 3.6 * volts


def items_per_percent(item_j: float, mah: float, volts: float = 3.85) -> float:
    """How many items one percent of the battery pays for; endless where an item takes nothing that can be told."""
    return battery_joules(mah, volts) / 100 / item_j if item_j > 0 else math.inf


def percent_per_items(item_j: float, items: int, mah: float, volts: float = 3.85) -> float:
    """Percent of the battery that so many items take, as a clinic counts: percent per 100 slides."""
    return 100 * item_j * items / battery_joules(mah, volts)


def battery_hours(active_w: float, idle_w: float, duty: float, mah: float, volts: float = 3.85) -> float:
    """Hours on a full battery when it works for the part `duty` (0 to 1) of the time and idles for the rest."""
    if not 0 <= duty <= 1:
        raise MeterError(f"duty: found {duty:g}, wanted 0 to 1: the part of the time at work")
    watts = duty * active_w + (1 - duty) * idle_w
    return battery_joules(mah, volts) / watts / 3600 if watts > 0 else math.inf


def battery_hours_for(item_j: float, items_a_day: float, idle_w: float, mah: float, volts: float = 3.85) -> float:
    """Hours on a full battery at so many items a day, `item_j` being net of idle."""
    watts = idle_w + item_j * items_a_day / _SECONDS_A_DAY
    return battery_joules(mah, volts) / watts / 3600 if watts > 0 else math.inf
