"""Pacing against a simulated machine and clock: nothing here sleeps."""

from __future__ import annotations

import math

import pytest

from edge_runtime.errors import MeterError, UsageError
from edge_runtime.pace import MAX_REST_S, Pacer
from edge_runtime.power import Sensor
from tests.unit.test_energy import Bench

AMBIENT_C = 30.0


class Machine:
    """Heats towards `rise_c` above ambient with `tau_s`, and by `die_c` at once; its sensor gives whole degrees, once a
    second."""

    def __init__(self, tau_s: float, rise_c: float, die_c: float = 0.0) -> None:
        self.tau_s, self.rise_c, self.die_c = tau_s, rise_c, die_c
        self.now, self.case_c, self.chip_c, self.busy_s = 0.0, AMBIENT_C, 0.0, 0.0
        self.shown: float | None = AMBIENT_C
        self.shown_s = 0.0
        self.gone = False
        self.trace: list[tuple[float, float]] = []

    def pass_time(self, seconds: float, busy: float = 0.0) -> None:
        end = self.now + seconds
        while self.now < end - 1e-9:
            step = min(0.25, end - self.now)
            self.case_c += step * (AMBIENT_C + busy * self.rise_c - self.case_c) / self.tau_s
            self.chip_c += (busy * self.die_c - self.chip_c) * (1 - math.exp(-step))
            self.now += step
            self.busy_s += busy * step
            self.trace.append((self.now, self.case_c + self.chip_c))
            if self.now - self.shown_s >= 1:
                self.shown, self.shown_s = float(math.floor(self.case_c + self.chip_c)), self.now

    def pacer(self, limit: float = 70.0, notice: list[str] | None = None) -> Pacer:
        return Pacer(
            max_temperature_c=limit,
            temperature=lambda: None if self.gone else self.shown,
            notice=notice.append if notice is not None else None,
            clock=lambda: self.now,
            sleep=self.pass_time,
        )

    def work(self, pacer: Pacer, item_s: float, until_s: float) -> list[float]:
        rests = []
        while self.now < until_s:
            self.pass_time(item_s, busy=1)
            rests.append(pacer.rest(item_s))
        return rests

    def degrees(self, since_s: float) -> list[float]:
        return [degrees for at, degrees in self.trace if at > since_s]


@pytest.mark.parametrize("item_s", [0.1, 2.0])
@pytest.mark.parametrize("die_c", [0.0, 8.0])
@pytest.mark.parametrize("rise_c", [60.0, 100.0])
@pytest.mark.parametrize("tau_s", [60.0, 300.0])
def test_a_temperature_is_held_without_swinging(tau_s: float, rise_c: float, die_c: float, item_s: float):
    machine = Machine(tau_s, rise_c, die_c)
    machine.work(machine.pacer(), item_s, 3000)
    assert max(machine.trace, key=lambda one: one[1])[1] < 73
    late = machine.degrees(2000)
    assert max(late) < 72
    assert sum(late) / len(late) > 70 - 3 - die_c / 2  # and no colder than it must be
    assert max(late) - min(late) < 3 + 1.2 * die_c


def test_a_machine_that_stays_cool_is_hardly_made_to_rest():
    machine = Machine(60, 30)
    assert sum(machine.work(machine.pacer(), 2, 1000)) < 10
    assert sum(machine.work(machine.pacer(90), 2, 2000)) == 0


def test_long_items_are_rested_between_and_the_loop_always_goes_on():
    machine = Machine(60, 100, 8)
    rests = machine.work(machine.pacer(), 30, 2000)
    assert max(rests) <= MAX_REST_S + 1
    assert len(rests) > 15
    machine.gone = False
    hot = Machine(60, 0)
    hot.case_c = hot.shown = 90.0
    hot.tau_s = 1e9  # it will not cool, whatever is done
    assert max(hot.work(hot.pacer(), 1, 1000)) <= MAX_REST_S + 1


