"""From the scores of a slide's cells to one of three verdicts, with what is known about people and slides.

A cell is *called* when its logit reaches a strict threshold, set where the smallest infection can be told from none
(not where single cells are classified best). Healthy people differ in how many of their cells are called (platelets on
cells, specks of stain), infected people in how many of their parasites are: both are beta distributions between
persons (chances.Spread), fitted on people whose cells the network had not seen.

    parasites_found  so many called cells come from fewer than `false_alarm` of healthy people
    none_found       not so, on enough cells; an infection below `not_excluded_below_per_ul` stays possible, always
    repeat           no answer: too few cells, or pictures unlike those on which the reader was measured

Everything in `Calibration` is measured by models/malaria/train.py and travels in the bundle's header as JSON.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edge_runtime.errors import BundleError, InputError
from edge_runtime.task.chances import Spread, binomial_at_least
from edge_runtime.task.gate import Gate

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

VERDICTS = ("parasites_found", "none_found", "repeat")
_NUMBERS = (
    "threshold", "score_slope", "score_offset", "false_alarm", "confidence", "red_cells_per_ul"
)  # fmt: skip
_COUNTS = ("least_cells", "least_cells_none", "least_called")


@dataclass(frozen=True)
class Calibration:
    """Measured on people unseen by the network. Rates are shares of cells, logits are the network's raw output."""

    threshold: float  # logit from which on a cell is called
    score_slope: float  # chance that a cell is infected, classes equally common: 1/(1+exp(-(slope*logit+offset)))
    score_offset: float
    healthy: Spread  # share of called cells, between healthy persons
    infected: Spread  # share of infected cells that are called, between infected persons
    gate: Gate
    false_alarm: float = 0.05  # share of healthy people's slides that may be called infected
    confidence: float = 0.95  # of intervals and of what cannot be excluded
    least_called: int = 2  # one odd cell is never a finding
    least_cells: int = 30  # below this nothing is said
    least_cells_none: int = 500  # below this none_found is not said: too large an infection could be missed
    red_cells_per_ul: float = 5_000_000  # assumed; a laboratory that knows the haematocrit sets 125,600 x its per cent

    def probability(self, logit: float) -> float:
        """Chance 0-1 that a cell with this logit is infected, if half of all cells were."""
        x = self.score_slope * logit + self.score_offset
        return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))

    def to_json(self) -> dict[str, Any]:
        plain: dict[str, Any] = {name: getattr(self, name) for name in (*_NUMBERS, *_COUNTS)}
        for name in ("healthy", "infected"):
            spread: Spread = getattr(self, name)
            plain[name] = {"alpha": spread.alpha, "beta": spread.beta}
        return plain | {"gate": self.gate.to_json()}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Calibration:
        """Raises BundleError naming the field: a bundle from elsewhere may hold anything."""
        wanted = {*_NUMBERS, *_COUNTS, "healthy", "infected", "gate"}
        if set(plain) != wanted:
            odd = ", ".join(sorted(map(str, set(plain) ^ wanted)))
            raise BundleError(f"calibration: missing or unknown fields: {odd}")
        values: dict[str, Any] = {name: _number(plain, name) for name in _NUMBERS}
        for name in _COUNTS:
            values[name] = int(_number(plain, name, least=1))
        for name in ("healthy", "infected"):
            inner = plain[name]
            if not isinstance(inner, Mapping) or set(inner) != {"alpha", "beta"}:
                raise BundleError(f"calibration.{name}: wanted an object with alpha and beta")
            values[name] = Spread(*(_number(inner, key, least=1e-9) for key in ("alpha", "beta")))
        for name in ("false_alarm", "confidence"):
            if not 0 < values[name] < 1:
                raise BundleError(f"calibration.{name}: found {values[name]}, wanted more than 0 and less than 1")
        return cls(**values, gate=Gate.from_json(plain["gate"]))


