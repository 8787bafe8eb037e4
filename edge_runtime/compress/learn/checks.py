"""Settings out of range, and answers that are none, said in one way."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edge_runtime.compress.torch_graph import need_torch
from edge_runtime.errors import InputError, UsageError


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


def check_answer(found: Any, who: str) -> None:
    """Raises InputError where a network gives anything but one tensor, such as a tuple."""
    if not isinstance(found, need_torch().Tensor):
        raise InputError(
            f"{who}: found a {type(found).__name__} as its answer, wanted one tensor",
            hint="wrap it in a module whose forward gives the logits alone",
        )


def check_free(weights: Iterable[Any], who: str) -> None:
    """Raises UsageError where none of a network's weights may change."""
    if not any(one.requires_grad for one in weights):
        raise UsageError(
            f"{who}: found no weight that may change, wanted one to teach", hint="net.requires_grad_(True)"
        )
