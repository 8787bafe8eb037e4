"""Each meter against traces and trees as real devices give them: units, signs, wrap-around, permissions, nonsense."""

from __future__ import annotations

import contextlib
import errno
import json
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime import profile
from edge_runtime.errors import EdgeError, MeterError, UsageError
from edge_runtime.power import METERS, MeterSettings, Recorder, detect_meter, find_meter, open_meter
from edge_runtime.power import ina219 as ina
from edge_runtime.power.battery import amperes, volts
from edge_runtime.power.log import find_layout, parse_offset, seconds
from edge_runtime.power.pmic import parse_rails
from edge_runtime.power.termux import parse_status
from tests.unit.test_sensors import tree

RAILS = """\
 3V7_WL_SW_A current(0)=0.10000000A
  VDD_CORE_A current(7)=1.50000000A
      HDMI_A current(22)=0.02000000A
 3V7_WL_SW_V volt(8)=3.70000000V
  VDD_CORE_V volt(15)=0.80000000V
      HDMI_V volt(23)=5.00000000V
     EXT5V_V volt(24)=5.10000000V
      BATT_V volt(25)=0.00500000V
"""


def script(path: Path, text: str) -> Path:
    tree(path.parent, {path.name: f"#!/bin/sh\n{text}\n"})
    path.chmod(0o755)
    return path


def test_every_meter_of_a_profile_can_be_found():
    assert set(profile.METERS) <= set(METERS)
    for name in METERS:
        assert callable(find_meter(name).open_meter)
    with pytest.raises(UsageError, match="wanted one of auto, none, battery"):
        find_meter("kill-a-watt")
    assert open_meter("none") is None


# ---------------------------------------------------------------- pmic


def pi_5(root: Path, answer: str) -> Path:
    tree(root, {"proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0"})
    script(root / "usr/bin/vcgencmd", answer)
    return root


def test_the_rails_of_a_pi_5_are_paired_and_summed(tmp_path: Path):
    root = pi_5(tmp_path, f"cat <<END\n{RAILS}END")
    assert detect_meter(root) == "pmic"
    meter = open_meter("pmic", root=root)
    assert meter
    assert meter.read().value == pytest.approx(0.37 + 1.2 + 0.1)
    assert "USB" in meter.sensor.about
    assert (meter.sensor.accuracy or 0) >= 0.1
    assert set(parse_rails(RAILS)) == {"3V7_WL_SW", "VDD_CORE", "HDMI"}


@pytest.mark.parametrize(
    ("answer", "message", "hint"),
    [
        ("echo 'error=1 error_msg=\"Command not registered\"'", "no such chip", ""),
        ('echo "Can\'t open device file: /dev/vcio" >&2; exit 255', "may not ask", "usermod -aG video"),
        ("echo hello", "found 'hello'", ""),
    ],
)
def test_a_pmic_that_does_not_answer_says_why(tmp_path: Path, answer: str, message: str, hint: str):
    with pytest.raises(MeterError, match=message) as caught:
        open_meter("pmic", root=pi_5(tmp_path, answer))
    assert hint in (caught.value.hint or "")


def test_no_vcgencmd_at_all(tmp_path: Path):
    with pytest.raises(MeterError, match="no vcgencmd") as caught:
        open_meter("pmic", root=tmp_path)
    assert "apt-get install" in (caught.value.hint or "")


@given(st.text(alphabet="VDCORE_Acurent(0123456789)=.\n -", max_size=200))
def test_rails_from_nonsense_are_numbers_or_nothing(text: str):
    for current, voltage in parse_rails(text).values():
        assert 0 <= current < 1e6
        assert 0 <= voltage < 1e6


# ---------------------------------------------------------------- ina219 and its kin


class FakeBus:
    """A chip's registers; what is not there reads as all ones, as a floating bus does."""

    def __init__(self, registers: dict[int, int]) -> None:
        self.registers, self.closed = dict(registers), False

    def read(self, register: int) -> int:
        return self.registers.get(register, 0xFFFF)

    def write(self, register: int, value: int) -> None:
        self.registers[register] = value

    def close(self) -> None:
        self.closed = True


