"""The rows as Markdown, for the README and for the screen. Standard library alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from scripts.peers.catalogue import DIFFERENCE_SD, SAME_DECISIONS

Row = dict[str, Any]
Value = Callable[[Row], tuple[float, float] | None]  # the figure, and the upper end of its interval


def show(rows: Sequence[Row]) -> str:
    """A table for each model, one for what is installed, and what has to be known to read them.

    Best in bold, whoever it is, and what cannot be told from it; an engine whose answers differ wins nothing.
    """
    text: list[str] = []
    for model in dict.fromkeys(row["model"] for row in rows):
        text += [*_model([row for row in rows if row["model"] == model]), ""]
    text += [*_installed(rows), "", *_reasons(rows)]
    return "\n".join(text).rstrip()


def _model(rows: Sequence[Row]) -> list[str]:
    pairs: dict[str, dict[str, Row]] = {}
    for row in rows:
        pairs.setdefault(row["engine"], {})[row["precision"]] = row
    # columns of the same title share a cell: "fp32 / int8"
    columns: list[tuple[str, str, Value, Callable[[Row], str]]] = [
        ("fp32: time", "fp32", _ratio("ratio"), _time_text),
        ("int8: time", "int8", _ratio("ratio"), _time_text),
        ("int8: same answers", "int8", lambda row: None, _same_text),
        ("start, ms", "fp32", _ratio("cold_ratio"), _cold_text),
        ("MiB", "fp32", _bytes("peak_bytes"), _memory_text),
        ("MiB", "int8", _bytes("peak_bytes"), _memory_text),
        ("file, kB", "fp32", _bytes("model_bytes"), _file_text),
        ("file, kB", "int8", _bytes("model_bytes"), _file_text),
    ]
    cells: dict[str, list[list[str]]] = {}
    for title, precision, value, words in columns:
        column = [pair.get(precision) for pair in pairs.values()]
        cells.setdefault(title, []).append(_column(column, value, words))
    text = [f"| {rows[0]['about'].partition(',')[0]} | {' | '.join(cells)} |", "| --- |" + " ---: |" * len(cells)]
    for place, name in enumerate(pairs):
        text.append(f"| {name} | {' | '.join(' / '.join(part[place] for part in parts) for parts in cells.values())} |")
    return text


def _column(column: Sequence[Row | None], value: Value, words: Callable[[Row], str]) -> list[str]:
    """What each row says; in bold the best and what cannot be told from it.

    That is what looks the same, and what lies inside the best one's interval where the figure has one.
    """
    usable = [(found, row) for row in column if row and _usable(row) and (found := value(row)) is not None]
    said = [words(row) if row and row["latency_ms"] else "-" for row in column]
    if not usable:
        return said
    (_, end), best = min(usable, key=lambda pair: pair[0])
    winners = [row for (middle, _), row in usable if middle <= end or words(row) == words(best)]
    return [f"**{one}**" if row in winners else one for one, row in zip(said, column, strict=True)]


def _usable(row: Row | None) -> bool:
    return bool(row and row["latency_ms"] and row["agreement"] and row["agreement"]["usable"])


def _ratio(key: str) -> Value:
    return lambda row: (row[key]["ratio"], row[key]["interval"][1]) if row[key] else None


def _bytes(key: str) -> Value:
    return lambda row: (row[key], row[key]) if row[key] else None


def _time_text(row: Row) -> str:
    ratio = row["ratio"]
    if not ratio:
        return "-"
    if ratio["to"] == f"{row['precision']} on {row['engine']}":
        return f"1 ({_figure(row['latency_ms']['p50'])} ms)"
    low, high = ratio["interval"]
    said = f"{_figure(ratio['ratio'])} ({_figure(low)}-{_figure(high)})"
    return said if _usable(row) else f"{said}, answers differ"


def _cold_text(row: Row) -> str:
    return _figure(row["cold_ms"]["p50"]) if row["cold_ms"] else "-"


def _memory_text(row: Row) -> str:
    return f"{row['peak_bytes'] / 2**20:.0f}" if row["peak_bytes"] else "-"


def _file_text(row: Row) -> str:
    return f"{row['model_bytes'] / 1e3:,.0f}" if row["model_bytes"] else "-"


def _same_text(row: Row) -> str:
    found = row["agreement"]
    if not found:
        return "-"
    difference = "no number" if found["difference_sd"] is None else f"{found['difference_sd']:.2g} sd"
    return f"{100 * found['same_decision']:.4g} %, {difference}"


def _figure(value: float) -> str:
    """Three figures, and two of a ratio near 1."""
    return f"{value:.2f}" if 0.095 <= value < 9.995 else f"{value:.3g}" if value < 99.5 else f"{value:.0f}"


def _installed(rows: Sequence[Row]) -> list[str]:
    text = ["| installed, MB | version | with numpy | without |", "| --- | --- | ---: | ---: |"]
    firsts: dict[str, Row] = {}
    for row in rows:
        if row["installed_bytes"]:
            firsts.setdefault(row["engine"], row)
    smallest = {key: min((row[key] for row in firsts.values()), default=None) for key in _SIZES}
    for name, row in firsts.items():
        if "guarded" in name:  # the same installation
            continue
        sizes = [
            f"**{row[key] / 1e6:.1f}**" if row[key] == smallest[key] else f"{row[key] / 1e6:.1f}" for key in _SIZES
        ]
        versions = ", ".join(f"{package} {version}" for package, version in row["versions"].items())
        text.append(f"| {name} | {versions} | {' | '.join(sizes)} |")
    return text


_SIZES = ("installed_bytes", "installed_without_numpy_bytes")


def _reasons(rows: Sequence[Row]) -> list[str]:
    said: dict[str, set[str]] = {}
    for row in rows:
        for words in (row["reason"], row["note"] if row["latency_ms"] else None):
            if words:
                said.setdefault(f"{row['engine']}: {words}", set()).add(row["precision"])
    notes = [
        one if len(precisions) > 1 else one.replace(": ", f", {min(precisions)}: ", 1)
        for one, precisions in said.items()
    ]
    measured = [row for row in rows if row["latency_ms"]]
    if not measured:
        return notes
    first = measured[0]
    chip, features = first["machine"]["soc"], ", ".join(first["machine"]["features"][-3:])
    images = next((row["agreement"]["images"] for row in measured if row["agreement"]), 0)
    load = first["machine"].get("load_1min", 0)
    busy = f", busy (load average {load:.1f} at the start: read the intervals)" if load > 1.5 else ""
    text = [
        f"Measured {first['when'][:10]} on {first['machine']['arch']} ({chip}; {features}){busy}, one thread on one "
        f"core, {first['rounds']} fresh processes a row in turn. Bold: the best, and what cannot be told from it. "
        "Time: of one image, as a ratio to onnxruntime's fp32 in the same round, with its 95 % interval. Same answers: "
        f"decisions like fp32 on onnxruntime on {images} test images, and the mean difference of an output in standard "
        f"deviations (below {100 * SAME_DECISIONS:.0f} % or above {DIFFERENCE_SD} sd a row wins nothing: answers "
        "differ). Start: from nothing to the first answer, fp32. MiB: peak resident memory, fp32 / int8. Guarded: in a "
        "child process under a memory limit, as `open_program` runs it; the memory of both processes is added."
    ]
    return [*text, *(["", "Notes. " + "; ".join(notes) + "."] if notes else [])]
