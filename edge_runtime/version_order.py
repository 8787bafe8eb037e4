"""Which of two versions of a bundle is the older one, as far as that can be told."""

from __future__ import annotations

import re
from typing import Any


def compare_versions(one: str, other: str) -> int | None:
    """-1, 0 or 1 for numbers with dots and maybe -suffix ("2.0.0-rc1" comes before "2.0.0"); None where it is
    something else."""
    if one == other:
        return 0
    keys = [_version_key(text) for text in (one, other)]
    if None in keys:
        return None
    first, second = keys
    return (first > second) - (first < second)  # type: ignore[operator]


def _version_key(text: str) -> tuple[Any, ...] | None:
    match = re.fullmatch(r"v?([0-9]{1,18}(?:\.[0-9]{1,18}){0,7})(?:-([0-9A-Za-z.-]{1,64}))?", text)
    if match is None:
        return None
    numbers = [int(part) for part in match[1].split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    suffix = [
        (0, int(part), "") if part.isdecimal() else (1, 0, part)
        for part in re.findall(r"\d{1,18}|[A-Za-z]+", match[2] or "")
    ]
    return numbers, match[2] is None, suffix