CHIPS = {
    # 0.5 A over 0.1 ohm are 50 mV; 5 V
    "INA219": ({0: 0x399F, 1: 5000, 2: 1250 << 3 | 2}, 0.1, 2.5),
    "INA226": ({0: 0x4127, 0xFE: 0x5449, 0xFF: 0x2260, 1: 20_000, 2: 4000}, 0.1, 2.5),
    "INA260": ({0: 0x6127, 0xFE: 0x5449, 0xFF: 0x2270, 1: 400, 2: 4000}, 0.1, 2.5),
    "INA238": ({0: 0, 0x3E: 0x5449, 0x3F: 0x2381, 4: 10_000, 5: 1600}, 0.1, 2.5),
    "INA238 fine": ({0: 0x10, 0x3E: 0x5449, 0x3F: 0x2381, 4: 10_000, 5: 1600}, 0.025, 2.5),
    "INA219 small shunt": ({0: 0x399F, 1: 500, 2: 1250 << 3}, 0.01, 2.5),
}


@pytest.mark.parametrize("name", CHIPS)
def test_a_chip_is_known_and_its_units_are_its_own(name: str):
    registers, shunt, watts = CHIPS[name]
    bus = FakeBus(registers)
    meter = ina.Direct(bus, "bus", shunt)
    assert meter.read().value == pytest.approx(watts)
    assert name.split()[0] in meter.sensor.about
    shunt_register = 4 if "238" in name else 1
    bus.registers[shunt_register] = 0x10000 - bus.registers[shunt_register]  # wired the other way round
    assert meter.read().value == pytest.approx(watts)
    meter.close()
    assert bus.closed


def test_the_chip_is_set_to_measure_all_the_time_and_is_not_calibrated():
    bus = FakeBus(CHIPS["INA219"][0] | {5: 0})
    ina.Direct(bus, "bus", 0.1)
    assert bus.registers[0] & 7 == 7
    assert bus.registers[5] == 0


def test_too_much_current_and_a_strange_chip_are_errors():
    bus = FakeBus(CHIPS["INA219"][0] | {1: 32_000})
    with pytest.raises(MeterError, match="too much current"):
        ina.Direct(bus, "bus", 0.1).read()
    with pytest.raises(MeterError, match="wanted an INA219"):
        ina.Direct(FakeBus({}), "bus", 0.1)


@given(st.dictionaries(st.integers(0, 255), st.integers(0, 0xFFFF)))
def test_any_registers_give_watts_or_an_error(registers: dict[int, int]):
    with contextlib.suppress(MeterError):
        assert 0 <= ina.Direct(FakeBus(registers), "bus", 0.1).read().value < 1e5


@pytest.mark.parametrize(
    ("number", "message", "hint"),
    [
        (errno.ENOENT, "wanted the I2C bus", "raspi-config"),
        (errno.EACCES, "may not be used", "usermod -aG i2c"),
        (errno.EBUSY, "a kernel driver holds", "leave --i2c out"),
    ],
)
def test_a_bus_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, number: int, message: str, hint: str):
    def refuse(*_: object) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(ina, "DeviceBus", refuse)
    with pytest.raises(MeterError, match=message) as caught:
        open_meter("ina219", MeterSettings(i2c=(1, 0x41)))
    assert hint in (caught.value.hint or "")


def test_an_address_at_which_nothing_answers(monkeypatch: pytest.MonkeyPatch):
    class Silent(FakeBus):
        def read(self, register: int) -> int:
            raise OSError(errno.EREMOTEIO, "Remote I/O error")

    bus = Silent({})
    monkeypatch.setattr(ina, "DeviceBus", lambda *_: bus)
    with pytest.raises(MeterError, match="nothing answers at 0x40") as caught:
        open_meter("ina219")
    assert "i2cdetect -y 1" in (caught.value.hint or "")
    assert bus.closed


def hwmon(root: Path, **files: int | str) -> Path:
    return tree(root, {f"sys/class/hwmon/hwmon2/{name}": f"{value}\n" for name, value in files.items()})


def test_the_kernels_figures_and_its_guess_at_the_shunt(tmp_path: Path):
    root = hwmon(tmp_path, name="ina219", power1_input=2_500_000, shunt_resistor=10_000)
    assert detect_meter(root) == "ina219"
    meter = open_meter("ina219", root=root)
    assert meter
    assert meter.read().value == 2.5
    assert "driver's own guess" in meter.sensor.about
    told = open_meter("ina219", MeterSettings(shunt_ohms=0.1), root)
    assert told
    assert told.read().value == pytest.approx(0.25)  # a tenth of the current that the driver takes it for


