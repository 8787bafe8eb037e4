"""The figures of rows as words: what a table, a page or a sentence says of them. Rows are checked (shape.py) before."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from edge_runtime.bench.rows import Row
from edge_runtime.units import format_bytes

# Directions of writing can be turned round by these, so that a name reads as another one.
_TURNING = {*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x61C}
_NOISE = {
    "quiet": "the same thing measured again agreed",
    "noisy": "the same thing measured again differed: small differences prove nothing",
    "very noisy": "the same thing measured again differed much: only large differences mean anything",
}


def at(row: Any, *path: str) -> Any:
    """row[a][b]..., None where any of it is absent or null."""
    for key in path:
        row = row.get(key) if isinstance(row, dict) else None
    return row


def clean(text: object, limit: int = 200) -> str:
    """One line that can do no harm to a terminal: control characters and those that turn the direction of writing
    become spaces, lone surrogates a mark; cut in the middle at `limit` characters."""
    kept = "".join(_harmless(character) for character in str(text)[: 20 * limit])
    kept = " ".join(kept.split())
    half = (limit - 1) // 2
    return kept if len(kept) <= limit else f"{kept[:half]}…{kept[-half:]}"


def _harmless(character: str) -> str:
    if ord(character) in _TURNING or unicodedata.category(character) in ("Cc", "Zl", "Zp"):
        return " "
    return "\ufffd" if unicodedata.category(character) == "Cs" else character


def label(row: Row, limit: int = 80) -> str:
    return clean(row["label"], limit)


def figure(value: float | None) -> str:
    """Three figures, whole numbers whole, '' for None: 0.34 -> '0.340', 1234.5 -> '1,234', 14 -> '14'."""
    if value is None:
        return ""
    if abs(value) >= 1e9 or 0 < abs(value) < 1e-4:
        return f"{value:.3g}"
    if abs(value) >= 99.95 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".")


def about(value: float | None) -> str:
    """' ±0.54': an uncertainty, two figures; '' for None."""
    return "" if value is None else f" ±{value:.2g}" if abs(value) < 99.5 else f" ±{figure(value)}"


def milliseconds(value: float | None) -> str:
    """'0.42 ms', '2.1 s', '' for None."""
    if value is None:
        return ""
    return f"{figure(value / 1e3)} s" if abs(value) >= 999.5 else f"{figure(value)} ms"


def size(value: float | None) -> str:
    """'38.2 MiB', '' for None."""
    return "" if value is None else format_bytes(value)


def millijoules(value: float | None) -> str:
    """'1.2 mJ', '3.4 J', '' for None."""
    if value is None:
        return ""
    return f"{figure(value / 1e3)} J" if abs(value) >= 1e3 else f"{figure(value)} mJ"


def per_second(value: float | None) -> str:
    return "" if value is None else f"{figure(value)}/s"


def percent(value: float | None) -> str:
    """0.034 -> '3.4 %'."""
    return "" if value is None else f"{value * 100:.2g} %" if abs(value) < 0.995 else f"{value * 100:.0f} %"


def span(pair: Sequence[float] | None) -> str:
    """The ends with as many figures, three or more, as tell them apart: [0.4201, 0.4232] -> '0.420 to 0.423'."""
    if not pair:
        return ""
    low, high = pair
    largest, width = max(abs(low), abs(high)), abs(high - low)
    if largest >= 1000 or 0 < largest < 1e-4:
        return f"{figure(low)} to {figure(high)}"
    usual = 2 - math.floor(math.log10(largest)) if largest else 0
    needed = -math.floor(math.log10(width)) if width else 0
    places = max(0, min(max(usual, needed), usual + 2))
    return f"{low:.{places}f} to {high:.{places}f}"


def engine(row: Row) -> str:
    """'onnxruntime 1.31.1'."""
    return clean(" ".join(str(at(row, "engine", key) or "") for key in ("name", "version")), 40)


def energy(row: Row) -> str:
    """'1.2 ±0.1 mJ measured:ina219' or '1.2 mJ modelled'; '' without a figure."""
    net, around = at(row, "energy", "net_mj"), at(row, "energy", "uncertainty_mj")
    if net is None:
        return ""
    basis = clean(at(row, "energy", "basis") or "basis not said", 40)
    return f"{figure(net)}{about(around)} mJ {basis}"


def noise(row: Row) -> str:
    """'noisy (5.1 %)'; '' where it was not judged."""
    level, spread = at(row, "noise", "level"), at(row, "noise", "spread")
    return clean(level, 20) + (f" ({percent(spread)})" if spread is not None else "") if level else ""


def noise_meaning(row: Row) -> str:
    """The same as a sentence: what it means for whoever reads the figures, and why."""
    level, spread, why = at(row, "noise", "level"), at(row, "noise", "spread"), at(row, "noise", "why")
    if not level:
        return ""
    by = f" within {percent(spread)}" if level == "quiet" else f" by {percent(spread)}"
    meaning = _NOISE.get(level, "see the figures")
    meaning = meaning.replace("agreed", f"agreed{by}").replace("differed", f"differed{by}") if spread else meaning
    because = f" ({clean(', '.join(why), 300)})" if why else ""
    return f"{clean(level, 20)}: {meaning}{because}"


def invalid(row: Row) -> str:
    """Why the row must not be used; '' where it may be."""
    if row.get("valid") is False:
        return clean("; ".join(row.get("invalid") or ["no reason was recorded"]), 300)
    return ""


def mark(row: Row) -> str:
    return {True: "valid", False: "INVALID"}.get(row.get("valid"), "not judged")  # type: ignore[arg-type]


def best_throughput(row: Row) -> tuple[float | None, float | None]:
    """(batch, items a second) of the fastest batch."""
    known = [one for one in row.get("throughput") or [] if one.get("items_per_s") is not None]
    best: Row = max(known, key=lambda one: float(one["items_per_s"]), default={})
    return best.get("batch"), best.get("items_per_s")


@dataclass(frozen=True)
class Ratio:
    """What `this` takes against `to`: a ratio of latencies with its 95 % interval, None where there is none."""

    this: str
    to: str
    ratio: float
    interval: tuple[float, float] | None

    @property
    def sure(self) -> bool | None:
        """Whether a difference is shown: the interval leaves 1 out. None without an interval."""
        return None if self.interval is None else not self.interval[0] <= 1 <= self.interval[1]

    def __str__(self) -> str:
        within = f" ({span(self.interval)})" if self.interval else ""
        said = f"{self.this} takes {figure(self.ratio)}{within} of the time of {self.to}"
        if self.sure is None:
            return f"{said}; how sure that is was not measured"
        return said if self.sure else f"{said}: no difference is shown"


def ratios(rows: Iterable[Row]) -> list[Ratio]:
    """Every paired ratio in the rows; of A to B and B to A, the one that stands first."""
    found: dict[frozenset[str], Ratio] = {}
    for row in rows:
        for one in row.get("ratios") or []:
            if one.get("to") and one.get("ratio") is not None:
                pair = one.get("interval")
                made = Ratio(label(row), clean(one["to"], 80), one["ratio"], tuple(pair) if pair else None)
                found.setdefault(frozenset((made.this, made.to)), made)
    return list(found.values())


def remarks(rows: Sequence[Row]) -> list[str]:
    """What must be read with the figures, as sentences: ratios, invalid rows, noise, energy that is not measured."""
    said = [f"{one}." for one in ratios(rows)]
    said += [f"INVALID: {label(row)}: {invalid(row)}." for row in rows if row.get("valid") is False]
    said += [
        f"Noise: {label(row)}: {noise_meaning(row)}."
        for row in rows
        if at(row, "noise", "level") not in ("quiet", None)
    ]
    if any(at(row, "energy", "basis") == "modelled" for row in rows):
        said.append("Energy marked modelled was computed from a model of the device, not measured.")
    return said
