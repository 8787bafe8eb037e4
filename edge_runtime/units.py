"""Quantities as people write them, "512MiB" "250ms" "12mJ", to plain numbers and back.

Bytes: B, kB MB GB (powers of 1,000), KiB MiB GiB (powers of 1,024). Time is in milliseconds: us ms s min h.
Energy is in millijoules: uJ mJ J kJ. A bare number is refused: a forgotten unit is a silent factor of a million.
"""

from __future__ import annotations

import re

from edge_runtime.errors import UsageError

_BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "min": 6e4, "h": 3.6e6}
_MJ = {"uJ": 1e-3, "mJ": 1.0, "J": 1e3, "kJ": 1e6}
_NUMBER = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?) ?([A-Za-z]+)")


def _parse(text: object, units: dict[str, float] | dict[str, int], what: str, example: str) -> float:
    match = _NUMBER.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None or match[2] not in units:
        raise UsageError(f"{what}: found {text!r}, wanted a number with one of the units {', '.join(units)}: {example}")
    return float(match[1]) * units[match[2]]


def parse_bytes(text: object, what: str = "size") -> int:
    """'512MiB' -> 536870912. Raises UsageError naming `what`."""
    return round(_parse(text, _BYTES, what, "512MiB"))


def parse_ms(text: object, what: str = "time") -> float:
    """'250ms' -> 250.0 milliseconds. Raises UsageError naming `what`."""
    return _parse(text, _MS, what, "250ms")


def parse_mj(text: object, what: str = "energy") -> float:
    """'12mJ' -> 12.0 millijoules. Raises UsageError naming `what`."""
    return _parse(text, _MJ, what, "12mJ")


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