def test_current_and_voltage_where_the_kernel_gives_no_power(tmp_path: Path):
    meter = open_meter("ina219", root=hwmon(tmp_path, name="ina226", curr1_input=-500, in1_input=5000, in0_input=50))
    assert meter
    assert meter.read().value == pytest.approx(2.5)
    with pytest.raises(MeterError, match="neither power1_input"):
        open_meter("ina219", root=hwmon(tmp_path / "b", name="ina226", in1_input=5000))


@pytest.mark.parametrize("settings", [MeterSettings(shunt_ohms=0.0), MeterSettings(i2c=(1, 0x99))])
def test_settings_out_of_range(settings: MeterSettings):
    with pytest.raises(UsageError, match="wanted"):
        open_meter("ina219", settings)


# ---------------------------------------------------------------- battery


def battery(root: Path, supply: str = "battery", **files: int | str) -> Path:
    known = {"type": "Battery", "status": "Discharging"} | files
    return tree(root, {f"sys/class/power_supply/{supply}/{name}": f"{value}\n" for name, value in known.items()})


@pytest.mark.parametrize(
    "files",
    [
        {"current_now": -650_000, "voltage_now": 4_000_000},  # as the kernel says it should be
        {"current_now": 650_000, "voltage_now": 4_000_000},  # the other sign
        {"current_now": -650, "voltage_now": 4_000_000},  # milliamperes
        {"current_now": 650, "voltage_now": 4000},  # and millivolts
        {"power_now": 2_600_000, "voltage_now": 12_000_000},  # a laptop
    ],
)
def test_the_same_battery_as_five_makers_tell_it(tmp_path: Path, files: dict[str, int]):
    root = battery(tmp_path, **files)
    assert detect_meter(root) == "battery"
    meter = open_meter("battery", root=root)
    assert meter
    assert meter.read().value == pytest.approx(2.6)
    assert not meter.read().charging


def test_a_unit_that_is_stated_is_not_guessed(tmp_path: Path):
    root = battery(tmp_path, current_now=12_000, voltage_now=4000)
    meter = open_meter("battery", MeterSettings(current_unit="mA"), root)
    assert meter
    assert meter.read().value == pytest.approx(48)
    with pytest.raises(UsageError, match="wanted uA or mA"):
        open_meter("battery", MeterSettings(current_unit="A"), root)


def test_one_battery_under_three_names_counts_once_and_two_batteries_of_a_laptop_twice(tmp_path: Path):
    three = tmp_path / "three"
    for name in ("ds2784-fuelgauge", "manta-battery", "smb347-battery"):
        battery(three, name, current_now=500_000, voltage_now=4_000_000)
    two = tmp_path / "two"
    for name in ("BAT0", "BAT1"):
        battery(two, name, power_now=4_000_000)
    for root, watts in ((three, 2.0), (two, 8.0)):
        meter = open_meter("battery", root=root)
        assert meter
        assert meter.read().value == pytest.approx(watts)


@pytest.mark.parametrize(
    ("before", "after", "joules"),
    [
        ({"charge_counter": 3_000_000}, {"charge_counter": 2_999_000}, 3.6 * 4),  # uAh
        ({"charge_counter": 3000, "charge_full": 5000}, {"charge_counter": 2999}, 3.6 * 4),  # mAh
        ({"charge_now": 20_000, "charge_full": 5_000_000}, {"charge_now": 19_000}, 3.6 * 4),  # nearly empty
        ({"energy_now": 40_000_000}, {"energy_now": 39_990_000}, 36),  # uWh
    ],
)
def test_a_battery_that_only_counts(tmp_path: Path, before: dict[str, int], after: dict[str, int], joules: float):
    root = battery(tmp_path, voltage_now=4_000_000, current_now=0, **before)
    meter = open_meter("battery", root=root)
    assert meter
    assert meter.sensor.counter
    assert meter.read().value == 0
    battery(root, **after)
    assert meter.read().value == pytest.approx(joules)


def test_on_charge_is_marked(tmp_path: Path):
    root = battery(tmp_path, current_now=650, voltage_now=4000)
    meter = open_meter("battery", root=root)
    battery(root, status="Charging")
    assert meter
    assert meter.read().charging


