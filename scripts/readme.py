"""Write the generated parts of README.md from recorded runs, or check that they are as they should be.

    python scripts/readme.py [--check]

Parts stand between <!-- NAME --> and <!-- end NAME -->. Their sources are recorded runs under models/ and
device_profiles/; the function of a part names them, and its file the command that made it.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
import textwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from edge_runtime.bundle import load_bundle  # noqa: E402
from edge_runtime.planner import plan  # noqa: E402
from edge_runtime.profile import list_profiles  # noqa: E402
from edge_runtime.units import format_bytes  # noqa: E402
from scripts.peers.table import show  # noqa: E402
from scripts.search_table import searched  # noqa: E402

MODEL = ROOT / "models" / "malaria"
HOSTILE = ROOT / "models" / "hostile.jsonl"
PEERS = ROOT / "models" / "peers.jsonl"


def share(values: list[float], digits: int = 1) -> str:
    """A share with its interval, in per cent."""
    middle, low, high = (f"{100 * value:.{digits}f}" for value in values)
    return f"{middle} % ({low} to {high})"


def figures() -> str:
    metrics: dict[str, Any] = json.loads((MODEL / "metrics.json").read_text())
    bundle = load_bundle(MODEL / "malaria.edge")
    test = metrics["variants"]["int8_onnx"]["test"]
    slides = metrics["test_slides"]["without_suspects"]
    gate = metrics["gate"]
    false = test["false_positives_per_5000_healthy"]
    sizes = {one.name: format_bytes(one.file.size) for one in bundle.variants}
    refused, people = gate["test_people_refused"]
    cameras = " and ".join(f"{one['batches']} of {name}" for name, one in gate["other_cameras"].items())
    all_refused = min(one["refused"] for one in gate["other_cameras"].values())
    rows = [
        ("cells of unseen patients, 8 bit: accuracy, all labels", share(test["accuracy"])),
        ("the same without doubtful labels", share(test["accuracy_without_suspects"])),
        ("false positives per 5,000 cells of healthy people, at 90 % sensitivity (set on val)", spread(false)),
        (
            "limit of detection, 95 % / 95 %, infected per 1,000 cells, simulated slides of 1,000 / 5,000 cells",
            f"{slides['1000']['limit_shipped']:.1f} / {slides['5000']['limit_shipped']:.1f}",
        ),
        (
            "simulated slides of a left-out healthy person called infected, 1,000 / 5,000 cells",
            " / ".join(f"{100 * metrics['leave_one_out'][cells]:.1f} %" for cells in ("1000", "5000")),
        ),
        (f"batches from other cameras refused ({cameras})", f"{100 * all_refused:.0f} %"),
        ("unseen patients refused by the gate (goal: at most 10 %)", f"{refused} of {people}"),
        ("8 bit against float: cells labelled alike; ONNX against TFLite", alike(metrics)),
        ("model files: " + ", ".join(sizes), ", ".join(sizes.values())),
    ]
    text = ["| on the test split, reported once; intervals by resampling patients | |", "| --- | --- |"]
    text += [f"| {what} | {value} |" for what, value in rows]
    return "\n".join([*text, "", *costs(bundle), "", *bench()])


def spread(values: list[float]) -> str:
    middle, low, high = values
    return f"{middle:.0f} ({low:.0f} to {high:.0f})"


def alike(metrics: dict[str, Any]) -> str:
    variants = metrics["variants"]
    pair = variants["int8_onnx"]["same_label_as_fp32_onnx"], variants["int8_tflite"]["same_label_as_int8_onnx"]
    return "; ".join(f"{100 * value:.2f} %" for value in pair)


def costs(bundle: Any) -> list[str]:
    arches = sorted({key.split("/")[1] for one in bundle.variants for key in one.costs})
    text = [f"| peak memory of the model's process | {' | '.join(arches)} |", "| --- |" + " ---: |" * len(arches)]
    for one in bundle.variants:
        for engine in sorted({key.split("/")[0] for key in one.costs}):
            found = [one.costs.get(f"{engine}/{arch}") for arch in arches]
            cells = [format_bytes(cost.ram_bytes) if cost else "no wheel" for cost in found]
            text.append(f"| {one.name} on {engine} | {' | '.join(cells)} |")
    places = {
        key.split("/")[1]: cost.where.partition(";")[0] for one in bundle.variants for key, cost in one.costs.items()
    }
    return [*text, "", "Each " + "; ".join(f"{where} ({arch})" for arch, where in sorted(places.items())) + "."]


def bench() -> list[str]:
    text = [
        "| `run` against a bare script, one core (goals: 1.10, 10 MiB) | cells | time, ratio | bare / child / parent |"
    ]
    text.append("| --- | ---: | ---: | ---: |")
    for line in (MODEL / "bench.jsonl").read_text().splitlines():
        one = json.loads(line)
        if "kind" in one:
            continue
        low, high = one["ratio_range"]
        peaks = [f"{one[key]:.0f}" for key in ("plain_peak_mib", "run_child_peak_mib", "run_parent_peak_mib")]
        ratio = f"{one['ratio_median']:.2f} ({low:.2f} to {high:.2f})"
        text.append(f"| {one['variant']} | {one['cells']:,} | {ratio} | {' / '.join(peaks)} MiB |")
    return text


def prediction() -> str:
    """The last run of scripts/check_prediction."""
    rows = [json.loads(line) for line in (ROOT / "models" / "prediction.jsonl").read_text().splitlines()]
    last = [row for row in rows if row["when"] == rows[-1]["when"]]
    errors = [abs(row["ratio"] - 1) for row in last]
    within = sum(error <= 0.25 for error in errors)
    machine = f"an {last[0]['arch'].replace('_', '-')} machine"
    text = (
        f"On {machine} that others used too, {len(last)} networks that the calibration had never seen, one thread, "
        f"processor time of the least disturbed tenth: predicted against "
        f"measured latency differs by {100 * statistics.median(errors):.0f} % in the median; {within} are within "
        f"25 %, the worst is off by {100 * max(errors):.0f} %."
    )
    return "\n".join(textwrap.wrap(text, 118))


def memory() -> str:
    """The last runs of scripts/check_memory and scripts/check_drift, by engine."""
    engines = ("onnxruntime", "litert")
    rows, drifts = lines("memory.jsonl"), lines("drift.jsonl")
    by_engine = [[row for row in rows if row["engine"] == engine] for engine in engines]
    sized = [[row for row in some if "by_size_bytes" in row] for some in by_engine]

    def errors(values: list[float]) -> str:
        return f"{100 * statistics.median(values):.1f} %, {100 * max(values):.1f} % ({len(values)} models)"

    cells = {
        f"predicted peak against measured, {rows[0]['arch']}: median error, worst (goal: 10 %)": [
            errors([abs(row["error"]) for row in some]) for some in by_engine
        ],
        "the same from the size of the file alone": [
            errors([abs(row["by_size_bytes"] / row["measured_bytes"] - 1) for row in some]) for some in sized
        ],
    }
    arm = [row for row in lines("arm.jsonl") if row["what"] == "predicted memory"]
    for arch in sorted({row["userland"] for row in arm}):
        own = [row for row in arm if row["userland"] == arch]
        some = [[abs(row["error"]) for row in own if row["engine"] == one] for one in engines]
        cells[f"the first row on an emulated {arch} machine"] = [errors(one) if one else "" for one in some]
    for kind in ("inferences", "slides"):
        last = {(row["engine"], row["process"]): row for row in drifts if row["kind"] == kind}
        count = max(row["count"] for row in last.values())
        what = f"resident after {count:,} {kind} against after the first tenth: child, parent (goal: below +1 %)"
        cells[what] = [
            ", ".join(f"{100 * last[engine, who]['drift']:+.2f} %" for who in ("child", "parent")) for engine in engines
        ]
    text = [f"| memory | {' | '.join(engines)} |", "| --- | ---: | ---: |"]
    return "\n".join([*text, *(f"| {what} | {' | '.join(found)} |" for what, found in cells.items())])


def devices() -> str:
    bundle = load_bundle(MODEL / "malaria.edge")
    shown = ("lg-g-pad-7.0", "samsung-galaxy-tab-e-9.6", "samsung-galaxy-tab-a-8.0-2019", "raspberry-pi-zero-2w")
    shown += ("raspberry-pi-3b-plus", "raspberry-pi-4b", "raspberry-pi-5")
    profiles = {one.name: one for one in list_profiles()}
    text = ["| `--device` | userland | a model may use | the malaria reader there |", "| --- | --- | ---: | --- |"]
    for name in shown:
        one = profiles[name]
        choice = plan(bundle, one).choice
        said = f"{choice.variant} on {choice.engine}" if choice else "does not fit"
        text.append(f"| {name} | {one.arch} | {format_bytes(one.budget.ram_bytes)} | {said} |")
    return "\n".join([*text, "", f"and {len(profiles) - len(shown)} more."])


def lines(name: str) -> list[dict[str, Any]]:
    """None where nothing is recorded yet."""
    path = ROOT / "models" / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def trust() -> str:
    """What the instrument, the choice and this package's own layer were found to be worth."""
    own = lines("bench_self.jsonl")[-1]
    runs, repeats, slower = own["runs"], own["repeats"], f"{100 * (own['slower_measured'] - 1):.1f} %"
    rows = [
        (
            "a thing against itself in one run: the interval of the ratio holds 1 (goal: 90 of 100)",
            f"{own['paired_itself']} of {runs}",
        ),
        (f"made {slower} slower: found, in one run (goal: 90 of 100)", f"{own['paired_slower_found']} of {runs}"),
        (
            "a run compared with the one before (`--compare`): no change seen (goal: 90 of 100)",
            f'{own["repeated_itself"]} of {repeats}, {own["repeated_cannot_be_told"]} of them "cannot be told"',
        ),
        (f"made {slower} slower: found by `--compare`, without pairs", f"{own['repeated_slower_found']} of {repeats}"),
    ]
    cases = [row for row in lines("choice.jsonl") if "over" in row]
    for basis, words in (
        ("time", "this x86-64 machine"),
        ("instructions", "emulated Cortex-A53, -A72, -A76, by instructions"),
    ):
        mine = [row["over"] for row in cases if row["basis"].startswith(basis)]
        if mine:
            close = sum(over is not None and over <= 1.05 for over in mine)
            worst = max(over or 9.0 for over in mine)
            about = f"{close} of {len(mine)}, worst {100 * (worst - 1):.1f} % over"
            rows.append((f"the choice by measurement within 5 % of the exhaustive best, {words}", about))
            by_rule = [row["default_over"] for row in cases if row["basis"].startswith(basis)]
            close = sum(over is not None and over <= 1.05 for over in by_rule)
            about = f"{close} of {len(by_rule)}, worst {max(over or 9.0 for over in by_rule):.1f} times"
            rows.append(("the same of the choice by rule, without measuring", about))
    for row in lines("overhead.jsonl"):
        latency, cold = row["latency"], row["cold"]
        layer, start = spread_ratio(latency["layer"]), spread_ratio(cold["ratio"])
        extra = cold["ours_mib"] - cold["bare_mib"]
        what = f"our layer over bare {row['engine']}: a latency of {latency['bare_ms']:.2g} ms; cold start; memory "
        what += "(goals: 1.02, 1.05, 5 MiB)"
        rows.append((what, f"{layer}; {start}; {extra:+.1f} MiB"))
        what = f"the same through the guard, {latency['input_bytes'] / 1e3:.0f} kB of input to a child process and back"
        rows.append((what, spread_ratio(latency["guard"])))
    text = ["| is it to be trusted? measured here | |", "| --- | ---: |"]
    return "\n".join([*text, *(f"| {what} | {value} |" for what, value in rows)])


