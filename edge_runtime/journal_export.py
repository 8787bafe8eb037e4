"""A journal's outcomes as CSV and as JSON lines, one at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

CSV_FIELDS = (
    *("when", "item", "verdict", "cells", "infected", "parasitaemia_percent", "parasites_per_ul"),
    *("not_excluded_below_per_ul", "reasons", "labels", "error", "bundle", "bundle_digest", "variant"),
    *("variant_digest", "engine", "engine_version", "edge_runtime", "threads", "device", "device_ram_bytes"),
    *("device_digest", "latency_ms", "peak_ram_bytes", "energy_mj", "item_digest", "entry", "entry_hash"),
    *("replaces", "earlier_entry", "same_contents_as", "clock_back_s"),
)
# What a spreadsheet takes for the beginning of a formula. A file's name may begin so, and a formula can send data away.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001


def write_csv(rows: Iterable[dict[str, Any]], out: TextIO) -> None:
    """A header and a line an outcome. Text that a spreadsheet would run as a formula has an apostrophe before it."""
    import csv

    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_FIELDS)
    for one in rows:
        writer.writerow([_cell(one, field) for field in CSV_FIELDS])


def _cell(one: dict[str, Any], field: str) -> object:
    value = one.get(field)
    if field == "error":
        value = value["message"] if value else None
    elif field == "reasons":
        value = " ".join(value or ())
    elif field == "labels":
        value = "; ".join(f"{label['label']} {label['score']}" for label in value or ())
    elif field == "same_contents_as":
        value = value["entry"] if value else None
    if isinstance(value, str) and (value.startswith(_FORMULA) or value.lstrip().startswith(_FORMULA)):
        return f"'{value}"
    return value


def write_json(rows: Iterable[dict[str, Any]], out: TextIO) -> None:
    """One object a line, as results.py documents it."""
    for one in rows:
        out.write(json.dumps(one, ensure_ascii=False) + "\n")


def as_lines(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """A line an outcome, for a person."""
    for one in rows:
        said = f"error: {one['error']['message']}" if one.get("error") else _decided(one)
        notes = ""
        if earlier := one.get("earlier_entry"):
            notes += f"  [read before as entry {earlier}, with other images: count one of them]"
        if same := one.get("same_contents_as"):
            notes += f"  [the same images as {same['item']}, entry {same['entry']}]"
        if back_s := one.get("clock_back_s"):
            notes += f"  [the clock was {back_s} s behind the entry before]"
        yield f"{one['when']}  {one['item']:<32} {said}{notes}"


def _decided(one: dict[str, Any]) -> str:
    if one["kind"] == "slides":
        said = f"{one.get('verdict')}, {one.get('cells')} cells, {one.get('infected')} infected"
        return f"{said}; {' '.join(map(str, one.get('reasons', ())))}"
    return ", ".join(f"{label['label']} {label['score']:.3f}" for label in one.get("labels", ())[:3])
