"""The report's plots of sustained runs: latency, clock, temperature and power over time, throttled stretches shaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from edge_runtime.bench import plots
from edge_runtime.bench.plots import Axis, Lane, axis, box, escape, line, text
from edge_runtime.bench.rows import Row
from edge_runtime.bench.sections import Numbered, section
from edge_runtime.bench.verdict import throttled_words
from edge_runtime.bench.words import at, figure, milliseconds

_CURVES: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("p50_ms", "latency", milliseconds),
    ("mhz", "clock", lambda value: f"{value:,.0f} MHz"),
    ("temperature_c", "temperature", lambda value: f"{figure(value)} °C"),
    ("active_w", "power", lambda value: f"{figure(value)} W"),
)


def sustained(rows: Sequence[Numbered]) -> str:
    known = [one for one in rows if len(_timed(one.row)) > 1]
    if not known:
        return ""
    note = (
        "The same work for a long time: whether the device keeps its pace when it gets warm. Thin: p99 of the latency."
    )
    keys = '<div class="keys"><span><i class="key held"></i>the processor was held back (throttled)</span></div>'
    return section("Sustained", note, keys + "".join(_sustained(one) for one in known))


def _timed(row: Row) -> list[Row]:
    points = [point for point in at(row, "sustained", "points") or [] if point.get("s") is not None]
    return sorted(points, key=lambda point: float(point["s"]))


def _sustained(one: Numbered) -> str:
    points, found = _timed(one.row), one.row["sustained"]
    seconds = [point["s"] for point in points]
    unit = 1.0 if seconds[-1] < 90 else 60.0 if seconds[-1] < 7200 else 3600.0
    across = replace(axis(seconds, _clock), left=15.0, width=83.0, unit=unit)
    made = []
    for key, name, form in _CURVES:
        series = [(point["s"], value) for point in points if (value := _one(point.get(key))) is not None]
        if series:
            made.append(_curve(one, points, series, across, name, form))
    first, last, slower = (found.get(key) for key in ("first_ms", "last_ms", "slower"))
    said = f"From {milliseconds(first)} to {milliseconds(last)}" if None not in (first, last) else ""
    if slower is not None:
        alike = 0.98 < slower < 1.02
        said += ", as fast at the end as at the start" if alike else f", {figure(slower)} times as long at the end"
    said += f"; it slowed after {_clock(found['slowed_at_s'])}" if found.get("slowed_at_s") is not None else ""
    said += f": {found['why']}" if found.get("why") else ""
    held = throttled_words(one.row)
    said += f". Throttled: {held}" if held else ""
    bad = ' <span class="bad">not valid</span>' if one.faded else ""
    head = f'<h3><b class="n">{one.number}</b> {escape(one.name)}{bad}</h3><p>{escape(said.strip(" ,;"), 600)}.</p>'
    return head + plots.lanes(made, across)


def _curve(
    one: Numbered,
    points: Sequence[Row],
    series: Sequence[plots.Point],
    across: Axis,
    name: str,
    form: Callable[[float], str],
) -> Lane:
    height, top = 84, 6
    low, high = min(y for _, y in series), max(y for _, y in series)
    upper = [(point["s"], point["p99_ms"]) for point in points if name == "latency" and point.get("p99_ms") is not None]
    highest = max([high, *(min(y, 2 * high) for _, y in upper)])  # a lone spike does not flatten the curve
    up = axis([low, highest], form, zero=False, most=4)
    if low > 0 and not up.log:
        up = replace(up, low=min(up.low, low * 0.9), high=max(up.high, highest * 1.05))
    svg = "".join(
        box(across.place(start), across.place(end), 0, height, "held", "throttled") for start, end in _held(points)
    )
    inside = height - 2 * top
    for tick in up.ticks():
        y = top + inside * (1 - up.share(tick))
        svg += line(across.left, y, 98, y, "grid") + text(across.left - 1.5, y + 4, form(tick), anchor="end")
    if upper:
        svg += plots.curve(upper, across, up, top, inside, f"c{one.colour} fine")
    svg += plots.curve(series, across, up, top, inside, f"c{one.colour}")
    value = (
        f"<b>{form(series[0][1])} → {form(series[-1][1])}</b><br><span class='soft'>{form(low)} to {form(high)}</span>"
    )
    said = f"{name} from {form(series[0][1])} to {form(series[-1][1])}, between {form(low)} and {form(high)}"
    return Lane(None, name, svg, value, f"{one.name}: {said}", height=height)


def _held(points: Sequence[Row]) -> list[plots.Point]:
    """Stretches of time in which the processor was throttled; those with no gap that can be seen are one."""
    spans: list[plots.Point] = []
    visible = (points[-1]["s"] - points[0]["s"]) / 300
    for point, following in zip(points, [*points[1:], points[-1]], strict=True):
        if not point.get("throttled"):
            continue
        if spans and point["s"] - spans[-1][1] <= visible:
            spans[-1] = (spans[-1][0], following["s"])
        else:
            spans.append((point["s"], following["s"]))
    return spans


def _one(value: object) -> float | None:
    """A figure; of several (the clock of each core) the highest."""
    several = value if isinstance(value, list) else [value]
    known = [float(one) for one in several if isinstance(one, int | float) and not isinstance(one, bool)]
    return max(known, default=None)


def _clock(seconds: float) -> str:
    if seconds < 90:
        return f"{figure(seconds)} s"
    minutes = seconds / 60
    return f"{figure(minutes)} min" if minutes < 120 else f"{figure(minutes / 60)} h"
