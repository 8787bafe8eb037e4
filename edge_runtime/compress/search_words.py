"""What a person reads of a search for a device: how it ended, what was chosen, and what it would take where nothing was
good enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edge_runtime.units import format_bytes, format_ms

Point = Mapping[str, Any]
UNTIMED = "latency: not known: add --measure, or an operator table to the profile"
CHANGE = "change"  # the score of a model of numbers: how far its outputs move, in hundredths of a standard deviation
OTHER_MODEL = "another model:"


def counted(points: float) -> str:
    """0.125 -> "0.13 points"."""
    return f"{points:.2f} points"


def short(value: float) -> str:
    """Two digits that count: 100.0 -> "100", 0.1234 -> "0.12"."""
    return f"{float(f'{value:.2g}'):g}"


def memory(point: Point) -> str:
    """In a search it is never measured."""
    return f"{format_bytes(point['ram_bytes'])} RAM (estimated)"


def latency(point: Point, device: str) -> str:
    """Empty where it is not known."""
    if point.get("latency_ms") is None:
        return ""
    here = point.get("measured_here")
    return f"{format_ms(point['latency_ms'])} ({f'measured here on {here}, not on {device}' if here else 'estimated'})"


def summary(plain: Mapping[str, Any]) -> list[str]:
    paper, gone = len(plain["on_paper"]), len(plain["gone"])
    made = f"{plain['device']}: {plain['answers']} of {len(plain['points'])} files fit and keep within"
    made += f" {plain['max_drop']:g} points of {plain['score']} ({plain['score_why']})"
    walk = f"{plain['judged']} candidates in {plain['seconds']:.0f} s"
    walk += f", {plain['taken_up']} of them from an earlier run" if plain["taken_up"] else ""
    walk += f"; {paper} could not fit on paper and were not made" if paper else ""
    walk += f"; {gone} gave nothing" if gone else ""
    lines = [made, f"{walk}; it ended because {plain['ended']}"]
    if plain["slides"] and "not_judged" in plain["slides"]:
        lines.append(f"mind: {plain['slides']['not_judged']}")
    return [*lines, *doubts(plain)]


def doubts(plain: Mapping[str, Any]) -> list[str]:
    """How far the drop of what was chosen can be believed; none where nothing was."""
    sure = plain.get("certainty")
    if not sure:
        return []
    judged = sure["judged"]
    said = f"chosen as the best of {sure['candidates']} files on these {judged['items']:,} items"
    said += f" (one item is {short(judged['one_item'])} points)" if judged["one_item"] else ""
    said += ", which flatters what is chosen"
    if not sure["test"]:
        said += ": judge it on items that took no part, with --test DATA"
    return [said, *(f"mind: {one}" for one in (*sure["warnings"], *_fast_here(plain)))]


def _fast_here(plain: Mapping[str, Any]) -> list[str]:
    """Where nothing but this machine says that what was chosen is fast enough."""
    allowed = plain["budget"]["latency_ms"]
    chosen = [one for one in plain["points"] if one["chosen"] and one.get("measured_here")]
    if allowed is None or not any(one["latency_ms"] <= allowed for one in chosen):
        return []
    here = f"this machine ({chosen[0]['measured_here']})"
    return [
        f"the {format_ms(allowed)} allowed are kept on {here}: how long it takes on {plain['device']} is not known; "
        "time it there with edge-runtime bench"
    ]


def spread(row: Mapping[str, Any]) -> str:
    """0.3 with its interval -> "0.30 (95 %: 0.05 to 0.62)"."""
    if row["interval"] is None:
        return f"{row['drop']:.2f} (no decision changed)"
    low, high = row["interval"]
    return f"{row['drop']:.2f} (95 %: {low:.2f} to {high:.2f})"


def sure_of(plain: Mapping[str, Any], recipe: str, engine: str, items: str) -> Mapping[str, Any] | None:
    """A chosen file's row on the items "judged" or "test"."""
    found = (plain.get("certainty") or {}).get(items)
    rows = found["rows"] if found else ()
    return next((one for one in rows if one["name"] == recipe and one["engine"] == engine), None)


def lacking(point: Point, plain: Mapping[str, Any]) -> dict[str, float]:
    """By how much it misses what was asked for, as shares of that; empty where it does not."""
    budget, found = plain["budget"], {}
    for key, name in (("ram_bytes", "memory"), ("stored_bytes", "storage"), ("latency_ms", "latency")):
        allowed = budget["storage_bytes" if name == "storage" else key]
        if allowed and point[key] is not None and point[key] > allowed:
            found[name] = point[key] / allowed - 1
    if UNTIMED in point["misses"]:
        found["latency"] = 1.0
    if point["drop"] > plain["max_drop"] + 1e-9:
        found["drop"] = (point["drop"] - plain["max_drop"]) / max(plain["max_drop"], 0.1)
    if any(one.startswith("slides:") for one in point["lost"]):
        found["slides"] = 1.0
    return found


def far(point: Point, plain: Mapping[str, Any]) -> tuple[float, int]:
    """How far it is from what was asked for: the sum of what it misses, each as a share of what is wanted."""
    gap = lacking(point, plain)
    return sum(gap.values()), len(gap)


def writable(points: Sequence[Point]) -> list[Any]:
    """Without those that are another model than the original, which no allowance makes an answer."""
    return [one for one in points if not any(word.startswith(OTHER_MODEL) for word in one["lost"])]


