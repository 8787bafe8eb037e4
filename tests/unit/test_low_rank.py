"""Layers split into smaller ones: nothing is lost at full rank, little where the inputs need little, and MACs go."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.compress.count import count
from edge_runtime.compress.factor import Splitter, Spots
from edge_runtime.compress.layers import weighted
from edge_runtime.compress.moments import layer_moments, padding, patches
from edge_runtime.compress.outputs import tap
from edge_runtime.compress.passes.low_rank import LowRank, split
from edge_runtime.errors import InputError
from tests.unit.small_nets import answer, attention, context, items, joined, malaria, net, node, residual


def splitter(shape: tuple[int, ...]) -> Splitter:
    dice = np.random.default_rng(1)
    matrix = dice.standard_normal((shape[0], int(np.prod(shape[1:])))).astype(np.float32)
    given = dice.standard_normal((300, matrix.shape[1]))
    return Splitter(matrix, shape, given.T @ given / 300, Spots(16, 16))


def test_full_rank_gives_the_same_answers():
    for shape in ((6, 10), (8, 6, 1, 1), (8, 6, 3, 3)):
        one = splitter(shape)
        first, last = one.svd(min(one.matrix.shape)).weights
        assert np.allclose(last @ first.reshape(len(first), -1), one.matrix, atol=1e-4)
    made = one.tucker(6, 8)
    first, core, last = made.weights
    assert made.error < 1e-5
    assert np.allclose(np.einsum("os,srhw,ri->oihw", last, core, first), one.matrix.reshape(8, 6, 3, 3), atol=1e-4)


def test_inputs_that_always_move_together_leave_the_answers_as_they_are():
    """Their second moment has no inverse, and rounding may even make it look negative."""
    dice = np.random.default_rng(1)
    given = dice.standard_normal((300, 2)) @ dice.standard_normal((2, 54))
    moment = given.T @ given / 300
    moment -= 1e-5 * np.trace(moment) / 54 * np.eye(54)
    made = Splitter(dice.standard_normal((8, 54)).astype(np.float32), (8, 6, 3, 3), moment, Spots(16, 16)).svd(3)
    assert np.isfinite(made.weights[0]).all() and made.error < 1e-3


def test_the_error_on_paper_is_that_of_the_answers():
    one = splitter((8, 6, 3, 3))
    for made in (one.svd(4), one.tucker(3, 5)):
        *before, last = made.weights
        whole = before[0] if len(before) == 1 else np.einsum("srhw,ri->sihw", before[1], before[0])
        off = one.matrix - last @ whole.reshape(len(whole), -1)
        given = one.whiten
        assert np.isclose(np.square(off @ given).sum() / np.square(one.matrix @ given).sum(), made.error, rtol=1e-3)


@pytest.mark.parametrize("settings", [{}, {"strides": [2, 2], "pads": [0, 1, 2, 1]}, {"dilations": [2, 1]}])
def test_patches_are_what_a_convolution_sums(settings: dict):
    nodes = [node("Conv", "x a", "y", group=2, **settings)]
    artifact = net(nodes, {"a": (6, 2, 3, 2)}, [4, 9, 8], [6, 0, 0][:1] + [None, None])
    samples = items(artifact, 3)
    (layer,) = weighted(artifact.model())
    (found,) = tap(artifact, samples, ["x", "y"])
    rows = patches(layer, found["x"], 10**6)
    matrix = layer.matrix()
    made = np.stack([rows[0] @ matrix[:3].T, rows[1] @ matrix[3:].T])  # (groups, n, outputs of each)
    wanted = np.moveaxis(found["y"], 1, -1).reshape(-1, 2, 3)
    assert np.allclose(np.moveaxis(made, 0, 1), wanted, atol=1e-5)


def test_padding_that_a_node_leaves_to_the_engine():
    given = node("Conv", "x a", "y", auto_pad="SAME_UPPER", strides=[2, 2])
    (layer,) = weighted(net([given], {"a": (6, 3, 3, 3)}, [3, 8, 8], [6, 4, 4]).model())
    assert padding(layer.node, (8, 8), (3, 3)) == ([0, 0], [1, 1])


def test_moments_are_gathered_by_layer():
    original = residual()
    found = {
        layer.name: moments for layer, moments in layer_moments(original, items(original), weighted(original.model()))
    }
    assert list(found) == ["p", "r", "t", "y"]
    assert found["r"][0].products.shape == (144, 144)
    assert found["r"][0].count == 48 * 64


@pytest.mark.parametrize("make", [residual, joined, attention])
def test_a_target_of_macs_is_met_and_answers_stay_near(make):
    original = make()
    told = context(original)
    samples = items(original)
    made = LowRank(macs=0.8, multiple=1)(original, told)
    assert count(made).macs == told.facts["macs"][1] <= 0.8 * count(original).macs
    old, new = answer(original, samples), answer(made, samples)
    assert np.abs(old - new).mean() < 0.35 * old.std()
    assert LowRank(macs=0.8, multiple=1)(original, context(original)).content == made.content


def test_every_kind_of_factor_fits_into_the_graph():
    original = residual()
    samples = items(original)
    layers = weighted(original.model())
    shapes = {layer.name: layer.weight.const_value.shape.numpy() for layer in layers}
    for (layer, (moments,)), ranks in zip(
        layer_moments(original, samples, layers), [(3, 16), (16, 24), (24, 16), ()], strict=True
    ):
        one = Splitter(layer.matrix(), shapes[layer.name], moments.mean(), Spots(64, 64))
        made = split(original, {layer.name: one.tucker(*ranks) if ranks else one.svd(3)})
        assert np.allclose(answer(made, samples), answer(original, samples), atol=1e-3), layer.name


def test_all_the_energy_leaves_the_model_as_it_was_where_nothing_is_saved():
    original = residual()
    told = context(original)
    assert LowRank(energy=1.0)(original, told).content == original.content
    assert "as it was" in told.facts["said"]


def test_a_target_out_of_reach_is_refused():
    original = residual()
    with pytest.raises(InputError, match=r"must stay, wanted 0\.01"):
        LowRank(macs=0.01)(original, context(original))


def test_the_malaria_net_keeps_almost_all_its_energy():
    original = malaria()
    told = context(original)
    LowRank(energy=0.999, multiple=1)(original, told)
    assert all(missed <= 0.001 for missed in told.facts["missed"].values())
    assert not any(name for name in told.facts["ranks"] if "depthwise" in name)
