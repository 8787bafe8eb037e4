"""Integration, uncertainty and what follows from them, against traces whose answer is known."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import MeterError
from edge_runtime.power import (
    Energy,
    MeterSettings,
    Reading,
    Recorder,
    Sample,
    Sensor,
    battery_hours,
    battery_hours_for,
    battery_joules,
    items_per_percent,
    joules_per_item,
    net,
    open_meter,
    percent_per_items,
    total,
)
from edge_runtime.power.energy import idle_of, integrate

SAMPLER = Sensor("test", "a made-up sampler", 0.1, 0.01, step=0.01)
COUNTER = Sensor("test", "a made-up counter", 1.0, 0.01, counter=True)


class Bench:
    """A clock that only moves when it is told to, a meter that follows it, and a recorder of both."""

    def __init__(self, sensor: Sensor, watts: object = 2.0) -> None:
        self.sensor, self.now, self.taken_j, self.watts = sensor, 0.0, 0.0, watts
        self.charging, self.broken, self.closed = False, False, False
        self.step_j = 0.0

    def read(self) -> Reading:
        if self.broken:
            raise MeterError("test: gone")
        if not self.sensor.counter:
            return Reading(self.watts(self.now) if callable(self.watts) else self.watts, self.charging)
        return Reading(self.taken_j // self.step_j * self.step_j if self.step_j else self.taken_j, self.charging)

    def close(self) -> None:
        self.closed = True

    def sleep(self, seconds: float) -> None:
        """Time passes, with a reading each period, as the recorder's thread would take it."""
        end = self.now + seconds
        while self.now < end - 1e-9:
            step = min(self.sensor.period_s, end - self.now)
            self.now += step
            self.taken_j += step * (self.watts(self.now) if callable(self.watts) else self.watts)
            self.recorder.poll()

    def __enter__(self) -> Bench:
        self.recorder = Recorder(
            self, clock=lambda: self.now, wall=lambda: 1.8e9 + self.now, sleep=self.sleep, background=False
        ).__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.recorder.__exit__()


def run(bench: Bench, seconds: float) -> Energy:
    start = bench.recorder.mark()
    bench.sleep(seconds)
    return bench.recorder.energy(start, bench.recorder.mark())


def test_a_ramp_is_integrated_exactly():
    samples = [Sample(t, 2 * t) for t in range(11)]
    found = integrate(samples, 2.5, 7.5, SAMPLER)
    assert found.joules == pytest.approx(7.5**2 - 2.5**2)
    assert found.seconds == 5
    assert found.mean_w == pytest.approx(10)


@given(st.lists(st.floats(0, 20), min_size=2, max_size=40), st.floats(0, 1), st.floats(0, 1))
def test_windows_side_by_side_add_up_and_stay_in_range(watts: list[float], a: float, b: float):
    samples = [Sample(float(n), one) for n, one in enumerate(watts)]
    start, cut = sorted((a * (len(watts) - 1), b * (len(watts) - 1)))
    end = len(watts) - 1.0
    parts = [integrate(samples, start, cut, SAMPLER), integrate(samples, cut, end, SAMPLER)]
    assert total(parts).joules == pytest.approx(integrate(samples, start, end, SAMPLER).joules, abs=1e-6)
    assert min(watts) * (cut - start) - 1e-6 <= parts[0].joules <= max(watts) * (cut - start) + 1e-6


def test_the_uncertainty_covers_the_truth_as_often_as_it_says():
    """Noise of 0.3 W on 3 W, 100 readings: one standard deviation holds two times in three."""
    dice, hits = random.Random(7), 0
    sensor = Sensor("test", "", 0.1, 0.0)
    for _ in range(300):
        samples = [Sample(n / 10, dice.gauss(3, 0.3)) for n in range(101)]
        found = integrate(samples, 0, 10, sensor)
        hits += abs(found.joules - 30) <= (found.uncertainty_j or 0)
    assert 0.55 < hits / 300 < 0.8


