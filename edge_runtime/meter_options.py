"""Options of the command line about energy and pace, for every verb that takes them, and what is made of them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.errors import UsageError

if TYPE_CHECKING:
    from edge_runtime.pace import Pacer
    from edge_runtime.power import MeterSettings, Recorder

Say = Callable[[str], None]
_SETTINGS = ("meter_log", "meter_offset", "meter_volts", "meter_watts", "shunt", "i2c", "current_unit")


def add_meter(parser: argparse.ArgumentParser) -> None:
    about = "record what each item took, gross (idle included), with the meter's uncertainty"
    meter = parser.add_argument_group("energy", about)
    meter.add_argument(
        "--meter",
        metavar="NAME",
        help="auto, battery, termux, ina219 (also INA226, 230, 231, 238, 260), pmic (Raspberry Pi 5), rapl, log, or "
        "modelled; a missing permission is answered with the command that grants it (default: none)",
    )
    meter.add_argument("--meter-log", metavar="FILE", help="for log: the external meter's CSV, times and power")
    meter.add_argument(
        "--meter-offset",
        metavar="TIME",
        help="for log: seconds to add to its times (write --meter-offset=-3 for fewer), or when a log that counts "
        "from 0 began, such as 2026-11-30T10:00:00",
    )
    meter.add_argument("--meter-volts", metavar="3.3V", help="for log: the voltage, where it has a current only")
    meter.add_argument("--meter-watts", metavar="2W", help="for modelled: what the device takes; never a measurement")
    meter.add_argument("--shunt", metavar="100mOhm", help="for ina219: its shunt (default: 100mOhm, or the kernel's)")
    meter.add_argument(
        "--i2c", metavar="BUS:ADDRESS", help="for ina219: where it is (default: the kernel's, or 1:0x40)"
    )
    meter.add_argument(
        "--current-unit", choices=("uA", "mA"), help="for battery, termux: the unit, where it is guessed wrong"
    )


def add_pace(parser: argparse.ArgumentParser) -> None:
    pace = parser.add_argument_group("pace", "rest between items, as long as it takes to stay below")
    pace.add_argument("--max-temperature", metavar="70C", help="this temperature of the CPU")
    pace.add_argument("--max-power", metavar="2W", help="this power on average over a minute, by --meter")


@contextmanager
def open_recorder(arguments: argparse.Namespace, say: Say) -> Iterator[Recorder | None]:
    """The meter that was asked for, being read in the background; None where none was."""
    if arguments.meter in (None, "none"):
        given = next((name for name in _SETTINGS if getattr(arguments, name) is not None), None)
        if given:
            raise UsageError(f"--{given.replace('_', '-')} is a meter's: give the meter, too: --meter NAME")
        yield None
        return
    from edge_runtime.power import Recorder, open_meter

    meter = open_meter(arguments.meter, meter_settings(arguments))
    if meter is None:
        if arguments.meter == "modelled":
            raise UsageError("meter: found no watts, wanted what the device takes: --meter-watts 2W")
        say("edge-runtime: found no meter here, so no energy is recorded")
        yield None
        return
    with Recorder(meter) as recorder:
        say(f"energy {recorder.sensor.basis}: {recorder.sensor.about}")
        yield recorder


def meter_settings(arguments: argparse.Namespace) -> MeterSettings:
    """Raises UsageError for a quantity without its unit."""
    from edge_runtime.power import MeterSettings
    from edge_runtime.power.log import parse_offset
    from edge_runtime.units import parse_ohms, parse_volts, parse_watts

    shunt, volts, watts = arguments.shunt, arguments.meter_volts, arguments.meter_watts
    i2c = re.fullmatch(r"([0-9]{1,2}):(0x[0-9a-fA-F]{1,2})", arguments.i2c or "")
    if arguments.i2c is not None and not i2c:
        raise UsageError(f"i2c: found {arguments.i2c!r}, wanted a bus and an address: 1:0x40")
    return MeterSettings(
        shunt_ohms=None if shunt is None else parse_ohms(shunt, "shunt"),
        i2c=(int(i2c[1]), int(i2c[2], 16)) if i2c else None,
        log=Path(arguments.meter_log) if arguments.meter_log else None,
        log_offset_s=0.0 if arguments.meter_offset is None else parse_offset(arguments.meter_offset),
        log_volts=None if volts is None else parse_volts(volts, "meter-volts"),
        watts=None if watts is None else parse_watts(watts, "meter-watts"),
        current_unit=arguments.current_unit,
    )


def make_pacer(arguments: argparse.Namespace, recorder: Recorder | None, say: Say) -> Pacer | None:
    """Holds the limits that were given; None without. Raises UsageError, and MeterError without a sensor."""
    heat, power = arguments.max_temperature, arguments.max_power
    if heat is None and power is None:
        return None
    from edge_runtime.pace import Pacer
    from edge_runtime.units import parse_celsius, parse_watts

    pacer = Pacer(
        None if heat is None else parse_celsius(heat, "max-temperature"),
        None if power is None else parse_watts(power, "max-power"),
        recorder,
        notice=lambda text: say(f"edge-runtime: {text}"),
    )
    say(str(pacer))
    return pacer
