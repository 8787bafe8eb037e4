"""What rows say when they are put beside each other: the fastest, the smallest, by how much, how sure; and what warns
against believing it. Only valid rows are compared, and only rows of the same model on the same machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from edge_runtime.bench.rows import Row
from edge_runtime.bench.words import (
    about,
    at,
    clean,
    figure,
    invalid,
    label,
    millijoules,
    milliseconds,
    noise_meaning,
    ratios,
    size,
    span,
)

_SAME_MEMORY = 1.03  # peaks of two runs of the same process differ by about so much
_SHOWN = 3


@dataclass(frozen=True)
class Best:
    """The winner in one respect: `about` "Fastest", its row's label, its figure, a sentence, and whether it is sure."""

    about: str
    label: str
    value: str
    sentence: str
    sure: bool | None


def groups(rows: Iterable[Row]) -> list[tuple[str, list[Row]]]:
    """Rows that may be compared, by what they have in common: one model (bundle without its version) on one machine.
    The name is '' where there is one group only."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        bundle = clean(at(row, "subject", "bundle") or "model files").rsplit(" ", 1)[0]
        found.setdefault((bundle, machine(row)), []).append(row)
    if len(found) < 2:
        return [("", members) for members in found.values()]
    several = [len({key[place] for key in found}) > 1 for place in (0, 1)]
    said = {key: " on ".join(part for part, many in zip(key, several, strict=True) if many) for key in found}
    return [(said[key], members) for key, members in found.items()]


def machine(row: Row) -> str:
    """A name for the machine: its title, else its system on chip, else its digest."""
    named = at(row, "machine", "title") or at(row, "machine", "soc") or at(row, "machine", "id")
    return clean(named or "a machine that was not recorded", 80)


def valid_rows(rows: Iterable[Row], *path: str) -> list[Row]:
    """Those that may be used and have a figure at `path`, smallest first."""
    known = [row for row in rows if row.get("valid") is not False and at(row, *path) is not None]
    return sorted(known, key=lambda row: float(at(row, *path)))


def answer(rows: Sequence[Row]) -> list[Best]:
    """The winners among rows of one group; an empty list where nothing valid was measured."""
    found = (_fastest(rows), _least_memory(rows), _smallest_file(rows), _least_energy(rows))
    return [one for one in found if one]


def _fastest(rows: Sequence[Row]) -> Best | None:
    ordered = [row for row in valid_rows(rows, "latency_ms", "p50") if at(row, "latency_ms", "p50") > 0]
    if not ordered:
        return None
    best, p50 = ordered[0], at(ordered[0], "latency_ms", "p50")
    within = at(best, "latency_ms", "interval")
    value, bounds = milliseconds(p50), f" ({span(within)} ms in 95 of 100 such runs)" if within else ""
    said = f"{label(best)} takes {value} an inference{bounds}."
    if len(ordered) == 1:
        return Best("Latency", label(best), value, said, None)
    alike = [row for row in ordered[1:] if _faster(best, row) is False]
    other = next((row for row in ordered[1:] if row not in alike), None)
    slowest = ordered[-1]
    said = f"Fastest is {label(best)}: {value} an inference{bounds}."
    if alike:
        names = ", ".join(label(row) for row in alike[:_SHOWN])
        more = f" and {len(alike) - _SHOWN} more" if len(alike) > _SHOWN else ""
        said += f" Not certain: {names}{more} may be as fast; the difference is within the uncertainty."
    if other is not None:
        times = f"{figure(at(other, 'latency_ms', 'p50') / p50)} times as long"
        sure = _faster(best, other)
        how = "that is certain (95 %)" if sure else "how certain that is was not measured"
        said += f" {'The next after them' if alike else 'The next'}, {label(other)}, takes {times}; {how}."
        if slowest is not other:
            said += (
                f" The slowest, {label(slowest)}, takes {figure(at(slowest, 'latency_ms', 'p50') / p50)} times as long."
            )
    return Best("Fastest", label(best), value, said, _faster(best, ordered[1]))


def _faster(one: Row, other: Row) -> bool | None:
    """Whether `one` is faster beyond the uncertainty: by their paired ratio, else by whether their intervals part."""
    paired = {frozenset((ratio.this, ratio.to)): ratio for ratio in ratios((one, other))}
    ratio = paired.get(frozenset((label(one), label(other))))
    if ratio is not None and ratio.sure is not None:
        return ratio.sure
    ends = [at(row, "latency_ms", "interval") for row in (one, other)]
    return None if None in ends else bool(ends[0][1] < ends[1][0])


def _least_memory(rows: Sequence[Row]) -> Best | None:
    ordered = [row for row in valid_rows(rows, "memory", "peak_bytes") if at(row, "memory", "peak_bytes") > 0]
    if not ordered:
        return None
    best, peak = ordered[0], at(ordered[0], "memory", "peak_bytes")
    alike = [row for row in ordered[1:] if at(row, "memory", "peak_bytes") < peak * _SAME_MEMORY]
    if len(ordered) == 1:
        return Best("Peak memory", label(best), size(peak), f"Its process needs {size(peak)} of memory at most.", None)
    said = f"Least memory takes {label(best)}: {size(peak)} at its peak"
    said += f" ({len(alike)} more within {round(_SAME_MEMORY * 100) - 100} %)" if alike else ""
    most = ordered[-1]
    times = at(most, "memory", "peak_bytes") / peak
    said += (
        f"; the most, {label(most)}, {figure(times)} times that." if times >= _SAME_MEMORY else "; all are about equal."
    )
    return Best("Least memory", label(best), size(peak), said, not alike)


def _smallest_file(rows: Sequence[Row]) -> Best | None:
    ordered = [row for row in valid_rows(rows, "subject", "model_bytes") if at(row, "subject", "model_bytes") > 0]
    if not ordered:
        return None
    best, count = ordered[0], at(ordered[0], "subject", "model_bytes")
    name, other = _file(best), next((row for row in ordered if at(row, "subject", "model_bytes") > count), None)
    if other is None:
        heading = "Model file" if len(ordered) == 1 else "Model files"
        return Best(heading, name, size(count), f"The model file has {size(count)}.", None)
    times = figure(at(other, "subject", "model_bytes") / count)
    said = f"The smallest file is {name}: {size(count)}; the next, {_file(other)}, is {times} times that."
    return Best("Smallest file", name, size(count), said, True)


def _file(row: Row) -> str:
    variant, path = at(row, "subject", "variant"), at(row, "subject", "path")
    name = variant or (path.rstrip("/").rpartition("/")[2] if path else None)
    kind = at(row, "subject", "format")
    return clean(name, 60) + (f" ({clean(kind, 12)})" if kind else "") if name else label(row)


def _least_energy(rows: Sequence[Row]) -> Best | None:
    ordered = valid_rows(rows, "energy", "net_mj")
    measured = [row for row in ordered if at(row, "energy", "basis") != "modelled"]
    ordered = measured or ordered  # a modelled figure beats no measured one
    if not ordered:
        return None
    best, net = ordered[0], at(ordered[0], "energy", "net_mj")
    basis = at(best, "energy", "basis") or "basis not said"
    around = at(best, "energy", "uncertainty_mj")
    value = millijoules(net)
    bounds = f" ({about(around).strip()} mJ)" if around is not None else ""
    said = f"{label(best)}: {value}{bounds} an inference, {clean(basis, 40)}."
    if len(ordered) == 1:
        return Best("Energy", label(best), value, f"Energy of {said}", None)
    unknown = any(at(row, "energy", "uncertainty_mj") is None for row in ordered[:2])
    sure = (
        None
        if unknown
        else net + around < at(ordered[1], "energy", "net_mj") - at(ordered[1], "energy", "uncertainty_mj")
    )
    if sure is False:
        said += f" Not certain: {label(ordered[1])} is within the uncertainty."
    return Best("Least energy", label(best), value, f"Least energy takes {said}", sure)


# ---------------------------------------------------------------- what warns against believing it


def warnings(rows: Sequence[Row]) -> list[str]:
    """In plain words, the gravest first: invalid, on charge, throttled, noisy, disturbed, modelled, of several runs."""
    said = []
    bad = [row for row in rows if row.get("valid") is False]
    if bad:
        count = (
            "The only row"
            if len(rows) == 1
            else "All rows are"
            if len(bad) == len(rows)
            else f"{len(bad)} of {len(rows)} rows"
        )
        verb = "is not valid" if len(bad) == 1 else "not valid" if len(bad) == len(rows) else "are not valid"
        said.append(f"{count} {verb} and must not be used: {_each(bad, rows, invalid)}")
    charged = [row for row in rows if _charging(row)]
    if charged:
        said.append(
            f"The device was on charge ({_names(charged, rows)}): it was warmer than on its battery, and the battery's "
            "energy readings do not count the charger."
        )
    slowed = [row for row in rows if throttled_words(row)]
    if slowed:
        said.append(f"The processor was held back while measuring: {_each(slowed, rows, throttled_words)}")
    for level in ("very noisy", "noisy"):
        loud = [row for row in rows if at(row, "noise", "level") == level]
        if loud:
            said.append(f"Noise in {_names(loud, rows)}: {noise_meaning(max(loud, key=_loudness))}.")
    stolen = max((at(row, "circumstances", "steal_percent") or 0.0 for row in rows), default=0.0)
    if stolen >= 0.5:
        said.append(
            f"Other guests of this virtual machine's host took up to {figure(stolen)} % of the processor's time."
        )
    if any(at(row, "energy", "basis") == "modelled" for row in rows):
        said.append("Energy marked modelled was computed from a model of the device, not measured.")
    if _apart(rows):
        said.append(
            "Not all rows were measured in turn with each other: between rows of different runs, the pace of the "
            "machine itself may explain a difference."
        )
    if any(at(row, "protocol", "form") == "quick" for row in rows):
        said.append(
            "The quick form was used: good for choosing, not for publishing figures (that is the official form)."
        )
    return said


def _loudness(row: Row) -> float:
    return float(at(row, "noise", "spread") or 0.0)


def _charging(row: Row) -> bool:
    points = at(row, "sustained", "points") or []
    states = [at(row, "circumstances", when, "charging") for when in ("before", "after")]
    return True in states or any(point.get("charging") for point in points)


def throttled_words(row: Row) -> str:
    """What held the processor back, in the system's own words; '' where nothing was seen."""
    words: list[str] = []
    for when in ("before", "after"):
        words += _as_words(at(row, "circumstances", when, "throttled"))
    for point in at(row, "sustained", "points") or []:
        words += [word for word in _as_words(point.get("throttled")) if word not in words]
    return clean(", ".join(dict.fromkeys(words)), 120)


def _as_words(found: object) -> list[str]:
    if isinstance(found, list):
        return [clean(word, 40) for word in found if word]
    return [clean(found, 40)] if isinstance(found, str) and found else ["throttled"] if found else []


def _apart(rows: Sequence[Row]) -> bool:
    """Whether some rows have no common run: those of one run name each other."""
    for _, members in groups(rows):
        together = [{row["label"], *(at(row, "protocol", "together_with") or [])} for row in members]
        if together and any(row["label"] not in one for row in members for one in together):
            return True
    return False


def _names(some: Sequence[Row], rows: Sequence[Row]) -> str:
    if len(some) == len(rows):
        return "all rows" if len(rows) > 1 else "this row"
    shown = ", ".join(label(row, 60) for row in some[:_SHOWN])
    return shown + (f" and {len(some) - _SHOWN} more" if len(some) > _SHOWN else "")


def _each(some: Sequence[Row], rows: Sequence[Row], why: Callable[[Row], str]) -> str:
    """Rows with the same reason are named together."""
    reasons: dict[str, list[Row]] = {}
    for row in some:
        reasons.setdefault(why(row), []).append(row)
    return "; ".join(f"{_names(members, rows)}: {reason}" for reason, members in reasons.items()) + "."
