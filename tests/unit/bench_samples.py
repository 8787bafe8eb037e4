"""Made-up rows of a benchmark that look like real ones: a Raspberry Pi, five configurations measured in turn."""

from __future__ import annotations

import math
import random
from typing import Any

from edge_runtime.bench.rows import SCHEMA, Row

KINDS = (  # variant, engine, format, median ms, peak MiB, file KiB
    ("fp32", "onnxruntime", "onnx", 4.61, 52.3, 251.0),
    ("int8", "onnxruntime", "onnx", 4.44, 51.1, 82.4),
    ("fp32", "litert", "tflite", 4.70, 38.2, 248.0),
    ("int8", "litert", "tflite", 2.83, 37.6, 79.1),
    ("int8-lite", "litert", "tflite", 1.92, 37.9, 41.0),
)
VERSIONS = {"onnxruntime": "1.31.1", "litert": "2.3.0", "tflite-runtime": "2.14.0"}
STATE = {"governor": "ondemand", "mhz": [1800.0] * 4, "temperature_c": 48.2, "throttled": [], "charging": False}
MACHINE = {
    "id": "9f31c07a55d2",
    "title": "Raspberry Pi 4 Model B Rev 1.4",
    "soc": "BCM2711",
    "arch": "aarch64",
    "cores": [["Cortex-A72", 4, 1800]],
    "features": ["fp", "asimd", "crc32"],
    "ram_bytes": 3_975_000_000,
    "allowed_cores": 4,
    "kernel": "6.6.51+rpt-rpi-v8",
}


