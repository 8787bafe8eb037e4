"""The rows of scripts/search_malaria.py as the README's table."""

from __future__ import annotations

import textwrap
from typing import Any

from edge_runtime.units import format_bytes


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
    for row in (one for one in rows if one["kind"] == "search_check"):
        text += ["", *textwrap.wrap(_checked(row), 120)]
    return "\n".join(text)


def _checked(row: dict[str, Any]) -> str:
    found, lost = row["found_the_best"], 100 * row["mean_regret"]
    return (
        "RAM is predicted; val leaves doubtful labels out, in float; test has all labels, in 8 bits. On a small space "
        f"of {row['architectures']} nets at {row['pixels']} pixels, all of which were tried, a search that tries "
        f"{row['judged_by_each_search']} finds the best one in {100 * found:.0f} of 100 courses and loses {lost:.2f} "
        f"points of the area under the curve on average; as many drawn at random lose "
        f"{100 * row['mean_regret_of_random']:.2f}."
    )
