"""Two runs compared: what got slower, larger or hungrier beyond what both runs leave uncertain.

Rows are matched by what was measured: bundle and variant (or file name), input sizes, engine and threads. Times of
different runs have no pairs, so they are compared at the same pace of the machine: what `pace_ms` differs by is divided
out, and half of it is added to the uncertainty, because not every model slows down as that piece of arithmetic does.
Bytes have no noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edge_runtime.bench.rows import Row
from edge_runtime.errors import UsageError
from edge_runtime.stats import deviation, median, t95

# Two runs differ by more than their processes do (another hour, another place in memory): the least half width.
_FLOOR = 0.015
_PACE_SAME = 0.03
_RAM_SAME = 0.03
# Half the pace's change is what one may be wrong by; beyond this factor it says nothing any more.
_PACE_LOST = 1.6


@dataclass(frozen=True)
class Change:
    """Of one measure of one case: `ratio` is new / old with its 95 % `interval`; `verdict` is "slower", "faster",
    "same", "larger", "smaller" or "cannot be told"; `why` is words."""

    label: str
    measure: str
    ratio: float
    interval: tuple[float, float]
    verdict: str
    why: str = ""

    @property
    def regression(self) -> bool:
        return self.verdict in ("slower", "larger")

    def to_json(self) -> dict[str, Any]:
        return {
            "label": self.label,
            "measure": self.measure,
            "ratio": round(self.ratio, 4),
            "interval": [round(one, 4) for one in self.interval],
            "verdict": self.verdict,
            "why": self.why,
        }

    def __str__(self) -> str:
        low, high = self.interval
        text = f"{self.label}: {self.measure} {self.verdict}"
        if self.measure.endswith("bytes"):
            text += f", {100 * (self.ratio - 1):+.1f} %"
        else:
            text += f", {100 * (self.ratio - 1):+.1f} % ({100 * (low - 1):+.1f} to {100 * (high - 1):+.1f})"
        return f"{text}; {self.why}" if self.why else text


def compare(old: Sequence[Row], new: Sequence[Row]) -> list[Change]:
    """Every measure of every case that both have. Raises UsageError where no case is in both."""
    before = {key_of(row): row for row in old}
    pairs = [(before[key_of(row)], row) for row in new if key_of(row) in before]
    if not pairs:
        raise nothing_common(old, [row["label"] for row in new])
    changes = []
    for was, now in pairs:
        if not (was["valid"] and now["valid"]):
            why = "; ".join([*was["invalid"], *now["invalid"]])
            changes.append(
                Change(now["label"], "latency_ms", 1.0, (0.0, math.inf), "cannot be told", f"invalid: {why}")
            )
            continue
        changes += [_latency(was, now), _cold(was, now)]
        changes += _bytes(was, now)
    return changes


def nothing_common(old: Sequence[Row], labels: Sequence[str]) -> UsageError:
    found = ", ".join(sorted({row["label"] for row in old})) or "no rows"
    return UsageError(f"compare: found {found} in the old run, wanted one of {', '.join(labels)}")


def key(
    bundle: str | None, variant: str | None, path: str, shapes: dict[str, list[int]], engine: str, threads: int
) -> tuple[object, ...]:
    """What two rows must share to be compared; `bundle` is its name with or without a version."""
    what = (bundle.partition(" ")[0], variant) if bundle else (path,)
    return *what, str(sorted(shapes.items())), engine, threads


def key_of(row: Row) -> tuple[object, ...]:
    """The key of a row."""
    subject, engine = row["subject"], row["engine"]
    shapes = row["protocol"].get("shapes") or {}
    return key(subject["bundle"], subject["variant"], subject["path"], shapes, engine["name"], engine["threads"])


def _latency(was: Row, now: Row) -> Change:
    return _time("latency_ms", was, now)


def _cold(was: Row, now: Row) -> Change:
    return _time("cold_ms", was, now)


def _time(measure: str, was: Row, now: Row) -> Change:
    logs = [[math.log(one) for one in row[measure]["processes"]] for row in (was, now)]
    paces = [median(math.log(one) for one in row["pace_ms"]["processes"]) for row in (was, now)]
    shift = paces[1] - paces[0]
    ratio = median(logs[1]) - median(logs[0])
    halves = [1.2533 * t95(len(one) - 1) * deviation(one) / math.sqrt(len(one)) for one in logs]
    half = math.hypot(*halves, _FLOOR)
    why = _differences(was, now)
    if abs(shift) > _PACE_SAME:
        ratio, half = ratio - shift, half + abs(shift) / 2
        why.append(f"the machine ran {100 * abs(math.exp(shift) - 1):.0f} % {'slower' if shift > 0 else 'faster'}")
    lost = abs(shift) > math.log(_PACE_LOST) or not math.isfinite(half)
    low, high = (math.exp(ratio - half), math.exp(ratio + half)) if math.isfinite(half) else (0.0, math.inf)
    verdict = "cannot be told" if lost else "slower" if low > 1 else "faster" if high < 1 else "same"
    return Change(now["label"], measure, math.exp(ratio), (low, high), verdict, "; ".join(why))


def _differences(was: Row, now: Row) -> list[str]:
    """What else is not the same: a reader must know before blaming the model."""
    why = []
    if was["machine"]["id"] != now["machine"]["id"]:
        why.append(f"another machine ({was['machine']['title']})")
    if was["engine"]["version"] != now["engine"]["version"]:
        why.append(f"another engine version ({was['engine']['version']})")
    if was["subject"]["model_sha256"] != now["subject"]["model_sha256"]:
        why.append("another model file")
    cpus = [row["protocol"].get("cpus") for row in (was, now)]
    if cpus[0] != cpus[1]:
        why.append(f"other cores: {cpus[0]} before, {cpus[1]} now")
    forms = [row["protocol"]["form"] for row in (was, now)]
    if forms[0] != forms[1]:
        why.append(f"the {forms[0]} form before, the {forms[1]} form now")
    governors = [(row["circumstances"]["after"] or {}).get("governor") for row in (was, now)]
    if governors[0] != governors[1]:
        why.append(f"governor {governors[0]} before, {governors[1]} now")
    return why


def _bytes(was: Row, now: Row) -> list[Change]:
    found = []
    for name, old, new, same in (
        ("peak_bytes", was["memory"]["peak_bytes"], now["memory"]["peak_bytes"], _RAM_SAME),
        ("model_bytes", was["subject"]["model_bytes"], now["subject"]["model_bytes"], 0.0),
    ):
        if old and new:
            ratio = new / old
            verdict = "larger" if ratio > 1 + same else "smaller" if ratio < 1 - same else "same"
            found.append(Change(now["label"], name, ratio, (ratio, ratio), verdict))
    return found
