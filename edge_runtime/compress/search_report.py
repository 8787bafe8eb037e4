"""A search for a device as a part of the report: every candidate a point, the fronts, the lines of what is allowed.

Its fields, report["search"]:

    device, arch, budget   whose; {"ram_bytes", "storage_bytes", "latency_ms" or null}
    max_drop, score        points allowed, and of which score; score_why
    slides                 null, or {"not_judged": why}, or {"original": slide_figures, "false_positives", "detection"}
    ended, seconds         why it ended;  judged, taken_up: candidates, and those from an earlier run's file
    on_paper               {candidate: why it cannot fit, so that it was not made};  gone: {candidate: why no result}
    answers                how many points miss nothing
    points                 judging.Row with "name", "recipe", "class", "seconds", "score", "drop" in points, "lost":
                           what of accuracy is not kept, "misses": that and what is over budget, "front", "chosen"
    certainty              only where something was chosen: certainty.py says its fields
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edge_runtime.bench import plots
from edge_runtime.bench.plots import Axis, Spot, axis, escape
from edge_runtime.bench.sections import section
from edge_runtime.compress.candidates import CLASSES
from edge_runtime.compress.search_words import CHANGE, doubts, latency, memory, spread
from edge_runtime.units import format_bytes, format_ms

Plain = Mapping[str, Any]
_FAR = 4.0  # a limit so many times beyond the largest point is told and not drawn
_MOST_POINTS = 2.5  # of the drop allowed: what loses more stands at the edge


def searched(search: Plain) -> str:
    note = (
        f"{search['judged']} candidates judged, for {search['device']}; {len(search['on_paper'])} were not made, as "
        f"they cannot fit. It ended because {search['ended']}. Less is better along both axes; what loses more than "
        "the plot shows stands at its upper edge. Green with a ring: in the bundle. Large dots miss nothing, and "
        "nothing else of that engine beats them in both figures: the dashed line joins them. Small grey dots are "
        "beaten, or miss something; chosen is by storage, memory, latency and score together, so that a file in the "
        "bundle may be beaten in two of them. Whole lines are what is allowed. Memory is predicted to a MiB."
    )
    planes = []
    for engine in dict.fromkeys(one["engine"] for one in search["points"]):
        own = [one for one in search["points"] if one["engine"] == engine]
        for key, limit, title, form in (
            ("stored_bytes", "storage_bytes", "stored", _bytes),
            ("ram_mib", "ram_bytes", "memory, predicted", _mib),
            ("latency_ms", "latency_ms", "latency", format_ms),
        ):
            planes.append(_plane(own, engine, key, search["budget"][limit], title, form, search))
    inside = f'<div class="planes">{"".join(planes)}</div>' if search["points"] else ""
    return section("The search", note, _certainty(search) + inside + _table(search) + _aside(search))


def _certainty(search: Plain) -> str:
    """How far the drop of what was chosen can be believed."""
    sure = search.get("certainty")
    if not sure:
        return ""
    test = sure["test"]
    how = "answered otherwise" if search["score"] == CHANGE else "decided worse, better"
    heads = ["in the bundle", "engine", f"drop on {sure['judged']['name']}", how]
    heads += [f"drop on {test['name']}, judged once", how] if test else []
    body = ""
    for place, row in enumerate(sure["judged"]["rows"]):
        cells = [row["engine"]]
        for one in (row, test["rows"][place]) if test else (row,):
            cells += [
                spread(one),
                f"{one['worse']}" if search["score"] == CHANGE else f"{one['worse']}, {one['better']}",
            ]
        inside = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        body += f"<tr><th>{escape(row['name'])}</th>{inside}</tr>"
    head = "".join(f"<th>{escape(one)}</th>" for one in heads)
    methods = sorted({row["method"] for one in (sure["judged"], test) if one for row in one["rows"]})
    first, *warned = doubts(search)
    listed = "".join(f"<li>{escape(one.removeprefix('mind: '), 600)}</li>" for one in warned)
    warned_of = f'<div class="warnings"><ul>{listed}</ul></div>' if listed else ""
    note = f"{first[0].upper()}{first[1:]}. Drops in points of {search['score']}, with intervals of 95 %: "
    note += f"{'; '.join(methods)}. Nothing in them knows of the choice."
    return (
        f'<h3>How sure the drop is</h3>{warned_of}<p class="note">{escape(note, 900)}</p><div class="scroll"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _mib(value: float) -> str:
    return f"{value:,g} MiB"


def _bytes(value: float) -> str:
    return format_bytes(int(value))


def _plane(
    points: Sequence[Plain],
    engine: str,
    key: str,
    allowed: float | None,
    title: str,
    form: Callable[[float], str],
    search: Plain,
) -> str:
    known = [one for one in points if one[key] is not None]
    if len({one[key] for one in known}) < 2:
        return ""
    if key == "latency_ms" and any(one.get("measured_here") for one in known):
        title += ", measured here"
    numbers = {id(one): number for number, one in enumerate(search["points"], 1)}
    xs = [float(one[key]) for one in known]
    if key == "ram_mib" and allowed is not None:
        allowed /= 2**20
    drawn = allowed if allowed is not None and allowed <= _FAR * max(xs) else None
    along = axis([*xs, *([drawn] if drawn else [])], form, zero=False, binary=key == "stored_bytes")
    up = _up(known, search["max_drop"])
    fine = [(float(one[key]), float(one["drop"])) for one in known]
    best = [stands and not one["misses"] for stands, one in zip(_standing(known, fine), known, strict=True)]
    spots = [
        Spot(numbers[id(one)], x, y, 2 if one["chosen"] else 0, good, _said(one, search["device"]), one["chosen"])
        for one, (x, y), good in zip(known, fine, best, strict=True)
    ]
    picture = plots.plane(
        spots, along, up, (title, f"drop, points of {search['score']}"), limits=(drawn, search["max_drop"])
    )
    words = "" if drawn or allowed is None else f"<p class='note'>The {form(allowed)} allowed lie beyond the plot.</p>"
    return f"<div><h3>{escape(engine)}: drop against {escape(title)}</h3>{picture}{words}</div>"


def _standing(points: Sequence[Plain], places: Sequence[tuple[float, float]]) -> list[bool]:
    """On the front of those that miss nothing; nobody where all miss something."""
    fine = [place for one, place in zip(points, places, strict=True) if not one["misses"]]
    best = {place for place, stands in zip(fine, plots.front(fine), strict=True) if stands}
    return [place in best for place in places]


def _up(points: Sequence[Plain], allowed: float) -> Axis:
    top = max(_MOST_POINTS * allowed, 0.5)
    drops = [min(one["drop"], top) for one in points]
    return axis([*drops, min(top, max(allowed, *drops) * 1.05)], lambda value: f"{value:.2g}")


def _said(one: Plain, device: str) -> str:
    words = f"{one['name']} on {one['engine']}: {one['drop']:.2f} points, {format_bytes(one['stored_bytes'])} stored"
    words = ", ".join(filter(None, (words, memory(one), latency(one, device))))
    return f"{words}{'; ' + '; '.join(one['misses']) if one['misses'] else ''}"


def _table(search: Plain) -> str:
    slides = bool(search["slides"] and "original" in search["slides"])
    heads = [
        "",
        "engine",
        "stored",
        "memory, estimated",
        _head_of_latency(search),
        "drop",
        search["score"],
        "decisions kept",
        "made in",
    ]
    heads += ["false positives at 90 %", "found of 1,000 on 5,000 cells"] if slides else []
    head = "".join(f"<th>{escape(one)}</th>" for one in [*heads, "misses"])
    rows = list(enumerate(search["points"], 1))
    rows.sort(key=lambda pair: (not pair[1]["chosen"], len(pair[1]["misses"]), pair[1]["stored_bytes"]))
    made = [_row(number, one, slides, search["score"] == CHANGE) for number, one in rows]
    start = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>'
    first = f"{start}{''.join(made[:12])}</tbody></table></div>"
    rest = f"{start}{''.join(made[12:])}</tbody></table></div>" if made[12:] else ""
    basis = sorted({one["basis"] for one in search["points"]})
    note = f'<p class="note">{escape("; ".join(basis), 2000)}.</p>'
    more = f"<details><summary>the other {len(made) - 12} files</summary>{rest}</details>" if rest else ""
    return first + more + note


def _head_of_latency(search: Plain) -> str:
    """Where times are of this machine, the head says so once, and not each row."""
    here = sorted({str(one["measured_here"]) for one in search["points"] if one.get("measured_here")})
    return f"latency (here: measured on {', '.join(here)}, not on {search['device']})" if here else "latency"


def _row(number: int, one: Plain, slides: bool, change: bool) -> str:
    time = one["latency_ms"]
    name = f"<b class='n'>{number}</b> {escape(one['name'])}{' (in the bundle)' if one['chosen'] else ''}"
    cells = [
        one["engine"],
        format_bytes(one["stored_bytes"]),
        format_bytes(one["ram_bytes"]),
        "" if time is None else f"{format_ms(time)} ({'here' if one.get('measured_here') else 'estimated'})",
        f"{one['drop']:.2f}",
        f"{one['drop'] / 100:.4f} sd" if change else f"{one['score']:.2%}",
        f"{one['drift']['agreement']:.2%}",
        f"{one['seconds']:.0f} s, class {one['class']}",
    ]
    if slides:
        found = one["slide"]
        cells.append(f"{found['false_positives']} of {found['healthy_cells']}" if found else "")
        cells.append(f"{1000 * found['detectable']['5000']:.1f}" if found else "")
    inside = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return f'<tr><th>{name}</th>{inside}<td class="words">{escape("; ".join(one["misses"]), 600)}</td></tr>'


def _aside(search: Plain) -> str:
    """What was not made, what gave nothing, and what the classes are."""
    entries = [(name, f"not made: {why}") for name, why in search["on_paper"].items()]
    entries += [(name, why) for name, why in search["gone"].items()]
    said = search["slides"] or {}
    made = f'<p class="note">{escape(said["not_judged"])}</p>' if "not_judged" in said else ""
    if entries:
        rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(why, 600)}</dd>" for name, why in entries)
        made += f"<details><summary>{len(entries)} without a result</summary><dl>{rows}</dl></details>"
    classes = "; ".join(f"{number}: {about}" for number, about in enumerate(CLASSES))
    return f'{made}<p class="note">Classes of cost: {escape(classes)}.</p>'
