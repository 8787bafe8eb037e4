"""A row of a benchmark: one configuration, measured, with all that repeats it. Plain JSON, one object a line.

Schema 1. Later versions may add fields; they keep these and their meaning. A field that was not measured is null.

    schema        1
    label         "int8 on onnxruntime, 1 thread": unique in a run, what tables and plots call it
    when          UTC, ISO 8601, seconds
    tool          {"edge_runtime": version, "commit": of the checkout or null, "python": "3.11.7"}
    subject       {"path", "bundle": "malaria 1.0.0" or null, "digest": of the bundle or file, "variant": or null,
                   "format": "onnx", "model_sha256", "model_bytes", "bundle_bytes": or null}
    engine        {"name", "version", "threads"}
    device        the profile's name whose memory limit was held; null where there was none
    machine       {"id", "title", "soc", "arch", "cores": [[part, count, mhz]], "features", "ram_bytes",
                   "allowed_cores", "kernel"}; "id" is a digest of the others but kernel and allowed_cores
    circumstances {"before": State, "after": State, "steal_percent": of the CPU's time taken by a hypervisor or null}
                  State (sensors.py) = {"governor", "mhz": [a core each], "temperature_c", "throttled": [words],
                   "charging": bool, "battery_percent", "load_1min"}, null where the system does not tell
    protocol      {"form": "quick" | "official" | "sustained", "rounds", "window_s", "windows": a round, "slice_s",
                   "together_with": [labels measured in turn with this one], "batches", "shapes": free sizes by input,
                   "cpus": [cores that could be used] or null, "seed"}
    latency_ms    of one inference at batch 1 in a warm process, as this package's engine layer gives it:
                  {"min", "p50", "p90", "p99", "mean", "spread": (p75 - p25) / p50, "n", "interval": [low, high] of p50
                   (95 %, between processes), "processes": [p50 of each process], "quantiles": 101 numbers, p0 to p100}.
                  p50 and its interval are of the processes at the machine's full pace (run.settled); all the other
                  figures are of every inference, the disturbed ones too
    warm_up       {"n": inferences until it settled (median of the processes), "first_ms": the first one's}
    cold_ms       from the start of a process to its first answer: {"p50", "interval", "processes": []}
    load_ms       of that, loading the model: the same fields
    throughput    [{"batch", "items_per_s", "ms_per_item"}]
    task          null for a bare model file, else one item of the whole task: {"item", "feeds", "items_per_s",
                   "feeds_per_s", "latency_ms", "parts_ms": {"decode": waited for, "preprocess", "infer", "decide"}}
    memory        {"peak_bytes": VmHWM of the process after inference, "loaded_bytes": resident when loaded,
                   "pss_bytes": or null, "task_peak_bytes": VmHWM after the task or null, "over_time": [[s, bytes]]}
    energy        null without a meter, else {"basis": "measured:SENSOR" | "modelled", "about": words,
                   "idle_w": null where modelled, "active_w", "gross_mj": an inference, "net_mj": idle subtracted
                   (modelled: not), "uncertainty_mj": of net, "task_mj": a whole item, net, or null,
                   "items_per_battery_percent": gross, "battery_hours": at work all the time; null without a battery}
    sustained     null, else {"points": [{"s", "p50_ms", "p99_ms", "mhz", "temperature_c", "throttled", "charging",
                   "active_w"}], "first_ms", "last_ms", "slower": last / first, "slowed_at_s": or null, "why": words}
    pace_ms       a fixed piece of arithmetic, timed between the windows: the machine's own pace, by which rows of
                  different runs are compared; {"p50", "processes": []}
    noise         {"level": "quiet" | "noisy" | "very noisy", "spread": of the processes, relative, "why": [words]}
    error         null, or why the case ended early
    valid         false where the figures must not be used; "invalid": [why]
    ratios        [{"to": label, "ratio": this / that, "interval": [low, high], "pairs"}], of latency, paired in one run
"""

from __future__ import annotations

from typing import Any

SCHEMA = 1
Row = dict[str, Any]
