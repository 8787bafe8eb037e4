"""doctor: facts of made-up machines, the storage measured, and a profile of this machine that other verbs can use."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.cli import main
from edge_runtime.disk import MOST_BYTES, measure_disk
from edge_runtime.errors import ProfileError
from edge_runtime.facts import clock_facts, core_groups, int8_meaning
from edge_runtime.probe import read_machine
from edge_runtime.profile import Cores, Measured, Source, load_profile
from edge_runtime.profile_file import slug, write_profile
from tests.unit.test_profile import BIG_LITTLE, ZERO_2W, _machine


def test_big_and_little_cores_with_their_clock_and_governor(tmp_path: Path):
    now = {"sys/devices/system/cpu/cpu4/cpufreq/scaling_cur_freq": "1500000\n"}
    now |= {"sys/devices/system/cpu/cpu4/cpufreq/scaling_governor": "ondemand\n"}
    root = _machine(tmp_path, BIG_LITTLE | now)
    big, little = core_groups(read_machine(root, 8).each_core, root)
    assert (big.part, big.role, big.numbers, big.mhz, big.mhz_now) == ("cortex-a76", "big", (4, 5), 2000, 1500)
    assert (big.governor, little.role, little.count, little.governor) == ("ondemand", "little", 4, None)
    (only,) = core_groups(read_machine(_machine(tmp_path / "b", ZERO_2W), 8).each_core, tmp_path / "b")
    assert (only.role, only.count) == ("equal", 4)


def test_what_the_instructions_mean_for_8_bits():
    assert int8_meaning("aarch64", load_profile("raspberry-pi-5").features)[0] is True
    assert "Cortex-A53" in int8_meaning("aarch64", load_profile("raspberry-pi-4b").features)[1]
    assert int8_meaning("x86_64", ["avx2"]) == (False, int8_meaning("x86_64", [])[1])


def test_a_clock_that_starts_in_the_past_is_told(tmp_path: Path):
    found = clock_facts(0.0, tmp_path, newest_s=1.7e9)
    assert not found["plausible"] and "before 2023-11-14" in found["why"]
    assert not found["keeps_time_without_power"]
    (tmp_path / "sys/class/rtc/rtc0").mkdir(parents=True)
    now = clock_facts(1.7e9 + 100, tmp_path, newest_s=1.7e9)
    assert now["plausible"] and now["keeps_time_without_power"] and now["monotonic_step_us"] > 0
    assert not clock_facts(1.7e9 + 30 * 366 * 86_400, tmp_path, newest_s=1.7e9)["plausible"]


def test_storage_is_measured_and_nothing_is_left(tmp_path: Path):
    found = measure_disk(tmp_path)
    assert not found.why and list(tmp_path.iterdir()) == []
    assert found.write_bytes_per_s and found.read_bytes_per_s and found.fsync_ms and MOST_BYTES <= 8 << 20
    assert found.fsync_worst_ms is not None and found.fsync_worst_ms >= found.fsync_ms


def _read_only(**_: object) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def test_storage_that_cannot_be_measured_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert "No such file" in measure_disk(tmp_path / "none").why
    monkeypatch.setattr("tempfile.TemporaryFile", _read_only)
    assert "Read-only file system" in measure_disk(tmp_path).why
    monkeypatch.setattr("edge_runtime.disk._SPARE_BYTES", 2**62)
    assert "too little is free" in measure_disk(tmp_path).why


def test_what_came_from_the_page_cache_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.posix_fadvise", lambda *_: None, raising=False)
    if measure_disk(tmp_path).cached is None:
        pytest.skip("the kernel does not tell for this file system")
    assert measure_disk(tmp_path).cached is True


# ------------------------------------------------------------------------------------------------------ the profile


def test_doctor_writes_a_profile_that_fit_uses(means: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "mine.toml"
    assert main(["doctor", "--write-profile", str(out), "--name", "clinic-7", "--folder", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["profile"] == {"file": str(out), "name": "clinic-7"}
    profile = load_profile(out)
    assert (profile.name, profile.measured is not None) == ("clinic-7", True)
    assert profile.sources["measured"].sure == "measured"
    assert {profile.sources[name].sure for name in ("ram", "cores", "arch")} == {"read"}
    assert profile.engines == tuple(one["engine"] for one in found["engines"])
    assert main(["fit", str(means), "--device", str(out)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--name", "x"], 2, "go with --write-profile"),
        (["--force"], 2, "go with --write-profile"),
        (["--write-profile", "OLD"], 1, "left as it is\n  try: add --force"),
        (["--write-profile", "x.json"], 1, "wanted .toml"),
        (["--write-profile", "NONE"], 1, "cannot be written"),
        (["--write-profile", "NEW", "--name", "A b"], 1, "name: found 'A b', wanted small letters"),
        (["--write-profile", "NEW", "--name", "this-device"], 1, "and not 'this-device'"),
    ],
)
def test_profiles_that_are_not_written(
    arguments: list[str], code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "old.toml").write_text("mine")
    named = {name.upper(): str(tmp_path / f"{name}.toml") for name in ("old", "new")}
    named["NONE"] = str(tmp_path / "none" / "x.toml")
    assert main(["doctor", *(named.get(one, one) for one in arguments)]) == code
    assert said in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("old.toml", "mine")]


def test_force_replaces_and_no_architecture_without_an_engine(tmp_path: Path):
    out, profile = tmp_path / "x.toml", replace(load_profile("raspberry-pi-5"), name="a")
    assert write_profile(profile, out) == profile
    assert write_profile(replace(profile, name="b"), out, force=True).name == "b"
    with pytest.raises(ProfileError, match="architecture 'riscv64', wanted one of aarch64"):
        write_profile(replace(profile, arch="riscv64"), tmp_path / "y.toml")
    with pytest.raises(ProfileError, match=r"y\.toml: budget\.ram: found '0B', wanted more than nothing"):
        write_profile(replace(profile, budget=replace(profile.budget, ram_bytes=0)), tmp_path / "y.toml")
    assert os.listdir(tmp_path) == ["x.toml"]


@given(
    st.text(),
    st.text(max_size=300),
    st.integers(0, 10_000),
    st.one_of(st.none(), st.floats(1e-3, 1e6)),
    st.integers(1, 2**50),
)
def test_whatever_a_machine_calls_itself_is_written_and_read(title: str, part: str, mhz: int, ms: float, size: int):
    given_ = load_profile("raspberry-pi-5")
    measured = Measured("2026-11-25T02:50:00+00:00", size, None, size, ms)
    sources = dict(given_.sources) | {"measured": Source(title * 9, "measured")}
    made = replace(given_, name=slug(title), title=title, soc=part, cores=(Cores(part, 4, mhz),), sources=sources)
    with tempfile.TemporaryDirectory() as folder:
        read = write_profile(replace(made, measured=measured, notes=title * 40), Path(folder, "x.toml"))
    assert (read.cores[0].mhz, read.name) == (mhz, slug(title))
    assert read.measured is not None and (read.measured.free_ram_bytes, read.measured.read_bytes_per_s) == (size, size)
    assert (read.measured.fsync_ms is None) == (ms is None)