def test_no_battery_a_hidden_one_and_one_that_tells_nothing(tmp_path: Path):
    with pytest.raises(MeterError, match="found no battery"):
        open_meter("battery", root=tmp_path)
    (tmp_path / "hidden/sys/class/power_supply/battery").mkdir(parents=True)
    with pytest.raises(MeterError, match="Android hides") as caught:
        open_meter("battery", root=tmp_path / "hidden")
    assert "--meter termux" in (caught.value.hint or "")
    with pytest.raises(MeterError, match="found neither current_now"):
        open_meter("battery", root=battery(tmp_path / "mute", capacity=50))
    assert detect_meter(tmp_path / "mute") == "none"


@given(st.integers(-(10**10), 10**10))
def test_battery_units_stay_in_what_a_device_can_take(raw: int):
    assert 0 <= amperes(raw) <= 10 or abs(raw) > 10**7
    assert volts(raw) is None or 2 <= (volts(raw) or 0) <= 30


# ---------------------------------------------------------------- termux

STATUS = {"health": "GOOD", "percentage": 83, "plugged": "UNPLUGGED", "status": "DISCHARGING", "temperature": 27.2}


def termux(root: Path, **fields: object) -> Path:
    answer = json.dumps(STATUS | fields)
    script(root / "data/data/com.termux/files/usr/bin/termux-battery-status", f"echo '{answer}'")
    return root


@pytest.mark.parametrize(
    ("fields", "watts"),
    [
        ({"current": -650_000, "voltage": 4000}, 2.6),
        ({"current": 650, "voltage": 4000}, 2.6),  # milliamperes, and the other sign
        ({"current": -1250, "voltage": 4000}, 5.0),  # milliamperes that the app does not mend
        ({"current": -650_000}, 0.65 * 3.85),  # an app of before 2025
        ({"current": 0, "voltage": 4000}, 0.0),
    ],
)
def test_termux_in_the_units_of_several_devices(tmp_path: Path, fields: dict[str, int], watts: float):
    root = termux(tmp_path, **fields)
    assert detect_meter(root) == "termux"
    meter = open_meter("termux", root=root)
    assert meter
    assert meter.read().value == pytest.approx(watts)
    assert ("no voltage told" in meter.sensor.about) == ("voltage" not in fields)


@pytest.mark.parametrize("fields", [{"plugged": "PLUGGED_USB"}, {"status": "CHARGING"}])
def test_termux_on_charge(tmp_path: Path, fields: dict[str, str]):
    meter = open_meter("termux", root=termux(tmp_path, current=1, **fields))
    assert meter
    assert meter.read().charging


def test_termux_missing_hanging_or_broken_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(MeterError, match="found no termux-battery-status") as caught:
        open_meter("termux", root=tmp_path)
    assert "pkg install termux-api" in (caught.value.hint or "")
    command = "data/data/com.termux/files/usr/bin/termux-battery-status"
    monkeypatch.setattr("edge_runtime.power.termux.ANSWER_S", 0.2)
    script(tmp_path / command, "exec sleep 30")
    with pytest.raises(MeterError, match="did not answer") as caught:
        open_meter("termux", root=tmp_path)
    assert "Termux:API app" in (caught.value.hint or "")
    script(tmp_path / command, "echo Error")
    with pytest.raises(MeterError, match="found 'Error'"):
        open_meter("termux", root=tmp_path)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda one: st.lists(one)))
def test_termux_nonsense(found: object):
    for text in (json.dumps(found), json.dumps({"current": found})):
        with contextlib.suppress(MeterError):
            assert abs(parse_status(text)["current"]) < 1e9


# ---------------------------------------------------------------- rapl


def rapl(root: Path, **zones: int) -> Path:
    names = {"p0": ("intel-rapl:0", "package-0"), "p1": ("intel-rapl:1", "package-1"), "psys": ("intel-rapl:2", "psys")}
    names |= {"core": ("intel-rapl:0:0", "core"), "dram": ("intel-rapl:0:1", "dram")}
    names |= {"mmio": ("intel-rapl-mmio:0", "package-0")}
    files = {}
    for key, energy in zones.items():
        folder = f"sys/class/powercap/{names[key][0]}"
        files |= {f"{folder}/energy_uj": f"{energy}\n", f"{folder}/name": names[key][1]}
        files |= {f"{folder}/max_energy_range_uj": "262143328850\n"}
    return tree(root, files)