def test_a_sensor_that_goes_away_is_said_once_and_half_the_time_is_worked():
    told: list[str] = []
    machine = Machine(60, 30)
    pacer = machine.pacer(notice=told)
    machine.work(pacer, 2, 100)
    machine.gone = True
    rests = machine.work(pacer, 2, 300)
    assert rests[5:] == pytest.approx([2.0] * len(rests[5:]))
    assert len(told) == 1
    assert "silent" in told[0]
    machine.gone = False
    assert sum(machine.work(pacer, 2, 400)) < 5


def test_waiting_for_items_counts_as_rest():
    machine = Machine(60, 100)
    pacer = machine.pacer()
    machine.work(pacer, 2, 1000)
    machine.pass_time(2, busy=1)
    machine.pass_time(100)
    machine.shown = 60.0
    assert pacer.rest(2) == 0


def test_an_interrupt_goes_through_a_rest():
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    machine = Machine(60, 100)
    pacer = machine.pacer()
    machine.work(pacer, 2, 500)
    pacer.sleep = interrupt
    machine.pass_time(2, busy=1)
    with pytest.raises(KeyboardInterrupt):
        pacer.rest(2)


# ---------------------------------------------------------------- power


class Powered(Bench):
    """Takes 1 W at rest and 5 W at work."""

    def __init__(self, period_s: float = 1.0, rest_w: float = 1.0) -> None:
        super().__init__(Sensor("test", "", period_s, 0.01), lambda _: self.load_w)
        self.load_w = self.rest_w = rest_w
        self.all_j = 0.0

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self.all_j += self.load_w * seconds

    def pacer(self, watts: float, told: list[str] | None = None) -> Pacer:
        return Pacer(
            max_watts=watts,
            recorder=self.recorder,
            clock=lambda: self.now,
            sleep=self.sleep,
            notice=told.append if told is not None else None,
        )

    def work(self, pacer: Pacer, item_s: float, seconds: float) -> list[float]:
        rests = []
        end = self.now + seconds
        while self.now < end:
            self.load_w = 5.0
            self.sleep(item_s)
            self.load_w = self.rest_w
            rests.append(pacer.rest(item_s))
        return rests


@pytest.mark.parametrize("period_s", [0.1, 1.0, 2.0])
@pytest.mark.parametrize("item_s", [0.3, 4.0, 30.0])
def test_an_average_power_is_held(period_s: float, item_s: float):
    with Powered(period_s) as device:
        device.work(device.pacer(2.0), item_s, 600)
        assert device.all_j / device.now == pytest.approx(2.0, abs=0.2 if item_s >= 4 else 0.4)


def test_a_pause_does_not_earn_hours_of_full_speed():
    with Powered(0.1) as device:
        pacer = device.pacer(2.0)
        device.work(pacer, 2, 60)
        device.sleep(3600)
        before, start = device.all_j, device.now
        device.work(pacer, 2, 120)
        assert (device.all_j - before) / (device.now - start) < 2.4


def test_a_power_below_idle_is_said_once_and_the_loop_goes_on():
    told: list[str] = []
    with Powered(0.1) as device:
        rests = device.work(device.pacer(0.8, told), 2, 400)
        assert len(rests) >= 6
        assert max(rests) <= MAX_REST_S + 1
    assert len([one for one in told if "cannot be held" in one]) == 1


def test_a_meter_on_charge_or_gone_is_said_once_and_half_the_time_is_worked():
    told: list[str] = []
    with Powered(0.1) as device:
        pacer = device.pacer(2.0, told)
        device.work(pacer, 2, 60)
        device.charging = True
        rests = device.work(pacer, 2, 60)
        device.broken = True
        rests += device.work(pacer, 2, 60)
    assert rests[3:] == pytest.approx([2.0] * len(rests[3:]), abs=0.01)
    assert len(told) == 1


@pytest.mark.parametrize("limits", [{}, {"max_temperature_c": 5.0}, {"max_watts": 2.0}, {"max_watts": -1.0}])
def test_limits_that_make_no_sense(limits: dict[str, float]):
    with pytest.raises(UsageError, match="wanted"):
        Pacer(**limits, temperature=lambda: 50.0)


def test_no_sensor_to_begin_with():
    with pytest.raises(MeterError, match="found no temperature sensor"):
        Pacer(max_temperature_c=70, temperature=lambda: None)
