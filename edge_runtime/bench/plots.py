"""Plots as inline SVG and HTML that need no script, no font and no network.

A plot is a list of lanes, one a row, each an SVG as wide as the window lets it: places along it are percents, so text
keeps its size on a small tablet. Names and figures stand beside the lanes as HTML. Colours are CSS variables
(style.py). Every text that comes from a row goes through `escape`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape as _escape

from edge_runtime.bench.words import clean

Point = tuple[float, float]
_LEFT, _WIDTH = 1.0, 97.0  # percent of a lane that the axis takes: dots and words at its ends are not cut off
_SMALLEST = 1e-15  # nothing that is measured is so small; its logarithm would be no figure to draw by
_MOST_POINTS = 400  # of a curve: more than a screen's lane has columns


def escape(text: object, limit: int = 300) -> str:
    """Safe as HTML text and in a quoted attribute."""
    return _escape(clean(text, limit), quote=True)


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`, in logarithms where `log`; `form` writes a figure at a tick."""

    low: float
    high: float
    form: Callable[[float], str]
    log: bool = False
    most: int = 5
    unit: float = 1.0  # ticks are round in this: 2**20 for mebibytes
    left: float = _LEFT  # percent of the lane before it
    width: float = _WIDTH

    def place(self, value: float) -> float:
        """Percent of the lane's width, kept inside it."""
        return self.left + self.width * self.share(value)

    def share(self, value: float) -> float:
        """0 at the low end, 1 at the high end."""
        low, high, value = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return (value - low) / (high - low)

    def ticks(self) -> list[float]:
        """Round figures between the ends, about five."""
        low, high = self.low / self.unit, self.high / self.unit
        ticks = _log_ticks(low, high) if self.log else _even_ticks(low, high, self.most)
        return [tick * self.unit for tick in ticks]


def axis(
    values: Iterable[float], form: Callable[[float], str], *, zero: bool = True, most: int = 5, binary: bool = False
) -> Axis:
    """An axis for the values: logarithmic where they span more than a factor of 20 and none must stand on zero.
    `binary`: of bytes, with ticks that are round in KiB, MiB or GiB."""
    known = sorted(0.0 if abs(value) < _SMALLEST else value for value in values)
    low, high = (known[0], known[-1]) if known else (0.0, 1.0)
    unit = 1024.0 ** min(3, int(math.log(high, 1024))) if binary and high >= 1 else 1.0
    if not zero and low > 0 and high / low > 20:
        return Axis(low / 1.1, high * 1.1, form, log=True, most=most, unit=unit)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    room = (high - low) * 0.04 or abs(high) * 0.1 or 1.0
    return Axis(low if zero and low == 0 else low - room, high + room, form, most=most, unit=unit)


def from_zero(values: Sequence[float]) -> bool:
    """Whether an axis for the values shows them well when it starts at zero: they are neither close together, which
    wants a closer look, nor so far apart that only logarithms show them."""
    return 2.5 * min(values) < max(values) <= 20 * min(values)


def _even_ticks(low: float, high: float, most: int) -> list[float]:
    raw = (high - low) / most
    step = 10.0 ** math.floor(math.log10(raw))
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [place * step for place in range(first, last + 1)][: 3 * most]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = math.log10(high / low)
    factors = (1, 2, 5) if decades < 1.6 else (1, 3) if decades < 2.6 else (1,)
    every = max(1, math.ceil(decades / 6))
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return [
        factor * 10.0**power
        for power in range(first, last + 1)
        for factor in factors
        if power % every == 0 and low <= factor * 10.0**power <= high
    ]


# ---------------------------------------------------------------- lanes


@dataclass(frozen=True)
class Lane:
    """One row of a plot: its number in the report (None for none), its name, the SVG in its lane, its figure as words,
    and what a screen reader says (and a pointer shows) of it."""

    number: int | None
    name: str
    svg: str
    value: str
    said: str
    faded: bool = False
    height: int = 26


def lanes(members: Sequence[Lane], along: Axis | None, *, shown: int = 14, what: str = "rows") -> str:
    """The lanes over their axis; those after the first `shown` fold away (and unfold without a script)."""
    first, rest = members[:shown], members[shown:]
    if len(rest) < 3:
        first, rest = members, []
    made = "".join(_lane(one, along) for one in first) + (_axis(along) if along else "")
    if rest:
        more = "".join(_lane(one, along) for one in rest) + (_axis(along) if along else "")
        made += f"<details><summary>the other {len(rest)} {what}</summary>{more}</details>"
    return f'<div class="lanes">{made}</div>'


