"""Which files of those that are good enough go into the bundle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edge_runtime.compress.pareto import Objective, front, spread

Point = dict[str, Any]
MOST_TIMED = 12
OBJECTIVES = (
    Objective("stored_bytes"),
    Objective("ram_mib"),
    Objective("work"),
    Objective("score", more=True),
)


def names_to_time(points: Sequence[Point], engines: Sequence[str], most: int) -> set[str]:
    """Candidates on the front of an engine, among points that are good enough: `most` of them, the smallest."""
    found: list[Point] = []
    for engine in engines:
        own = [one for one in points if one["engine"] == engine]
        found += [one for one, good in zip(own, front(own, OBJECTIVES), strict=True) if good]
    names = dict.fromkeys(one["recipe"] for one in sorted(found, key=lambda one: one["stored_bytes"]))
    return set(list(names)[:most])


def choose(
    points: Sequence[Point],
    originals: Sequence[Point],
    engines: Sequence[str],
    most: int,
    storage_bytes: int,
    head: int,
) -> list[Point]:
    """Of each engine at most `most` files, spread over its front: those of the recipes that the device's first engine
    has, where they stand on this engine's front too, then others. A file that costs no less than the unchanged model's
    (`originals`, the plain one of an engine first) gains nothing and is left out.

    Then as many as the storage holds together, the first engine's smallest before all others, each engine's smallest
    before the rest. `head`: bytes that each point's "stored_bytes" holds and a bundle has once."""
    before = {one["engine"]: one for one in reversed(originals)}
    useful = [one for one in points if _gains(one, before.get(one["engine"]))] or list(points)
    order = [one for one in engines if any(point["engine"] == one for point in useful)]
    wanted: list[list[Point]] = []
    for engine in order or sorted({point["engine"] for point in useful}):
        wanted.append(_of_engine([one for one in useful if one["engine"] == engine], _names(wanted), most))
    firsts = [some[0] for some in wanted if some]
    rest = sorted((one for some in wanted for one in some[1:]), key=lambda one: one["stored_bytes"])
    chosen: list[Point] = []
    stored = 0
    for one in [*firsts, *rest]:
        more = one["stored_bytes"] - (head if chosen else 0)
        if not chosen or stored + more <= storage_bytes:
            chosen.append(one)
            stored += more
    return chosen


def _names(wanted: Sequence[Sequence[Point]]) -> set[str]:
    return {one["name"] for some in wanted for one in some}


def _of_engine(own: Sequence[Point], names: set[str], most: int) -> list[Point]:
    """The smallest first."""
    stands = front(own, OBJECTIVES)
    there = {one["name"] for one, good in zip(own, stands, strict=True) if good} & names
    kept = [one for one in own if one["name"] in there][:most]
    spare = [own[place] for place in spread(own, OBJECTIVES, most) if own[place]["name"] not in there]
    return sorted([*kept, *spare[: most - len(kept)]], key=lambda one: one["stored_bytes"])


def _gains(one: Point, original: Point | None) -> bool:
    """Whether it is the original, or smaller, or takes less memory or work by more than chance."""
    if original is None or one["recipe"] == original["recipe"]:
        return True
    if one["stored_bytes"] < original["stored_bytes"] or one["ram_mib"] < original["ram_mib"]:
        return True
    work, before = one["work"], original["work"]
    return work is not None and before is not None and work < 0.95 * before
