"""What a search for a device is asked for, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edge_runtime.compress.slide_figures import Rules

if TYPE_CHECKING:
    from pathlib import Path

    from edge_runtime.profile import DeviceProfile


@dataclass(frozen=True)
class Goal:
    """`max_drop`: in points of the score (None: F1 where a class is rare, else accuracy); `minutes`, `thorough`: how
    long (see search.py); `measure`: time the best here; `closest`: write what is closest where nothing is good enough;
    `most`: files in the bundle, for each engine; `test`: items on which only what is written is judged, when it is
    chosen."""

    device: DeviceProfile
    max_drop: float
    score: str | None = None
    rules: Rules = field(default_factory=Rules)
    minutes: float | None = None
    thorough: bool = False
    measure: bool = False
    closest: bool = False
    most: int = 3
    test: Path | None = None


@dataclass(frozen=True)
class Found:
    """`report` is compress's own, with "search" in it; None where nothing was written. `answers`: how many are good
    enough; `words`: what a person reads of the search."""

    search: dict[str, Any]
    report: dict[str, Any] | None
    answers: int
    words: tuple[str, ...]