def _lane(one: Lane, along: Axis | None) -> str:
    grid = (
        "".join(line(along.place(tick), 0, along.place(tick), one.height, "grid") for tick in along.ticks())
        if along
        else ""
    )
    badge = f'<b class="n">{one.number}</b> ' if one.number is not None else ""
    return (
        f'<div class="lane{" faded" if one.faded else ""}"><div class="name" title="{escape(one.name)}">{badge}'
        f"<span>{escape(one.name, 90)}</span></div>"
        f'<svg role="img" aria-label="{escape(one.said)}" height="{one.height}"><title>{escape(one.said)}</title>'
        f'{grid}{one.svg}</svg><div class="value">{one.value}</div></div>'
    )


def _axis(along: Axis) -> str:
    ticks = []
    for value in along.ticks():
        place = along.place(value)
        anchor = "start" if place < 4 else "end" if place > 96 else "middle"
        ticks.append(text(place, 13, along.form(value), anchor=anchor, kind="tick"))
    svg = f'<svg height="18">{"".join(ticks)}</svg>'
    return f'<div class="lane ends" aria-hidden="true"><div class="name"></div>{svg}</div>'


# ---------------------------------------------------------------- marks: x in percent, y in pixels


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.2f}%" y1="{y1:g}" x2="{x2:.2f}%" y2="{y2:g}"/>'


def box(x1: float, x2: float, y: float, height: float, kind: str, title: str = "") -> str:
    """A rectangle from x1 to x2."""
    tip = f"<title>{escape(title)}</title>" if title else ""
    start, width = min(x1, x2), abs(x2 - x1)
    return f'<rect class="{kind}" x="{start:.2f}%" y="{y:g}" width="{width:.2f}%" height="{height:g}">{tip}</rect>'


def dot(x: float, y: float, kind: str, radius: float = 4) -> str:
    return f'<circle class="{kind}" cx="{x:.2f}%" cy="{y:g}" r="{radius:g}"/>'


def text(x: float, y: float, words: str, *, anchor: str = "start", kind: str = "tick", dx: float = 0) -> str:
    shift = f' dx="{dx:g}"' if dx else ""
    return f'<text class="{kind}" x="{x:.2f}%" y="{y:g}" text-anchor="{anchor}"{shift}>{escape(words)}</text>'


def curve(
    points: Sequence[Point], across: Axis, up: Axis, top: float, height: float, kind: str, *, fill: bool = False
) -> str:
    """A line through the points (x ascending), thinned to what a screen can show: lows and highs are kept."""
    kept = thin(points)
    places = [(across.share(x) * 1000, (1 - up.share(y)) * 1000) for x, y in kept]
    drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    if len(places) == 1:
        drawn = f"{drawn} {places[0][0] + 5:.1f},{places[0][1]:.1f}"
    area = ""
    if fill and places:
        area = f'<polygon class="{kind} area" points="{places[0][0]:.1f},1000 {drawn} {places[-1][0]:.1f},1000"/>'
    return _stretched(f'{area}<polyline class="{kind}" points="{drawn}"/>', across.left, across.width, top, height)


def thin(points: Sequence[Point], most: int = _MOST_POINTS) -> list[Point]:
    """At most `most` points: of each stretch its lowest and its highest, in order, so that no spike is lost."""
    ordered = sorted(points)
    if len(ordered) <= most:
        return ordered
    stretches = most // 2
    kept: list[Point] = []
    for place in range(stretches):
        part = ordered[len(ordered) * place // stretches : len(ordered) * (place + 1) // stretches]
        ends = {min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])}
        kept += sorted(ends)
    return kept


# ---------------------------------------------------------------- a plane


@dataclass(frozen=True)
class Spot:
    """A point of a plane: its number, place, shape's place in the palette, whether it is on the front, what is said;
    `chosen`: it has a ring, its colour and its number, whether or not it is on the front."""

    number: int
    x: float
    y: float
    colour: int
    front: bool
    said: str
    chosen: bool = False


def front(points: Sequence[tuple[float, ...]]) -> list[bool]:
    """Which points no other beats in all figures (less is better; of equal points all stand)."""
    kept: list[tuple[float, ...]] = []  # in order no point is beaten by one that comes after it
    for one in sorted(set(points)):
        if not any(all(a <= b for a, b in zip(other, one, strict=True)) for other in kept):
            kept.append(one)
    standing = set(kept)
    return [one in standing for one in points]


