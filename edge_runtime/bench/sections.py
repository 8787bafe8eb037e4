"""The plots of the report, one function a section. Each gives HTML, or '' where no row has what it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_runtime.bench import plots
from edge_runtime.bench.plots import Axis, Lane, Spot, axis, box, dot, escape, line, text
from edge_runtime.bench.rows import Row
from edge_runtime.bench.verdict import groups
from edge_runtime.bench.words import (
    about,
    at,
    clean,
    energy,
    figure,
    label,
    millijoules,
    milliseconds,
    per_second,
    size,
    span,
)

_PARTS = ("decode", "preprocess", "infer", "decide")
_STARTS = ("start of the process", "loading the model", "the first answer")


@dataclass(frozen=True)
class Numbered:
    """A row with its number in the report and the colour of its engine."""

    number: int
    row: Row
    colour: int

    @property
    def name(self) -> str:
        return label(self.row)

    @property
    def faded(self) -> bool:
        return self.row.get("valid") is False

    def lane(self, svg: str, value: str, said: str, height: int = 26) -> Lane:
        mark = ' <span class="bad">not valid</span>' if self.faded else ""
        return Lane(self.number, self.name, svg, value + mark, f"{self.name}: {said}", self.faded, height)


def having(rows: Sequence[Numbered], *path: str) -> list[Numbered]:
    return [one for one in rows if at(one.row, *path) is not None]


def section(title: str, note: str, inside: str) -> str:
    return f'<section><h2>{title}</h2><p class="note">{note}</p>{inside}</section>'


def _keys(names: Sequence[str], kind: str) -> str:
    made = "".join(f'<span><i class="key {kind}{place}"></i>{escape(name)}</span>' for place, name in enumerate(names))
    return f'<div class="keys">{made}</div>'


def latency(rows: Sequence[Numbered]) -> str:
    """Strips: the line from p1 to p99, the box of the middle half, the median with its interval."""
    known = having(rows, "latency_ms", "p50")
    if not known:
        return ""
    values = [value for one in known for value in _latencies(one.row)]
    along = axis(values, milliseconds, zero=plots.from_zero(values))
    made = []
    for one in known:
        p50, p99 = at(one.row, "latency_ms", "p50"), at(one.row, "latency_ms", "p99")
        within = at(one.row, "latency_ms", "interval")
        tail = f" p99 {figure(p99)}" if p99 is not None else ""
        bounds = f' <span class="soft">({span(within)})</span>' if within else ""
        said = f"half of all inferences take at most {milliseconds(p50)}{tail}"
        made.append(one.lane(_strip(one, along), f"<b>{milliseconds(p50)}</b>{bounds}{tail}", said))
    note = (
        "One inference at batch 1 in a warm process; left is faster. Upright bar: the median (half take longer). Box: "
        "the middle half. Thin line: 98 of 100. Ring: 1 in 100 takes longer (p99). In brackets, and as the grey bar "
        "below: where the median would lie in 95 of 100 such runs."
    )
    if along.log:
        note += " <b>The scale is logarithmic.</b>"
    elif along.low > 0:
        note += " <b>The scale does not start at zero.</b>"
    return section("Latency", note, plots.lanes(made, along))


def _latencies(row: Row) -> list[float]:
    """The figures that a strip draws."""
    found = [at(row, "latency_ms", key) for key in ("p50", "p99")] + list(at(row, "latency_ms", "interval") or ())
    return [value for value in found + [_quantile(row, share) for share in (0.01, 0.99)] if value is not None]


def _quantile(row: Row, share: float) -> float | None:
    quantiles = at(row, "latency_ms", "quantiles")
    return float(quantiles[round(share * (len(quantiles) - 1))]) if quantiles else None


def _strip(one: Numbered, along: Axis) -> str:
    middle = along.place(at(one.row, "latency_ms", "p50"))
    parts = []
    low, first, third, high = (_quantile(one.row, share) for share in (0.01, 0.25, 0.75, 0.99))
    if low is not None and first is not None and third is not None and high is not None:
        parts.append(line(along.place(low), 10, along.place(high), 10, "whisker"))
        parts.append(box(along.place(first), along.place(third), 4, 12, f"half c{one.colour}"))
    p99 = at(one.row, "latency_ms", "p99")
    if p99 is not None:
        parts.append(dot(along.place(p99), 10, "tail", 3.5))
    within = at(one.row, "latency_ms", "interval")
    if within:
        parts.append(box(along.place(within[0]), along.place(within[1]), 20, 3, "c6"))
    return "".join([*parts, line(middle, 2, middle, 18, "middle")])


def memory(rows: Sequence[Numbered]) -> str:
    """Resident memory over time; where it was not followed, bars of the peak."""
    known = having(rows, "memory", "peak_bytes")
    if not known:
        return ""
    curves = [at(one.row, "memory", "over_time") or [] for one in known]
    up = axis(
        [at(one.row, "memory", "peak_bytes") for one in known] + [y for curve in curves for _, y in curve],
        size,
        binary=True,
    )
    across = axis([x for curve in curves for x, _ in curve], lambda seconds: f"{figure(seconds)} s")
    height = 44
    made = []
    for one, curve in zip(known, curves, strict=True):
        peak, loaded = at(one.row, "memory", "peak_bytes"), at(one.row, "memory", "loaded_bytes")
        top = 3 + (height - 6) * (1 - up.share(peak))
        svg = line(1, height - 3, 98, height - 3, "grid") + line(1, top, 98, top, "limit fine")
        if curve:
            svg += plots.curve([(x, y) for x, y in curve], across, up, 3, height - 6, f"c{one.colour}", fill=True)
        else:
            svg += box(1, 98, top, height - 3 - top, f"c{one.colour} pale")
        value = f"<b>{size(peak)}</b>" + (f", loaded {size(loaded)}" if loaded is not None else "")
        made.append(one.lane(svg, value, f"{size(peak)} at its peak", height))
    note = (
        "Resident memory of the process from its start, all on one scale; the thin line is the peak that the system "
        "recorded (VmHWM). A device must have this much free."
    )
    return section("Memory over time", note, plots.lanes(made, across if any(curves) else None))


def task_parts(rows: Sequence[Numbered]) -> str:
    known = [one for one in rows if any(at(one.row, "task", "parts_ms", key) for key in _PARTS)]
    if not known:
        return ""
    figures = [[max(at(one.row, "task", "parts_ms", key) or 0.0, 0.0) for key in _PARTS] for one in known]
    along = axis([sum(parts) for parts in figures], milliseconds)
    made = []
    for one, parts in zip(known, figures, strict=True):
        rate = at(one.row, "task", "items_per_s")
        value = f"<b>{milliseconds(sum(parts))}</b>" + (f", {per_second(rate)}" if rate is not None else "")
        said = ", ".join(f"{name} {milliseconds(part)}" for name, part in zip(_PARTS, parts, strict=True))
        made.append(one.lane(_stack(parts, _PARTS, along), value, said))
    items = sorted({clean(at(one.row, "task", "item"), 60) for one in known if at(one.row, "task", "item")})
    what = f"One item of the whole task ({escape(', '.join(items))})" if items else "One item of the whole task"
    note = f"{what}: where its time goes. A faster model helps with the part called infer alone."
    return section("The whole task", note, _keys(_PARTS, "p") + plots.lanes(made, along))


def _stack(parts: Sequence[float], names: Sequence[str], along: Axis) -> str:
    made, before = [], 0.0
    for place, (part, name) in enumerate(zip(parts, names, strict=True)):
        if part > 0:
            tip = f"{name} {milliseconds(part)}"
            made.append(box(along.place(before), along.place(before + part), 5, 16, f"p{place}", tip))
        before += part
    return "".join(made)


def cold_start(rows: Sequence[Numbered]) -> str:
    known = having(rows, "cold_ms", "p50")
    if not known:
        return ""
    along = axis(
        [max([at(one.row, "cold_ms", "p50"), *(at(one.row, "cold_ms", "interval") or ())]) for one in known],
        milliseconds,
    )
    made = []
    for one in known:
        cold, within = at(one.row, "cold_ms", "p50"), at(one.row, "cold_ms", "interval")
        load, first = (max(at(one.row, *path) or 0.0, 0.0) for path in (("load_ms", "p50"), ("warm_up", "first_ms")))
        parts = [max(cold - load - first, 0.0), min(load, cold), min(first, max(cold - load, 0.0))]
        svg = _stack(parts, _STARTS, along)
        if within:
            svg += _whisker(along.place(within[0]), along.place(within[1]), 13)
        bounds = f' <span class="soft">({span(within)})</span>' if within else ""
        said = ", ".join(f"{name} {milliseconds(part)}" for name, part in zip(_STARTS, parts, strict=True) if part)
        made.append(one.lane(svg, f"<b>{milliseconds(cold)}</b>{bounds}", said))
    note = (
        "From the start of a process to its first answer: what somebody waits for who starts the tool. The whisker "
        "is the uncertainty of the whole (95 %)."
    )
    return section("Cold start", note, _keys(_STARTS, "p") + plots.lanes(made, along))


def _whisker(low: float, high: float, y: float) -> str:
    ends = [line(x, y - 4, x, y + 4, "limit") for x in (low, high)]
    return line(low, y, high, y, "limit") + "".join(ends)


def energy_per_item(rows: Sequence[Numbered]) -> str:
    known = having(rows, "energy", "net_mj")
    if not known:
        return section("Energy", "No meter: no energy was measured or modelled in these runs.", "")
    around = [at(one.row, "energy", "uncertainty_mj") or 0.0 for one in known]
    nets = [at(one.row, "energy", "net_mj") for one in known]
    along = axis([end for net, by in zip(nets, around, strict=True) for end in (net - by, net + by)], millijoules)
    made = []
    for one in rows:
        net, by = at(one.row, "energy", "net_mj"), at(one.row, "energy", "uncertainty_mj")
        if net is None:
            made.append(one.lane(text(1, 17, "no meter"), "no meter", "no meter"))
            continue
        basis = at(one.row, "energy", "basis") or ""
        kind = f"c{one.colour}" + (" pale" if basis == "modelled" else "")
        svg = box(along.place(0), along.place(net), 5, 16, kind)
        if basis == "modelled":
            svg += box(along.place(0), along.place(net), 5, 16, "hatched outline")
        if by is not None:
            svg += _whisker(along.place(net - by), along.place(net + by), 13)
        value = f'<b>{figure(net)}{about(by)} mJ</b> <span class="soft">{escape(basis, 40)}</span>'
        made.append(one.lane(svg, value, energy(one.row)))
    said = dict.fromkeys(clean(at(one.row, "energy", "about"), 200) for one in known if at(one.row, "energy", "about"))
    note = (
        "Of one inference, with the idle device's power subtracted; the whisker is the uncertainty. Hatched and marked "
        f"modelled: computed, not measured. {escape('; '.join(said))}{'.' if said else ''}"
    )
    return section("Energy", note, plots.lanes(made, along))


def trade_offs(rows: Sequence[Numbered]) -> str:
    """Latency against memory and against the file's size, the front drawn, one pair of planes a group."""
    made = []
    for name, members in groups([one.row for one in rows if not one.faded]):
        identities = {id(row) for row in members}
        within = [one for one in having(rows, "latency_ms", "p50") if id(one.row) in identities]
        planes = [_plane(within, path, title) for path, title in _COSTS]
        if any(planes):
            made.append((f"<h3>{escape(name)}</h3>" if name else "") + f'<div class="planes">{"".join(planes)}</div>')
    if not made:
        return ""
    note = (
        "Left is faster, low is smaller. The dashed line joins the rows that no other beats in both: choose among "
        "these. Grey rows are beaten by another that is no worse in either."
    )
    return section("What to choose: speed against size", note, "".join(made))


