"""What a row of a candidate is to a search: its drop against what is allowed, and its costs against the budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edge_runtime.budget import ESTIMATED, Cost, objections
from edge_runtime.compress.candidates import CHEAP, Candidate
from edge_runtime.compress.judging import Judged, Row
from edge_runtime.compress.search_words import CHANGE, OTHER_MODEL, UNTIMED, counted, far, memory, writable
from edge_runtime.compress.steps import LEAST_AGREEMENT, MOST_CHANGE_SD
from edge_runtime.units import format_bytes

if TYPE_CHECKING:
    from edge_runtime.compress.goal import Goal
    from edge_runtime.profile import Budget

Point = dict[str, Any]
_NEAREST = 3


def cost_of(row: Row) -> Cost:
    """Of the file alone."""
    return Cost(row["ram_bytes"], row["stored_bytes"], row["latency_ms"], None, ESTIMATED, row["basis"])


def over(row: Row, stored_bytes: int, budget: Budget) -> list[str]:
    """The objections. A latency that is allowed only so much must be known; only a latency is ever measured here."""
    found = list(objections(Cost(row["ram_bytes"], stored_bytes), budget))
    latency = row["latency_ms"]
    if latency is None:
        return [*found, UNTIMED] if budget.latency_ms is not None else found
    basis = f"measured here, on {row['measured_here']}" if row.get("measured_here") else ESTIMATED
    return [*found, *objections(Cost(0, 0, latency, None, basis), budget)]


def awaits_timing(point: Point) -> bool:
    """Whether all that is missing is its latency."""
    return list(point["misses"]) == [UNTIMED]


def point_of(before: Row, row: Row, goal: Goal, score_name: str, slides: Sequence[str], beside: int) -> Point:
    """`slides`: the rules that it breaks; `beside`: bytes that a bundle stores with the file."""
    drop, score = drop_of(before, row, score_name)
    lost = [f"loses {counted(drop)}, allowed {goal.max_drop:g}"] if drop > goal.max_drop + 1e-9 else []
    lost += slides
    stored = row["stored_bytes"] + beside
    lost += _collapsed(row["drift"])
    return {
        **row,
        "stored_bytes": stored,
        "content_bytes": row["stored_bytes"],
        "score": score,
        "drop": drop,
        "lost": lost,
        "misses": [*lost, *over(row, stored, goal.device.budget)],
        # what the front goes by: predictions and scores are not known more finely than this
        "ram_mib": round(row["ram_bytes"] / 2**20),
    }


def shortfall(cost: Cost, budget: Budget) -> float:
    """The sum of what goes beyond the budget, each as a share of what is allowed."""
    pairs: list[tuple[float, float]] = [(cost.ram_bytes, budget.ram_bytes), (cost.storage_bytes, budget.storage_bytes)]
    if budget.latency_ms and cost.latency_ms is not None:
        pairs.append((cost.latency_ms, budget.latency_ms))
    return sum(max(0.0, need / max(allowed, 1e-9) - 1) for need, allowed in pairs)


def on_paper(costs: Sequence[tuple[str, Cost]], budget: Budget) -> tuple[str, float]:
    """The objections to what each engine's files cost at least, and the least shortfall; nothing where one has none."""
    against: list[str] = []
    for engine, cost in costs:
        found = objections(cost, budget)
        if not found:
            return "", 0.0
        against += [f"{engine}: {one}" for one in found]
    return "; ".join(dict.fromkeys(against)), min(shortfall(cost, budget) for _, cost in costs)


def nearest_on_paper(
    bounds: Sequence[tuple[float, Candidate]], points: Sequence[Point], plain: Mapping[str, Any]
) -> list[Candidate]:
    """Of candidates that were not made, with how far from the budget they are at least: the few cheap ones that may be
    nearer than all that was judged, the smallest bound first."""
    found = min((far(one, plain)[0] for one in writable(points)), default=0.0)
    some = sorted((pair for pair in bounds if pair[0] < found and pair[1].cost <= CHEAP), key=lambda pair: pair[0])
    return [candidate for _, candidate in some[:_NEAREST]]


def set_work(points: Sequence[Point]) -> None:
    """Adds "work" to an engine's points: milliseconds where any is measured (not known of the others then), or where
    all that are good enough have them; else MACs. The two are no one figure."""
    measured = any(one.get("measured_here") for one in points)
    timed = all(one["latency_ms"] is not None for one in points if not one["misses"] or awaits_timing(one))
    for one in points:
        latency = one["latency_ms"] if not measured or one.get("measured_here") else None
        one["work"] = one["macs"] if not (measured or timed) else None if latency is None else float(f"{latency:.2g}")


def _collapsed(drift: Mapping[str, Any]) -> list[str]:
    """compress refuses to write what is another model than the original, whatever drop is allowed."""
    found = []
    if drift["agreement"] < LEAST_AGREEMENT:
        found.append(f"{OTHER_MODEL} {drift['agreement']:.1%} of the decisions kept, wanted {LEAST_AGREEMENT:.0%}")
    if drift["mean"] > MOST_CHANGE_SD:
        found.append(f"{OTHER_MODEL} outputs change by {drift['mean']:.2f} sd, allowed {MOST_CHANGE_SD}")
    return found


def line_of(candidate: Candidate, judged: Judged, own: Sequence[Point]) -> str:
    """What became of it, for a person who watches."""
    taken = ", taken up" if judged.resumed else f", {judged.seconds:.0f} s"
    if not own:
        return f"{candidate.name}{taken}: {judged.error}"
    best = min(own, key=lambda one: (len(one["misses"]), one["stored_bytes"]))
    words = f"{format_bytes(best['stored_bytes'])}, {memory(best)}, {counted(best['drop'])}"
    return f"{candidate.name}{taken}: {words}{': ' + '; '.join(best['misses']) if best['misses'] else ''}"


def drop_of(before: Row, row: Row, score: str) -> tuple[float, float]:
    """In points, with the score. Of slides the larger of that at the threshold and that where classes are alike."""
    if score == CHANGE:
        return 100 * row["drift"]["rms"], 1 - row["drift"]["rms"]
    if row["scores"] is None:
        kept = row["drift"]["agreement"]
        return 100 * (1 - kept), kept
    drop = 100 * (before["scores"][score] - row["scores"][score])
    if row["slide"] and before["slide"] and score == "accuracy":
        drop = max(drop, 100 * (before["slide"]["accuracy_at_0"] - row["slide"]["accuracy_at_0"]))
    return round(drop, 6), row["scores"][score]