def spread_ratio(values: list[float]) -> str:
    middle, low, high = values
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def compression() -> str:
    """The last run of scripts/compress_models.py for each example model, both engines in one line; beside static int8,
    what the makers of the engines reach (scripts/compress_peers.py)."""
    text = [
        "| model, recipe | smaller | accuracy | change, sd | decisions kept | engines alike | time: ORT, LiteRT |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for path in sorted((ROOT / "models").glob("*/bench.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        pairs: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            if row.get("kind") == "compress":
                pairs.setdefault(row["recipe"], []).append(row)
        for recipe, pair in pairs.items():
            pair.sort(key=lambda row: row["engine"], reverse=True)
            text.append(_compressed(path.parent.name, recipe, pair))
    return "\n".join(text)


def taught_bits() -> str:
    """The rows of models/malaria/learn_bits.py, both engines in one line."""
    pairs: dict[str, dict[str, dict[str, Any]]] = {}
    for line in (MODEL / "bench.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row.get("kind") == "learn" and "learn_bits.py" in row.get("command", ""):
            pairs.setdefault(row["step"], {})[row["engine"]] = row
    text = [
        "| step | not 0 | stored: ONNX, TFLite | accuracy: ORT, LiteRT | without doubtful labels | false alarms |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]

    def both(pair: dict[str, dict[str, Any]], key: str, by: float, digits: int, unit: str) -> str:
        shown = [f"{by * pair[engine]['scores'][key]:.{digits}f}{unit}" for engine in ("onnxruntime", "litert")]
        return ", ".join(dict.fromkeys(shown))

    for step, pair in pairs.items():
        sizes = ", ".join(f"{pair[engine]['stored_bytes']:,}" for engine in ("onnxruntime", "litert"))
        cells = [
            f"{pair['onnxruntime']['parameters'] - pair['onnxruntime']['zeros']:,}",
            sizes,
            both(pair, "accuracy", 100, 2, " %"),
            both(pair, "accuracy_without_suspects", 100, 2, " %"),
            both(pair, "false_positives_per_5000_healthy", 1, 1, ""),
        ]
        text.append(f"| {step} | {' | '.join(cells)} |")
    return "\n".join(text)


def _compressed(model: str, recipe: str, pair: list[dict[str, Any]]) -> str:
    smaller = ", ".join(f"x{row['given_bytes'] / row['stored_bytes']:.1f}" for row in pair)
    first = pair[0]
    key = "f1" if model.startswith("minilm") else "accuracy"
    scores = [f"{100 * row['scores'][key]:.2f} %" for row in pair if row["scores"]]
    same = scores[:1] if len(set(scores)) == 1 else scores
    times = ", ".join(f"x{row['speed']['ratio']:.2f}" if row["speed"] and row["speed"]["ratio"] else "" for row in pair)
    kept = min(row["drift"]["agreement"] for row in pair)
    change = max(row["drift"]["mean"] for row in pair)
    alike = f"{100 * first['sibling']['agreement']:.2f} %" if first.get("sibling") else ""
    if recipe == "original":
        smaller, size = "", format_bytes(first["given_bytes"])
        return f"| **{model}**, {size}, float | | {', '.join(same)}{' F1' if key == 'f1' else ''} | | | {alike} | |"
    cells = [smaller, ", ".join(same), f"{change:.4f}", f"{100 * kept:.2f} %", alike, times]
    return f"| {recipe} | {' | '.join(cells)} |"


def searches() -> str:
    """What scripts/measure_search.py found: what was chosen on val, judged on test once."""
    text = [
        "| model, device | candidates, made in | in the bundle | stored: ORT, LiteRT | memory, predicted | points lost "
        "| on test |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in lines("search.jsonl"):
        about = f"**{row['model']}**, {format_bytes(row['given_bytes'])}, {row['device']}"
        every = ", all" if row["ended"].startswith("nothing") else ""
        walk = f"{row['judged']}, {row['seconds_of_candidates']:.0f} s{every}"
        test = {one["variant"]: one for one in row.get("test", [])}
        if "original" in test:
            text.append(f"| {about} | | unchanged | | | | {_tested(test['original'])} |")
            about = ""
        for name in dict.fromkeys(one["name"] for one in row["chosen"]):
            pair = sorted((one for one in row["chosen"] if one["name"] == name), key=lambda one: one["engine"])[::-1]
            stored = ", ".join(format_bytes(one["stored_bytes"]) for one in pair)
            memory = ", ".join(format_bytes(one["ram_bytes"]) for one in pair)
            drop = max(one["drop"] for one in pair)
            found = test.get(name) or test.get(f"{name}-lite")
            text.append(
                f"| {about} | {walk} | {name} | {stored} | {memory} | {drop:.2f} | {_tested(found) if found else ''} |"
            )
            about = walk = ""
    return "\n".join(text)


def _tested(found: dict[str, Any]) -> str:
    if slide := found.get("slide"):
        words = f"{100 * slide['accuracy_at_0']:.2f} %; {slide['false_positives']} of {slide['healthy_cells']} healthy"
        return f"{words}; finds {1000 * slide['detectable']['5000']:.1f} of 1,000"
    rare = found["scores"]["f1"] < found["scores"]["accuracy"] - 0.1
    return f"{100 * found['scores']['f1']:.1f} % F1" if rare else f"{100 * found['scores']['accuracy']:.2f} %"


def orders() -> str:
    """What scripts/measure_orders.py recorded, both orders in one line; not pairs that have only one order."""
    text = [
        "| model | order | bytes | points lost | change, sd | the other order | bytes | points lost | change, sd |",
        "| --- | --- | ---: | ---: | ---: | --- | ---: | ---: | ---: |",
    ]
    rows = sorted(lines("orders.jsonl"), key=lambda row: str(row["model"]))
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        if "forbidden" not in first and "forbidden" not in second:
            text.append(f"| {first['model']} | {_ordered(first)} | {_ordered(second)} |")
    return "\n".join(text)


def _ordered(row: dict[str, Any]) -> str:
    name = " → ".join(one["pass"] for one in row["steps"])
    if "engines" not in row:
        return f"{name} | refused | | "
    one = row["engines"]["onnxruntime"]
    return f"{name} | {one['stored_bytes']:,} | {one['drop_points']:.2f} | {one['change_sd']:.3f}"


def peers() -> str:
    return show([json.loads(line) for line in PEERS.read_text().splitlines()])


def hostile() -> str:
    """What scripts/hostile SEEDS models/hostile.jsonl recorded."""
    rows = [json.loads(line) for line in HOSTILE.read_text().splitlines()]
    ends = [key for key in rows[0] if key != "kind"]
    rows.append({"kind": "**all**", **{end: sum(row[end] for row in rows) for end in ends}})
    lines = [f"| files | {' | '.join(ends)} |", f"| --- |{' ---: |' * len(ends)}"]
    lines += [f"| {row['kind']} | {' | '.join(f'{row[end]:,}' for end in ends)} |" for row in rows]
    return "\n".join(lines)


def arm() -> str:
    """What scripts/arm/test --long -o models/arm.jsonl recorded."""
    found = lines("arm.jsonl")
    made = ["| on emulated ARM | |", "| --- | ---: |"]
    for one in found:
        if one["what"] == "memory":
            peak, group = one["peak_ram_bytes"] / 2**20, one["group_peak_bytes"]
            said = f"{peak:.1f} MiB" + (f" / {group / 2**20:.1f} MiB" if group else "")
            made.append(f"| peak memory of the model's process / of all, {one['choice']}, {one['userland']} | {said} |")
        elif one["what"] == "instructions":
            about = f"instructions a cell, {one['variant']} on {one['engine']}, {one['core']}"
            made.append(f"| {about} | {one['least_per_cell']:,} |")
        elif one["what"] == "power cuts":
            control = one["control"]
            made.append(
                f"| power cuts after which anything acknowledged was lost, or a slide counted twice or never "
                f"({one['slides']} slides; {one['lossy_cuts']} cuts with unflushed writes lost or torn) | "
                f"{one['failed']} of {one['cuts']} |"
            )
            made.append(f"| the same of the control without syncs | {control['failed']} of {control['cuts']} |")
            other = one["unsynced"]
            about = "slides counted twice by the control that syncs the journal and not what was read"
            made.append(f"| {about}, after | {other['recounted']} of {other['cuts']} |")
    return "\n".join(made)


def main() -> int:
    path = ROOT / "README.md"
    before = after = path.read_text()
    for name, made in (
        ("figures", figures()),
        ("memory", memory()),
        ("devices", devices()),
        ("prediction", prediction()),
        ("trust", trust()),
        ("compression", compression()),
        ("bits", taught_bits()),
        ("searches", searches()),
        ("orders", orders()),
        ("searched", searched(lines("architectures.jsonl"))),
        ("peers", peers()),
        ("hostile", hostile()),
        ("arm", arm()),
    ):
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end {name} -->)", re.S)
        after = pattern.sub(lambda match, made=made: f"{match[1]}{made}\n{match[2]}", after)
    if "--check" in sys.argv:
        if before != after:
            print("README.md is not what the recorded runs say: run python scripts/readme.py", file=sys.stderr)
        return int(before != after)
    path.write_text(after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