_COSTS = ((("memory", "peak_bytes"), "peak memory"), (("subject", "model_bytes"), "model file"))


def _plane(rows: Sequence[Numbered], path: tuple[str, ...], title: str) -> str:
    known = [one for one in having(rows, *path) if at(one.row, "latency_ms", "p50") > 0 and at(one.row, *path) > 0]
    places = [(float(at(one.row, "latency_ms", "p50")), float(at(one.row, *path))) for one in known]
    if len(set(places)) < 2:
        return ""
    xs, ys = ([place[which] for place in places] for which in (0, 1))
    across = axis(xs, milliseconds, zero=plots.from_zero(xs))
    up = axis(ys, size, zero=plots.from_zero(ys), binary=True)
    standing = plots.front(places)
    spots, chosen = [], []
    for one, (x, y), stands in sorted(zip(known, places, standing, strict=True), key=lambda found: found[1]):
        spots.append(
            Spot(one.number, x, y, one.colour, stands, f"{one.number}: {one.name}: {milliseconds(x)}, {size(y)}")
        )
        if stands:
            chosen.append(
                f'<li><b class="n">{one.number}</b> {escape(one.name, 80)}: {milliseconds(x)}, {size(y)}</li>'
            )
    more = f"<li>and {len(chosen) - 8} more on the line</li>" if len(chosen) > 9 else ""
    chosen = chosen[:8] if more else chosen
    picture = plots.plane(spots, across, up, ("latency, p50", title))
    return f"<div><h3>Latency against {title}</h3>{picture}<ol>{''.join(chosen)}{more}</ol></div>"


