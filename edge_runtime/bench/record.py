"""From what was measured to rows (rows.py says what is in one)."""

from __future__ import annotations

import contextlib
import math
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.bench.rows import SCHEMA, Row
from edge_runtime.bench.run import Gathered, Measured, Process, Settled, batch_ms, ratio_between, settled
from edge_runtime.machine import machine
from edge_runtime.stats import Interval, deviation, interval, median, quantile, round_figures, spread
from edge_runtime.version import __version__

if TYPE_CHECKING:
    from edge_runtime.profile import DeviceProfile
    from edge_runtime.sensors import State

# Relative differences between the processes of one case: what a person should think of the figures.
QUIET, NOISY = 0.04, 0.12
_TRACE_POINTS = 200


def make_rows(
    done: Measured, device: DeviceProfile, before: State, after: State, steal_percent: float | None
) -> list[Row]:
    """One row a case, the failed ones with their reason and `valid` false."""
    common = {
        "schema": SCHEMA,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "tool": {"edge_runtime": __version__, "commit": commit(), "python": platform.python_version()},
        "device": device.name,
        "machine": machine().to_json() | {"kernel": platform.release()},
        "circumstances": {"before": before.to_json(), "after": after.to_json(), "steal_percent": steal_percent},
    }
    unfit = unfit_circumstances(before, after)
    labels = [one.case.label for one in done.gathered]
    good = [one for one in done.gathered if one.error is None]
    rows = []
    for one in done.gathered:
        row: Row = {"schema": SCHEMA, "label": one.case.label} | common
        version = one.about.get("engine_version")
        row |= {"subject": one.case.subject()}
        row |= {"engine": {"name": one.case.engine, "version": version, "threads": one.case.threads}}
        others = [label for label in labels if label != one.case.label] if done.together else []
        protocol = done.protocol
        row["protocol"] = {
            "form": protocol.form,
            "rounds": len(one.processes),
            "window_s": protocol.window_s,
            "windows": max(1, round(protocol.window_s / protocol.slice_s)),
            "together_with": others,
            "slice_s": protocol.slice_s,
            "batches": list(protocol.batches),
            "shapes": protocol.shapes,
            "cpus": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
            "seed": 0,
        }
        steady = settled(one, done.full_pace_ms)
        processes = [process for process in one.processes if process.slices]
        row |= _figures(processes, steady, done)
        energy, useless = _energy(processes, done, device.battery_mah)
        row["energy"] = energy
        row["error"] = one.error.message if one.error else None
        stopped = ["interrupted before it was done"] if done.interrupted else []
        invalid = [*unfit, *useless, *stopped, *([one.error.message] if one.error else [])]
        row |= {
            "noise": _noise(one, steady, steal_percent),
            "valid": not invalid,
            "invalid": invalid,
            "sustained": None,
        }
        row["ratios"] = []
        if done.together and one in good[1:]:
            found = ratio_between(one, good[0])
            row["ratios"].append(
                {
                    "to": good[0].case.label,
                    "ratio": round_figures(found.middle),
                    "interval": found.to_json(),
                    "pairs": sum(len(process.slices) for process in one.processes),
                }
            )
        rows.append(row)
    return rows


def _figures(processes: Sequence[Process], steady: Settled, done: Measured) -> Row:
    names = ("latency_ms", "warm_up", "cold_ms", "load_ms", "throughput", "task", "memory", "pace_ms")
    if not processes:
        return dict.fromkeys(names)
    latency = interval(steady.latencies_ms)
    first = median(one.first_ms for one in processes)
    return {
        "latency_ms": _latency(processes, steady, latency),
        "warm_up": {"n": round(median(one.warm_up["n"] for one in processes)), "first_ms": round_figures(first)},
        "cold_ms": _between([one.cold_ms for one in processes]),
        "load_ms": _between([one.load_ms for one in processes]),
        "throughput": _throughput(processes, latency, done.full_pace_ms),
        "task": _task(processes, done),
        "memory": _memory(processes),
        "pace_ms": {
            "p50": round_figures(median(steady.paces_ms)),
            "processes": [round_figures(one) for one in steady.paces_ms],
        },
    }


def _latency(processes: Sequence[Process], steady: Settled, found: Interval) -> Row:
    import numpy as np

    every = np.sort(np.concatenate([one for process in processes for one in process.latencies]))
    ordered = every.tolist()
    quantiles = [round_figures(quantile(ordered, share / 100), 5) for share in range(101)]
    return {
        "min": quantiles[0],
        "p50": round_figures(found.middle),
        "p90": quantiles[90],
        "p99": quantiles[99],
        "mean": round_figures(float(every.mean())),
        "spread": round_figures(spread(ordered), 3),
        "n": sum(one.inferences for one in processes),
        "interval": found.to_json(),
        "processes": [round_figures(one) for one in steady.latencies_ms],
        "quantiles": quantiles,
    }


def _between(values: Sequence[float]) -> Row:
    found = interval(values)
    processes = [round_figures(one) for one in values]
    return {"p50": round_figures(found.middle), "interval": found.to_json(), "processes": processes}


def _throughput(processes: Sequence[Process], latency: Interval, full_pace_ms: float) -> list[Row]:
    rows = [
        {"batch": 1, "items_per_s": round_figures(1e3 / latency.middle), "ms_per_item": round_figures(latency.middle)}
    ]
    for batch in sorted({size for one in processes for size in one.batches}):
        each = batch_ms(processes, batch, full_pace_ms) / batch
        rows.append({"batch": batch, "items_per_s": round_figures(1e3 / each), "ms_per_item": round_figures(each)})
    return rows


