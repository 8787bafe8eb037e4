"""What a search for a device says of itself: on paper, in the terminal and in the report."""

from __future__ import annotations

import re

import pytest

from edge_runtime.bench.plots import Spot, axis, plane
from edge_runtime.budget import ESTIMATED, Cost, objections
from edge_runtime.compress.candidates import FAMILIES
from edge_runtime.compress.paper import Facts, Place
from edge_runtime.compress.recipe import read_recipe
from edge_runtime.compress.search_words import doubts, latency, techniques, written
from edge_runtime.profile import Budget, load_profile

WEIGHTS = 10_000


def least(*passes: dict[str, object], coded: bool = False) -> Cost:
    place = Place(load_profile("raspberry-pi-zero-2w"), "onnxruntime", None)
    recipe = read_recipe({"name": "r", "passes": list(passes)}, "r.json")
    return place.least(recipe, coded, Cost(1 << 26, 4 * WEIGHTS, None, None, ESTIMATED, ""), Facts(WEIGHTS, None))


@pytest.mark.parametrize(("weights", "bits"), [("int8", 8), ("int4", 4), ("ternary", 2)])
@pytest.mark.torch
def test_a_bound_on_paper_knows_the_bits_that_training_ends_with(weights, bits):
    pytest.importorskip("torch")
    assert least({"pass": "quantize_aware", "weights": weights}).storage_bytes == WEIGHTS * bits // 8


def test_no_technique_that_is_tried_is_bounded_by_more_than_its_bits():
    """A pass that stores fewer bits, behind one that leaves their number, is bounded by these; no pass is unknown."""
    share = {"pass": "share_weights", "bits": 4}
    assert least(share).storage_bytes == 4 * WEIGHTS
    assert least(share, {"pass": "weights_int", "bits": 4, "block": 32}).storage_bytes == WEIGHTS // 2
    assert least(share, {"pass": "static_w8a8"}).storage_bytes == WEIGHTS
    assert least({"pass": "prune_channels", "macs": 0.5}).storage_bytes == 0


def test_a_refusal_on_paper_says_that_its_figure_is_a_bound():
    (said,) = objections(least({"pass": "weights_int", "bits": 8}), Budget(1 << 30, 5 << 10))
    assert "needs 9.77 KiB (at least), the device allows" in said


# ---------------------------------------------------------------- the page and the terminal


def test_what_is_chosen_is_seen_whether_or_not_it_is_on_the_front():
    spots = [Spot(n, float(n), float(n), 0, n == 1, f"spot {n}") for n in range(1, 19)]
    spots[8] = Spot(9, 9.0, 9.0, 2, False, "the one chosen", chosen=True)
    axes = [axis([float(n) for n in range(1, 19)], str) for _ in range(2)]
    drawn = plane(spots, *axes, ("stored", "drop"))
    (group,) = re.findall(r'<g class="([^"]*)"><title>the one chosen</title>(.*?)</g>', drawn)
    assert group[0] == "spot" and 'class="ring"' in group[1] and 'class="c2"' in group[1] and ">9</text>" in group[1]
    assert drawn.count('class="ring"') == 1 and "chosen: 9" in drawn and ">8</text>" not in drawn


def test_an_axis_says_no_figure_twice():
    def form(value: float) -> str:
        return f"{value:.1f} MiB"

    narrow = axis([36.30, 36.34], form, zero=False)
    drawn = plane([Spot(1, 36.3, 0, 0, True, "a")], narrow, axis([0.0, 1.0], str), ("memory", "drop"))
    assert len(narrow.ticks()) > 2 and drawn.count(">36.3 MiB<") == 1


def test_a_line_of_the_terminal_says_what_was_asked_for_and_what_was_done():
    row = {"recipe": "share5_coded", "engine": "litert"}
    point = {"name": "share5_coded", "engine": "litert", "drop": 0.3, "ram_bytes": 53 << 20}
    sure = {"name": "share5_coded", "engine": "litert", "drop": 0.3, "interval": [0.05, 0.62]}
    fresh = sure | {"drop": 0.76, "interval": [0.4, 1.1]}
    certain = {"judged": {"rows": [sure]}, "test": {"name": "fresh.npz", "rows": [fresh]}}
    passes = [{"pass": "share_weights", "bits": 5}, {"pass": "code"}]
    report = {"search": {"points": [point], "max_drop": 0.5, "certainty": certain, "device": "tablet"}}
    report["recipes"] = [{"name": "share5_coded", "passes": passes}]
    assert written(report, row) == [
        "drop 0.30 of 0.5 points (95 %: 0.05 to 0.62), on fresh.npz 0.76 (95 %: 0.40 to 1.10), 53 MiB RAM "
        "(estimated), weights share 32 values, entropy-coded, on litert"
    ]
    assert written(report, {"recipe": "original", "engine": "litert"}) == []


def test_a_latency_measured_here_is_not_the_devices_and_is_said_not_to_be():
    point = {"name": "w8", "engine": "litert", "drop": 0.0, "ram_bytes": 53 << 20, "latency_ms": 0.5, "chosen": True}
    here = point | {"measured_here": "x86_64"}
    report = {"search": {"points": [here], "max_drop": 0.5, "device": "tablet"}, "recipes": []}
    (said,) = written(report, {"recipe": "w8", "engine": "litert"})
    assert "53 MiB RAM (estimated), 0.5 ms (measured here on x86_64, not on tablet)" in said
    assert latency(point, "tablet") == "0.5 ms (estimated)"
    sure = {"judged": {"items": 9, "one_item": 11.1}, "candidates": 2, "test": None, "warnings": []}
    plain = {"certainty": sure, "device": "tablet", "budget": {"latency_ms": 1.0}}
    (warned,) = doubts(plain | {"points": [here]})[1:]
    assert warned.startswith("mind: the 1 ms allowed are kept on this machine (x86_64): how long it takes on tablet")
    assert not doubts(plain | {"points": [point]})[1:]
    assert not doubts(plain | {"points": [here], "budget": {"latency_ms": None}})[1:]


def test_every_technique_that_is_tried_has_words():
    for family in FAMILIES:
        for _, settings in family.ladder:
            recipe = read_recipe({"name": "r", "passes": [{"pass": family.technique} | dict(settings)]}, "r.json")
            words = techniques(recipe.to_json()["passes"])
            assert words and words != family.technique.replace("_", " ") and "_" not in words
