"""Energy and pace as run and loop give them: recorded with a label, never in the way of the answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import edge_runtime as edge
from edge_runtime.cli import main
from edge_runtime.errors import MeterError
from edge_runtime.journal import Journal
from edge_runtime.loop import run_item, run_loop, watch
from edge_runtime.power import Reading, Recorder, Sensor
from edge_runtime.sensors import read_temperature
from tests.conftest import picture, small_device


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        picture(tmp_path / "in" / f"{name}.png", (255, 0, 0))
    return tmp_path / "in"


class Meter:
    def __init__(self) -> None:
        self.sensor = Sensor("test", "made up", 60.0, 0.1)  # a stalled machine must not look like a gap
        self.reading: Reading | None = Reading(3.0)

    def read(self) -> Reading:
        if self.reading is None:
            raise MeterError("test: pulled out")
        return self.reading

    def close(self) -> None:
        pass


class Rests:
    """A pacer that only remembers."""

    def __init__(self) -> None:
        self.busy_s: list[float] = []

    def rest(self, busy_s: float) -> None:
        self.busy_s.append(busy_s)


def test_a_loop_records_energy_with_its_label_and_rests_after_each_item(means: Path, folder: Path, tmp_path: Path):
    rests = Rests()
    with (
        edge.open_session(means, small_device()) as session,
        Journal(tmp_path / "j.db") as book,
        Recorder(Meter()) as recorder,
    ):
        items = watch(folder, once=True, settle_s=0)
        found = list(run_loop(session, items, book, recorder=recorder, pacer=rests))  # type: ignore[arg-type]
        rows = list(book.outcomes())
    assert len(rests.busy_s) == len(found) == 2
    for row, busy_s in zip(rows, rests.busy_s, strict=True):
        assert 0 < row["energy_mj"] <= 3000 * busy_s
        assert row["energy"]["basis"] == "measured:test"
        assert row["energy"]["uncertainty_mj"] >= 0.09 * row["energy_mj"]


def test_an_answer_stands_when_the_meter_fails_or_is_on_charge(means: Path, folder: Path):
    meter = Meter()
    with edge.open_session(means, small_device()) as session, Recorder(meter, background=False) as recorder:
        item = edge.Item("a.png", (folder / "a.png",))
        meter.reading = Reading(3.0, charging=True)
        recorder.poll()
        charged = run_item(session, item, recorder=recorder).to_json()
        meter.reading = None
        for _ in range(5):
            recorder.poll()
        broken = run_item(session, item, recorder=recorder).to_json()
    assert charged["labels"]
    assert broken["labels"]
    assert charged["energy_mj"] is broken["energy_mj"] is None
    assert "on charge" in " ".join(charged["energy"]["notes"])
    assert broken["energy"]["notes"] == ["test: pulled out"]


def test_run_with_stated_watts(means: Path, folder: Path, capsys: pytest.CaptureFixture[str]):
    paths = [str(folder / "a.png"), str(folder / "b.png")]
    assert main(["run", str(means), *paths, "--json", "--meter", "modelled", "--meter-watts", "2W"]) == 0
    said = capsys.readouterr()
    for row in map(json.loads, said.out.splitlines()):
        assert row["energy_mj"] > 2 * row["latency_ms"]
        assert row["energy"] == {"basis": "modelled", "uncertainty_mj": None, "notes": []}
    assert "energy modelled: 2 W all the time, as stated by the user; not measured" in said.err
    assert "an item, gross (modelled)" in said.err


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--meter", "wattmeter"], 2, "wanted one of auto, none, battery"),
        (["--meter", "modelled"], 2, "--meter-watts 2W"),
        (["--meter-watts", "2W"], 2, "--meter-watts is a meter's"),
        (["--meter", "modelled", "--meter-watts", "2"], 2, "wanted a number with one of the units"),
        (["--meter", "log"], 2, "--meter-log FILE"),
        (["--meter", "log", "--meter-log", "nowhere.csv"], 1, "No such file"),
        (["--meter", "log", "--meter-log", "x", "--meter-offset", "noon"], 2, "wanted seconds, or a time"),
        (["--meter", "ina219", "--i2c", "40"], 2, "wanted a bus and an address: 1:0x40"),
        (["--meter", "ina219", "--i2c", "98:0x40", "--shunt", "0.1Ohm"], 1, "found no /dev/i2c-98"),
        (["--max-power", "2W"], 2, "--meter NAME"),
        (["--max-power", "2W", "--meter", "modelled", "--meter-watts", "3W"], 2, "read while running"),
        (["--max-temperature", "70"], 2, "max-temperature: found '70'"),
        (["--max-temperature", "700C"], 2, "wanted 20 to 110"),
    ],
)
def test_one_clear_error(
    means: Path,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    code: int,
    message: str,
):
    loop = ["loop", str(means), str(folder), "--journal", str(tmp_path / "j.db"), "--once", "--settle", "0s"]
    assert main([*loop, *options]) == code
    assert message in capsys.readouterr().err


def test_a_temperature_that_is_held_is_said_or_that_there_is_no_sensor(
    means: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    loop = ["loop", str(means), str(folder), "--journal", str(tmp_path / "j.db"), "--once", "--settle", "0s"]
    code = main([*loop, "--max-temperature", "110C"])
    said = capsys.readouterr().err
    if read_temperature() is None:
        assert code == 1
        assert "found no temperature sensor of the CPU" in said
    else:
        assert code == 0
        assert "holding 110 degrees" in said
