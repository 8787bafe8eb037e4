"""Whether rows are what rows.py says: the right types in the right places, so that whoever shows them need not ask.

A row may come from another machine, another version, or another person: it is data to be checked, not trusted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edge_runtime.bench.rows import SCHEMA, Row
from edge_runtime.errors import EdgeError

_LARGEST = 1e18  # no byte count, time or energy of a small device comes near; beyond it arithmetic overflows
_PAIR = "a pair of numbers"  # [low, high], [seconds, bytes]
_SPREAD = {"p50": float, "interval": _PAIR, "processes": [float]}


def _of(kind: Any, *keys: str) -> dict[str, Any]:
    return dict.fromkeys(keys, kind)


_STATE = {
    **_of(str, "governor"),
    **_of(float, "temperature_c", "battery_percent", "load_1min"),
    **_of(object, "mhz", "throttled"),
    **_of(bool, "charging"),
}
_POINT = {
    **_of(float, "s", "p50_ms", "p99_ms", "temperature_c", "active_w"),
    **_of(object, "mhz", "throttled"),
    **_of(bool, "charging"),
}
# A type, [shape of each member], {key: shape}; `object` is anything finite. Null is allowed everywhere but where
# `_check_row` says otherwise, and so are keys that are not listed: a later version may add them.
_SHAPE: dict[str, Any] = {
    "when": str,
    "tool": _of(str, "edge_runtime", "commit", "python"),
    "subject": {
        **_of(str, "path", "bundle", "digest", "variant", "format", "model_sha256"),
        **_of(float, "model_bytes", "bundle_bytes"),
    },
    "engine": {**_of(str, "name", "version"), **_of(float, "threads")},
    "device": str,
    "machine": {
        **_of(str, "id", "title", "soc", "arch", "kernel"),
        **_of([object], "features"),
        **_of([[object]], "cores"),
        **_of(float, "ram_bytes"),
        **_of(object, "allowed_cores"),
    },
    "circumstances": {**_of(_STATE, "before", "after"), **_of(float, "steal_percent")},
    "protocol": {
        **_of(str, "form"),
        **_of(float, "rounds", "window_s", "windows"),
        **_of([str], "together_with"),
        **_of(object, "seed"),
    },
    "latency_ms": {
        **_of(float, "min", "p50", "p90", "p99", "mean", "spread", "n"),
        **_of([float], "processes", "quantiles"),
        **_of(_PAIR, "interval"),
    },
    "warm_up": _of(float, "n", "first_ms"),
    "cold_ms": _SPREAD,
    "load_ms": _SPREAD,
    "throughput": [_of(float, "batch", "items_per_s", "ms_per_item")],
    "task": {
        **_of(str, "item"),
        **_of(float, "feeds", "items_per_s", "feeds_per_s", "latency_ms"),
        "parts_ms": _of(float, "decode", "preprocess", "infer", "decide"),
    },
    "memory": {
        **_of(float, "peak_bytes", "loaded_bytes", "pss_bytes", "task_peak_bytes"),
        **_of([_PAIR], "over_time"),
    },
    "energy": {
        **_of(str, "basis", "about"),
        **_of(float, "idle_w", "active_w", "gross_mj", "net_mj", "uncertainty_mj", "task_mj"),
        **_of(float, "items_per_battery_percent", "battery_hours"),
    },
    "sustained": {
        **_of([_POINT], "points"),
        **_of(float, "first_ms", "last_ms", "slower", "slowed_at_s"),
        **_of(str, "why"),
    },
    "pace_ms": _SPREAD,
    "noise": {**_of(str, "level"), **_of(float, "spread"), **_of([str], "why")},
    "valid": bool,
    "invalid": [str],
    "ratios": [{**_of(str, "to"), **_of(float, "ratio", "pairs"), **_of(_PAIR, "interval")}],
}
_NAMES = {str: "text", float: "a number", bool: "true or false", list: "a list", dict: "an object"}


def check_rows(rows: Iterable[Row]) -> list[Row]:
    """The rows as a list. Raises EdgeError naming the row, the field, what was found and what was wanted."""
    checked = list(rows)
    for place, row in enumerate(checked, 1):
        check_row(row, f"row {place}")
    return checked


def check_row(row: Any, what: str) -> None:
    """Raises EdgeError, its message beginning with `what`, where `row` is not a row of this schema."""
    if not isinstance(row, dict):
        raise EdgeError(f"{what}: found {_brief(row)}, wanted a row of a benchmark: a JSON object")
    schema = row.get("schema")
    if isinstance(schema, bool) or schema != SCHEMA:
        later = isinstance(schema, int) and schema > SCHEMA
        hint = "install a newer edge-runtime" if later else "edge-runtime bench MODEL -o FILE.jsonl"
        raise EdgeError(f"{what}: found schema {_brief(schema)}, wanted {SCHEMA}", hint=hint)
    if not isinstance(row.get("label"), str) or not row["label"].strip():
        raise EdgeError(f"{what}: label: found {_brief(row.get('label'))}, wanted text")
    try:
        for key, shape in _SHAPE.items():
            _check(row.get(key), shape, f"{what}: {key}")
        _finite({key: value for key, value in row.items() if key not in _SHAPE}, what)
    except RecursionError as error:
        raise EdgeError(f"{what}: found lists in lists without end, wanted a row of a benchmark") from error


def _check(value: Any, shape: Any, where: str) -> None:
    if value is None:
        return
    if shape is object:
        _finite(value, where)
    elif isinstance(shape, dict):
        _want(isinstance(value, dict), value, _NAMES[dict], where)
        for key, inner in value.items():
            _check(inner, shape.get(key, object), _below(where, key))
    elif isinstance(shape, list):
        _want(isinstance(value, list), value, _NAMES[list], where)
        for place, inner in enumerate(value):
            _want(inner is not None or shape[0] is object, inner, "no null", f"{where}[{place}]")
            _check(inner, shape[0], f"{where}[{place}]")
    elif shape == _PAIR:
        _want(isinstance(value, list) and len(value) == 2, value, _PAIR, where)
        for inner in value:
            _want(inner is not None, value, _PAIR, where)
            _check(inner, float, where)
    elif shape is float:
        _want(isinstance(value, int | float) and not isinstance(value, bool), value, _NAMES[float], where)
        _finite(value, where)
    else:
        _want(isinstance(value, shape), value, _NAMES[shape], where)


def _finite(value: Any, where: str) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _finite(inner, _below(where, key))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            _finite(inner, f"{where}[{place}]")
    elif isinstance(value, int | float):
        _want(-_LARGEST <= value <= _LARGEST, value, f"a finite number up to {_LARGEST:g}", where)


def _want(right: bool, value: Any, wanted: str, where: str) -> None:
    if not right:
        raise EdgeError(f"{where}: found {_brief(value)}, wanted {wanted}")


def _below(where: str, key: object) -> str:
    return f"{where}.{key}" if isinstance(key, str) and key.isidentifier() else f"{where}.{_brief(key)}"


def _brief(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _LARGEST:
        return "a whole number of more than 18 digits"  # printing one of thousands of digits is refused by Python
    if isinstance(value, dict | list):
        return _NAMES[type(value)]
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
