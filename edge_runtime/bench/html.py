"""Rows of a benchmark as one page that a person reads in a minute: the answer, what warns against believing it, plots,
all figures, and what repeats the run. One file: no network, no script, no font; it works from a memory card.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from edge_runtime.bench import sections
from edge_runtime.bench.endurance import sustained
from edge_runtime.bench.figures import cores, repeat, tables
from edge_runtime.bench.plots import escape
from edge_runtime.bench.rows import Row
from edge_runtime.bench.sections import Numbered
from edge_runtime.bench.shape import check_rows
from edge_runtime.bench.verdict import answer, groups, machine, warnings
from edge_runtime.bench.words import (
    at,
    clean,
    engine,
    size,
)

_PLOTS = (
    sections.latency,
    sections.trade_offs,
    sections.memory,
    sections.task_parts,
    sections.cold_start,
    sections.energy_per_item,
    sections.throughput,
    sustained,
)
_COLOURS = 6  # engines with a colour of their own; the seventh and later share grey
_HATCH = (
    '<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>'
    '<pattern id="hatch" width="6" height="6" '
    'patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><line x1="0" y1="0" x2="0" y2="6" '
    'style="stroke:var(--ink);stroke-width:1.5;opacity:.55"/></pattern></defs></svg>'
)
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def as_html(rows: Iterable[Row], title: str, command: str | None = None) -> str:
    """The report as one self-contained page. `command` is what was typed to measure, where that is known.

    Raises EdgeError where a row is not one of the schema: see shape.py. A page without rows says so.
    """
    ordered = _ranked(check_rows(rows))
    engines = sorted({str(at(row, "engine", "name") or "engine not recorded") for row in ordered})
    colours = {name: min(place, _COLOURS) for place, name in enumerate(engines)}
    numbered = [
        Numbered(place, row, colours[str(at(row, "engine", "name") or "engine not recorded")])
        for place, row in enumerate(ordered, 1)
    ]
    plots = [plot(numbered) for plot in _PLOTS] if numbered else []
    return page(
        title,
        [
            f"<header><h1>{escape(title)}</h1>{_about(ordered)}</header>",
            _answer(ordered),
            _warnings(ordered),
            _engines(engines, colours),
            *plots,
            tables(numbered),
            repeat(ordered, command),
        ],
    )


def page(title: str, parts: Sequence[str]) -> str:
    """A whole page in the report's dress; `parts` are HTML."""
    css = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{css}</style></head><body>{_HATCH}<main>{''.join(parts)}</main></body></html>\n"
    )


def _ranked(rows: list[Row]) -> list[Row]:
    """Group by group, the fastest first, what is not valid or has no latency last."""

    def rank(row: Row) -> tuple[bool, bool, float]:
        p50 = at(row, "latency_ms", "p50")
        return row.get("valid") is False, p50 is None, p50 or 0.0

    return [row for _, members in groups(rows) for row in sorted(members, key=rank)]


# ---------------------------------------------------------------- the top


def _about(rows: Sequence[Row]) -> str:
    """What was measured, where and when, in two lines."""
    if not rows:
        return "<p>No rows: nothing was measured.</p>"
    subjects = _few([at(row, "subject", "bundle") or at(row, "subject", "path") for row in rows])
    engines = _few([engine(row) for row in rows], 5)
    forms = _few([at(row, "protocol", "form") for row in rows])
    whens = sorted(_day(at(row, "when")) for row in rows if at(row, "when"))
    when = (
        escape(whens[0] if whens[0] == whens[-1] else f"{whens[0]} to {whens[-1]}")
        if whens
        else "at a time not recorded"
    )
    count = f"{len(rows)} configurations" if len(rows) > 1 else "One configuration"
    places = list(dict.fromkeys(map(_place, rows)))
    where = "; ".join(places[:3]) + (f" and {len(places) - 3} more machines" if len(places) > 3 else "")
    profiles = _few([at(row, "device") for row in rows])
    held = f", held to the memory limit of {profiles}" if profiles else ""
    return (
        f"<p>{count} of <b>{subjects or 'a model not recorded'}</b> with {engines or 'an engine not recorded'}"
        f'{f", {forms} form" if forms else ""}.</p><p class="soft">Measured on {where}{held}, {when}.</p>'
    )


def _day(when: str) -> str:
    """'2026-12-02 09:14 UTC'; what is no such time stays as it is."""
    try:
        return datetime.fromisoformat(when).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError):
        return when


def _few(found: Iterable[object], most: int = 3) -> str:
    """Different ones, the first few named, as HTML."""
    names = list(dict.fromkeys(clean(one, 80) for one in found if one))
    return ", ".join(map(escape, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def _place(row: Row) -> str:
    parts = [cores(core) for core in (at(row, "machine", "cores") or [])[:4] if core]
    ram = at(row, "machine", "ram_bytes")
    facts = [
        at(row, "machine", "soc"),
        " and ".join(parts),
        f"{size(ram)} RAM" if ram else None,
        at(row, "machine", "arch"),
    ]
    said = ", ".join(escape(fact, 80) for fact in facts if fact and fact != machine(row))
    return f"{escape(machine(row), 80)}{f' ({said})' if said else ''}"


def _answer(rows: Sequence[Row]) -> str:
    made = []
    for name, members in groups(rows)[:6]:
        found = answer(members)
        heading = f"<h3>{escape(name)}</h3>" if name else ""
        if not found:
            made.append(f"{heading}<p>No valid figure: nothing can be said about what is fastest or smallest.</p>")
            continue
        tiles = "".join(
            f'<div class="tile"><div class="about">{escape(one.about)}</div><div class="big">{escape(one.value)}</div>'
            f'<div class="who">{escape(one.label, 80)}</div>{_sure(one.sure, len(members))}</div>'
            for one in found
        )
        said = [escape(one.sentence, 900) for one in found if len(members) > 1]
        sentences = f"<p>{said[0]}</p><p>{' '.join(said[1:])}</p>" if said else ""
        made.append(f'{heading}<div class="answer">{sentences}</div><div class="tiles">{tiles}</div>')
    return f'<section aria-label="The answer">{"".join(made)}</section>' if made else ""


def _sure(sure: bool | None, count: int) -> str:
    if sure is None or count < 2:
        return ""
    return (
        f'<div class="sure">{"<span class=yes>✓ certain</span>" if sure else "≈ not certain: others are as good"}</div>'
    )


def _warnings(rows: Sequence[Row]) -> str:
    found = warnings(rows)
    if not found:
        return (
            '<p class="soft">Nothing warns against these figures: all rows are valid, the machine was quiet.</p>'
            if rows
            else ""
        )
    listed = "".join(f"<li>{escape(one, 900)}</li>" for one in found)
    return f'<div class="warnings" role="note"><b>Read with care</b><ul>{listed}</ul></div>'


def _engines(names: Sequence[str], colours: dict[str, int]) -> str:
    if len(names) < 2:
        return ""
    keys = "".join(f'<span><i class="key c{colours[name]}"></i>{escape(name, 40)}</span>' for name in names[:12])
    return f'<div class="keys"><span class="soft">Colours in the plots:</span>{keys}</div>'
