"""Quantities as people write them, "512MiB" "250ms" "12mJ", to plain numbers and back.

Bytes: B, kB MB GB (powers of 1,000), KiB MiB GiB (powers of 1,024). Time is in milliseconds: us ms s min h.
Energy is in millijoules: uJ mJ J kJ. Power is in watts, temperature in degrees Celsius, resistance in ohms, voltage in
volts. A bare number is refused: a forgotten unit is a silent factor of a million.
"""

from __future__ import annotations

import re

from edge_runtime.errors import UsageError

_BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "min": 6e4, "h": 3.6e6}
_MJ = {"uJ": 1e-3, "mJ": 1.0, "J": 1e3, "kJ": 1e6}
_WATTS = {"uW": 1e-6, "mW": 1e-3, "W": 1.0}
_CELSIUS = {"C": 1.0}
_OHMS = {"mOhm": 1e-3, "Ohm": 1.0}
_VOLTS = {"mV": 1e-3, "V": 1.0}
_NUMBER = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?) ?([A-Za-z]+)")


def _parse(text: object, units: dict[str, float] | dict[str, int], what: str, example: str) -> float:
    match = _NUMBER.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None or match[2] not in units:
        raise UsageError(f"{what}: found {text!r}, wanted a number with one of the units {', '.join(units)}: {example}")
    return float(match[1]) * units[match[2]]


def parse_bytes(text: object, what: str = "size") -> int:
    """'512MiB' -> 536870912. Raises UsageError naming `what`."""
    return round(_parse(text, _BYTES, what, "512MiB"))


def parse_ms(text: object, what: str = "time", example: str = "250ms") -> float:
    """'250ms' -> 250.0 milliseconds; 0 needs no unit. Raises UsageError naming `what`."""
    return 0.0 if text == "0" else _parse(text, _MS, what, example)


def parse_mj(text: object, what: str = "energy") -> float:
    """'12mJ' -> 12.0 millijoules. Raises UsageError naming `what`."""
    return _parse(text, _MJ, what, "12mJ")


def parse_watts(text: object, what: str = "power") -> float:
    """'500mW' -> 0.5 watts. Raises UsageError naming `what`."""
    return _parse(text, _WATTS, what, "2W")


def parse_celsius(text: object, what: str = "temperature") -> float:
    """'70C' -> 70.0 degrees Celsius. Raises UsageError naming `what`."""
    return _parse(text, _CELSIUS, what, "70C")


def parse_ohms(text: object, what: str = "resistance") -> float:
    """'100mOhm' -> 0.1 ohms. Raises UsageError naming `what`."""
    return _parse(text, _OHMS, what, "100mOhm")


def parse_volts(text: object, what: str = "voltage") -> float:
    """'3300mV' -> 3.3 volts. Raises UsageError naming `what`."""
    return _parse(text, _VOLTS, what, "3.3V")


def format_bytes(count: float) -> str:
    """536870912 -> '512 MiB': three figures or fewer, binary units."""
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" or abs(value) >= 99.95 else f"{value:.3g} {unit}"


def format_ms(ms: float) -> str:
    """0.21 -> '0.21 ms', 61000 -> '61 s'."""
    value, unit = (ms / 1e3, "s") if ms >= 999.5 else (ms, "ms")
    return f"{value:.0f} {unit}" if value >= 99.95 else f"{value:.3g} {unit}"


def format_mj(mj: float) -> str:
    """0.21 -> '0.21 mJ', 61000 -> '61 J', 7200000 -> '7.2 kJ'."""
    value, unit = mj, "mJ"
    for factor, larger in ((1e6, "kJ"), (1e3, "J")):
        if abs(mj) >= 0.9995 * factor:
            value, unit = mj / factor, larger
            break
    return f"{value:.0f} {unit}" if abs(value) >= 99.95 else f"{value:.3g} {unit}"
