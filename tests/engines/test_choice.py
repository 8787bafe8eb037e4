"""The choice by measurement: what is raced, what is taken, what is remembered, and what makes it measure again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import edge_runtime as edge
from edge_runtime import choice, learned
from edge_runtime.bundle import load_bundle
from edge_runtime.choice import choose, race, reorder, thread_options
from edge_runtime.learned import Lap, Learned, learned_file, recall, remember
from edge_runtime.planner import Plan, plan
from tests.conftest import picture, small_device


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGE_RUNTIME_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def planned(means: Path) -> Plan:
    return plan(load_bundle(means), small_device())


def raced(means: Path, planned: Plan, seconds: float = 0.5, **more: object) -> Learned:
    found = race(load_bundle(means), small_device(), planned, seconds=seconds, **more)  # type: ignore[arg-type]
    assert found
    return found


def test_every_candidate_that_fits_is_measured_and_one_is_taken(means: Path, planned: Plan):
    found = raced(means, planned, 5.0, threads=1)  # on a busy machine loading alone takes a second
    assert {(one.variant, one.engine) for one in found.laps} == {(one.variant, one.engine) for one in planned.fitting}
    assert all(one.ms > 0 for one in found.laps)
    assert found.choice in (found.laps[0], found.default), "the default stays where nothing is clearly faster"
    assert (found.default.variant, found.default.engine) == (planned.fitting[0].variant, planned.fitting[0].engine)
    assert found.ratio <= 1
    assert not found.failed


def lap_times(monkeypatch: pytest.MonkeyPatch, times: dict[tuple[str, int], list[float]]) -> None:
    """The race as if every slice of (variant, threads) took these milliseconds in turn."""

    def load(self: choice._Runners, one: choice._Entry) -> None:
        if (one.candidate.variant, one.threads) not in times:
            one.failed = "refused"
        else:
            one.first_ms = times[one.candidate.variant, one.threads][0]
            self.loaded.append(one)

    def run(self: object, heat: int, entries: list[choice._Entry], slices: int, slice_s: float, until: float) -> None:
        for one in entries:
            values = times[one.candidate.variant, one.threads]
            one.heats[heat] = [values[place % len(values)] for place in range(slices)]

    monkeypatch.setattr(choice._Runners, "load", load)
    monkeypatch.setattr(choice._Runners, "race", run)


@pytest.mark.parametrize(
    ("lite", "taken"),
    [
        ([0.5, 0.51, 0.49], "fp32-lite"),  # faster for certain
        ([0.99, 1.01, 1.0], "fp32"),  # the same: the default stays
        ([0.4, 2.2, 0.9], "fp32"),  # faster now and then
        ([2.0], "fp32"),
    ],
)
def test_another_than_the_default_is_taken_only_when_it_is_faster_for_certain(
    means: Path, planned: Plan, monkeypatch: pytest.MonkeyPatch, lite: list[float], taken: str
):
    lap_times(monkeypatch, {("fp32", 1): [1.0, 1.01, 0.99], ("fp32-lite", 1): lite, ("int8-lite", 1): [3.0]})
    found = raced(means, planned, threads=1)
    assert found.choice.variant == taken
    assert found.ratio == 1 if taken == "fp32" else found.ratio == pytest.approx(0.5, rel=0.05)


def test_slow_models_keep_the_time_bound_and_the_default_stays(
    means: Path, planned: Plan, monkeypatch: pytest.MonkeyPatch
):
    """Three seconds an inference: as many are loaded as the time allows, and what was not raced is not chosen."""
    now = [0.0]
    monkeypatch.setattr(choice.time, "monotonic", lambda: now[0])

    def load(self: choice._Runners, one: choice._Entry) -> None:
        now[0] += 3.0
        one.first_ms = 3000.0 if one.number == 0 else 1.0
        self.loaded.append(one)

    monkeypatch.setattr(choice._Runners, "load", load)
    monkeypatch.setattr(choice, "thread_options", lambda device, usual, cores: [1, 2, 3, 4])
    found = race(load_bundle(means), small_device(), planned, seconds=6.0)
    assert found
    assert found.choice == found.default
    assert now[0] <= 6 + choice._SLOW_MOST_S + 3


def test_threads_are_chosen_with_the_variant(means: Path, planned: Plan, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(choice, "allowed_cores", lambda: 2)
    lap_times(monkeypatch, {("fp32", 1): [1.0, 1.01, 0.99], ("fp32", 2): [0.6, 0.61, 0.6]})
    found = raced(means, planned)
    assert (found.choice.variant, found.choice.threads) == ("fp32", 2)
    after = reorder(planned, found)
    assert after.choice
    assert after.choice.threads == 2
    assert "0.6 of the time of fp32 on onnxruntime, 1 thread" in after.reason
    assert found.failed, "what could not be loaded is said"


def test_thread_options():
    eight = replace(small_device(), threads=4)
    assert thread_options(eight, 1, 8) == [1, 2, 4, 8]
    assert thread_options(eight, 4, 1) == [1]
    assert thread_options(small_device(), 1, 2) == [1, 2]


def test_an_engine_that_dies_loses_and_the_others_run(means: Path, planned: Plan, monkeypatch: pytest.MonkeyPatch):
    """An import that dies of a signal takes the shared process down; the rest is raced in a new one."""
    from edge_runtime.guard import Child

    real = Child.call

    def call(self: Child, op: str, meta: dict, *rest: object, **more: object) -> object:
        if op == "load" and meta["candidate"]["engine"] == "onnxruntime":
            self._process.kill()
        return real(self, op, meta, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Child, "call", call)
    found = raced(means, planned, threads=1)
    assert {one.engine for one in found.laps} == {"litert"}
    assert "SIGKILL" in " ".join(found.failed.values())


def test_what_does_not_fit_together_is_raced_apart(means: Path, planned: Plan, monkeypatch: pytest.MonkeyPatch):
    from edge_runtime.errors import BudgetError

    real = choice._Runners.load

    def load(self: choice._Runners, one: choice._Entry) -> None:
        if self.loaded:
            raise BudgetError("memory: two are too many")
        real(self, one)

    monkeypatch.setattr(choice._Runners, "load", load)
    found = race(load_bundle(means), small_device(), planned, threads=1, seconds=60)
    assert found
    assert len(found.laps) == 3


def test_it_is_remembered_and_measured_again_when_circumstances_change(
    means: Path, planned: Plan, monkeypatch: pytest.MonkeyPatch
):
    counted = []
    real = choice.race
    monkeypatch.setattr(choice, "SECONDS", 0.3)

    def counting(*words: object, **more: object) -> object:
        counted.append(1)
        return real(*words, seconds=0.3, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(choice, "race", counting)
    bundle, device = load_bundle(means), small_device()
    said: list[str] = []
    first = choose(bundle, device, planned, threads=1, notice=said.append)
    assert choose(bundle, device, planned, threads=1, notice=said.append) == first
    assert (len(counted), len(said)) == (1, 1)
    monkeypatch.setattr(learned, "_installed", lambda engine: f"{engine}-9.9")
    choose(bundle, device, planned, threads=1)
    assert len(counted) == 2, "another engine version"
    monkeypatch.setattr(learned, "read_state", lambda: replace(choice_state(), governor="powersave"))
    choose(bundle, device, planned, threads=1)
    assert len(counted) == 3, "another governor"
    choose(bundle, device, planned, threads=1)
    assert len(counted) == 3


def choice_state() -> object:
    from edge_runtime.sensors import read_state

    return read_state()


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"schema": 1, "learned": [{}]}', b'{"schema": 9}', b"\xff" * 99]
)
def test_a_damaged_memory_is_no_memory(means: Path, planned: Plan, damage: bytes, memory: Path):
    memory.mkdir()
    learned_file().write_bytes(damage)
    assert recall(load_bundle(means), {}, "m") is None
    lap = Lap("fp32", "onnxruntime", 1, 1.0)
    assert remember(Learned("d", "m", {}, (lap,), lap, lap, 1.0, "2026-11-30T00:00:00+00:00", {}))
    assert len(json.loads(learned_file().read_bytes())["learned"]) == 1


def test_a_memory_that_cannot_be_written_stops_nothing(memory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGE_RUNTIME_CACHE", str(tmp_path / "file"))
    lap = Lap("fp32", "onnxruntime", 1, 1.0)
    assert not remember(Learned("d", "m", {}, (lap,), lap, lap, 1.0, "", {}))


def test_a_session_takes_the_measured_choice(means: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    lap_times(monkeypatch, {("fp32", 1): [1.0, 1.01, 0.99], ("int8-lite", 1): [0.5, 0.51, 0.5]})
    red = picture(tmp_path / "red.png", (200, 0, 0))
    with edge.open_session(means, small_device(), measure=True, threads=1) as session:
        assert session.candidate.variant == "int8-lite"
        assert str(session.predict(red)).startswith("red")
    with edge.open_session(means, small_device(), measure=False) as session:
        assert session.candidate.variant == "fp32"
    with edge.open_session(means, small_device(), measure=True, threads=1, variant="fp32-lite") as session:
        assert session.candidate.variant == "fp32-lite", "asked for: there is nothing to choose"


def test_the_child_gets_the_threads_that_were_chosen(means: Path, monkeypatch: pytest.MonkeyPatch):
    from edge_runtime import session as module

    given: list[int] = []
    real = module.Child

    def child(target: str, spec: dict, limits: object) -> object:
        given.append(spec["threads"])
        return real(target, spec, limits)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "Child", child)
    monkeypatch.setattr(choice, "allowed_cores", lambda: 2)
    lap_times(monkeypatch, {("fp32", 1): [1.0, 1.01, 0.99], ("fp32", 2): [0.6, 0.61, 0.6]})
    edge.open_session(means, small_device(), measure=True).close()
    edge.open_session(means, small_device(), measure=True, threads=1).close()
    assert given == [2, 1], "asked for beats measured"


def test_answers_to_other_questions_are_kept(memory: Path):
    lap = Lap("fp32", "onnxruntime", 1, 1.0)

    def learned(threads: int | None, governor: str) -> Learned:
        about = {"threads": threads, "candidates": ["fp32 on onnxruntime"], "cores": [0, 1], "governor": governor}
        return Learned("d", "m", about, (lap,), lap, lap, 1.0, "2026-11-30T00:00:00+00:00", {})

    for one in (learned(None, "ondemand"), learned(2, "ondemand"), learned(None, "powersave")):
        assert remember(one)
    kept = [Learned.from_json(one) for one in json.loads(learned_file().read_bytes())["learned"]]
    assert [(one.circumstances["threads"], one.circumstances["governor"]) for one in kept] == [
        (2, "ondemand"),
        (None, "powersave"),
    ]


def test_a_breach_while_racing_leaves_each_its_own_process(means: Path, planned: Plan, monkeypatch: pytest.MonkeyPatch):
    from edge_runtime.errors import BudgetError

    real = choice._Runners.race

    def run(self: choice._Runners, heat: int, entries: list[choice._Entry], *rest: object) -> None:
        if len(self.loaded) > 1:
            raise BudgetError("memory: together they outgrew it")
        real(self, heat, entries, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(choice._Runners, "race", run)
    found = race(load_bundle(means), small_device(), planned, threads=1, seconds=60)
    assert found
    assert len(found.laps) == 3