def nearest(points: Sequence[Point], plain: Mapping[str, Any]) -> list[Any]:
    """The one that misses by least in all, with its recipe's other files that miss no more things."""
    points = writable(points)
    if not points:
        return []
    best = min(points, key=lambda one: far(one, plain))
    return [one for one in points if one["name"] == best["name"] and len(one["misses"]) <= len(best["misses"])]


def no_answer(plain: Mapping[str, Any], points: Sequence[Point], written: bool) -> list[str]:
    """What is closest, and what it would take: by a larger drop, by a larger budget."""
    lines = [f"nothing fits {plain['device']} and keeps within {plain['max_drop']:g} points"]
    gaps = [(one, lacking(one, plain)) for one in sorted(writable(points), key=lambda one: far(one, plain))]
    fitting = [(one, gap) for one, gap in gaps if set(gap) <= {"drop", "slides"}]
    keeping = [(one, gap) for one, gap in gaps if not set(gap) & {"drop", "slides"}]
    said: list[Point] = []
    # the nearest of all, then what needs a larger drop alone, then what needs a larger budget alone
    for one, gap in [*gaps[:1], *fitting[:1], *keeping[:1]]:
        if not any(one is other for other in said):
            takes = "; and ".join(filter(None, (_takes_drop(one, gap), _takes_room(one, gap, plain))))
            lines.append(f"{'or' if said else 'closest'}: {_said(one, plain['device'])}: {takes}")
            said.append(one)
    lines += [f"{name} was not made: {why}" for name, why in list(plain["on_paper"].items())[:3]]
    if not written:
        lines.append("no bundle was written; --closest writes the closest all the same")
    return lines


def _said(one: Point, device: str) -> str:
    words = f"{one['name']} on {one['engine']}: drop {counted(one['drop'])}, {format_bytes(one['stored_bytes'])} stored"
    return ", ".join(filter(None, (words, memory(one), latency(one, device))))


def _takes_drop(one: Point, gap: Mapping[str, float]) -> str:
    ways = []
    if "drop" in gap:
        ways.append(f"allow --max-drop {math.ceil(10 * one['drop']) / 10:g}")
    if "slides" in gap:
        ways += [word.removeprefix("slides: ") for word in one["lost"] if word.startswith("slides:")]
    return "; ".join(ways)


def _takes_room(one: Point, gap: Mapping[str, float], plain: Mapping[str, Any]) -> str:
    budget, ways = plain["budget"], []
    if "memory" in gap:
        more = one["ram_bytes"] - budget["ram_bytes"]
        ways.append(f"it takes {format_bytes(more)} more RAM than the {format_bytes(budget['ram_bytes'])} allowed")
    if "storage" in gap:
        more = one["stored_bytes"] - budget["storage_bytes"]
        ways.append(
            f"it takes {format_bytes(more)} more storage than the {format_bytes(budget['storage_bytes'])} allowed"
        )
    if UNTIMED in one["misses"]:
        ways.append(f"its {UNTIMED.replace('latency:', 'latency is', 1)}")
    elif "latency" in gap:
        ways.append(f"it takes {format_ms(one['latency_ms'])}, allowed {format_ms(budget['latency_ms'])}")
    return "; ".join(ways)


# ---------------------------------------------------------------- what was written


def written(report: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    """Of a variant, what was asked for: the drop by what is allowed, with its interval, memory, and what was done."""
    plain, recipe, engine = report["search"], row["recipe"], row["engine"]
    point = next((one for one in plain["points"] if one["name"] == recipe and one["engine"] == engine), None)
    if point is None:
        return []
    words = f"drop {point['drop']:.2f} of {plain['max_drop']:g} points"
    if (sure := sure_of(plain, recipe, engine, "judged")) and sure["interval"]:
        words += f" (95 %: {sure['interval'][0]:.2f} to {sure['interval'][1]:.2f})"
    if test := sure_of(plain, recipe, engine, "test"):
        words += f", on {plain['certainty']['test']['name']} {spread(test)}"
    done = next((techniques(one["passes"]) for one in report["recipes"] if one["name"] == recipe), "")
    costs = (memory(point), latency(point, plain["device"]))
    return [", ".join(filter(None, (words, *costs, done, f"on {engine}")))]


def techniques(passes: Sequence[Mapping[str, Any]]) -> str:
    """A recipe's steps in plain words."""
    return ", ".join(_technique(one) for one in passes)


def _technique(one: Mapping[str, Any]) -> str:
    name = str(one["pass"])
    if name == "weights_minifloat":
        return f"weights as floats of {1 + one['exponent'] + one['mantissa']} bits"
    if name == "mixed":
        return f"weights of {' or '.join(str(bits) for bits in one['bits'])} bits, layer by layer"
    form = _TECHNIQUES.get(name, name.replace("_", " "))
    return form(one) if callable(form) else form


_TECHNIQUES: Mapping[str, str | Callable[[Mapping[str, Any]], str]] = {
    "weights_int": lambda one: f"{one['bits']}-bit weights",
    "weights_fp16": "16-bit float weights",
    "dynamic_w8a8": "8-bit weights, activations rounded as they come",
    "static_w8a8": "8-bit weights and activations",
    "share_weights": lambda one: f"weights share {2 ** one['bits']} values",
    "prune_weights": lambda one: f"{one['share']:.0%} of the weights zero",
    "prune_and_tune": lambda one: f"{one['share']:.0%} of the weights zero, then trained",
    "prune_channels": "fewer channels",
    "low_rank": "layers of lower rank",
    "grid": "weights rounded to a grid",
    "repair": "repaired on items",
    "quantize_aware": lambda one: f"trained with {one['weights']} weights",
    "code": "entropy-coded",
}
