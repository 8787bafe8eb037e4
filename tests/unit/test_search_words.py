"""What a search for a device says of itself: on paper, in the terminal and in the report."""

from __future__ import annotations

import pytest

from edge_runtime.budget import ESTIMATED, Cost, objections
from edge_runtime.compress.paper import Facts, Place
from edge_runtime.compress.recipe import read_recipe
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
