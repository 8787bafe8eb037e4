"""Raspberry Pi 5: the currents and voltages that its power management chip measures, rail by rail.

The firmware is asked through vcgencmd, whose answer is a line a rail: "VDD_CORE_A current(7)=1.54489000A" and
"VDD_CORE_V volt(15)=0.88725180V". The input, EXT5V, has a voltage and no current: what the sum misses is the loss of
the converters themselves and everything fed straight from 5 V (USB, HATs, a fan). It reads some 10-20 % low.
"""

from __future__ import annotations

import re
from pathlib import Path

from edge_runtime.errors import MeterError
from edge_runtime.power.meter import MeterSettings, PowerMeter, Reading, Sensor
from edge_runtime.sensors import ask_vcgencmd, find_vcgencmd, read_text

PERIOD_S = 0.2
ACCURACY = 0.2
_LINE = re.compile(r"^\s*(\w{1,40})_([AV])\s+(?:current|volt)\(\d{1,3}\)=(\d{1,6}(?:\.\d{1,12})?)([AV])\s*$", re.ASCII)
_NO_TOOL = "sudo apt-get install raspi-utils"
_NO_RIGHT = "sudo usermod -aG video $USER, then log in again"


def parse_rails(text: str) -> dict[str, tuple[float, float]]:
    """(amperes, volts) of each rail that has both; lines that are something else are passed over."""
    amperes: dict[str, float] = {}
    volts: dict[str, float] = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match and match[2] == match[4]:
            (amperes if match[2] == "A" else volts)[match[1]] = float(match[3])
    return {rail: (current, volts[rail]) for rail, current in amperes.items() if rail in volts}


def has_pmic(root: Path = Path("/")) -> bool:
    """A Raspberry Pi 5, 500 or Compute Module 5 with the tool to ask."""
    model = read_text(root / "proc/device-tree/model")
    return bool(re.match(r"Raspberry Pi (5|Compute Module 5)", model)) and find_vcgencmd(root) is not None


class Pmic:
    def __init__(self, root: Path) -> None:
        self._root = root
        about = "Raspberry Pi 5 PMIC, the sum of its rails: misses USB, HATs, fan and the converters' loss, 10-20 % low"
        self.sensor = Sensor("pmic", about, PERIOD_S, ACCURACY)

    def read(self) -> Reading:
        text = ask_vcgencmd("pmic_read_adc", self._root)
        if text is None:
            raise MeterError("pmic: vcgencmd did not answer in time, wanted the currents of the rails", hint=_NO_TOOL)
        rails = parse_rails(text)
        if not rails:
            raise self._why_not(text)
        return Reading(sum(amperes * volts for amperes, volts in rails.values()))

    def _why_not(self, text: str) -> MeterError:
        said = " ".join(text.split())[:120]
        lower = text.lower()
        if "not registered" in lower or "error=1" in lower:
            return MeterError(f"pmic: this board has no such chip ({said}), wanted a Raspberry Pi 5")
        if "open device" in lower or "permission" in lower or "vchi" in lower:
            return MeterError(f"pmic: vcgencmd may not ask the firmware ({said})", hint=_NO_RIGHT)
        return MeterError(f"pmic: found {said!r}, wanted lines such as 'VDD_CORE_A current(7)=1.54A'")

    def close(self) -> None:
        pass


def open_meter(settings: MeterSettings, root: Path) -> PowerMeter:
    """Raises MeterError where vcgencmd is missing, may not be used, or knows no PMIC."""
    if find_vcgencmd(root) is None:
        raise MeterError("pmic: found no vcgencmd, wanted it on a Raspberry Pi 5", hint=_NO_TOOL)
    meter = Pmic(root)
    meter.read()
    return meter