def test_packages_are_summed_and_parts_inside_them_are_not(tmp_path: Path):
    root = rapl(tmp_path, p0=1_000_000, p1=2_000_000, core=500_000, dram=7, mmio=1_000_000)
    assert detect_meter(root) == "rapl"
    meter = open_meter("rapl", root=root)
    assert meter
    start = meter.read().value
    rapl(root, p0=3_000_000, p1=2_500_000, core=9_000_000, dram=9_000_000, mmio=3_000_000)
    assert meter.read().value - start == pytest.approx(2.5)
    assert meter.sensor.counter


def test_a_counter_that_starts_again(tmp_path: Path):
    root = rapl(tmp_path, p0=262_143_000_000)
    meter = open_meter("rapl", root=root)
    assert meter
    with Recorder(meter, background=False) as recorder:
        start = recorder.mark()
        rapl(root, p0=1_000_000)
        assert recorder.energy(start, recorder.mark()).joules == pytest.approx(1.328851)


def test_the_whole_platform_counts_instead_of_its_parts(tmp_path: Path):
    root = rapl(tmp_path, p0=0, psys=0)
    meter = open_meter("rapl", root=root)
    rapl(root, p0=5_000_000, psys=8_000_000)
    assert meter
    assert meter.read().value == 8


def test_counters_that_may_not_be_read_or_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(MeterError, match="x86 processors only"):
        open_meter("rapl", root=tmp_path)
    rapl(tmp_path, p0=1)
    monkeypatch.setattr("os.access", lambda *_: False)  # tests may run as root, who may read all
    with pytest.raises(MeterError, match="may not be read") as caught:
        open_meter("rapl", root=tmp_path)
    assert (caught.value.hint or "").startswith("sudo chmod a+r /sys/class/powercap/intel-rapl")
    assert detect_meter(tmp_path) == "none"


def test_a_counter_of_nonsense(tmp_path: Path):
    rapl(tmp_path, p0=1)
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").write_text("lots\n")
    with pytest.raises(MeterError, match="wanted microjoules"):
        open_meter("rapl", root=tmp_path)


# ---------------------------------------------------------------- an external meter's log

BEGAN = 1_800_000_000
LOGS = {  # 2.5 W for 10 s, then 5 W
    "Joulescope, relative": ("#time,current,voltage,power,charge,energy", lambda t, w: f"{t},{w / 5},5,{w},0,0", BEGAN),
    "Joulescope, since 1970": ("#time,current,voltage,power", lambda t, w: f"{BEGAN + t},{w / 5},5,{w}", 0),
    "UM25C": ("Time,Voltage(V),Current(A),Power(W)", lambda t, w: f"{local(t)},5.0,{w / 5},{w}", 0),
    "FNB58": (
        "timestamp sample_in_packet voltage_V current_A dp_V dn_V temp_C_ema",
        lambda t, w: f"{BEGAN + t} 0 5.0 {w / 5} 0.6 0.6 31",
        0,
    ),
    "in milliwatts and ms": ("time_ms;P (mW)", lambda t, w: f"{(BEGAN + t) * 1000};{w * 1000}", 0),
    "with commas for points": (
        "Zeit [s];Time [s];U [V];I [mA]",
        lambda t, w: f"x;{BEGAN + t};5.0;{w * 200}".replace(".", ","),
        0,
    ),
    "a date and a time": ("Date,Time,Power(W)", lambda t, w: f"{local(t)[:10]},{local(t)[11:]},{w}", 0),
    "slashes and quotes": ('"Timestamp","Watts"', lambda t, w: f'"{local(t).replace("-", "/")}","{w}"', 0),
    "LPM01A": ("Time (ms),Current (uA)", lambda t, w: f"{t * 1000},{w / 5 * 1e6}", BEGAN),
    "h:mm:ss": ("Elapsed,Power", lambda t, w: f"0:{int(t) // 60:02}:{t % 60:04.1f},{w}", BEGAN),
}


def local(t: float) -> str:
    return datetime.fromtimestamp(BEGAN + t).isoformat(sep=" ", timespec="milliseconds")


def write_log(path: Path, name: str, skip: range = range(0)) -> MeterSettings:
    header, line, offset = LOGS[name]
    rows = [line(t / 2, 2.5 if t < 20 else 5.0) for t in range(60) if t not in skip]
    path.write_text("\n".join(["some meter, version 1", "", header, *rows]) + "\n")
    return MeterSettings(log=path, log_offset_s=offset, log_volts=5.0)


