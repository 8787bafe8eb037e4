"""Channels and weights taken away: what depends on what, that zeros go without a loss, that the rest is fitted."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.channels import Channels
from edge_runtime.compress.count import count
from edge_runtime.compress.drift import compare
from edge_runtime.compress.groups import Dependencies, find_groups
from edge_runtime.compress.layers import array_of, set_array, weighted
from edge_runtime.compress.passes.prune_channels import PruneChannels
from edge_runtime.compress.passes.prune_weights import PruneWeights, compensate
from edge_runtime.compress.passes.share_weights import ShareWeights, share
from edge_runtime.compress.recipe import read_recipe
from edge_runtime.compress.trace_layout import blocks
from edge_runtime.errors import InputError, UsageError
from tests.unit.small_nets import NETS, answer, context, items, joined, malaria, net, node, residual


def zeroed(found: Dependencies, keep: np.ndarray) -> Artifact:
    """The whole graph, what makes the units that go giving zeros."""
    model = found.artifact.model()
    for mark in found.marks:
        if mark.role != "in":
            value = model.graph.initializers[mark.value]
            array = np.moveaxis(array_of(value).copy(), mark.axis, 0)
            array[~found.kept(keep, mark.ids)] = 0
            set_array(value, np.ascontiguousarray(np.moveaxis(array, 0, mark.axis)))
    return Artifact.of(model, "onnx")


@pytest.mark.parametrize("name", NETS)
def test_channels_that_are_zero_are_cut_without_a_change(name: str):
    found = find_groups(NETS[name]())
    keep = found.everything()
    for group in found.groups:
        keep[list(group.units[1::2])] = False
    assert not keep.all()
    made = found.cut(keep)
    samples = items(made)
    assert np.allclose(answer(made, samples), answer(zeroed(found, keep), samples), atol=2e-5)
    costs, counted = found.costs(), count(made)
    assert (found.macs(keep, costs), found.parameters(keep, costs)) == (counted.macs, counted.parameters)
    assert counted.macs < count(found.artifact).macs


def test_groups_can_be_read():
    assert str(find_groups(residual())).splitlines() == [
        "group 1: 16 channels, made by p, t, read by r, y",
        "group 2: 24 channels, made by r, read by t",
        "whole: y: output 'y' of the model",
    ]


def test_heads_and_neurons_of_a_transformer_are_found_and_the_rest_stays_with_a_reason():
    found = find_groups(NETS["attention"]())
    assert [(len(one.units), one.width, one.readers) for one in found.groups] == [
        (4, 3, ("o3",)),
        (16, 1, ("h4",)),
    ]
    assert "4 units of 3 channels, made by q1, k1, v1" in str(found)
    assert found.left["o3"].startswith("Add 'h0': meets 'x'")


def test_a_branch_of_a_concatenation_goes_by_itself_and_constants_follow():
    found = find_groups(joined())
    assert [len(one.units) for one in found.groups] == [8, 16, 12]
    keep = found.everything()
    keep[list(found.groups[0].units[:4])] = False
    shapes = {one.name: one.const_value.shape for one in weighted_values(found.cut(keep))}
    assert shapes["c"] == (12, 20, 1, 1) and shapes["d"] == (108, 2)


def weighted_values(artifact: Artifact) -> list:
    return [layer.weight for layer in weighted(artifact.model())]


def test_what_is_not_understood_keeps_its_channels():
    nodes = [
        node("Conv", "x a", "p"),
        node("DepthToSpace", "p", "q", blocksize=2),
        node("Conv", "q b", "r"),
        node("Conv", "r b", "y"),  # one weight read twice: its inputs are its outputs
    ]
    found = find_groups(net(nodes, {"a": (8, 3, 1, 1), "b": (2, 2, 1, 1)}, [3, 4, 4], [2, 8, 8]))
    assert not found.groups
    assert found.left["p"] == "DepthToSpace 'q'"


def test_sizes_of_a_reshape_are_matched_axis_by_axis():
    assert blocks((1, 2, 3, 4), (6, 4)) == [([1, 2], [0]), ([3], [1])]
    channels = Channels()
    first, second = channels.fresh(3), channels.fresh(3)
    channels.join(first, second[::-1])
    channels.freeze(first[:1], "why")
    assert channels.roots().tolist() == [0, 1, 2, 2, 1, 0]
    assert channels.frozen() == {0: "why"}


@pytest.mark.parametrize("importance", ["activation", "l1", "l2"])
def test_half_of_the_multiplications_go_and_fitting_helps(importance: str):
    original = residual()
    told = context(original)
    made = PruneChannels(macs=0.5, importance=importance, multiple=4)(original, told)
    before, after = told.facts["macs"]
    assert count(made).macs == after <= before / 2
    assert told.facts["change_sd"]["fitted"] < 0.7 * told.facts["change_sd"]["cut"]
    assert all(len(array_of(one.weight)) % 4 == 0 for one in weighted(made.model()) if one.kind == "conv")
    assert (
        PruneChannels(macs=0.5, importance=importance, multiple=4)(original, context(original)).content == made.content
    )


def test_the_malaria_net_at_half_its_multiplications():
    original = malaria()
    samples = items(original)
    told = context(original, samples)
    made = PruneChannels(macs=0.5)(original, told)
    assert told.facts["macs"][1] <= told.facts["macs"][0] / 2
    assert compare({"y": answer(original, samples)}, {"y": answer(made, samples)}).items == samples.count


def test_a_share_of_each_group_goes_and_named_layers_stay():
    original = residual()
    told = context(original)
    PruneChannels(share=0.5, rebuild=False, importance="l2", skip=("r",))(original, told)
    assert told.facts["kept"] == {"p, t": "8 of 16", "r": "24 of 24"}


def test_what_cannot_be_reached_is_refused():
    original = residual()
    with pytest.raises(InputError, match=r"at least 0\.\d+ of the MACs must stay, wanted 0.01"):
        PruneChannels(macs=0.01)(original, context(original))
    with pytest.raises(InputError, match="no layer 'nobody'"):
        PruneChannels(macs=0.5, skip=("nobody",))(original, context(original))
    with pytest.raises(InputError, match="no layer whose weights may go"):
        PruneWeights(share=0.5, skip=("p", "r", "t", "y"))(original, context(original))


@pytest.mark.parametrize(
    "settings",
    [
        {"pass": "prune_channels"},
        {"pass": "prune_channels", "macs": 0.5, "share": 0.5},
        {"pass": "prune_channels", "macs": 1.5},
        {"pass": "prune_channels", "macs": 0.5, "importance": "luck"},
        {"pass": "prune_channels", "macs": 0.5, "multiple": 0},
        {"pass": "prune_weights", "share": 1.0},
        {"pass": "prune_weights", "n": 4, "m": 4},
        {"pass": "prune_weights", "share": 0.5, "scope": "moon"},
        {"pass": "prune_weights", "n": 2, "m": 4, "block": 2},
        {"pass": "share_weights", "bits": 0},
        {"pass": "share_weights", "start": "luck"},
        {"pass": "low_rank"},
        {"pass": "low_rank", "energy": 0.9, "macs": 0.5},
        {"pass": "repair", "epochs": 0},
        {"pass": "repair", "learning_rate": 2.0},
        {"pass": "repair", "held_out": 0.0},
    ],
)
def test_settings_that_make_no_sense_are_refused_on_paper(settings: dict):
    with pytest.raises(UsageError, match=f"step 1: {settings['pass']}: found "):
        read_recipe({"name": "r", "passes": [settings]}, "r.json")


def test_a_pass_says_on_paper_whether_it_needs_items():
    recipe = read_recipe({"name": "r", "passes": [{"pass": "prune_weights", "share": 0.5}]}, "r.json")
    assert recipe.check("onnx", has_items=False) == "onnx"
    recipe = read_recipe({"name": "r", "passes": [{"pass": "prune_channels", "macs": 0.5}]}, "r.json")
    with pytest.raises(UsageError, match="needs items"):
        recipe.check("onnx", has_items=False)


@pytest.mark.parametrize("scope", ["layer", "global", "lamp"])
def test_a_share_of_the_weights_is_zero(scope: str):
    original = residual()
    told = context(original)
    made = PruneWeights(share=0.8, scope=scope)(original, told)
    values = [array_of(one) for one in weighted_values(made)]
    zeros = sum(int((one == 0).sum()) for one in values)
    assert abs(zeros - 0.8 * sum(one.size for one in values)) <= 2
    assert "nothing" not in told.facts["said"] and "ordinary kernels" in told.facts["said"]
    assert count(made).zeros == zeros and count(made).macs == count(original).macs


def test_two_of_four_and_blocks():
    original = residual()
    made = PruneWeights(n=2, m=4)(original, context(original))
    layer = weighted(made.model())[1]
    assert ((layer.matrix().reshape(24, -1, 4) != 0).sum(axis=2) == 2).all()
    made = PruneWeights(share=0.5, block=4)(original, context(original))
    runs = (weighted(made.model())[1].matrix().reshape(24, -1, 4) != 0).sum(axis=2)
    assert set(np.unique(runs)) == {0, 4}


def test_the_weights_that_stay_take_over():
    dice = np.random.default_rng(0)
    given = dice.standard_normal((400, 6)) @ dice.standard_normal((6, 20)) + 0.1 * dice.standard_normal((400, 20))
    weight = dice.standard_normal((5, 20)).astype(np.float32)
    mask = (dice.random((5, 20)) < 0.5).astype(np.float32)
    made = compensate(weight, mask, given.T @ given / 400)
    assert (made[mask == 0] == 0).all()
    lost, left = (np.square(given @ (weight - one).T).mean() for one in (weight * mask, made))
    assert left < 0.2 * lost
    original = residual()
    plain, helped = (PruneWeights(share=0.7, score="activation", compensate=one) for one in (False, True))
    samples = items(original)
    old = answer(original, samples)
    changes = [np.square(answer(one(original, context(original)), samples) - old).mean() for one in (plain, helped)]
    assert changes[1] < changes[0]


def test_layers_share_few_values_and_zeros_stay():
    sparse = PruneWeights(share=0.5)(residual(), context(residual()))
    told = context(sparse)
    made = ShareWeights(bits=3)(sparse, told)
    for before, after in zip(weighted_values(sparse), weighted_values(made), strict=True):
        assert len(np.unique(array_of(after))) <= 8
        assert ((array_of(before) == 0) == (array_of(after) == 0)).all()
    few = np.array([1, 2, 2, 5], np.float32)
    assert (share(few, 3, "linear", 5) == few).all()
    halves = share(np.array([0, 1, 10, 11], np.float32), 2, "quantile", 5)
    assert halves.tolist() == [0.5, 0.5, 10.5, 10.5]


@pytest.mark.parametrize("name", NETS)
def test_what_is_left_is_fitted_in_every_kind_of_net(name: str):
    original = NETS[name]()
    told = context(original)
    PruneChannels(share=0.5, importance="l2", multiple=1)(original, told)
    assert told.facts["change_sd"]["fitted"] < told.facts["change_sd"]["cut"]
