"""Reads a meter in the background, in the parent process, and integrates between marks.

    with Recorder(open_meter("ina219")) as recorder:
        idle = recorder.idle(60)
        start = recorder.mark()
        ...                                  # the work
        gross = recorder.energy(start, recorder.mark())
        print(net(gross, idle))

Memory is bounded: 16 bytes a reading, the last 100,000 of them.
"""

from __future__ import annotations

import contextlib
import threading
import time
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace

from edge_runtime.errors import MeterError
from edge_runtime.power.energy import Energy, Idle, difference, idle_of, integrate
from edge_runtime.power.meter import MODELLED, Logged, PowerMeter, Reading, Sample

HISTORY = 100_000
FAILURES = 5
RETRY_S = 30.0
CHARGING_NOTE = "on charge: the battery's current is not what the device takes"


@dataclass(frozen=True)
class Mark:
    """A moment: `at_s` of the monotonic clock, `wall_s` since 1970; of a counter also what it stood at."""

    at_s: float
    wall_s: float
    reading: Sample | None = None


class Recorder:
    """Use it in `with`, which closes the meter. Marks and energies are for one thread; readings come from its own.
    `live`: readings are taken while it runs, so not from a log and not where watts are stated.

    `clock`, `wall`, `sleep` and `background` are for tests: without the thread, `poll` takes a reading.
    """

    def __init__(
        self,
        meter: PowerMeter,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        background: bool = True,
    ) -> None:
        self.meter, self.sensor = meter, meter.sensor
        self._clock, self._wall, self._sleep = clock, wall, sleep
        self.live = not isinstance(meter, Logged) and self.sensor.basis != MODELLED
        self._background = background and self.live
        self._times, self._values = array("d"), array("d")
        self._forgotten_s = float("-inf")
        self._charged: list[list[float]] = []  # from and to, of each time on charge
        self._lowest, self._highest = float("inf"), float("-inf")
        self._stood_still, self._step = False, float("inf")
        self._failed: MeterError | None = None
        self._failures = 0
        self._asking = threading.Lock()  # one question at a time, which may take a slow meter seconds
        self._lock = threading.Lock()  # of what is remembered: never held while a meter is asked
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Recorder:
        """The first reading is taken at once, so that what is missing is said before the work begins."""
        try:
            if self.live:
                self._take()
        except BaseException:
            self.meter.close()
            raise
        if self._background:
            self._thread = threading.Thread(target=self._run, name="power-recorder", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join(2.0)  # a slow meter's last answer is not waited for
            self._thread = None
        self.meter.close()

    def _run(self) -> None:
        due = self._clock()
        while True:
            # a reading that takes longer than the period must not make the next ones come in a burst
            due = max(due + (RETRY_S if self._failed else self.sensor.period_s), self._clock())
            if self._stop.wait(due - self._clock()):
                return
            self.poll()

    def poll(self) -> None:
        """Take a reading now. After five failures in a row there are no figures until the meter answers again, which
        is tried every half minute."""
        try:
            self._take()
            self._failures, self._failed = 0, None
        except Exception as error:  # a thread that dies silently would leave figures that are not measured
            self._failures += 1
            if self._failures >= FAILURES:
                unknown = MeterError(f"{self.sensor.name}: {error!r}")
                self._failed = error if isinstance(error, MeterError) else unknown

    def _take(self) -> Sample:
        with self._asking:
            before = self._clock()
            reading = self.meter.read()
            # slow meters (a process of their own, a bus) are read somewhere between asking and answer
            sample = Sample((before + self._clock()) / 2, reading.value)
            return self._remember(sample, reading)

    def _remember(self, sample: Sample, reading: Reading) -> Sample:
        with self._lock:
            self._note_charging(sample.at_s, reading.charging)
            if self._times and sample.at_s <= self._times[-1]:
                return Sample(self._times[-1], self._values[-1])
            if self._values and self.sensor.counter:
                moved = abs(sample.value - self._values[-1])
                self._stood_still |= moved == 0
                self._step = min(self._step, moved or self._step)
            self._lowest, self._highest = min(self._lowest, sample.value), max(self._highest, sample.value)
            self._times.append(sample.at_s)
            self._values.append(sample.value)
            if len(self._times) > HISTORY:
                self._forgotten_s = self._times[HISTORY // 2]
                del self._times[: HISTORY // 2], self._values[: HISTORY // 2]
            return sample

    def _note_charging(self, at_s: float, charging: bool) -> None:
        if not charging:
            return
        if self._charged and at_s - self._charged[-1][1] <= 2 * self.sensor.period_s:
            self._charged[-1][1] = at_s
        else:
            self._charged.append([at_s, at_s])

    def mark(self) -> Mark:
        """Now. A counter is read for it, so that even a short window is exact; a sampler is not: the machine is idle
        while a mark is made, and such a reading would pull the mean down."""
        reading = None
        if self.live and self.sensor.counter and self._failed is None:
            with contextlib.suppress(MeterError):
                reading = self._take()
        return Mark(reading.at_s if reading else self._clock(), self._wall(), reading)

    def energy(self, start: Mark, end: Mark) -> Energy:
        """What was taken between two marks, gross. Raises MeterError where the meter failed or a log falls short."""
        if isinstance(self.meter, Logged):
            samples = self.meter.samples(start.wall_s, end.wall_s)
            return integrate(samples, start.wall_s, end.wall_s, self.meter.sensor)
        if not self.live:
            seconds = end.at_s - start.at_s
            watts = self.meter.read().value
            return Energy(watts * seconds, seconds, self.sensor.basis, self.sensor.about, 0, self.sensor.accuracy)
        if self._failed:
            raise self._failed
        if self.sensor.counter:
            if start.reading is None or end.reading is None:
                raise MeterError(f"{self.sensor.name}: the counter could not be read at an end of the window")
            step = self._step if self._stood_still and self._step < float("inf") else 0.0
            inside = bisect_right(self._times, end.at_s) - bisect_left(self._times, start.at_s)
            found = difference(start.reading, end.reading, self.sensor, step, inside)
        else:
            found = self._integrate(start.at_s, end.at_s)
        # between two readings it may be on charge when the one before or the one after says so
        slack_s = self.sensor.period_s
        if any(a <= end.at_s + slack_s and b >= start.at_s - slack_s for a, b in self._charged):
            found = replace(found, valid=False, notes=(*found.notes, CHARGING_NOTE))
        return found

    def _integrate(self, start_s: float, end_s: float) -> Energy:
        with self._lock:
            if start_s < self._forgotten_s:
                raise MeterError(
                    f"{self.sensor.name}: the window began {self._clock() - start_s:.0f} s ago, and of so long ago "
                    "no reading is kept: take the energy of shorter windows and add them up"
                )
            first = max(0, bisect_right(self._times, start_s) - 1)
            last = min(len(self._times), bisect_left(self._times, end_s) + 1)
            pairs = zip(self._times[first:last], self._values[first:last], strict=True)
            samples = [Sample(at_s, value) for at_s, value in pairs]
        return integrate(samples, start_s, end_s, self.sensor, (self._lowest, self._highest))

    def idle(self, seconds: float = 60.0) -> Idle:
        """Wait so long and take what the device needs when idle; the caller sees to it that nothing runs."""
        parts = max(2, min(30, int(seconds / max(2 * self.sensor.period_s, 0.5))))
        windows = []
        start = self.mark()
        for _ in range(parts):
            self._sleep(seconds / parts)
            end = self.mark()
            windows.append((start, end))
            start = end
        return idle_of([self.energy(a, b) for a, b in windows])