def _task(processes: Sequence[Process], done: Measured) -> Row | None:
    tasks = [one.task for one in processes if one.task]
    if not tasks or not done.protocol.item:
        return None
    latency = median(one["latency_ms"] for one in tasks)
    feeds = tasks[0]["feeds"]
    return {
        "item": done.protocol.item.name,
        "feeds": feeds,
        "items_per_s": round_figures(1e3 / latency),
        "feeds_per_s": round_figures(1e3 * feeds / latency),
        "latency_ms": round_figures(latency),
        "parts_ms": {key: round_figures(median(one["parts_ms"][key] for one in tasks)) for key in tasks[0]["parts_ms"]},
    }


def _memory(processes: Sequence[Process]) -> Row:
    def middle(values: list[int | None]) -> int | None:
        known = [one for one in values if one]
        return round(median(known)) if known else None

    trace = processes[0].trace
    step = max(1, len(trace) // _TRACE_POINTS)
    return {
        "peak_bytes": middle([one.memory["peak_bytes"] for one in processes]),
        "loaded_bytes": middle([one.loaded_bytes for one in processes]),
        "pss_bytes": middle([one.memory["pss_bytes"] for one in processes]),
        "task_peak_bytes": middle([one.task["peak_bytes"] for one in processes if one.task]),
        "over_time": [[round(seconds, 3), resident] for seconds, resident in trace[::step]],
    }


def _noise(one: Gathered, steady: Settled, steal_percent: float | None) -> Row:
    if len(steady.latencies_ms) < 2:
        return {"level": "very noisy", "spread": None, "why": ["fewer than two processes: nothing says how sure it is"]}
    found = 1.96 * deviation([math.log(latency) for latency in steady.latencies_ms])
    level = "quiet" if found <= QUIET else "noisy" if found <= NOISY else "very noisy"
    why = [f"the processes differ by {100 * found:.0f} %"] if level != "quiet" else []
    if steady.dropped:
        processes = len(steady.latencies_ms) + steady.dropped
        why.append(f"{steady.dropped} of {processes} processes never saw the machine's full pace and were left out")
    every = median(chunk[0] for process in one.processes for chunk in process.chunks)
    if every > 1.1 * (p50 := median(steady.latencies_ms)):
        level = "noisy" if level == "quiet" else level
        why.append(f"half of all inferences took {every / p50:.2f} times the p50 and more, which is of the full pace")
    if max(steady.paces_ms) > 1.1 * min(steady.paces_ms):
        slowest = 100 * (max(steady.paces_ms) / min(steady.paces_ms) - 1)
        why.append(f"the machine's own pace varied by {slowest:.0f} %")
    if steal_percent is not None and steal_percent > 1:
        why.append(f"a hypervisor took {steal_percent:.0f} % of the CPU's time")
    return {"level": level, "spread": round_figures(found, 3), "why": why}


def _energy(processes: Sequence[Process], done: Measured, battery_mah: int | None) -> tuple[Row | None, list[str]]:
    """`energy` of a row, and why it must not be used."""
    gross = [energy for process in processes for energy in process.energies]
    if not gross or not done.idle:
        return None, []
    from edge_runtime.power import MODELLED, battery_hours, items_per_percent, joules_per_item, net, total

    # a stated power is the same at work and at rest: above idle it would say that work costs nothing
    idle = None if gross[0].basis == MODELLED else done.idle
    whole = total(gross)
    count = sum(process.inferences for process in processes)
    above = joules_per_item(net(whole, idle) if idle else whole, count)
    spent = [process.task_energy for process in processes if process.task_energy]
    tasks = [(net(energy, idle) if idle else energy).joules for energy in spent]
    task_j = median(tasks) if tasks else None
    # the battery pays for idling, too
    item_j = median(energy.joules for energy in spent) if spent else whole.joules / count
    doubt = above.uncertainty_j
    row: Row = {
        "basis": whole.basis,
        "about": "; ".join([whole.about, *above.notes]),
        "idle_w": round_figures(idle.watts) if idle else None,
        "active_w": round_figures(whole.mean_w),
        "gross_mj": round_figures(1e3 * joules_per_item(whole, count).joules),
        "net_mj": round_figures(1e3 * above.joules),
        "uncertainty_mj": None if doubt is None else round_figures(1e3 * doubt),
        "task_mj": None if task_j is None else round_figures(1e3 * task_j),
        "items_per_battery_percent": None,
        "battery_hours": None,
    }
    if battery_mah and item_j > 0:
        row["items_per_battery_percent"] = round_figures(items_per_percent(item_j, battery_mah), 3)
        row["battery_hours"] = round_figures(battery_hours(whole.mean_w, done.idle.watts, 1.0, battery_mah), 3)
    return row, [] if above.valid else [f"energy: {note}" for note in above.notes or ("it must not be used",)]


def unfit_circumstances(before: State, after: State) -> list[str]:
    """Why figures taken between these two states must not be used."""
    why = []
    now = set(after.throttled or ()) - {word for word in before.throttled or () if word.endswith("since boot")}
    if now:
        why.append(f"throttled: {', '.join(sorted(now))}")
    return why


def commit() -> str | None:
    """The commit of the checkout that this package runs from, read from its files; None for an installed package."""
    git = Path(__file__).resolve().parents[2] / ".git"
    with contextlib.suppress(OSError):
        if git.is_file():  # a work tree beside the repository: its branch may be packed away there
            git = Path(git.read_text().strip().removeprefix("gitdir: "))
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        with contextlib.suppress(OSError):
            return (git / name).read_text().strip()
        packed = (git / "packed-refs").read_text().splitlines()
        return next((line.split()[0] for line in packed if line.endswith(f" {name}")), None)
    return None
