"""Schedules end at the share that was asked for, zeros stay, exchanges keep the count, fewer channels still run."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.code import for_bundle
from edge_runtime.compress.drift import compare
from edge_runtime.compress.layers import weighted
from edge_runtime.compress.learn.lessons import Lessons
from edge_runtime.compress.learn.loop import Fit, answers
from edge_runtime.compress.learn.prune_tune import PruneAndTune, PruneResult, prune_and_tune
from edge_runtime.compress.learn.qat import QuantAware, first_items, quantize_aware
from edge_runtime.compress.outputs import answers as run
from edge_runtime.errors import InputError, UsageError
from tests.unit.test_qat import exported, lessons, net

pytestmark = pytest.mark.torch
QUICK = Fit(epochs=4, batch=32, rate=5e-3, average=0.9)


@cache
def pruned(**more: Any) -> PruneResult:
    return prune_and_tune(exported(), lessons(), PruneAndTune(**{"every": 2} | more), QUICK)


def matrices(artifact: Artifact) -> dict[str, Any]:
    return {str(one.weight.name): one.matrix() for one in weighted(artifact.model()) if one.kind != "depthwise"}


def on_both_engines(result: PruneResult) -> None:
    found = lessons()
    wanted = answers(result.net, found)
    assert (wanted.argmax(1) == found.labels).mean() > 0.9
    for artifact in (result.onnx(), result.tflite()):
        drift = compare({"y": wanted}, run(artifact, first_items(result.artifact, found, found.count), 16))
        assert drift.agreement == 1 and drift.largest < 1e-4


@pytest.mark.parametrize(("scope", "share"), [("layer", 0.8), ("global", 0.6), ("lamp", 0.8)])
def test_the_share_of_zeros_is_exact(scope: str, share: float):
    result = pruned(share=share, scope=scope)
    found = matrices(result.artifact)
    size = sum(one.size for one in found.values())
    zeros = {name: int((one == 0).sum()) for name, one in found.items()}
    if scope == "layer":
        assert zeros == {name: round(share * one.size) for name, one in found.items()}
    else:
        assert sum(zeros.values()) == round(share * size)
    assert result.facts["zero"] >= sum(zeros.values())
    on_both_engines(result)


def test_zeros_make_the_coded_file_smaller(tmp_path: Path):
    dense, sparse = exported(), pruned(share=0.8, scope="lamp").export(tmp_path / "net.onnx")
    assert (tmp_path / "net.onnx").read_bytes() == sparse.content
    assert len(for_bundle(sparse.content, "onnx")[0]) < 0.75 * len(for_bundle(dense.content, "onnx")[0])


@pytest.mark.parametrize("kind", ["rigl", "set"])
def test_an_exchange_keeps_the_count(kind: str):
    import torch

    from edge_runtime.compress.learn.masks import Masks

    settings = PruneAndTune(0.7, kind, scope="layer", every=1, end=1.0)
    small = net()
    masks = Masks(small, settings)
    masks.before(0, 10)
    living = {name: one.clone() for name, one in masks.kept.items()}
    small(torch.randn(4, 3, 12, 12)).square().sum().backward()
    steepest = small.point.weight.grad.abs().masked_fill(living["point"] != 0, 0).argmax()
    masks.gradients(1, 10)
    assert all((one.grad[masks.kept[name] == 0] == 0).all() for name, (one, _) in masks.found.items())
    masks.after(1, 10)
    for name, one in masks.kept.items():
        assert one.sum() == living[name].sum() and not torch.equal(one, living[name])
        weight = masks.found[name][0]
        assert (weight[one == 0] == 0).all() and (weight[(one == 1) & (living[name] == 0)] == 0).all()
    assert kind == "set" or masks.kept["point"].reshape(-1)[steepest] == 1
    result = pruned(share=0.7, kind=kind, scope="layer")
    assert all(int((one == 0).sum()) >= round(0.7 * one.size) for one in matrices(result.artifact).values())
    on_both_engines(result)


def test_the_share_rises_and_masks_stay():
    from edge_runtime.compress.learn.masks import Masks

    settings = PruneAndTune(0.9, every=1, end=0.8, scope="layer")
    small = net()
    masks, shares, before = Masks(small, settings), [], None
    for step in range(20):
        masks.before(step, 20)
        for weight, _ in masks.found.values():
            weight.data.add_(0.01)  # what an optimizer does to zeros
        masks.after(step, 20)
        zero = small.head.weight == 0
        assert before is None or bool((zero | ~before).all())
        before, shares = zero, [*shares, float(zero.float().mean())]
    assert shares[0] == 0 and shares == sorted(shares) and shares[16:] == [shares[-1]] * 4
    assert abs(shares[8] - 0.9 * (1 - 0.5**3)) < 0.01 and abs(shares[-1] - 0.9) < 0.002


def test_n_of_m_and_layers_that_stay_whole():
    result = pruned(n=2, m=4, skip=("head",))
    found = matrices(result.artifact)
    runs = found["point.weight"].reshape(-1, 4)
    assert ((runs != 0).sum(axis=1) == 2).all() and (found["head.weight"] != 0).all()


def test_a_module_stays_itself_and_zeros_survive_rounding():
    given, found = net(), lessons()
    result = prune_and_tune(given, found, PruneAndTune(0.75, every=2), QUICK)
    assert type(result.net) is type(given) and given.training and not (given.point.weight == 0).any()
    assert (matrices(result.artifact)["point.weight"] == 0).any()
    on_both_engines(result)
    small = quantize_aware(result.net, found, QuantAware("int4", least=16), QUICK)
    for name, levels in small.net.found_levels().items():
        layer = next(one for one in weighted(result.artifact.model()) if one.name == name)
        assert (levels.levels[layer.matrix() == 0] == 0).all()


def test_fewer_channels_are_fewer_parameters_and_run_on_both_engines():
    result = pruned(kind="channels", share=0.5)
    old, new = result.facts["parameters"]
    assert new < 0.55 * old and result.facts["macs"][1] < 0.55 * result.facts["macs"][0]
    assert {len(one) for name, one in matrices(result.artifact).items() if name != "head.weight"} == {8}
    on_both_engines(result)


@pytest.mark.parametrize(
    ("layers", "share", "words"),
    [((3,), 0.5, "no channels that may go"), ((4, 3), 0.1, "all stay"), ((2, 3), 0.1, "share 0.1 in 2 rounds")],
)
def test_channels_of_which_none_goes_are_told(layers: tuple[int, ...], share: float, words: str):
    import torch

    parts, width, found = list[Any](), 6, np.random.default_rng(1).normal(size=(40, 6)).astype(np.float32)
    for one in layers:
        parts, width = [*parts, torch.nn.Linear(width, one), torch.nn.ReLU()], one
    some = Lessons({"x": found}, (found[:, 0] > 0).astype(np.int64))
    with pytest.raises(InputError, match=words) as caught:
        prune_and_tune(torch.nn.Sequential(*parts[:-1]), some, PruneAndTune(share, "channels"), QUICK)
    assert caught.value.hint


def test_the_readme_does_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import re

    from tests.conftest import ROOT

    (code,) = re.findall(r"```python\n([^`]*prune_and_tune[^`]*)```", (ROOT / "README.md").read_text())
    monkeypatch.chdir(tmp_path)
    exec(code, {"net": net(), "lessons": lessons()})
    assert {one.name for one in tmp_path.iterdir()} == {"net.onnx", "net.tflite"}


def test_what_cannot_go_is_named():
    with pytest.raises(InputError, match="skip: found no layer 'tail', wanted one of first, depth, point, head"):
        prune_and_tune(exported(), lessons(), PruneAndTune(skip=("tail",)), QUICK)


@pytest.mark.parametrize(
    "wrong",
    [{"kind": "best"}, {"scope": "all"}, {"share": 1.0}, {"begin": 0.7}, {"n": 4, "m": 4}, {"every": 0}]
    + [{"exchange": 0.0}, {"kind": "set", "n": 2, "m": 4}],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]):
    with pytest.raises(ValueError, match="wanted"):
        PruneAndTune(**wrong)


def test_a_shared_weight_is_counted_once_and_no_steps_are_refused():
    import torch

    one = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8), torch.nn.Linear(8, 2))
    one[2].weight = one[0].weight
    found = Lessons({"x": torch.randn(32, 8).numpy()}, np.arange(32) % 2)
    result = prune_and_tune(one, found, PruneAndTune(0.5, "set", scope="layer", every=1), QUICK)
    assert (result.net[0].weight == 0).float().mean() == 0.5
    with pytest.raises(UsageError, match="found 0 steps"):
        prune_and_tune(one, found, PruneAndTune(0.5), QUICK, steps=0)


def test_channels_of_a_module_named_by_its_path_stay():
    with pytest.raises(InputError, match="no channels that may go, wanted some beside those of skip, node_Conv"):
        pruned(kind="channels", rounds=1, skip=("first",))  # all others depend on its
