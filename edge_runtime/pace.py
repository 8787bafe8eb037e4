"""Holds a temperature or an average power by resting between items.

A tablet in the sun throttles itself, at a clock that nobody chose, and a small solar panel gives what it gives: resting
after an item keeps the machine below a limit that the user did choose. Items are never interrupted, so one long item
may still go over by what it heats on its own.

**Temperature.** A duty (the part of the time at work) is moved by a proportional and an integral term, slowly, because
heat is slow and sensors are read about once a second; the proportional term already lowers it while the temperature
rises, so it does not overshoot. It aims two degrees below the limit. Where the next item, by what items heated so far,
would go over, rest goes on until it is cooler.

**Power.** A budget in joules: the limit fills it, the meter says what was taken, and a rest lasts until it is even
again. A pause earns at most ten seconds' worth, so the average holds over any minute and not only over the day.

A sensor that goes away while running is said once; then the loop goes on at half duty, or less where it was less, until
the sensor is back: stopping would lose the work, and full speed might be what the limit was there to prevent. A rest
for heat lasts a minute at most and one for power ten, so the loop always goes on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from edge_runtime.errors import MeterError, UsageError
from edge_runtime.power import Mark, Recorder
from edge_runtime.sensors import read_temperature

MAX_REST_S = 60.0
MAX_POWER_REST_S = 600.0  # after a long item that took far more than the limit
CHECK_S = 0.5  # shorter items are taken together: looking at sensors costs time, too
SLICE_S = 1.0
LEAST_DUTY = 0.02
SAFE_DUTY = 0.5
AIM_BELOW_C = 2.0
# At full work, small machines end 20-100 degrees above idle after one to five minutes: with these none of them swings.
# One that is faster swings by what an item heats.
GAIN_P = 0.02
GAIN_I = 0.02 / 60
LONGEST_STEP_S = 10.0
MOST_ITEM_C = 15.0
FAR_C = 20.0
CREDIT_S = 10.0
DEBT_S = 600.0
ANCHOR_S = 30.0


@dataclass
class Pacer:
    """Call `rest` after each item with the seconds that it took. At least one limit; `max_watts` needs a recorder.

    `temperature` gives degrees Celsius, or None where the sensor is silent. `notice` is told what a person should know.
    Raises UsageError for limits that make no sense, MeterError where there is no sensor to begin with.
    """

    max_temperature_c: float | None = None
    max_watts: float | None = None
    recorder: Recorder | None = None
    temperature: Callable[[], float | None] = read_temperature
    notice: Callable[[str], None] | None = None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    duty: float = field(default=1.0, init=False)
    rested_s: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        if self.max_temperature_c is None and self.max_watts is None:
            raise UsageError("pace: found no limit, wanted a temperature or a power to hold")
        if self.max_temperature_c is not None:
            if not 20 <= self.max_temperature_c <= 110:
                found = f"{self.max_temperature_c:g} degrees"
                raise UsageError(f"pace: found {found}, wanted 20 to 110 degrees Celsius, such as 70C")
            if self.temperature() is None:
                raise MeterError("pace: found no temperature sensor of the CPU, wanted one to hold a temperature by")
        if self.max_watts is not None:
            if not self.max_watts > 0:
                raise UsageError(f"pace: found {self.max_watts:g} W, wanted more than 0")
            if self.recorder is None or not self.recorder.live:
                raise UsageError("pace: to hold a power, wanted a meter that is read while running: --meter NAME")
        self._said: set[str] = set()
        self._busy_s = 0.0
        self._checked_s = self.clock()
        self._error: float | None = None
        self._item_c = 0.0  # by how much one item heats, as learned
        self._start_c: float | None = None
        self._cooled = False
        self._rest_w = 0.0
        self._carried_j = 0.0
        self._anchor: Mark | None = self.recorder.mark() if self.recorder and self.max_watts else None

    def rest(self, busy_s: float) -> float:
        """Sleep as long as the limits ask after `busy_s` seconds of work; how long that was, in seconds.

        May be interrupted by whatever interrupts a sleep: signals raise through it.
        """
        self._busy_s += max(busy_s, 0.0)
        now = self.clock()
        since_s = now - self._checked_s
        if since_s < CHECK_S:
            return 0.0
        idle_s = max(since_s - self._busy_s, 0.0)  # waiting for items is rest, too
        wanted = 0.0
        if self.max_temperature_c is not None:
            wanted = min(self._rest_for_heat(since_s) - idle_s, MAX_REST_S)
        if self.max_watts is not None:
            wanted = max(wanted, min(self._rest_for_power(self.max_watts, idle_s), MAX_POWER_REST_S))
        before = self._mark()
        self._wait(wanted)
        self._cool_down(now)
        self._learn_rest(before)
        self._busy_s, self._checked_s = 0.0, self.clock()
        rested = self._checked_s - now
        self.rested_s += rested
        return rested

    def _wait(self, seconds: float) -> None:
        end = self.clock() + seconds
        while (left := end - self.clock()) > 1e-3:
            self.sleep(min(left, SLICE_S))

    # ---------------------------------------------------------------- heat

    def _rest_for_heat(self, since_s: float) -> float:
        limit = self.max_temperature_c or 0.0
        heat = self.temperature()
        if heat is None:
            self._say("heat", f"the temperature sensor is silent: going on at {100 * SAFE_DUTY:.0f} % of the time")
            self._error = None
            return self._busy_s * (1 / min(self.duty, SAFE_DUTY) - 1)
        self._said.discard("heat")
        error = heat - (limit - AIM_BELOW_C)
        moved = error - self._error if self._error is not None else 0.0
        self._error = error
        if self._start_c is not None:
            self._item_c += 0.3 * (min(max(heat - self._start_c, 0.0), MOST_ITEM_C) - self._item_c)
        # between rare looks the machine has come to rest on its own: step more softly, or it would swing
        soft = min(1.0, LONGEST_STEP_S / 2 / since_s)
        change = GAIN_P * soft * moved + GAIN_I * min(since_s, LONGEST_STEP_S) * error
        if self._cooled:  # the extra rest made it cool, not this duty
            change = max(change, 0.0)
        self.duty = 1.0 if error < -FAR_C else min(1.0, max(LEAST_DUTY, self.duty - change))
        return self._busy_s * (1 / self.duty - 1)

    def _cool_down(self, start_s: float) -> None:
        """Too hot for another item all the same: rest on until it is cooler, a minute in all."""
        self._cooled = False
        if self.max_temperature_c is None:
            return
        while True:
            self._start_c = self.temperature()
            cool = self._start_c is None or self._start_c <= self.max_temperature_c - self._item_c
            if cool or self.clock() - start_s >= MAX_REST_S:
                return
            self._cooled = True
            self.sleep(SLICE_S)

    # ---------------------------------------------------------------- power

    def _mark(self) -> Mark | None:
        return self.recorder.mark() if self.recorder and self.max_watts is not None else None

    def _rest_for_power(self, limit: float, idle_s: float) -> float:
        balance = self._balance(limit)
        if balance is None:
            self._say("power", f"the power meter tells nothing: going on at {100 * SAFE_DUTY:.0f} % of the time")
            return self._busy_s * (1 / SAFE_DUTY - 1) - idle_s
        self._said.discard("power")
        if balance <= 0:
            return 0.0
        spare = limit - self._rest_w
        if spare <= 0.01 * limit:
            self._say("idle", f"the device takes {self._rest_w:.3g} W at rest: {limit:.3g} W cannot be held")
            return MAX_REST_S
        return balance / spare

    def _balance(self, limit: float) -> float | None:
        """Joules taken beyond the limit so far; None where the meter tells nothing."""
        if self.recorder is None or self._anchor is None:
            return None
        now = self.recorder.mark()
        try:
            spent = self.recorder.energy(self._anchor, now)
        except MeterError:
            spent = None
        if spent is None or not spent.valid:
            self._anchor = now
            return None
        balance = self._carried_j + spent.joules - limit * spent.seconds
        bounded = min(max(balance, -CREDIT_S * limit), DEBT_S * limit)
        if bounded != balance or spent.seconds > ANCHOR_S:
            self._anchor, self._carried_j = now, bounded
        return bounded

    def _learn_rest(self, before: Mark | None) -> None:
        """What the device takes at rest, from the rests themselves, as soon as one is long enough to tell."""
        if before is None or self.recorder is None:
            return
        after = self.recorder.mark()
        if after.at_s - before.at_s < 2 * self.recorder.sensor.period_s:
            return
        try:
            watts = self.recorder.energy(before, after).mean_w
        except MeterError:
            return
        self._rest_w = watts if not self._rest_w else self._rest_w + 0.2 * (watts - self._rest_w)

    def _say(self, key: str, text: str) -> None:
        if key not in self._said and self.notice:
            self.notice(f"pace: {text}")
        self._said.add(key)

    def __str__(self) -> str:
        held = []
        if self.max_temperature_c is not None:
            held.append(f"{self.max_temperature_c:g} degrees")
        if self.max_watts is not None and math.isfinite(self.max_watts):
            held.append(f"{self.max_watts:g} W")
        return f"holding {' and '.join(held)}"
