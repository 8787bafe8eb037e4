"""Rows of a benchmark as text: a table for a terminal, Markdown, CSV, and JSON lines to keep and read again."""

from __future__ import annotations

import csv
import io
import json
import os
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from edge_runtime.bench.rows import Row
from edge_runtime.bench.shape import check_row, check_rows
from edge_runtime.bench.words import (
    at,
    best_throughput,
    clean,
    energy,
    engine,
    figure,
    label,
    mark,
    noise,
    remarks,
    span,
)
from edge_runtime.errors import EdgeError

Notice = Callable[[str], None]


@dataclass(frozen=True)
class Column:
    """A column of a table: its head, what stands in it for a row ('' for nothing), and to which side it leans."""

    head: str
    cell: Callable[[Row], str]
    right: bool = True


def _p50(row: Row) -> str:
    interval = at(row, "latency_ms", "interval")
    return f"{figure(at(row, 'latency_ms', 'p50'))}{f' ({span(interval)})' if interval else ''}"


def _scaled(*path: str, by: float = 1.0) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        value = at(row, *path)
        return "" if value is None else figure(value / by)

    return cell


COLUMNS = (
    Column("engine", engine, right=False),
    Column("p50 ms (95 %)", _p50),
    Column("p90 ms", _scaled("latency_ms", "p90")),
    Column("p99 ms", _scaled("latency_ms", "p99")),
    Column("cold ms", _scaled("cold_ms", "p50")),
    Column("load ms", _scaled("load_ms", "p50")),
    Column("items/s", lambda row: figure(best_throughput(row)[1])),
    Column("task items/s", _scaled("task", "items_per_s")),
    Column("peak MiB", _scaled("memory", "peak_bytes", by=2**20)),
    Column("file KiB", _scaled("subject", "model_bytes", by=2**10)),
    Column("energy an item", energy),
    Column("noise", noise, right=False),
    Column("valid", mark, right=False),
)

# ---------------------------------------------------------------- a table for a terminal


def as_table(rows: Iterable[Row], width: int = 120) -> str:
    """A table at most `width` columns wide where that can be: columns with nothing in them are left out, what is the
    same in every row is said once above it, and what does not fit beside stands below as a second table.

    Under it, as sentences: ratios with their intervals, why a row is invalid, what noise means. Raises EdgeError where
    a row is not one of the schema.
    """
    rows = check_rows(rows)
    if not rows:
        return "no rows\n"
    columns = [column for column in COLUMNS if any(column.cell(row) for row in rows)]
    common = []
    if len(rows) > 1:
        common = [column for column in columns if not column.right and len({column.cell(row) for row in rows}) == 1]
    lines = [f"all rows: {', '.join(f'{_once(one, rows[0])}' for one in common)}"] if common else []
    labels = _lay("label", [label(row, 44) for row in rows], right=False)
    block: list[list[str]] = [labels]
    for column in columns:
        if column in common:
            continue
        cells = _lay(column.head, [column.cell(row) or "-" for row in rows], column.right)
        if len(block) > 1 and sum(_wide(one[0]) + 2 for one in block) + _wide(cells[0]) > width:
            lines += [*_join(block), ""]
            block = [labels]
        block.append(cells)
    lines += _join(block)
    said = remarks(rows)
    return "\n".join([*lines, *([""] if said else []), *said, ""])


def _once(column: Column, row: Row) -> str:
    return column.cell(row) if column.head == "valid" else f"{column.head} {column.cell(row)}"


def _lay(head: str, cells: list[str], right: bool) -> list[str]:
    """The head, a rule and the cells, all as wide as the widest."""
    widest = max(map(_wide, [head, *cells]))
    return [_pad(head, widest, right), "-" * widest, *(_pad(cell, widest, right) for cell in cells)]


def _join(block: list[list[str]]) -> list[str]:
    return ["  ".join(line).rstrip() for line in zip(*block, strict=True)]


def _pad(text: str, width: int, right: bool) -> str:
    space = " " * (width - _wide(text))
    return space + text if right else text + space


def _wide(text: str) -> int:
    """Columns of a terminal that the text takes: two for East Asian characters, none for accents that combine."""
    return sum(
        0
        if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Mn", "Me")
        else 2
        if unicodedata.east_asian_width(character) in "WF"
        else 1
        for character in text
    )


