"""An ONNX graph in PyTorch agrees with onnxruntime; training against the original's answers brings them nearer."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest

from edge_runtime.compress.layers import array_of, weighted
from edge_runtime.compress.passes.prune_channels import PruneChannels
from edge_runtime.compress.passes.prune_weights import PruneWeights
from edge_runtime.compress.passes.repair import Repair, repair
from edge_runtime.compress.passes.share_weights import ShareWeights
from edge_runtime.errors import EngineError, InputError
from tests.unit.small_nets import NETS, answer, context, items, malaria, net, node, residual

try:
    import torch
except ImportError:
    torch = None  # type: ignore[assignment]
needs_torch = pytest.mark.skipif(torch is None, reason="torch is not installed")
SHORT = Repair(epochs=4, batch=8, learning_rate=3e-3, augment=False)


def by_torch(artifact: Any, samples: Any) -> Any:
    from edge_runtime.compress.torch_graph import TorchGraph

    graph = TorchGraph(artifact)
    found = [graph({key: torch.from_numpy(one) for key, one in feed.items()}) for feed in samples.batches(8)]
    return np.concatenate([next(iter(one.values())).detach().numpy() for one in found])


@needs_torch
@pytest.mark.parametrize("make", [*NETS.values(), malaria])
def test_torch_agrees_with_onnxruntime(make: Any):
    artifact = make()
    samples = items(artifact)
    assert np.allclose(by_torch(artifact, samples), answer(artifact, samples), atol=1e-4)


PLAIN = [
    ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("AveragePool", {"kernel_shape": [3, 3], "pads": [0, 0, 1, 1], "count_include_pad": 1}),
    ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]}),
    ("GlobalMaxPool", {}),
    ("LeakyRelu", {"alpha": 0.2}),
    ("HardSigmoid", {"alpha": 0.3}),
    ("HardSwish", {}),
    ("Elu", {}),
    ("Softplus", {}),
    ("LogSoftmax", {"axis": 1}),
    ("Transpose", {"perm": [0, 2, 3, 1]}),
    ("ReduceMean", {"axes": [2, 3], "keepdims": 0}),
    ("ReduceL2", {"axes": [1]}),
    ("Flatten", {"axis": 2}),
]


@needs_torch
@pytest.mark.parametrize(("kind", "settings"), PLAIN)
def test_single_operators_agree(kind: str, settings: dict[str, Any]):
    artifact = net([node(kind, "x", "p", **settings), node("Identity", "p", "y")], {}, [4, 7, 7], [])
    agree(artifact)


def agree(artifact: Any) -> None:
    samples = items(artifact, 8)
    wanted = answer(artifact, samples)
    assert np.allclose(by_torch(artifact, samples).reshape(wanted.shape), wanted, atol=1e-4)


@needs_torch
def test_operators_with_constants_agree():
    nodes = [
        node("Pad", "x pads", "a"),
        node("Slice", "a starts ends axes steps", "b"),
        node("Unsqueeze", "b one", "c"),
        node("Squeeze", "c one", "d"),
        node("Clip", "d low", "e"),
        node("Gather", "e picked", "f", axis=1),
        node(
            "Resize",
            "f  scales",
            "g",
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
        node("ConvTranspose", "g t", "h", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("PRelu", "h slope", "i"),
        node("Pow", "i two", "j"),
        node("Max", "j low", "y"),
    ]
    nodes[6] = helper_resize()
    constants = {
        "pads": np.array([0, 0, 1, 0, 0, 0, 0, 2]),
        "starts": np.array([1, -6]),
        "ends": np.array([9, 100]),
        "axes": np.array([2, 3]),
        "steps": np.array([1, 2]),
        "one": np.array([1]),
        "low": np.array(-0.7, np.float32),
        "picked": np.array([2, 0, -1]),
        "scales": np.array([1, 1, 2, 2], np.float32),
        "two": np.array(2, np.float32),
    }
    agree(net(nodes, constants | {"t": (3, 5, 3, 3), "slope": (5, 1, 1)}, [4, 7, 7], []))


def helper_resize() -> Any:
    made = node("Resize", "f", "g", mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    made.input.extend(["", "scales"])
    return made


@needs_torch
def test_repair_brings_answers_nearer_and_is_the_same_each_time():
    original = residual()
    samples = items(original, 96)
    cut = PruneChannels(share=0.5, rebuild=False, importance="l2", multiple=1)(original, context(original))
    made, facts = repair(original, cut, samples, SHORT)
    change = facts["change_rms_sd"]
    assert change["after"] < 0.7 * change["before"] and facts["epoch"] > 0
    fresh = items(original, 40, seed=1)
    off = [np.square(answer(one, fresh) - answer(original, fresh)).mean() for one in (cut, made)]
    assert off[1] < off[0]
    assert repair(original, cut, samples, SHORT)[0].content == made.content


@needs_torch
def test_zeros_stay_zero_and_shared_values_stay_few():
    original = residual()
    sparse = PruneWeights(share=0.6)(original, context(original))
    made = SHORT(sparse, context(original, items(original, 96)))
    for before, after in zip(weighted(sparse.model()), weighted(made.model()), strict=True):
        assert (array_of(after.weight)[array_of(before.weight) == 0] == 0).all()
    assert made.content != sparse.content
    shared = ShareWeights(bits=3)(sparse, context(sparse))
    settings = Repair(epochs=2, batch=8, learning_rate=1e-2, augment=False, keep_values=True)
    made = settings(shared, context(original, items(original, 96)))
    for before, after in zip(weighted(shared.model()), weighted(made.model()), strict=True):
        assert len(np.unique(array_of(after.weight))) <= len(np.unique(array_of(before.weight)))
        assert ((array_of(after.weight) == 0) == (array_of(before.weight) == 0)).all()
    assert made.content != shared.content


@needs_torch
def test_what_gets_no_better_is_left_as_it_was_and_said():
    original = residual()
    told = context(original)
    made = Repair(epochs=1, learning_rate=0.5, augment=True)(original, told)
    assert made.content == original.content
    assert told.facts["epoch"] == 0 and "as they were" in told.facts["said"]


@needs_torch
def test_inner_tensors_can_be_weighed_and_first_order_effects_rank_channels():
    original = residual()
    told = context(original)
    cut = PruneChannels(macs=0.5, importance="taylor", multiple=1)(original, told)
    assert told.facts["change_sd"]["fitted"] < told.facts["change_sd"]["cut"]
    _, facts = repair(original, cut, items(original, 96), Repair(epochs=2, batch=8, features=0.5))
    assert len(facts["change_rms_sd"]["by_epoch"]) == 2


@needs_torch
def test_an_operator_without_a_rule_and_too_few_items_are_refused():
    artifact = net([node("DepthToSpace", "x", "y", blocksize=2)], {}, [4, 3, 3], [1, 6, 6])
    with pytest.raises(InputError, match="cannot be trained here: DepthToSpace"):
        Repair()(artifact, context(artifact))
    original = residual()
    with pytest.raises(InputError, match="found 1 items"):
        Repair()(original, context(original, items(original, 1)))


def test_without_torch_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def missing(name: str, *given: Any, **named: Any) -> Any:
        if name == "torch":
            raise ImportError("no torch", name="torch")
        return real(name, *given, **named)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(EngineError, match="torch is not installed") as caught:
        Repair()(residual(), context(residual()))
    assert caught.value.hint == "pip install 'edge-runtime[train]'"