def _number(plain: Mapping[str, Any], name: str, least: float = -math.inf) -> float:
    value = plain[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < least:
        floor = f" of at least {least:g}" if least > -math.inf else ""
        raise BundleError(f"calibration.{name}: found {value!r:.40}, wanted a finite number{floor}")
    return float(value)


@dataclass
class Tally:
    """What is remembered of a slide while its cells stream by: a few sums, however many cells there are."""

    calibration: Calibration
    cells: int = 0
    called: int = 0
    measured: int = 0
    sums: list[float] = field(default_factory=list)

    def add(self, score: float, features: npt.NDArray[np.float32] | None = None) -> None:
        """One cell: its raw logit, and what cells.features measured, float32 (F,), or None where it was skipped."""
        if not math.isfinite(score):  # would count as clean: a broken model must not read every slide as clean
            raise InputError(f"a cell's logit is {score}, wanted a finite number")
        self.cells += 1
        self.called += score >= self.calibration.threshold
        if features is None:
            return
        values: list[float] = features.tolist()
        self.measured += 1
        self.sums = [a + b for a, b in zip(self.sums, values, strict=True)] if self.sums else values

    def means(self) -> list[float]:
        return [total / self.measured for total in self.sums]


def decide(tally: Tally, calibration: Calibration) -> dict[str, Any]:
    """The verdict with its figures; all of plain JSON types.

    cells, infected (called cells), verdict, reasons, parasitaemia_percent and interval_percent (corrected for missed
    parasites and false alarms), parasites_per_ul, formula, not_excluded_below_per_ul (none_found only, else null),
    false_alarm_chance (share of healthy people with as many called cells), gate_distance (limit: 1).
    """
    cells, called = tally.cells, tally.called
    per_ul, formula = _density(calibration)
    result: dict[str, Any] = {"cells": cells, "infected": called, "verdict": "repeat", "reasons": []}
    result |= {"parasitaemia_percent": None, "interval_percent": None, "parasites_per_ul": None, "formula": formula}
    result |= {"not_excluded_below_per_ul": None, "false_alarm_chance": None, "gate_distance": None}
    if not cells:
        return result | {"reasons": ["No red cell was found: the slide is empty, or nothing on it is in view."]}
    share, low, high = parasitaemia(called, cells, calibration)
    chance = calibration.healthy.at_least(called, cells)
    result |= {"parasitaemia_percent": 100 * share, "interval_percent": [100 * low, 100 * high]}
    result |= {"parasites_per_ul": share * per_ul, "false_alarm_chance": chance}
    objections: list[str] = []
    if tally.measured:
        distance, objections = calibration.gate.judge(tally.means(), tally.measured)
        result["gate_distance"] = distance
    if cells < calibration.least_cells:
        objections.append(f"Only {_count(cells)}: at least {calibration.least_cells} are needed to say anything.")
    if objections:
        return result | {"reasons": objections}
    if called >= calibration.least_called and chance <= calibration.false_alarm:
        why = f"{called} of {_count(cells)} called infected; healthy people show as many on {_rare(chance)} slides."
        return result | {"verdict": "parasites_found", "reasons": [why]}
    least = calibration.least_cells_none
    if cells < least:
        why = f"{called} of {_count(cells)} called infected: too few cells to say more; none found takes {least}."
        return result | {"reasons": [why]}
    limit = per_ul * max(detectable(cells, calibration), high)
    result |= {"verdict": "none_found", "not_excluded_below_per_ul": limit}
    result["reasons"] = [
        f"{called} of {_count(cells)} called infected, as on slides of healthy people.",
        f"An infection below {_round(limit):,} parasites per microlitre cannot be excluded.",
    ]
    return result


def parasitaemia(called: int, cells: int, calibration: Calibration) -> tuple[float, float, float]:
    """Share of infected cells, 0-1, with its interval: (estimate, low, high).

    The estimate is Rogan and Gladen's: the share called, less the false alarms, over what is recognised. The interval
    is the middle `confidence` of the posterior under a flat prior, averaged over people's rates, so it does not shrink
    to nothing on a slide of 100,000 cells.
    """
    import numpy as np

    false, seen = calibration.healthy, calibration.infected
    estimate = min(1.0, max(0.0, (called / cells - false.mean) / (seen.mean - false.mean)))
    grid = np.linspace(0, 1, 301) ** 3  # dense near nought, where slides are
    pairs = [(alarm, find - alarm) for alarm in false.points(6) for find in seen.points(8) if find > alarm]
    alarm, rise = np.array(pairs).T[:, :, np.newaxis]
    rate = np.clip(alarm + rise * grid, 1e-12, 1 - 1e-12)
    log = called * np.log(rate) + (cells - called) * np.log1p(-rate)
    density = np.exp(log - log.max()).sum(axis=0)
    below = np.concatenate(([0.0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(grid))))
    tail = (1 - calibration.confidence) / 2 * below[-1]
    low, high = (float(edge) for edge in np.interp((tail, below[-1] - tail), below, grid))
    return estimate, min(low, estimate), max(high, estimate)


def detectable(cells: int, calibration: Calibration) -> float:
    """Limit of detection: smallest share of infected cells, 0-1, found on `confidence` of slides of this size."""
    needed = max(calibration.least_called, calibration.healthy.fewest(cells, calibration.false_alarm))
    alarms, finds = calibration.healthy.points(5), calibration.infected.points(20)

    def found(share: float) -> float:
        rates = [share * find + (1 - share) * alarm for find in finds for alarm in alarms]
        return sum(binomial_at_least(needed, cells, rate) for rate in rates) / len(rates)

    low, high = 0.0, 1.0
    if found(high) < calibration.confidence:
        return 1.0
    for _ in range(18):
        middle = (low + high) / 2
        low, high = (low, middle) if found(middle) >= calibration.confidence else (middle, high)
    return high


def _density(calibration: Calibration) -> tuple[float, str]:
    per_ul = calibration.red_cells_per_ul
    return per_ul, f"infected share of red cells x {per_ul:,.0f} red cells per microlitre (assumed)"


def _count(cells: int) -> str:
    return f"{cells:,} cell{'' if cells == 1 else 's'}"


def _rare(chance: float) -> str:
    return "fewer than 1 in 1,000" if chance < 0.001 else f"about 1 in {round(1 / chance):,}"


def _round(value: float) -> int:
    """Two figures, rounded up: what cannot be excluded is never understated."""
    if value <= 0:
        return 0
    unit: int = 10 ** max(0, math.floor(math.log10(value)) - 1)
    return math.ceil(value / unit) * unit
