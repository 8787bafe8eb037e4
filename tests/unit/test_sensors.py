"""The machine's state from trees as real machines have them, and from nonsense."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.sensors import Ticks, read_state, read_temperature, read_ticks, steal_percent
from tests.conftest import ROOT

PI_4 = {
    "proc/loadavg": "0.52 0.58 0.59 1/597 12345\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
    **{f"sys/devices/system/cpu/cpu{n}/cpufreq/scaling_cur_freq": "1800000\n" for n in range(4)},
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "48199\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
    "sys/class/hwmon/hwmon1/name": "rpi_volt\n",
    "sys/class/hwmon/hwmon1/in0_lcrit_alarm": "1\n",
}
TABLET = {
    "proc/loadavg": "7.01 6.50 6.20 2/900 4321\n",
    "sys/class/thermal/thermal_zone0/type": "battery\n",
    "sys/class/thermal/thermal_zone0/temp": "312\n",
    "sys/class/thermal/thermal_zone1/type": "tsens_tz_sensor5\n",
    "sys/class/thermal/thermal_zone1/temp": "57\n",
    "sys/class/thermal/thermal_zone2/type": "tsens_tz_sensor6\n",
    "sys/class/thermal/thermal_zone2/temp": "-274000\n",
    "sys/class/thermal/cooling_device0/type": "thermal-cpufreq-0\n",
    "sys/class/thermal/cooling_device0/cur_state": "2\n",
    "sys/class/power_supply/battery/type": "Battery\n",
    "sys/class/power_supply/battery/status": "Discharging\n",
    "sys/class/power_supply/battery/capacity": "83\n",
    "sys/class/power_supply/usb/type": "USB\n",
    "sys/class/power_supply/usb/online": "0\n",
    "sys/class/power_supply/mouse/type": "Battery\n",
    "sys/class/power_supply/mouse/scope": "Device\n",
    "sys/class/power_supply/mouse/capacity": "12\n",
}


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_raspberry_pi_4(tmp_path: Path):
    state = read_state(tree(tmp_path, PI_4))
    assert (state.governor, state.mhz, state.temperature_c) == ("ondemand", (1800,) * 4, 48.199)
    now = ("under-voltage", "throttled", "under-voltage since boot", "throttled since boot")
    assert state.throttled == now
    assert (state.charging, state.battery_percent, state.load_1min) == (None, None, 0.52)
    assert json.loads(json.dumps(state.to_json())) == state.to_json()


def test_a_tablet_with_degrees_tenths_and_a_dead_sensor(tmp_path: Path):
    state = read_state(tree(tmp_path, TABLET))
    assert (state.temperature_c, state.throttled) == (57, ("frequency capped",))
    assert (state.charging, state.battery_percent) == (False, 83)


@pytest.mark.parametrize(
    ("file", "text"),
    [("battery/status", "Charging"), ("battery/status", "Full"), ("usb/online", "1")],
)
def test_a_charger_is_seen_however_it_is_told(tmp_path: Path, file: str, text: str):
    assert read_state(tree(tmp_path, TABLET | {f"sys/class/power_supply/{file}": text})).charging is True


def test_a_machine_that_tells_nothing(tmp_path: Path):
    assert set(read_state(tmp_path).to_json().values()) == {None}
    assert read_ticks(tmp_path) is None


def test_a_field_of_the_documented_row_each(tmp_path: Path):
    schema = (ROOT / "edge_runtime/bench/rows.py").read_text()
    said = schema[schema.index("State (sensors.py)") : schema.index("null where the system")]
    for name in read_state(tmp_path).to_json():
        assert f'"{name}"' in said


def test_vcgencmd_is_asked_where_the_kernel_does_not_show_the_bits(tmp_path: Path):
    tool = tree(tmp_path, {"usr/bin/vcgencmd": "#!/bin/sh\necho throttled=0x80008\n"}) / "usr/bin/vcgencmd"
    tool.chmod(0o755)
    assert read_state(tmp_path).throttled == ("soft temperature limit", "soft temperature limit since boot")
    tool.write_text("#!/bin/sh\necho VCHI initialization failed >&2\nexit 1\n")
    assert read_state(tmp_path).throttled is None


def test_clocks_and_heat_of_a_desk_machine(tmp_path: Path):
    files = {
        "proc/cpuinfo": "processor\t: 0\ncpu MHz\t\t: 2400.513\n\nprocessor\t: 1\ncpu MHz\t\t: 800.0\n",
        "sys/class/thermal/thermal_zone0/type": "acpitz\n",
        "sys/class/thermal/thermal_zone0/temp": "90000\n",
        "sys/class/hwmon/hwmon0/name": "k10temp\n",
        "sys/class/hwmon/hwmon0/temp1_input": "61250\n",
    }
    state = read_state(tree(tmp_path, files))
    assert (state.mhz, state.temperature_c) == ((2401, 800), 61.25)


@pytest.mark.parametrize(
    ("raw", "degrees"), [("45", 45), ("452", 45.2), ("45200", 45.2), ("0", None), ("200000", None), ("x", None)]
)
def test_temperatures_in_three_units(tmp_path: Path, raw: str, degrees: float | None):
    files = {"sys/class/thermal/thermal_zone0/type": "soc_thermal", "sys/class/thermal/thermal_zone0/temp": raw}
    assert read_temperature(tree(tmp_path, files)) == degrees


@given(st.binary(max_size=40))
def test_nonsense_in_every_file_is_none_or_in_range(tmp_path_factory: pytest.TempPathFactory, rubbish: bytes):
    root = tmp_path_factory.mktemp("rubbish")
    for name in {**PI_4, **TABLET}:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rubbish)
    state = read_state(root)
    assert state.temperature_c is None or -30 < state.temperature_c <= 150
    assert state.battery_percent is None or 0 <= state.battery_percent <= 100


def test_stolen_time_is_a_part_of_what_passed(tmp_path: Path):
    tree(tmp_path, {"proc/stat": "cpu  100 0 50 800 10 0 5 35 20 0\ncpu0 1 2 3\n"})
    before = read_ticks(tmp_path)
    assert before == Ticks(35, 1000)
    assert steal_percent(before, Ticks(60, 1100)) == 25
    assert steal_percent(before, before) is None
    assert steal_percent(None, before) is None
