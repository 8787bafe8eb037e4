"""The report's tables: all figures, and what repeats the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edge_runtime.bench.plots import escape
from edge_runtime.bench.rows import Row
from edge_runtime.bench.sections import Numbered
from edge_runtime.bench.words import (
    at,
    clean,
    energy,
    engine,
    figure,
    invalid,
    mark,
    noise_meaning,
    percent,
    ratios,
    size,
    span,
)

# ---------------------------------------------------------------- all figures

_Cell = tuple[str, Callable[[Row], str]]


def _ms(*path: str) -> Callable[[Row], str]:
    return lambda row: figure(at(row, *path))


def _between(*path: str) -> Callable[[Row], str]:
    return lambda row: span(at(row, *path))


_TABLES: tuple[tuple[str, tuple[_Cell, ...]], ...] = (
    (
        "Latency, ms",
        (
            *((key, _ms("latency_ms", key)) for key in ("min", "p50")),
            ("p50, 95 %", _between("latency_ms", "interval")),
            *((key, _ms("latency_ms", key)) for key in ("p90", "p99", "mean")),
            ("spread", lambda row: percent(at(row, "latency_ms", "spread"))),
            ("inferences", _ms("latency_ms", "n")),
            ("processes", lambda row: str(len(at(row, "latency_ms", "processes") or []) or "")),
        ),
    ),
    (
        "Start and whole task",
        (
            ("cold, ms", _ms("cold_ms", "p50")),
            ("cold, 95 %", _between("cold_ms", "interval")),
            ("load, ms", _ms("load_ms", "p50")),
            ("first inference, ms", _ms("warm_up", "first_ms")),
            ("warm after", _ms("warm_up", "n")),
            ("item, ms", _ms("task", "latency_ms")),
            ("items/s", _ms("task", "items_per_s")),
            ("feeds an item", _ms("task", "feeds")),
            ("feeds/s", _ms("task", "feeds_per_s")),
        ),
    ),
    (
        "Memory and files",
        (
            ("peak", lambda row: size(at(row, "memory", "peak_bytes"))),
            ("loaded", lambda row: size(at(row, "memory", "loaded_bytes"))),
            ("PSS", lambda row: size(at(row, "memory", "pss_bytes"))),
            ("peak, whole task", lambda row: size(at(row, "memory", "task_peak_bytes"))),
            ("model file", lambda row: size(at(row, "subject", "model_bytes"))),
            ("bundle", lambda row: size(at(row, "subject", "bundle_bytes"))),
        ),
    ),
    (
        "Energy",
        (
            ("net, an inference", energy),
            ("gross, mJ", _ms("energy", "gross_mj")),
            ("whole item, mJ", _ms("energy", "task_mj")),
            ("idle, W", _ms("energy", "idle_w")),
            ("active, W", _ms("energy", "active_w")),
            ("items per 1 % of battery", _ms("energy", "items_per_battery_percent")),
            ("hours on this battery", _ms("energy", "battery_hours")),
        ),
    ),
)


def tables(rows: Sequence[Numbered]) -> str:
    if not rows:
        return ""
    made = [_ratio_table(rows)]
    for title, columns in _TABLES:
        known = [(head, cell) for head, cell in columns if any(cell(one.row) for one in rows)]
        if known:
            made.append(_table(title, [head for head, _ in known], rows, [cell for _, cell in known]))
    judged: tuple[_Cell, ...] = (("valid", mark), ("why not", invalid), ("noise", noise_meaning))
    judged = tuple((head, cell) for head, cell in judged if any(cell(one.row) for one in rows))
    heads, cells = zip(*judged, strict=True)
    made.append(_table("Noise and validity", heads, rows, cells, words=True))
    return f"<section><h2>All figures</h2>{''.join(made)}</section>"


def _table(
    title: str,
    heads: Sequence[str],
    rows: Sequence[Numbered],
    cells: Sequence[Callable[[Row], str]],
    words: bool = False,
) -> str:
    kind = ' class="words"' if words else ""
    head = "".join(f'<th scope="col"{kind}>{escape(one)}</th>' for one in heads)
    body = "".join(
        f'<tr><th scope="row"><b class="n">{one.number}</b> {escape(one.name, 90)}</th>'
        + "".join(f"<td{kind}>{escape(cell(one.row), 400)}</td>" for cell in cells)
        + "</tr>"
        for one in rows
    )
    return (
        f'<h3>{escape(title)}</h3><div class="scroll" tabindex="0" role="region" aria-label="{escape(title)}"><table>'
        f'<thead><tr><th scope="col">row</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _ratio_table(rows: Sequence[Numbered]) -> str:
    found = ratios(one.row for one in rows)
    if not found:
        return ""
    listed = "".join(f"<li>{escape(one, 400)}.</li>" for one in found)
    if len(found) > 12:
        listed = f"<details><summary>{len(found)} comparisons</summary><ul>{listed}</ul></details>"
    else:
        listed = f"<ul>{listed}</ul>"
    return (
        f'<h3>Compared in turn, in one run</h3><p class="note">Ratios of latency with their 95 % interval.</p>{listed}'
    )


# ---------------------------------------------------------------- what repeats the run


def repeat(rows: Sequence[Row], command: str | None) -> str:
    if not rows:
        return ""
    made = [f"<h3>Command</h3><pre>{escape(command, 2000)}</pre>"] if command else []
    made.append(_facts("Machine", rows, _machine_facts))
    made.append(_facts("Circumstances", rows, _state_facts))
    made.append(_facts("Model", rows, _subject_facts))
    made.append(_facts("Protocol and versions", rows, _protocol_facts))
    return f"<section><h2>What repeats this run</h2>{''.join(made)}</section>"


def _facts(title: str, rows: Sequence[Row], facts: Callable[[Row], dict[str, object]]) -> str:
    """What all rows have in common as a list; what differs as a table, rows that are alike in one line of it."""
    said = [
        {key: clean(value, 500) for key, value in facts(row).items() if value is not None and value not in ("", [])}
        for row in rows
    ]
    keys = list(dict.fromkeys(key for one in said for key in one))
    common = [key for key in keys if all(one.get(key) == said[0].get(key) for one in said)]
    items = "".join(f"<dt>{escape(key)}</dt><dd>{escape(said[0][key], 500)}</dd>" for key in common)
    made = f"<dl>{items}</dl>" if items else "" if keys else "<p>not recorded</p>"
    other = [key for key in keys if key not in common]
    if other:
        alike: dict[tuple[str, ...], list[int]] = {}
        for number, one in enumerate(said, 1):
            alike.setdefault(tuple(one.get(key, "") for key in other), []).append(number)
        head = "".join(f'<th scope="col" class="words">{escape(key)}</th>' for key in other)
        body = "".join(
            f'<tr><th scope="row">{" ".join(f"""<b class="n">{number}</b>""" for number in numbers)}</th>'
            + "".join(f'<td class="words">{escape(value, 500)}</td>' for value in values)
            + "</tr>"
            for values, numbers in alike.items()
        )
        made += (
            f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(title)}"><table>'
            f'<thead><tr><th scope="col">row</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        )
    return f"<h3>{title}</h3>{made}"


def _machine_facts(row: Row) -> dict[str, object]:
    kinds = [cores(core) for core in at(row, "machine", "cores") or [] if core]
    facts: dict[str, object] = {key: at(row, "machine", key) for key in ("title", "soc", "arch", "kernel", "id")}
    facts |= {"cores": ", ".join(kinds), "allowed cores": at(row, "machine", "allowed_cores")}
    facts |= {
        "memory": size(at(row, "machine", "ram_bytes")),
        "features": " ".join(map(str, at(row, "machine", "features") or [])),
    }
    return facts | {"memory limit of": row.get("device")}


def _state_facts(row: Row) -> dict[str, object]:
    facts: dict[str, object] = {}
    for key, name in _STATES.items():
        before, after = (at(row, "circumstances", when, key) for when in ("before", "after"))
        if before is not None or after is not None:
            facts[name] = _state(before) if before == after else f"{_state(before)} → {_state(after)}"
    stolen = at(row, "circumstances", "steal_percent")
    return facts | {"taken by a hypervisor": f"{figure(stolen)} %" if stolen is not None else None}


_STATES = {
    "governor": "governor",
    "mhz": "clock, MHz a core",
    "temperature_c": "temperature, °C",
    "throttled": "throttled",
    "charging": "on charge",
    "battery_percent": "battery, %",
    "load_1min": "load, 1 min",
}


def _state(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_state, value)) or "no"
    return figure(value) if isinstance(value, int | float) else str(value) if value is not None else "?"


def _subject_facts(row: Row) -> dict[str, object]:
    keys = ("bundle", "variant", "format", "path", "digest", "model_sha256")
    facts: dict[str, object] = {key.replace("_", " "): at(row, "subject", key) for key in keys}
    return facts | {
        "model file": size(at(row, "subject", "model_bytes")),
        "bundle file": size(at(row, "subject", "bundle_bytes")),
    }


def _protocol_facts(row: Row) -> dict[str, object]:
    tool, protocol = row.get("tool") or {}, row.get("protocol") or {}
    facts: dict[str, object] = {"edge_runtime": tool.get("edge_runtime"), "commit": tool.get("commit")}
    facts |= {"Python": tool.get("python"), "engine": engine(row), "form": protocol.get("form")}
    for key, name in (
        ("rounds", "rounds"),
        ("windows", "windows a round"),
        ("window_s", "window, s"),
        ("seed", "seed"),
    ):
        facts[name] = protocol.get(key)
    return facts | {"energy": at(row, "energy", "about")}


def cores(core: Sequence[object]) -> str:
    part, count, mhz = (*core, None, None, None)[:3]
    speed = f" at {mhz:,.0f} MHz" if isinstance(mhz, int | float) else ""
    return clean(f"{count if count is not None else '?'} x {part if part is not None else 'core'}{speed}", 60)
