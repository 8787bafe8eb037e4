"""Settings out of range, said in one way."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edge_runtime.errors import UsageError


def check_whole(settings: Any, names: Iterable[str], least: int) -> None:
    """Raises UsageError where a setting is no whole number of at least `least`."""
    for name in names:
        value = getattr(settings, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UsageError(f"{type(settings).__name__}: {name}: found {value!r}, wanted a whole number from {least}")


def check_shares(settings: Any, names: Iterable[str], low: float, high: float) -> None:
    """Raises UsageError where a setting does not lie from `low` to `high`."""
    for name in names:
        value = getattr(settings, name)
        if not isinstance(value, int | float) or not low <= value <= high:
            raise UsageError(
                f"{type(settings).__name__}: {name}: found {value!r}, wanted a number from {low} to {high}"
            )
