"""A run of `compress` as one page: what was bought, at what price, step by step, layer by layer, and on worse pictures.

One file: no network, no script, no font. The report's own fields (JSON, schema 1):

    model           {"path", "sha256", "bytes", "form", "file_bytes": prepared, "parameters"}
    target          {"arch", "engines"}
    calibrated_on   null or {"name", "items"};  judged_on: the same with "labels", "unlabelled": why not,
                    "also_calibrated_on", "unseen": classes of the model that no item is of
    originals       as variants: the unchanged model on each engine
    variants        [{"name", "recipe", "engine", "format", "sha256", "file_bytes": the engine's own file,
                    "stored_bytes": in a bundle, "parameters", "drift": drift.Drift or null,
                    "scores": {"accuracy", "precision", "recall", "f1"} or null,
                    "speed": {"p50_ms", "ratio": to the original on this engine, "interval", "peak_bytes", ...},
                    "sibling": only beside a variant of the same recipe for another engine: {"engine", "agreement":
                    of their decisions, "largest": difference, sd}}]
    steps           {recipe: [steps.PassReport]};  recipes: as given, every setting written out
    layers          {recipe: [{"name", "change_sd"}]}
    robustness      null or {"items", "measure", "rows": [{"damage", "strength", a share by variant}]}
    slides          null; of a slides bundle {"not_judged": why}, or {"threshold"} with "slide" in each variant, whose
                    fields slide_figures.py says
    refused         {recipe: why}: of several recipes, those that gave nothing
    search          only of a search for a device: search_report.py says its fields
    bundle          only where one was made: {"path", "bytes", "digest"}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_runtime.bench import plots
from edge_runtime.bench.html import page
from edge_runtime.bench.plots import Lane, axis, box, escape, lanes
from edge_runtime.bench.sections import section
from edge_runtime.compress.search_report import searched
from edge_runtime.compress.search_words import written
from edge_runtime.units import format_bytes

Plain = Mapping[str, Any]
SIBLINGS_AGREE = 0.995


def as_page(report: Plain) -> str:
    name = report["model"]["path"] or "a model"
    title = f"{name}, compressed"
    return page(
        title,
        [
            f"<header><h1>{escape(title)}</h1>{_about(report)}</header>",
            _answer(report),
            _warnings(report),
            searched(report["search"]) if "search" in report else "",
            _sizes(report),
            _front(report),
            _table(report),
            _steps(report),
            _layers(report),
            _robust(report),
            _recipes(report),
        ],
    )


def times_smaller(row: Plain, report: Plain) -> float:
    """By how much what is stored is smaller than the file that was given."""
    return float(report["model"]["bytes"] / max(1, row["stored_bytes"]))


# ---------------------------------------------------------------- the top


def _about(report: Plain) -> str:
    model, judged, on = report["model"], report["judged_on"], report["calibrated_on"]
    words = [f"{format_bytes(model['bytes'])}, SHA-256 {model['sha256'][:16]}"]
    if model["parameters"]:
        words.append(f"{model['parameters']:,} parameters")
    words.append(f"for {report['target']['arch'] or 'any processor'}, {' and '.join(report['target']['engines'])}")
    items = [f"calibrated on {on['items']} items of {on['name']}"] if on else ["calibrated on nothing"]
    items.append(f"judged on {judged['items']} items of {judged['name']}" if judged else "not judged on items")
    return f'<p class="soft">{escape("; ".join(words))}<br>{escape("; ".join(items))}</p>'


def _answer(report: Plain) -> str:
    smallest = min(report["variants"], key=lambda row: row["stored_bytes"])
    tiles = [
        _tile(
            "smallest",
            f"{times_smaller(smallest, report):.1f} times smaller",
            f"{smallest['name']}: {format_bytes(smallest['stored_bytes'])}",
            _change(smallest),
        )
    ]
    timed = [row for row in report["variants"] if (row.get("speed") or {}).get("ratio")]
    if timed:
        fastest = min(timed, key=lambda row: float(row["speed"]["ratio"]))
        tiles.append(
            _tile(
                "fastest against the original on its engine" if fastest["speed"]["ratio"] < 1 else "nothing is faster",
                f"{fastest['speed']['ratio']:.2f} of the time",
                f"{fastest['name']} on {fastest['engine']}: {fastest['speed']['p50_ms']:.3g} ms",
                _change(fastest),
            )
        )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _tile(about: str, big: str, who: str, sure: str) -> str:
    inside = "".join(
        f'<div class="{kind}">{escape(words)}</div>'
        for kind, words in (("about", about), ("big", big), ("who", who), ("sure", sure))
    )
    return f'<div class="tile">{inside}</div>'


def _change(row: Plain) -> str:
    drift = row["drift"]
    return f"{drift['agreement']:.1%} of decisions kept" if drift else "not judged on items"


def warnings(report: Plain) -> list[str]:
    """What speaks against believing or using it; the page and the terminal say the same."""
    found = []
    judged = report["judged_on"]
    found += [f"Recipe {name} was refused: {why}" for name, why in report["refused"].items()]
    if judged and judged["also_calibrated_on"]:
        found.append("Judged on the items that it was calibrated on: give others (--judge) before believing it.")
    if judged and judged["unlabelled"]:
        found.append(f"Judged without labels: {judged['unlabelled']}.")
    if judged and judged["unseen"]:
        found.append(
            f"No item judged on is of class {', '.join(judged['unseen'][:5])}: what becomes of it is not known."
        )
    for row in report["variants"]:
        if times_smaller(row, report) < 1.05:
            found.append(f"{row['name']} is not smaller than what was given.")
        ratio = (row.get("speed") or {}).get("ratio")
        if ratio and ratio > 1.05:
            found.append(f"{row['name']} is slower than the original on {row['engine']}: {ratio:.2f} of its time.")
        if row["drift"] and row["drift"]["agreement"] < 0.99:
            found.append(f"{row['name']} decides otherwise on {1 - row['drift']['agreement']:.1%} of the items.")
        if (pair := row.get("sibling")) and pair["agreement"] < SIBLINGS_AGREE and row["engine"] < pair["engine"]:
            found.append(
                f"{row['recipe']}: the two engines decide otherwise on {1 - pair['agreement']:.2%} of the items."
            )
        if row["stored_bytes"] < row["file_bytes"] and "bundle" not in report:
            found.append(
                f"{row['name']}: coded size; a folder gets the engine's file of {format_bytes(row['file_bytes'])}."
            )
    if "not_judged" in (report.get("slides") or {}):
        why = report["slides"]["not_judged"]
        found.append(f"{why[0].upper()}{why[1:]}.")
    if not judged:
        found.append("Not judged on any items: how far the answers change is not known. Give some: --judge.")
    return found


def _warnings(report: Plain) -> str:
    found = warnings(report)
    if not found:
        return ""
    return f'<div class="warnings"><ul>{"".join(f"<li>{escape(one)}</li>" for one in found)}</ul></div>'


# ---------------------------------------------------------------- plots


def _bar(value: float, along: plots.Axis, colour: int) -> str:
    return box(along.place(along.low if along.log else 0), along.place(value), 5, 14, f"c{colour}")


def _sizes(report: Plain) -> str:
    rows = [*report["originals"], *report["variants"]]
    along = axis([row["stored_bytes"] for row in rows], lambda value: format_bytes(int(value)), binary=True)
    made = []
    for number, row in enumerate(rows):
        words = f"{format_bytes(row['stored_bytes'])}, {times_smaller(row, report):.1f} times smaller"
        if row["stored_bytes"] != row["file_bytes"]:
            words += f"; {format_bytes(row['file_bytes'])} once decoded"
        bars = _bar(row["stored_bytes"], along, 0 if number >= len(report["originals"]) else 6)
        made.append(Lane(None, row["name"], bars, escape(words), words))
    return section(
        "What is stored", "In a bundle: after entropy coding where the recipe asks for it.", lanes(made, along)
    )


def _front(report: Plain) -> str:
    rows = [row for row in (*report["originals"], *report["variants"]) if row["drift"]]
    if len(rows) < 3:
        return ""
    points = [(float(row["stored_bytes"]), float(row["drift"]["mean"])) for row in rows]
    best = plots.front(points)
    spots = [
        plots.Spot(number, x, y, 0 if row["engine"] == "onnxruntime" else 1, good, f"{row['name']}: {y:.4f} sd")
        for number, (row, (x, y), good) in enumerate(zip(rows, points, best, strict=True), 1)
    ]
    across = axis([x for x, _ in points], lambda value: format_bytes(int(value)), zero=False, binary=True)
    up = axis([y for _, y in points], lambda value: f"{value:.3g}")
    names = "".join(f"<li><b class='n'>{n}</b> {escape(row['name'])}</li>" for n, row in enumerate(rows, 1))
    drawn = plots.plane(spots, across, up, ("stored", "output change, sd"))
    note = "Left and down is better. The line joins what nothing else beats in both."
    return section("Size against change", note, f'<div class="planes"><div>{drawn}<ol>{names}</ol></div></div>')


def _steps(report: Plain) -> str:
    made = []
    for recipe, steps in report["steps"].items():
        known = [step for step in steps if step["drift"]]
        along = axis([step["drift"]["mean"] for step in known], lambda value: f"{value:.3g} sd")
        members = []
        for number, step in enumerate(steps, 1):
            drift = step["drift"]
            words = format_bytes(step["file_bytes"])
            words += f", {drift['mean']:.4f} sd, {drift['agreement']:.1%} kept" if drift else ""
            name = f"{number}. {step['step']['pass']}"
            bar = _bar(drift["mean"], along, 2) if drift else ""
            members.append(Lane(None, name, bar, escape(f"{words}; {step['seconds']:.0f} s"), words))
        facts = "".join(_facts(step) for step in steps if step["facts"])
        made.append(f"<h3>{escape(recipe)}</h3>{lanes(members, along if known else None, what='steps')}{facts}")
    note = "After each step: the mean change of the output against the original, on the items calibrated with."
    return section("Step by step", note, "".join(made))


def _facts(step: Plain) -> str:
    rows = "".join(
        f"<dt>{escape(key)}</dt><dd>{escape(_words(value), 4000)}</dd>" for key, value in step["facts"].items()
    )
    return f"<details><summary>what {escape(step['step']['pass'])} found</summary><dl>{rows}</dl></details>"


def _words(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _layers(report: Plain) -> str:
    made = []
    for recipe, layers in report["layers"].items():
        if not layers:
            continue
        along = axis([one["change_sd"] for one in layers], lambda value: f"{value:.3g} sd")
        members = [
            Lane(None, one["name"], _bar(one["change_sd"], along, 3), f"{one['change_sd']:.4f} sd", one["name"])
            for one in layers
        ]
        made.append(f"<h3>{escape(recipe)}</h3>{lanes(members, along, shown=24, what='layers')}")
    if not made:
        return ""
    note = "What each layer gives out, against the same layer of the original: rms change by standard deviation."
    return section("Layer by layer", note, "".join(made))


def _robust(report: Plain) -> str:
    found = report["robustness"]
    if not found:
        return ""
    names = [row["name"] for row in (*report["originals"], *report["variants"])]
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = ""
    for row in found["rows"]:
        first = row[names[0]]
        cells = "".join(f"<td{' class=bad' if row[name] < first - 0.02 else ''}>{row[name]:.1%}</td>" for name in names)
        body += f"<tr><th>{escape(row['damage'])} {row['strength']:g}</th>{cells}</tr>"
    note = (
        f"{found['measure'].capitalize()} on {found['items']} items whose pictures were damaged. Marked: more than 2 "
        "points below the original on the same damaged pictures."
    )
    table = f'<div class="scroll"><table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    return section("On worse pictures", note, table)


# ---------------------------------------------------------------- figures


_COLUMNS = (
    *(
        "engine",
        "file",
        "stored",
        "smaller",
        "mean change",
        "largest",
        "kept",
        "engines alike",
        "accuracy",
        "precision",
        "recall",
        "F1",
    ),
    *("time", "against the original", "peak memory"),
)


def _table(report: Plain) -> str:
    head = "".join(f"<th>{escape(one)}</th>" for one in _COLUMNS)
    body = "".join(
        f"<tr><th>{escape(row['name'])}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in _cells(row, report))}</tr>"
        for row in (*report["originals"], *report["variants"])
    )
    table = f'<div class="scroll"><table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    return section("All figures", "Speed: one thread, fresh processes, in turn in one run; 95 % interval.", table)


def _cells(row: Plain, report: Plain) -> Sequence[str]:
    drift, found, speed = row["drift"], row["scores"], row.get("speed") or {}
    ratio = f"{speed['ratio']:.2f}" if speed.get("ratio") else ""
    if ratio and speed.get("interval"):
        ratio += f" ({speed['interval'][0]:.2f} to {speed['interval'][1]:.2f})"
    return (
        row["engine"],
        format_bytes(row["file_bytes"]),
        format_bytes(row["stored_bytes"]),
        f"x{times_smaller(row, report):.1f}",
        *(
            (f"{drift['mean']:.4f} sd", f"{drift['largest']:.3f} sd", f"{drift['agreement']:.2%}")
            if drift
            else [""] * 3
        ),
        f"{row['sibling']['agreement']:.2%}" if "sibling" in row else "",
        *([f"{found[key]:.2%}" for key in ("accuracy", "precision", "recall", "f1")] if found else [""] * 4),
        f"{speed['p50_ms']:.3g} ms" if speed.get("p50_ms") else str(speed.get("error") or ""),
        ratio,
        format_bytes(speed["peak_bytes"]) if speed.get("peak_bytes") else "",
    )


def _recipes(report: Plain) -> str:
    made = "".join(f"<pre>{escape(json.dumps(one, indent=1), 8000)}</pre>" for one in report["recipes"])
    return section(
        "The recipes", "Every setting written out: the same recipe on the same input gives the same bytes.", made
    )


def as_text(report: Plain, out: Path) -> list[str]:
    """What a person reads on the terminal."""
    made = [f"{out}: {len(report['variants'])} variants"]
    for row in (*report["originals"], *report["variants"]):
        drift, found, speed = row["drift"], row["scores"], row.get("speed") or {}
        words = [f"{row['name']:<24} {format_bytes(row['stored_bytes']):>9}  x{times_smaller(row, report):<6.1f}"]
        asked = written(report, row) if "search" in report else []
        words += asked
        if drift and not asked:
            words.append(f"change {drift['mean']:.4f} sd, {drift['agreement']:.1%} kept")
        if found:
            words.append(f"accuracy {found['accuracy']:.2%}, F1 {found['f1']:.2%}")
        if slide := row.get("slide"):
            words.append(
                f"slides: {slide['false_positives']} of {slide['healthy_cells']} healthy cells called at 90 % "
                f"sensitivity, finds {1000 * slide['detectable']['5000']:.1f} of 1,000"
            )
        if speed.get("ratio"):
            words.append(f"{speed['ratio']:.2f} of the original's time on {row['engine']}")
        made.append("  ".join(words))
    return made + [f"mind: {one}" for one in warnings(report)]