def test_a_window_shorter_than_a_few_samples_says_so_and_doubts_itself():
    samples = [Sample(0, 1.0), Sample(1, 9.0), Sample(2, 1.0)]
    sensor = Sensor("test", "", 1.0, 0.01)
    found = integrate(samples, 0.2, 0.3, sensor, seen=(1.0, 9.0))
    assert "0 readings in the window" in found.notes[0]
    assert (found.uncertainty_j or 0) >= 0.1 * (9 - 1) / 2


def test_a_gap_is_said_and_makes_the_figure_invalid():
    samples = [Sample(t / 10, 2.0) for t in range(20)] + [Sample(t / 10, 2.0) for t in range(60, 100)]
    found = integrate(samples, 0, 9.9, SAMPLER)
    assert not found.valid
    assert "no reading for 4.1 s" in found.notes[0]
    assert integrate(samples, 6.0, 9.9, SAMPLER).valid


def test_a_recorder_of_a_sampler():
    with Bench(SAMPLER, lambda t: 2.0 if t < 5 else 6.0) as bench:
        bench.sleep(5)
        found = run(bench, 10)
        assert found.joules == pytest.approx(60, rel=0.01)
        assert found.basis == "measured:test"
        assert found.samples >= 99
    assert bench.closed


def test_a_recorder_of_a_counter_is_exact_in_a_window_shorter_than_its_period():
    with Bench(COUNTER) as bench:
        assert run(bench, 0.05).joules == pytest.approx(0.1)


def test_a_coarse_counter_says_how_coarse_it_is():
    with Bench(COUNTER, 3.0) as bench:
        bench.step_j = 14.0
        bench.sleep(30)
        short = run(bench, 7)
        assert abs(short.joules - 21) <= 14
        assert "its step is 14 J" in short.notes[0]
        assert (short.uncertainty_j or 0) > 5
        assert run(bench, 600).notes == ()


def test_idle_is_subtracted_with_its_spread():
    dice = random.Random(3)
    with Bench(SAMPLER, lambda t: (1.5 if t < 60 else 4.0) + dice.gauss(0, 0.1)) as bench:
        idle = bench.recorder.idle(60)
        assert idle.watts == pytest.approx(1.5, abs=0.05)
        assert 0 < idle.error_w < idle.spread_w
        gross = run(bench, 20)
        left = net(gross, idle)
    assert left.joules == pytest.approx(50, abs=2)
    assert (left.uncertainty_j or 0) > 0.01 * 50
    nothing = net(integrate([Sample(t / 10, 1.5) for t in range(101)], 0, 10, SAMPLER), idle)
    assert "does not stand out" in nothing.notes[-1]


def test_idle_of_another_meter_is_refused():
    with Bench(SAMPLER) as bench:
        idle = bench.recorder.idle(2)
    other = Energy(1, 1, "measured:other", "", 9, 0.01)
    with pytest.raises(MeterError, match="wanted the same meter"):
        net(other, idle)
    with pytest.raises(MeterError, match="two or more"):
        idle_of([other])


def test_on_charge_a_figure_is_not_valid():
    with Bench(SAMPLER) as bench:
        assert run(bench, 5).valid
        bench.charging = True
        assert not run(bench, 5).valid
        bench.charging = False
        bench.sleep(1)
        start = bench.recorder.mark()
        assert run(bench, 5).valid
        end = bench.recorder.mark()
        bench.sleep(1)
        bench.charging = True
        bench.sleep(1)
        assert bench.recorder.energy(start, end).valid


def test_a_meter_that_goes_away_is_an_error_and_not_a_figure():
    with Bench(SAMPLER) as bench:
        bench.sleep(2)
        bench.broken = True
        with pytest.raises(MeterError, match="gone"):
            run(bench, 2)
        bench.broken = False
        bench.sleep(20)
        assert run(bench, 5).joules == pytest.approx(10)


