"""An Android device's battery through the Termux:API app, for tablets whose /sys is hidden from programs.

`termux-battery-status` prints JSON: "current" in microamperes by the rule, in milliamperes on some devices, either
sign; "voltage" in millivolts, only since 2025; "plugged", "status", "percentage". It starts a program of its own for
each answer and takes up to a second, so it is asked every two. Without the app behind the command it hangs for ever.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_runtime.errors import MeterError
from edge_runtime.power.battery import amperes, volts
from edge_runtime.power.meter import MeterSettings, PowerMeter, Reading, Sensor

PERIOD_S = 2.0
ANSWER_S = 10.0
ACCURACY = 0.05
NOMINAL_V = 3.85
NOMINAL_ACCURACY = 0.1  # a cell has 3.5 to 4.3 V
COMMAND = "termux-battery-status"
_INSTALL = "pkg install termux-api, and install the Termux:API app from where Termux came from"


def find_command(root: Path = Path("/")) -> str | None:
    if root == Path("/"):
        return shutil.which(COMMAND)
    usual = root / "data/data/com.termux/files/usr/bin" / COMMAND
    return str(usual) if os.access(usual, os.X_OK) else None


def parse_status(text: str) -> dict[str, Any]:
    """The JSON object, with a number for its current. Raises MeterError for anything else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise MeterError(f"termux: found {text[:80]!r}, wanted the JSON of {COMMAND}", hint=_INSTALL)
    current = found.get("current")
    if isinstance(current, bool) or not isinstance(current, int | float) or not abs(current) < 1e9:
        raise MeterError(f"termux: found a current of {current!r}, wanted microamperes: this device does not tell it")
    return found


class Termux:
    def __init__(self, command: str, unit: str | None) -> None:
        self._command, self._unit = command, unit
        about = "Android's battery current through Termux:API, about one reading in 2 s; the whole device, screen too"
        self.sensor = Sensor("termux", f"{about}; 5 % assumed", PERIOD_S, ACCURACY, offset_w=0.02, step=0.004)
        found = self._ask()
        if self._volts(found) is None:
            accuracy = ACCURACY + NOMINAL_ACCURACY
            about += f"; no voltage told, {NOMINAL_V} V taken; 15 % assumed"
            self.sensor = replace(self.sensor, about=about, accuracy=accuracy)

    def _ask(self) -> dict[str, Any]:
        try:
            done = subprocess.run(
                [self._command], stdin=subprocess.DEVNULL, capture_output=True, timeout=ANSWER_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise MeterError(
                f"termux: {COMMAND} did not answer in {ANSWER_S:g} s: the Termux:API app is missing or was stopped",
                hint=_INSTALL,
            ) from error
        except OSError as error:
            raise MeterError(f"termux: {self._command}: {error.strerror}", hint=_INSTALL) from error
        return parse_status((done.stdout or done.stderr).decode("utf-8", "replace").strip())

    def _volts(self, found: dict[str, Any]) -> float | None:
        raw = found.get("voltage")
        return volts(int(raw)) if isinstance(raw, int | float) and 0 < raw < 1e8 else None

    def read(self) -> Reading:
        found = self._ask()
        watts = amperes(round(found["current"]), self._unit) * (self._volts(found) or NOMINAL_V)
        plugged = str(found.get("plugged", "UNPLUGGED")) != "UNPLUGGED"
        return Reading(watts, charging=plugged or found.get("status") == "CHARGING")

    def close(self) -> None:
        pass


def open_meter(settings: MeterSettings, root: Path) -> PowerMeter:
    """Raises MeterError, with how to install it, where the command is missing or does not answer."""
    command = find_command(root)
    if command is None:
        raise MeterError(f"termux: found no {COMMAND}, wanted Termux on Android with its API package", hint=_INSTALL)
    return Termux(command, settings.current_unit)