def throughput(rows: Sequence[Numbered]) -> str:
    """A slot a batch size, filled by items a second: all slots on one scale."""
    rates = {one.number: _rates(one.row) for one in rows}
    batches = sorted({batch for found in rates.values() for batch in found})[:12]
    if not batches:
        return ""
    most = max(rate for found in rates.values() for rate in found.values()) or 1.0
    wide = 97 / len(batches)
    made = []
    for one in rows:
        found = rates[one.number]
        parts = []
        for place, batch in enumerate(batches):
            start, room = 1 + place * wide, wide * 0.9
            rate = found.get(batch)
            parts.append(box(start, start + room, 19, 6, "slot"))
            if rate is not None:
                tip = f"batch {figure(batch)}: {per_second(rate)}"
                parts.append(box(start, start + room * max(rate, 0) / most, 19, 6, f"c{one.colour}", tip))
            parts.append(text(start, 14, figure(rate) if rate is not None else "-", kind="inlane"))
        if found:
            best = max(found, key=lambda batch: found[batch])
            said = ", ".join(f"batch {figure(batch)} {per_second(rate)}" for batch, rate in found.items())
            made.append(one.lane("".join(parts), f"<b>{per_second(found[best])}</b> at batch {figure(best)}", said, 30))
    heads = [
        text(1 + place * wide, 13, f"batch {figure(batch)}" if len(batches) < 7 else figure(batch))
        for place, batch in enumerate(batches)
    ]
    head = Lane(None, "", "".join(heads), "", "batch sizes", height=16)
    note = "Items a second when several are given to the model at once; a longer bar is more, all bars on one scale."
    return section("Throughput by batch", note, plots.lanes([head, *made], None))


def _rates(row: Row) -> dict[float, float]:
    found = row.get("throughput") or []
    return {one["batch"]: one["items_per_s"] for one in found if None not in (one.get("batch"), one.get("items_per_s"))}
