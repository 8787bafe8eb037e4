"""Pools whose last windows read past the padding (ceil_mode) answer alike in float, in integers, in both engines and in
training."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.drift import compare
from tests.unit.tflite_samples import Net, check, feeds_of, onnx_answers, prepared, quantized

SIZES = [(9, 2, 2, 0), (9, 2, 2, 1), (8, 3, 2, 1), (8, 2, 3, 1), (9, 3, 3, 1), (8, 3, 2, 0)]
POOLS = [("MaxPool", {}), ("AveragePool", {"count_include_pad": 0}), ("AveragePool", {"count_include_pad": 1})]


def pooled(kind: str, size: int, kernel: int, stride: int, pad: int, **more: Any) -> Net:
    n = Net("batch", 4, size, size)
    n.conv(8, 4, 1)
    n.add(kind, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4, ceil_mode=1, **more)
    n.conv(5, 8, 1)
    return n


@pytest.mark.parametrize(("kind", "more"), POOLS)
@pytest.mark.parametrize("sizes", SIZES)
def test_integers_are_near_float_and_litert_is_near_onnxruntime(kind: str, more: dict[str, Any], sizes: Any):
    n = pooled(kind, *sizes, **more)
    feeds = feeds_of(n.model(), batch=32, seed=5)  # those of which `quantized` takes the ranges
    wanted = onnx_answers(n.model(), feeds)[0]
    assert compare({"y": wanted}, {"y": onnx_answers(prepared(n).model(), feeds)[0]}).largest < 1e-5
    assert compare({"y": wanted}, {"y": onnx_answers(quantized(n), feeds)[0]}).largest < 0.25
    check(prepared(n).model())


@pytest.mark.parametrize("way", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_zeros_of_padding_without_numbers_count_in_both_engines(way: str):
    n = Net("batch", 4, 9, 9)
    n.add("AveragePool", kernel_shape=[3, 2], strides=[2, 2], auto_pad=way, count_include_pad=1)
    check(n.model())


@pytest.mark.torch
@pytest.mark.parametrize(("kind", "more"), POOLS)
@pytest.mark.parametrize("sizes", SIZES)
def test_training_computes_what_onnxruntime_does(kind: str, more: dict[str, Any], sizes: Any):
    import torch

    from edge_runtime.compress.learn.graph_net import GraphNet

    model = pooled(kind, *sizes, **more).model()
    feeds = feeds_of(model, 4)
    with torch.inference_mode():
        found = GraphNet(Artifact.of(model, "onnx"))(*map(torch.from_numpy, feeds.values())).numpy()
    np.testing.assert_allclose(found, onnx_answers(model, feeds)[0], atol=1e-5)


@pytest.mark.torch
def test_the_file_of_a_taught_net_is_compared_with_the_net(monkeypatch: pytest.MonkeyPatch):
    import torch

    from edge_runtime.compress.learn.lessons import Lessons
    from edge_runtime.compress.learn.loop import Fit
    from edge_runtime.compress.learn.qat import QuantAware, quantize_aware
    from edge_runtime.compress.learn.quant_net import QuantNet

    torch.manual_seed(0)
    nn = torch.nn
    head = (nn.AvgPool2d(2, ceil_mode=True), nn.Flatten(), nn.Linear(8 * 25, 2))
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), *head)
    dice, said = np.random.default_rng(0), list[str]()
    given = Lessons({"x": dice.normal(size=(40, 3, 9, 9)).astype(np.float32)}, np.arange(40) % 2)
    how = Fit(epochs=1, batch=20)
    found = quantize_aware(net, given, QuantAware(), how, notice=said.append).facts["file"]
    assert found["items"] == 32 and found["largest_sd"] < 0.05 and not any("answers otherwise" in one for one in said)
    written = QuantNet.quantized

    def other(self: QuantNet) -> Artifact:
        changed = deepcopy(self)
        for one in changed.learnt:
            one.data.mul_(1.5)
        return written(changed)

    monkeypatch.setattr(QuantNet, "quantized", other)
    quantize_aware(net, given, QuantAware(), how, notice=said.append)
    assert "the file answers otherwise than the net that was taught" in said[-1]


@pytest.mark.torch
@pytest.mark.parametrize(("batch", "compared"), [(1, True), (8, False)])
def test_a_file_of_a_fixed_batch_can_be_taught(batch: int, compared: bool):
    from edge_runtime.compress.learn.lessons import Lessons
    from edge_runtime.compress.learn.loop import Fit
    from edge_runtime.compress.learn.qat import QuantAware, quantize_aware

    n = Net(batch, 4, 6, 6)
    n.conv(8, 4, 1)
    n.add("Reshape", n.last, n.const([batch, 288]))
    n.add("MatMul", n.last, n.random(288, 2))
    pictures = np.random.default_rng(0).normal(size=(40, 4, 6, 6)).astype(np.float32)
    settings = QuantAware(activations="float", least=8)
    found = quantize_aware(prepared(n), Lessons({"x": pictures}, np.arange(40) % 2), settings, Fit(1, batch))
    assert (found.facts["file"] is not None) == compared
