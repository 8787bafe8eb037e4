"""What a row of a candidate is to a search: its drop against what is allowed, and its costs against the budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edge_runtime.budget import ESTIMATED, MEASURED, Cost, objections
from edge_runtime.compress.judging import Row
from edge_runtime.compress.search_words import counted

if TYPE_CHECKING:
    from edge_runtime.compress.search import Goal

Point = dict[str, Any]


def cost_of(row: Row) -> Cost:
    """Of the file alone."""
    basis = MEASURED if row.get("measured_here") else ESTIMATED
    return Cost(row["ram_bytes"], row["stored_bytes"], row["latency_ms"], None, basis, row["basis"])


def point_of(before: Row, row: Row, goal: Goal, score_name: str, slides: Sequence[str], beside: int) -> Point:
    """`slides`: the rules that it breaks; `beside`: bytes that a bundle stores with the file."""
    drop, score = drop_of(before, row, score_name)
    lost = [f"loses {counted(drop)}, allowed {goal.max_drop:g}"] if drop > goal.max_drop + 1e-9 else []
    lost += slides
    stored = row["stored_bytes"] + beside
    over = objections(cost_of(row)._replace(storage_bytes=stored), goal.device.budget)
    return {
        **row,
        "stored_bytes": stored,
        "score": score,
        "drop": drop,
        "lost": lost,
        "misses": [*lost, *over],
        # what the front goes by: predictions and scores are not known more finely than this
        "ram_mib": round(row["ram_bytes"] / 2**20),
    }


def drop_of(before: Row, row: Row, score: str) -> tuple[float, float]:
    """In points, with the score. Of slides the larger of that at the threshold and that where classes are alike."""
    if row["scores"] is None:
        kept = row["drift"]["agreement"]
        return 100 * (1 - kept), kept
    drop = 100 * (before["scores"][score] - row["scores"][score])
    if row["slide"] and before["slide"] and score == "accuracy":
        drop = max(drop, 100 * (before["slide"]["accuracy_at_0"] - row["slide"]["accuracy_at_0"]))
    return round(drop, 6), row["scores"][score]