def spread_of(values: list[float], around: float = 0.01) -> dict[str, Any]:
    middle = sorted(values)[len(values) // 2]
    return {"p50": middle, "interval": [middle * (1 - around), middle * (1 + around)], "processes": values}


def sample_row(
    variant: str = "int8", engine: str = "litert", form: str = "tflite", ms: float = 2.83, mib: float = 37.6,
    kib: float = 79.1, threads: int = 1, seed: int = 1,
) -> Row:  # fmt: skip
    dice = random.Random(f"{variant} {engine} {threads} {seed}")
    quantiles = sorted(
        ms * (0.985 + 0.03 * dice.random() + 0.02 * math.log1p(dice.expovariate(0.5))) for _ in range(101)
    )
    middle, processes = quantiles[50], [ms * dice.uniform(0.99, 1.01) for _ in range(5)]
    load, peak = 9.0 + kib / 30, mib * 2**20
    rising = [[0.0, 9e6], [0.1, 12e6], [0.3, peak * 0.55], [0.5, peak * 0.8], [0.9, peak * 0.97], [6.0, peak]]
    count = f"{threads} thread{'s' if threads > 1 else ''}"
    return {
        "schema": SCHEMA,
        "label": f"{variant} on {engine}, {count}",
        "when": "2026-12-02T09:14:07+00:00",
        "tool": {"edge_runtime": "0.3.0", "commit": "b236c2e", "python": "3.11.2"},
        "subject": {
            "path": "malaria.edge", "bundle": "malaria 1.0.0", "digest": "5d1e" * 16, "variant": variant,
            "format": form, "model_sha256": "ab12" * 16, "model_bytes": int(kib * 1024), "bundle_bytes": 411_222,
        },
        "engine": {"name": engine, "version": VERSIONS[engine], "threads": threads},
        "device": "raspberry-pi-4b-4gb",
        "machine": MACHINE,
        "circumstances": {
            "before": {**STATE, "battery_percent": None, "load_1min": 0.12},
            "after": {**STATE, "temperature_c": 55.1, "battery_percent": None, "load_1min": 1.02},
            "steal_percent": None,
        },
        "protocol": {
            "form": "official", "rounds": 5, "window_s": 10.0, "windows": 1, "together_with": [], "seed": 7,
        },
        "latency_ms": {
            "min": quantiles[0], "p50": middle, "p90": quantiles[90], "p99": quantiles[99],
            "mean": sum(quantiles) / 101, "spread": (quantiles[75] - quantiles[25]) / middle, "n": 10_412,
            "interval": [middle * 0.993, middle * 1.007], "processes": processes, "quantiles": quantiles,
        },
        "warm_up": {"n": 14, "first_ms": ms * 2.6},
        "cold_ms": spread_of([310.0 + load + ms * 2.6 + dice.uniform(-9, 9) for _ in range(5)], 0.03),
        "load_ms": spread_of([load * dice.uniform(0.97, 1.03) for _ in range(5)]),
        "throughput": [
            {"batch": batch, "items_per_s": 1000 / ms * gain, "ms_per_item": ms / gain}
            for batch, gain in ((1, 1.0), (4, 1.4), (16, 1.71), (32, 1.68))
        ],
        "task": {
            "item": "slide-0007", "feeds": 412, "latency_ms": 640 + 412 * ms,
            "items_per_s": 1000 / (640 + 412 * ms), "feeds_per_s": 412 / (0.64 + 0.412 * ms),
            "parts_ms": {"decode": 402.0, "preprocess": 221.0, "infer": 412 * ms, "decide": 17.0},
        },
        "memory": {
            "peak_bytes": int(peak), "loaded_bytes": int(peak * 0.8), "pss_bytes": int(peak * 0.7),
            "task_peak_bytes": int(peak * 1.8), "over_time": rising,
        },
        "energy": None,
        "sustained": None,
        "pace_ms": {"p50": 3.02, "processes": [3.0, 3.02, 3.05]},
        "noise": {"level": "quiet", "spread": 0.011, "why": []},
        "valid": True,
        "invalid": [],
        "ratios": [],
    }  # fmt: skip


def sample_rows(kinds: tuple[tuple[Any, ...], ...] = KINDS, threads: tuple[int, ...] = (1,)) -> list[Row]:
    """Rows measured in one run, their ratios to the first."""
    made = [
        sample_row(variant, engine, form, ms / count**0.7, mib, kib, count)
        for variant, engine, form, ms, mib, kib in kinds
        for count in threads
    ]
    labels = [row["label"] for row in made]
    for row in made:
        row["protocol"]["together_with"] = [one for one in labels if one != row["label"]]
        ratio = row["latency_ms"]["p50"] / made[0]["latency_ms"]["p50"]
        if row is not made[0]:
            row["ratios"] = [{"to": labels[0], "ratio": ratio, "interval": [ratio * 0.97, ratio * 1.03], "pairs": 25}]
    return made


def with_energy(row: Row, basis: str = "measured:ina219") -> Row:
    net = row["latency_ms"]["p50"] * 1.9
    row["energy"] = {
        "basis": basis,
        "about": "INA219 in the supply of the board, 200 samples a second",
        "idle_w": 2.31,
        "active_w": 4.22,
        "gross_mj": net * 2.2,
        "net_mj": net,
        "uncertainty_mj": net * 0.06,
        "task_mj": net * 430,
        "items_per_battery_percent": 52.0,
        "battery_hours": None,
    }
    return row


def with_sustained(row: Row, count: int = 2000, held: bool = True) -> Row:
    dice = random.Random(5)
    first, points = row["latency_ms"]["p50"], []
    for place in range(count):
        s = place * 1200 / count
        hot = 48 + 34 * (1 - math.exp(-s / 260))
        slow = held and hot > 79.5 and (place // 40) % 2 == 0
        ms = first * (1.42 if slow else 1.0) * dice.uniform(0.99, 1.02)
        points.append(
            {
                "s": s,
                "p50_ms": ms,
                "p99_ms": ms * dice.uniform(1.05, 1.3),
                "mhz": 1200.0 if slow else 1800.0,
                "temperature_c": hot + dice.uniform(-0.4, 0.4),
                "throttled": ["soft temperature limit"] if slow else [],
                "charging": False,
                "active_w": 4.2 - 0.9 * slow + dice.uniform(-0.05, 0.05),
            }
        )
    row["sustained"] = {
        "points": points,
        "first_ms": first,
        "last_ms": first * (1.42 if held else 1.0),
        "slower": 1.42 if held else 1.0,
        "slowed_at_s": 694.0 if held else None,
        "why": "the clock fell from 1800 to 1200 MHz at 79.6 °C" if held else "it kept its pace",
    }
    if held:
        row["valid"], row["invalid"] = False, ["throttled: soft temperature limit"]
    return row