# ---------------------------------------------------------------- Markdown


def as_markdown(rows: Iterable[Row]) -> str:
    """A table for a README or an issue, its remarks as a list. Raises EdgeError where a row is not of the schema."""
    rows = check_rows(rows)
    if not rows:
        return "no rows\n"
    columns = [Column("label", label, right=False)]
    columns += [column for column in COLUMNS if any(column.cell(row) for row in rows)]
    lines = ["| " + " | ".join(column.head for column in columns) + " |"]
    lines.append("|" + "|".join(" ---: " if column.right else " --- " for column in columns) + "|")
    lines += ["| " + " | ".join(_markdown(column.cell(row)) for column in columns) + " |" for row in rows]
    said = [f"- {_markdown(one)}" for one in remarks(rows)]
    return "\n".join([*lines, *([""] if said else []), *said, ""])


def _markdown(text: str) -> str:
    """Text that stays text: no table is broken, no HTML or link made."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{one}" if one in "\\`*_[]|~!#$" else one for one in text)


# ---------------------------------------------------------------- CSV


def _listed(*path: str) -> Callable[[Row], object]:
    return lambda row: at(row, *path)


def _low(*path: str) -> Callable[[Row], object]:
    return lambda row: (at(row, *path) or (None, None))[0]


def _high(*path: str) -> Callable[[Row], object]:
    return lambda row: (at(row, *path) or (None, None))[1]


def _words(*path: str) -> Callable[[Row], object]:
    return lambda row: "; ".join(map(str, at(row, *path) or []))


# The names are a promise: later versions may add columns behind these, and keep these and their meaning. Units stand
# in the names. Empty is null. Lists that a line has no room for (quantiles, memory over time, the sustained curve) are
# in the JSON lines alone.
CSV_COLUMNS: dict[str, Callable[[Row], object]] = {
    "label": _listed("label"),
    "when": _listed("when"),
    "valid": lambda row: {True: "yes", False: "no"}.get(row.get("valid")),  # type: ignore[arg-type]
    "invalid": _words("invalid"),
    "bundle": _listed("subject", "bundle"),
    "variant": _listed("subject", "variant"),
    "path": _listed("subject", "path"),
    "format": _listed("subject", "format"),
    "engine": _listed("engine", "name"),
    "engine_version": _listed("engine", "version"),
    "threads": _listed("engine", "threads"),
    "device": _listed("device"),
    "machine": _listed("machine", "title"),
    "machine_id": _listed("machine", "id"),
    "form": _listed("protocol", "form"),
    **{f"latency_{key}_ms": _listed("latency_ms", key) for key in ("min", "p50", "p90", "p99", "mean")},
    "latency_p50_low_ms": _low("latency_ms", "interval"),
    "latency_p50_high_ms": _high("latency_ms", "interval"),
    "latency_spread": _listed("latency_ms", "spread"),
    "inferences": _listed("latency_ms", "n"),
    "warm_up_inferences": _listed("warm_up", "n"),
    "first_ms": _listed("warm_up", "first_ms"),
    "cold_p50_ms": _listed("cold_ms", "p50"),
    "cold_low_ms": _low("cold_ms", "interval"),
    "cold_high_ms": _high("cold_ms", "interval"),
    "load_p50_ms": _listed("load_ms", "p50"),
    "best_batch": lambda row: best_throughput(row)[0],
    "best_items_per_s": lambda row: best_throughput(row)[1],
    "task_items_per_s": _listed("task", "items_per_s"),
    "task_feeds_per_s": _listed("task", "feeds_per_s"),
    "task_latency_ms": _listed("task", "latency_ms"),
    **{f"task_{key}_ms": _listed("task", "parts_ms", key) for key in ("decode", "preprocess", "infer", "decide")},
    **{key: _listed("memory", key) for key in ("peak_bytes", "loaded_bytes", "pss_bytes", "task_peak_bytes")},
    "model_bytes": _listed("subject", "model_bytes"),
    "bundle_bytes": _listed("subject", "bundle_bytes"),
    "energy_basis": _listed("energy", "basis"),
    "energy_net_mj": _listed("energy", "net_mj"),
    "energy_uncertainty_mj": _listed("energy", "uncertainty_mj"),
    "energy_gross_mj": _listed("energy", "gross_mj"),
    "energy_task_mj": _listed("energy", "task_mj"),
    **{key: _listed("energy", key) for key in ("idle_w", "active_w", "items_per_battery_percent", "battery_hours")},
    "sustained_first_ms": _listed("sustained", "first_ms"),
    "sustained_last_ms": _listed("sustained", "last_ms"),
    "sustained_slowed_at_s": _listed("sustained", "slowed_at_s"),
    "pace_p50_ms": _listed("pace_ms", "p50"),
    "noise": _listed("noise", "level"),
    "noise_spread": _listed("noise", "spread"),
    "noise_why": _words("noise", "why"),
    "ratio_to": lambda row: ((row.get("ratios") or [{}])[0]).get("to"),  # the first; the others are in the JSON lines
    "ratio": lambda row: ((row.get("ratios") or [{}])[0]).get("ratio"),
    "ratio_low": lambda row: (((row.get("ratios") or [{}])[0]).get("interval") or (None, None))[0],
    "ratio_high": lambda row: (((row.get("ratios") or [{}])[0]).get("interval") or (None, None))[1],
    "governor": _listed("circumstances", "before", "governor"),
    "temperature_before_c": _listed("circumstances", "before", "temperature_c"),
    "temperature_after_c": _listed("circumstances", "after", "temperature_c"),
    "digest": _listed("subject", "digest"),
    "model_sha256": _listed("subject", "model_sha256"),
    "edge_runtime": _listed("tool", "edge_runtime"),
    "commit": _listed("tool", "commit"),
    "python": _listed("tool", "python"),
}


def as_csv(rows: Iterable[Row]) -> str:
    """A header line and one line a row, with the columns of `CSV_COLUMNS`, numbers in full. Raises EdgeError where a
    row is not of the schema."""
    made = io.StringIO()
    writer = csv.writer(made, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in check_rows(rows):
        writer.writerow([_csv_cell(cell(row)) for cell in CSV_COLUMNS.values()])
    return made.getvalue()


def _csv_cell(value: object) -> object:
    """Text on one line; text that a spreadsheet would run as a formula is led by an apostrophe."""
    if not isinstance(value, str):
        return value
    text = clean(value, 2000)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


# ---------------------------------------------------------------- JSON lines


def write_jsonl(path: str | os.PathLike[str], rows: Iterable[Row], *, append: bool = False) -> None:
    """Write the rows, one JSON object a line, each on the disk before the next: a cut of power costs one line.

    Appending removes a last line that was cut off. Raises EdgeError where a row is not of the schema
    or the file cannot be written.
    """
    try:
        with Path(path).open("a+b" if append else "wb") as file:
            if append:
                _drop_cut_line(file)
            for place, row in enumerate(rows, 1):
                check_row(row, f"row {place}")
                file.write(json.dumps(row, ensure_ascii=True, allow_nan=False).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        raise EdgeError(f"{os.fspath(path)}: cannot be written: {error.strerror or error}") from error


def _drop_cut_line(file: BinaryIO) -> None:
    """Cut the file back to its last whole line; a last line that lacks but its end gets it."""
    file.seek(0)
    end = 0
    for line in file:
        if not line.endswith(b"\n") and not _is_json(line):
            break
        end += len(line)
        if not line.endswith(b"\n"):
            file.write(b"\n")
            end += 1
    file.truncate(end)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def read_jsonl(path: str | os.PathLike[str], notice: Notice | None = None) -> list[Row]:
    """The rows of a file. A last line that was cut off (no JSON, as after a cut of power) is passed over and told to
    `notice`; any other line that is not a row raises EdgeError naming the file and the line."""
    name = os.fspath(path)
    rows: list[Row] = []
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        hint = "edge-runtime bench MODEL -o FILE.jsonl"
        raise EdgeError(f"{name}: cannot be read: {error.strerror or error}", hint=hint) from error
    last = max((place for place, line in enumerate(lines, 1) if line.strip()), default=0)
    for place, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if place == last:
                (notice or _silent)(f"{name}, line {place}: cut off, passed over; {len(rows)} rows before it are whole")
                break
            raise EdgeError(f"{name}, line {place}: found no JSON, wanted a row of a benchmark") from error
        check_row(row, f"{name}, line {place}")
        rows.append(row)
    return rows


def _silent(_: str) -> None:
    pass