def test_a_counter_that_cannot_be_read_at_an_end_gives_no_figure():
    with Bench(COUNTER) as bench:
        bench.broken = True
        start = bench.recorder.mark()
        bench.broken = False
        bench.sleep(2)
        with pytest.raises(MeterError, match="at an end of the window"):
            bench.recorder.energy(start, bench.recorder.mark())


def test_a_meter_that_is_not_there_is_said_before_the_work_and_closed():
    bench = Bench(SAMPLER)
    bench.broken = True
    with pytest.raises(MeterError, match="gone"):
        bench.__enter__()
    assert bench.closed


def test_memory_is_bounded_and_a_window_too_old_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("edge_runtime.power.recorder.HISTORY", 50)
    with Bench(SAMPLER) as bench:
        start = bench.recorder.mark()
        bench.sleep(20)
        assert len(bench.recorder._times) <= 50
        with pytest.raises(MeterError, match="shorter windows"):
            bench.recorder.energy(start, bench.recorder.mark())
        assert run(bench, 1).joules == pytest.approx(2)


def test_the_thread_reads_by_itself_and_ends():
    import threading

    sensor = Sensor("test", "", 0.001, 0.01)
    meter, seen = Bench(sensor), threading.Event()
    read = meter.read

    def count() -> Reading:
        meter.taken_j += 1
        if meter.taken_j > 10:
            seen.set()
        return read()

    meter.read = count  # type: ignore[method-assign]
    with Recorder(meter) as recorder:
        start = recorder.mark()
        assert seen.wait(20)
        assert recorder.energy(start, recorder.mark()).mean_w == pytest.approx(2.0)
    assert not [one for one in threading.enumerate() if one.name == "power-recorder"]


def test_a_slow_meter_keeps_nobody_waiting():
    import threading

    meter, asked, answer = Bench(Sensor("test", "", 0.001, 0.01)), threading.Event(), threading.Event()
    read = meter.read

    def slow() -> Reading:
        if threading.current_thread() is not threading.main_thread():
            asked.set()
            answer.wait(20)
        return read()

    meter.read = slow  # type: ignore[method-assign]
    with Recorder(meter) as recorder:
        assert asked.wait(20)
        start = recorder.mark()
        assert recorder.energy(start, recorder.mark()).mean_w == pytest.approx(2.0)
        assert not answer.is_set()
        answer.set()


def test_stated_watts_are_modelled_and_of_unknown_uncertainty():
    meter = open_meter("modelled", MeterSettings(watts=2.5))
    assert meter
    clock = iter([0.0, 4.0])
    with Recorder(meter, clock=lambda: next(clock)) as recorder:
        found = recorder.energy(recorder.mark(), recorder.mark())
    assert (found.joules, found.basis, found.uncertainty_j) == (10, "modelled", None)
    assert str(found) == "10 J (modelled)"


def test_what_a_battery_pays_for():
    assert battery_joules(5000) == pytest.approx(69_300)
    assert items_per_percent(6.93, 5000) == pytest.approx(100)
    assert items_per_percent(0, 5000) == math.inf
    assert percent_per_items(6.93, 100, 5000) == pytest.approx(1)
    assert battery_hours(4, 1, 0.5, 5000) == pytest.approx(69_300 / 2.5 / 3600)
    assert battery_hours_for(864, 100, 1, 5000) == pytest.approx(69_300 / 2 / 3600)
    with pytest.raises(MeterError, match="wanted 0 to 1"):
        battery_hours(4, 1, 1.5, 5000)
    whole = Energy(50, 10, "measured:test", "", 99, 0.1, random_j=5)
    one = joules_per_item(whole, 5)
    assert (one.joules, one.mean_w) == (10, 5)
    assert one.uncertainty_j == pytest.approx((whole.uncertainty_j or 0) / 5)
    with pytest.raises(MeterError, match="one or more"):
        joules_per_item(whole, 0)