def recorded(settings: MeterSettings, start: float, end: float):
    meter = open_meter("log", settings)
    assert meter
    walls = iter([BEGAN + start, BEGAN + end])
    with Recorder(meter, wall=lambda: next(walls)) as recorder:
        return recorder.energy(recorder.mark(), recorder.mark())


@pytest.mark.parametrize("name", LOGS)
def test_logs_of_many_meters_agree(tmp_path: Path, name: str):
    found = recorded(write_log(tmp_path / "log.csv", name), 4, 24)
    assert found.joules == pytest.approx(6 * 2.5 + 14 * 5, abs=1.3)  # a step between two readings
    assert (found.basis, found.valid) == ("measured:log", True)


def test_a_log_that_does_not_reach_has_a_gap_or_has_no_beginning(tmp_path: Path):
    settings = write_log(tmp_path / "log.csv", "UM25C")
    for start, end in ((-5, 5), (20, 40), (100, 110)):
        with pytest.raises(MeterError, match="log: .* covers 20.* wanted 20"):
            recorded(settings, start, end)
    gap = recorded(write_log(tmp_path / "gap.csv", "UM25C", skip=range(30, 44)), 4, 24)
    assert "no reading for 7.5 s" in " ".join(gap.notes)
    assert not gap.valid
    write_log(tmp_path / "log.csv", "Joulescope, relative")
    with pytest.raises(MeterError, match="count from its own beginning") as caught:
        open_meter("log", MeterSettings(log=tmp_path / "log.csv"))
    assert "--meter-offset" in (caught.value.hint or "")


def test_a_log_that_still_grows_is_read_on_from_where_it_was(tmp_path: Path):
    settings = write_log(tmp_path / "log.csv", "FNB58")
    text = (tmp_path / "log.csv").read_text()
    lines = text.splitlines(keepends=True)
    (tmp_path / "log.csv").write_text("".join(lines[:30]) + lines[30][:12])  # the last line is half written
    meter = open_meter("log", settings)
    assert meter
    assert len(meter.samples(BEGAN + 2, BEGAN + 8)) > 5
    (tmp_path / "log.csv").write_text(text)
    assert meter._resume[1] > 0
    late = meter.samples(BEGAN + 20, BEGAN + 25)
    assert late == open_meter("log", settings).samples(BEGAN + 20, BEGAN + 25)


def test_a_large_window_is_thinned_without_losing_energy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings = write_log(tmp_path / "log.csv", "Joulescope, since 1970")
    exact = recorded(settings, 1, 25).joules
    monkeypatch.setattr("edge_runtime.power.log.BUCKETS", 8)
    assert recorded(settings, 1, 25).joules == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found no line of names"),
        ("a,b,c\n1,2,3\n", "found no line of names"),
        ("time,voltage\n1,2\n", "found no line of names"),
        ("time,power\n" + "1800000000,lots\n" * 300, "lines are no readings"),
        ("time,power\n1800000005,1\n1800000004,1\n1800000009,1\n", "run backwards"),
    ],
)
def test_what_is_no_log_is_refused(tmp_path: Path, text: str, message: str):
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(MeterError, match=message):
        recorded(MeterSettings(log=tmp_path / "log.csv"), 4, 8)


def test_a_log_that_is_not_given_or_not_there(tmp_path: Path):
    with pytest.raises(UsageError, match="--meter-log FILE"):
        open_meter("log")
    with pytest.raises(MeterError, match="No such file"):
        open_meter("log", MeterSettings(log=tmp_path / "none.csv"))


@pytest.mark.parametrize("text", ["1800000000", "1800000000.0", "1800000000000", "1.8e15", "1800000000000000000"])
def test_times_since_1970_in_four_units(text: str):
    assert seconds(text, None) == pytest.approx(BEGAN)


def test_offsets():
    assert parse_offset("-3.5") == -3.5
    assert parse_offset("2027-01-15T08:00:00+00:00") == BEGAN
    with pytest.raises(UsageError, match="wanted seconds, or a time"):
        parse_offset("yesterday")


@given(st.binary(max_size=300))
def test_a_log_of_nonsense_is_an_error_and_nothing_worse(tmp_path_factory: pytest.TempPathFactory, rubbish: bytes):
    path = tmp_path_factory.mktemp("log") / "log.csv"
    for content in (rubbish, b"time,power\n" + rubbish):
        path.write_bytes(content)
        with pytest.raises(EdgeError):
            recorded(MeterSettings(log=path), 4, 8)
        find_layout(content.decode("utf-8", "replace"))
