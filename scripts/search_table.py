"""The rows of scripts/search_malaria.py: beside the nets that were designed by hand, and as the README's table."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from edge_runtime.compress.pareto import Objective, front
from edge_runtime.footprint import predict_by_size, task_bytes
from edge_runtime.profile import DeviceProfile
from edge_runtime.units import format_bytes

ROOT = Path(__file__).resolve().parents[1]
AGAINST = tuple(Objective(name) for name in ("stored_bytes", "ram_bytes", "parameters"))
AGAINST = (*AGAINST, Objective("val", more=True))


def against(device: DeviceProfile, recipe: str, row: dict[str, Any], hand: dict[str, Any]) -> list[dict[str, Any]]:
    """The row beside every net of the repository that was designed by hand: stored bytes, RAM, parameters, val.

    Those of models/*/ are as recorded there; the published ones' RAM follows from the file's size."""
    engine = row["engine"]
    nets = {"malaria, taught alike": (hand["val"][f"{engine} {recipe}"]["stored_bytes"], hand["ram_bytes"], hand)}
    card = json.loads((ROOT / "models" / "malaria" / "metrics.json").read_text())
    file = card["variants"]["int8_onnx" if engine == "onnxruntime" else "int8_tflite"]
    score = card["held_out"]["val"]["accuracy_without_suspects"][0]
    shipped = {"parameters": card["parameters"], "val_accuracy_without_suspects": score}
    nets["malaria, as shipped"] = (file["bytes"], hand["ram_bytes"], shipped)
    for name in ("squeezenet", "mobilenetv2", "resnet18", "vgg"):
        folder = ROOT / "models" / name
        plain = json.loads((folder / "metrics.json").read_text())[name]
        lines = [json.loads(line) for line in (folder / "bench.jsonl").read_text().splitlines()]
        least = [one for one in lines if one.get("kind") == "compress" and one["engine"] == engine]
        stored = min([one["stored_bytes"] for one in least], default=plain["file_bytes"])
        ram = predict_by_size(engine, device.arch, stored) + task_bytes("slides")
        score = plain["val"]["accuracy_without_suspects"]
        nets[name] = (stored, ram, plain | {"val_accuracy_without_suspects": score})
    mine = _point(row["val"][f"{engine} {recipe}"]["stored_bytes"], row["ram_bytes"], row)
    made = []
    for name, (size, ram, plain) in nets.items():
        point = _point(size, ram, plain)
        stands, other_stands = front([mine, point], AGAINST)
        made.append({"net": name, **point, "is_beaten": not other_stands, "beats_what_was_found": not stands})
    return made


def _point(stored_bytes: int, ram_bytes: int, about: dict[str, Any]) -> dict[str, Any]:
    accuracy = round(about["val_accuracy_without_suspects"], 5)
    return {"stored_bytes": stored_bytes, "ram_bytes": ram_bytes, "parameters": about["parameters"], "val": accuracy}


def searched(rows: list[dict[str, Any]]) -> str:
    """What was found for each device, beside the net made by hand, and the check against a search of all."""
    text = [
        "| device, core time | net | parameters | MACs | stored, coded: ORT, LiteRT | RAM | val | test: ORT, LiteRT |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in (one for one in rows if one["kind"] == "search"):
        for what in ("chosen", "hand_made"):
            one, where = row[what], f"{row['device']}, {row['seconds_from_nothing'] / 60:.0f} min"
            pair = [f"{engine} w8a8_coded" for engine in ("onnxruntime", "litert")]
            cells = [
                where if what == "chosen" else "",
                "found" if what == "chosen" else "by hand",
                f"{one['parameters']:,}",
                f"{one['macs'] / 1e6:.2f} million",
                ", ".join(f"{one['val'][key]['stored_bytes']:,}" for key in pair),
                format_bytes(one["ram_bytes"]),
                f"{100 * one['val_accuracy_without_suspects']:.2f} %",
                ", ".join(f"{100 * one['test'][key]['scores']['accuracy']:.2f} %" for key in pair),
            ]
            text.append(f"| {' | '.join(cells)} |")
    for row in (one for one in rows if one["kind"] == "search_seeds"):
        text += ["", *textwrap.wrap(_again(row, rows), 120)]
    for row in (one for one in rows if one["kind"] == "search_check"):
        text += ["", *textwrap.wrap(_checked(row), 120)]
    return "\n".join(text)


def _again(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Each net with the other seeds."""
    hand, parts = [one["hand_made"]["architecture"] for one in rows if one["kind"] == "search"], []
    for net in row["nets"]:
        name = "by hand" if net["architecture"] in hand else "found"
        shown = ", ".join(f"{100 * one['accuracy']:.2f} % (area {one['area']:.4f})" for one in net["val"])
        parts.append(f"{name}: {shown}")
    return f"Taught again with two other seeds, by which nothing was chosen, on val: {'; '.join(parts)}."


def _checked(row: dict[str, Any]) -> str:
    found, lost = row["found_the_best"], 100 * row["mean_regret"]
    return (
        "RAM is predicted; val leaves doubtful labels out, in float; test has all labels, in 8 bits. On a small space "
        f"of {row['architectures']} nets at {row['pixels']} pixels, all of which were tried, a search that tries "
        f"{row['judged_by_each_search']} finds the best one in {100 * found:.0f} of 100 courses and loses {lost:.2f} "
        f"points of the area under the curve on average; as many drawn at random lose "
        f"{100 * row['mean_regret_of_random']:.2f}."
    )
