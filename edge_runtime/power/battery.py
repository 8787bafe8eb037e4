"""The device's own battery through /sys/class/power_supply.

The kernel's rule is microvolts, microamperes, microampere-hours, and a negative current while discharging. Makers
keep it as they like: milliamperes and millivolts, either sign, a current that is always 0. Units are told from the size
of the figure, because a running device takes more than 10 mA and less than 10 A. The sign is not used: only while
nothing charges does the battery tell what the device takes, and then all of it flows out. Readings on charge say so.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from edge_runtime.errors import MeterError, UsageError
from edge_runtime.power.meter import MeterSettings, PowerMeter, Reading, Sensor
from edge_runtime.sensors import Battery, folders, read_batteries, read_int, read_text

PERIOD_S = 1.0
ACCURACY = 0.05  # assumed: fuel gauges are seldom specified for a device
CHARGE_STEP_MAH = 1.0
_BORDER = 10_000
_ASSUMED = "fuel gauge, 5 % and 20 mW assumed"


def amperes(raw: int, unit: str | None = None) -> float:
    """Without sign. `unit`: "uA" or "mA" where it is known; else from the size: under 10,000 they are mA."""
    if unit is None:
        unit = "mA" if abs(raw) < _BORDER else "uA"
    return abs(raw) / (1e3 if unit == "mA" else 1e6)


def volts(raw: int) -> float | None:
    """Microvolts, millivolts or volts, of one cell up to a laptop's pack of six; None for what is none of them."""
    value = raw / 1e6 if raw >= 100_000 else raw / 1e3 if raw >= 100 else float(raw)
    return value if 2 <= value <= 30 else None


def ampere_seconds(raw: int, full: int | None) -> float:
    """A charge counter's figure, uAh or mAh: told by the full battery's, which is over 100 mAh and under 100 Ah."""
    return abs(raw) * (3.6 if max(abs(raw), full or 0) < 100_000 else 3.6e-3)


class _Source:
    """One battery: whichever of its figures tells."""

    def __init__(self, battery: Battery, unit: str | None) -> None:
        self.folder, self._unit = battery.folder, unit
        self._charge: float | None = None
        self._joules = 0.0

    def _int(self, *names: str) -> int | None:
        return next((n for n in (read_int(self.folder / name) for name in names) if n is not None), None)

    def watts(self) -> float | None:
        power = self._int("power_now")
        if power:
            return abs(power) / 1e6
        current, voltage = self._int("current_now"), self._volts()
        return amperes(current, self._unit) * voltage if current and voltage else None

    def joules(self) -> float | None:
        """Taken out since the first call."""
        energy = self._int("energy_now")
        charge, voltage = self._int("charge_counter", "charge_now"), self._volts()
        if energy is not None:
            now, factor = energy * 3.6e-3, 1.0  # microwatt-hours
        elif charge is not None and voltage:
            now, factor = ampere_seconds(charge, self._int("charge_full", "charge_full_design")), voltage
        else:
            return None
        # the voltage falls while it is emptied: each step counts at the voltage of its time
        self._joules += (self._charge - now) * factor if self._charge is not None else 0.0
        self._charge = now
        return self._joules

    def _volts(self) -> float | None:
        raw = self._int("voltage_now", "voltage_avg", "batt_vol")
        return volts(raw) if raw is not None else None


class BatteryMeter:
    def __init__(self, root: Path, sources: list[_Source], counter: bool) -> None:
        self._root, self._sources = root, sources
        names = ", ".join(one.folder.name for one in sources)
        if counter:
            about = f"charge counter of {names} ({_ASSUMED}): coarse, takes minutes; the whole device, screen too"
            self.sensor = Sensor("battery", about, PERIOD_S, ACCURACY, step=CHARGE_STEP_MAH * 3.6 * 3.85, counter=True)
        else:
            about = f"current and voltage of {names} ({_ASSUMED}): the whole device, screen too"
            self.sensor = Sensor("battery", about, PERIOD_S, ACCURACY, offset_w=0.02, step=0.004)

    def read(self) -> Reading:
        ask: Callable[[_Source], float | None] = _Source.joules if self.sensor.counter else _Source.watts
        found = [value for value in map(ask, self._sources) if value is not None]
        batteries = read_batteries(self._root)
        if not found:
            raise MeterError(
                f"battery: {self._sources[0].folder} told nothing this time, wanted its current and voltage"
            )
        return Reading(sum(found), charging=any(one.charging for one in batteries))

    def close(self) -> None:
        pass


def _sources(root: Path, unit: str | None) -> list[_Source]:
    """The first battery, which tells most; or all where they are numbered as in laptops. Android kernels show one
    battery under several names."""
    found = read_batteries(root)
    numbered = [one for one in found if re.fullmatch(r"BAT[0-9]", one.folder.name)]
    return [_Source(one, unit) for one in (numbered or found[:1])]


def can_tell(root: Path = Path("/")) -> bool:
    return any(one.watts() is not None or one.joules() is not None for one in _sources(root, None))


def open_meter(settings: MeterSettings, root: Path) -> PowerMeter:
    """Raises MeterError where there is no battery, or one that may not be read or tells no current and no charge."""
    if settings.current_unit not in (None, "uA", "mA"):
        raise UsageError(f"current unit: found {settings.current_unit!r}, wanted uA or mA")
    sources = _sources(root, settings.current_unit)
    where = root / "sys/class/power_supply"
    if not sources:
        hidden = [one for one in folders(root, "sys/class/power_supply/*") if not read_text(one / "type")]
        why = "its files may not be read (Android hides them from apps)" if hidden else "found no battery"
        raise MeterError(f"battery: {where}: {why}", hint="--meter termux on Android, --meter none elsewhere")
    if any(one.watts() for one in sources):
        return BatteryMeter(root, sources, counter=False)
    if any(one.joules() is not None for one in sources):
        return BatteryMeter(root, sources, counter=True)
    raise MeterError(
        f"battery: {sources[0].folder}: found neither current_now with voltage_now, nor charge_counter, nor energy_now",
        hint="--meter termux on Android, or an external meter: --meter log --meter-log FILE",
    )