def plane(
    spots: Sequence[Spot],
    across: Axis,
    up: Axis,
    names: tuple[str, str],
    height: int = 300,
    limits: tuple[float | None, float | None] = (None, None),
) -> str:
    """A scatter plot with its front drawn as stairs. `names`: of the axes, units included; `limits`: what is allowed
    along and up, as lines."""
    left, width, top, bottom = 15.0, 82.0, 32.0, height - 34.0  # at the top, room for a number

    def place(x: float, y: float) -> Point:
        return left + width * across.share(x), bottom - (bottom - top) * up.share(y)

    parts = [text(0, 12, f"↑ {names[1]}", kind="axisname")]
    parts.append(text(left + width, height - 4, f"{names[0]} →", anchor="end", kind="axisname"))
    for tick, words in _marks(across):
        x, _ = place(tick, up.low)
        parts.append(line(x, top, x, bottom, "grid") + text(x, bottom + 14, words, anchor="middle"))
    for tick, words in _marks(up):
        _, y = place(across.low, tick)
        parts.append(line(left, y, left + width, y, "grid") + text(left - 1.5, y + 4, words, anchor="end"))
    if limits[0] is not None:
        parts.append(line(place(limits[0], up.low)[0], top, place(limits[0], up.low)[0], bottom, "limit"))
    if limits[1] is not None:
        y = place(across.low, limits[1])[1]
        parts.append(line(left, y, left + width, y, "limit"))
    stairs = _stairs(spots, across, up)
    parts.append(_stretched(f'<polyline class="front" points="{stairs}"/>', left, width, top, bottom - top))
    taken: list[Point] = []
    # what is chosen, then the front, chooses where its numbers stand; what is chosen is drawn over the others
    taking = sorted(spots, key=lambda spot: (not spot.chosen, not spot.front))
    drawn = []
    for one in taking:
        x, y = place(one.x, one.y)
        name = ""
        if one.front or one.chosen or len(spots) <= 16:
            dx, dy = _beside(x, y, taken)
            name = text(x, y + dy, str(one.number), anchor="middle", kind="spotname", dx=dx)
        kind = "spot" if one.front or one.chosen else "spot beaten"
        mark = dot(x, y, f"c{one.colour}", 6 if one.front else 4)
        mark += dot(x, y, "ring", 9 if one.front else 7) if one.chosen else ""
        drawn.append(f'<g class="{kind}"><title>{escape(one.said)}</title>{mark}{name}</g>')
    parts += reversed(drawn)
    said = f"{names[0]} against {names[1]}; on the front: " + ", ".join(str(one.number) for one in spots if one.front)
    if any(one.chosen for one in spots):
        said += "; chosen: " + ", ".join(str(one.number) for one in spots if one.chosen)
    return f'<svg class="plane" role="img" aria-label="{escape(said)}" height="{height}">{"".join(parts)}</svg>'


def _marks(along: Axis) -> list[tuple[float, str]]:
    """Ticks with their words; one whose words are the same as the one's before says nothing new and is left out."""
    words = [(tick, along.form(tick)) for tick in along.ticks()]
    return [one for one, before in zip(words, [(0.0, ""), *words], strict=False) if one[1] != before[1]]


def _stairs(spots: Sequence[Spot], across: Axis, up: Axis) -> str:
    """The front's line: along the smallest to the right, up from the fastest."""
    corners = sorted({(one.x, one.y) for one in spots if one.front})
    if not corners:
        return ""
    points: list[Point] = [(corners[0][0], up.high)]
    for (x, y), following in zip(corners, [*corners[1:], None], strict=True):
        points += [(x, y), (following[0] if following else across.high, y)]
    return " ".join(f"{across.share(x) * 1000:.1f},{(1 - up.share(y)) * 1000:.1f}" for x, y in points)


def _stretched(inside: str, left: float, width: float, top: float, height: float) -> str:
    """Shapes on a square of 1,000, stretched over a part of the lane."""
    return (
        f'<svg x="{left:g}%" y="{top:g}" width="{width:g}%" height="{height:g}" viewBox="0 0 1000 1000" '
        f'preserveAspectRatio="none" class="curve">{inside}</svg>'
    )


def _beside(x: float, y: float, taken: list[Point]) -> Point:
    """Where a number stands beside its dot so that it covers no other (on a plot of about 480 pixels)."""
    across = x * 4.8
    for dx, dy in ((13, -7), (13, 13), (-13, -7), (-13, 13), (0, -11), (0, 20), (22, 4), (-22, 4)):
        spot = (across + dx, y + dy)
        if all(abs(spot[0] - a) > 16 or abs(spot[1] - b) > 12 for a, b in taken):
            break
    taken += [spot, (across, y)]
    return dx, dy
