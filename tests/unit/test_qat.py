"""Nets taught with rounding answer on both engines as they did in training; files hold the integers they should."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.compress.artifact import Artifact, slim
from edge_runtime.compress.drift import compare, decisions
from edge_runtime.compress.layers import weighted
from edge_runtime.compress.learn.lessons import Lessons
from edge_runtime.compress.learn.loop import Fit, answers
from edge_runtime.compress.learn.qat import QatResult, QuantAware, first_items, quantize_aware
from edge_runtime.compress.outputs import answers as run
from edge_runtime.errors import InputError, UsageError

pytestmark = pytest.mark.torch
QUICK = Fit(epochs=3, batch=32, rate=3e-3, average=0.9)
KINDS = ["int8", "int4", "ternary"]
FORMS = [(weights, activations) for weights in KINDS for activations in ("uint8", "float")]


def lessons(count: int = 128) -> Lessons:
    """Which third of a picture is bright."""
    dice = np.random.default_rng(3)
    labels = dice.integers(0, 3, count)
    pictures = dice.normal(0, 0.3, (count, 3, 12, 12)).astype(np.float32)
    for picture, label in zip(pictures, labels, strict=True):
        picture[:, 4 * label : 4 * label + 4] += 1
    return Lessons({"x": pictures}, labels)


def net(last: int = 3) -> Any:
    """Convolution, normalization, depthwise, a sum of two branches, dense."""
    import torch
    from torch import nn

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
            self.depth, self.point = nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.Conv2d(16, 16, 1)
            self.head = nn.Linear(16 * 9, last)

        def forward(self, x: Any) -> Any:
            x = torch.relu(self.norm(self.first(x)))
            x = torch.relu(x + self.point(torch.relu(self.depth(x))))
            return self.head(torch.max_pool2d(x, 2).flatten(1))

    torch.manual_seed(4)
    return Small()


@cache
def exported() -> Artifact:
    from edge_runtime.compress.learn.graph_net import float_graph

    return float_graph(net(), lessons().take(np_places()))


def np_places() -> Any:
    import torch

    return torch.arange(2)


@cache
def taught(weights: str, activations: str, **more: Any) -> tuple[QatResult, Lessons]:
    found = lessons()
    return quantize_aware(exported(), found, QuantAware(weights, activations, least=16, **more), QUICK), found


def integers(result: QatResult) -> dict[str, Any]:
    made = {}
    for node in result.artifact.model().graph:
        if node.op_type == "DequantizeLinear" and node.inputs[0].const_value is not None:
            made[node.inputs[0].name] = node.inputs[0].const_value
    return {name: one for name, one in made.items() if "int32" not in name}


@pytest.mark.parametrize(("weights", "activations"), FORMS)
def test_both_engines_answer_as_the_net_did_in_training(weights: str, activations: str):
    result, found = taught(weights, activations)
    wanted = answers(result.net, found)
    assert (wanted.argmax(1) == found.labels).mean() > 0.9
    samples = first_items(result.before, found, found.count)
    for artifact in (result.onnx(), result.tflite()):
        drift = compare({"y": wanted}, run(artifact, samples, 16))
        # integers may round another way where a sum stands between two of them
        assert drift.agreement == 1 and drift.largest < (0.05 if activations == "uint8" else 1e-5), artifact.format


@pytest.mark.parametrize(("weights", "activations"), FORMS)
def test_the_file_holds_the_levels_and_no_others(weights: str, activations: str):
    result, _ = taught(weights, activations)
    found = integers(result)
    top = {"int8": 127, "int4": 7, "ternary": 1}[weights]
    assert len(found) == 4
    for one in found.values():
        array = one.numpy().astype(np.int32)
        assert np.abs(array).max() <= top and len(np.unique(array)) > 1
        small = activations == "float" and weights != "int8"
        assert one.dtype.name == ("INT4" if small else "INT8")
    assert all(one["top"] <= top for one in result.facts["layers"].values())


def test_blocks_have_scales_of_their_own():
    result, found = taught("int4", "float", block=16)
    head = next(one for name, one in integers(result).items() if "head" in name)
    scales = result.artifact.model().graph.initializers["head.weight_scale"].const_value
    assert head.shape.numpy() == (3, 144) and scales.shape.numpy() == (3, 9)
    drift = compare({"y": answers(result.net, found)}, run(result.onnx(), first_items(result.before, found, 128)))
    assert drift.largest < 1e-5


def test_layers_can_stay_float_or_have_8_bits():
    result, found = taught(
        "ternary", "uint8", keep=("head",), eight=("first", "depthwise"), ranges="average", anneal=0.5
    )
    tops = {name: int(np.abs(one.numpy()).max()) for name, one in integers(result).items()}
    assert set(tops) == {f"{name}.weight_int8" for name in ("first", "depth", "point")}
    assert tops["depth.weight_int8"] == 127 and tops["first.weight_int8"] == 64 and tops["point.weight_int8"] == 1
    wanted = decisions(answers(result.net, found))
    for artifact in (result.onnx(), result.tflite()):
        assert (decisions(next(iter(run(artifact, first_items(result.before, found, 128)).values()))) == wanted).all()


def test_scales_can_stand_on_a_grid_of_their_own():
    result, found = taught("int4", "uint8", scale_grid=2)
    for levels in result.net.found_levels().values():
        power = 2 * np.log2(levels.scales)
        assert np.allclose(power, np.round(power), atol=1e-5)
    drift = compare({"y": answers(result.net, found)}, run(result.tflite(), first_items(result.before, found, 128), 16))
    assert drift.agreement == 1 and drift.largest < 0.05


def test_zeros_stay_and_training_helps():
    import torch

    base, found = net(), lessons()
    with torch.no_grad():
        base.point.weight[::2] = 0
    result = quantize_aware(base, found, QuantAware("int4", least=16), QUICK)
    point = next(one.numpy() for name, one in integers(result).items() if "point" in name)
    assert (point[::2] == 0).all() and (point[1::2] != 0).any()
    assert base.training and not base.point.weight[::2].any()
    raw = quantize_aware(exported(), found, QuantAware("int4", least=16), QUICK, steps=1)
    right = [(answers(one.net, found).argmax(1) == found.labels).mean() for one in (raw, result)]
    assert right[1] > right[0]


def test_embeddings_are_rounded_too():
    import torch
    from torch import nn

    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.norm, self.head = nn.Embedding(64, 8), nn.LayerNorm(8), nn.Linear(8, 2)

        def forward(self, words: Any) -> Any:
            return self.head(self.norm(self.table(words)).mean(1))

    torch.manual_seed(1)
    words = np.random.default_rng(1).integers(0, 64, (96, 5))
    found = Lessons({"words": words}, (words[:, 0] > 31).astype(np.int64))
    result = quantize_aware(Words(), found, QuantAware("int4", "float", least=16), QUICK)
    assert {one.dtype.name for one in result.artifact.model().graph.initializers.values()} >= {"INT4", "INT8"}
    for artifact in (result.onnx(), result.tflite()):
        drift = compare({"y": answers(result.net, found)}, run(artifact, first_items(result.before, found, 96), 16))
        assert drift.largest < 1e-4 and drift.agreement == 1


@pytest.mark.parametrize("name", ["residual", "joined", "mobile", "attention"])
def test_a_recipe_can_teach_without_labels(name: str):
    from edge_runtime.compress.passes.quantize_aware import QuantizeAware
    from edge_runtime.compress.tflite_write import to_tflite
    from edge_runtime.compress.unpack import unpack
    from tests.unit.small_nets import NETS, answer, context, items

    original = NETS[name]()
    samples = items(original, 128)
    wanted = answer(original, samples)
    settings = QuantizeAware("ternary", "float", scale_grid=2, epochs=6, rate=3e-3, average=0.9)
    still = replace(settings, epochs=1, rate=1e-9)
    raw, made = (one(original, context(original, samples)) for one in (still, settings))
    off = [float(np.square(answer(one, samples) - wanted).mean()) for one in (raw, made)]
    assert off[1] < 0.8 * off[0]
    lite = Artifact("tflite", to_tflite(made.model()))
    drift = compare({"y": answer(lite, samples)}, {"y": answer(slim(unpack(made)), samples)})
    # onnxruntime multiplies 4-bit matrices by activations of 8 bits; convolutions exactly
    assert drift.agreement > 0.98 and drift.largest < (1e-4 if name in ("residual", "joined") else 0.1)


def test_features_can_be_taught_at_the_same_time():
    import torch

    class Parts(type(net())):  # type: ignore[misc]
        def forward_parts(self, x: Any) -> dict[str, Any]:
            inner = torch.relu(self.norm(self.first(x)))
            x = torch.relu(inner + self.point(torch.relu(self.depth(inner))))
            logits = self.head(torch.max_pool2d(x, 2).flatten(1))
            return {"features.0": inner, "side": inner.mean((1, 2, 3)), "logits": logits}

    base, found = net(), lessons()
    base.__class__ = Parts

    def loss(one: Any, inputs: Any, index: Any) -> Any:
        with torch.no_grad():
            teacher = base.eval().forward_parts(*inputs)
        parts = one.forward_parts(*inputs)
        assert list(parts) == ["logits", "features.0"]
        return sum((parts[name] - teacher[name]).square().mean() for name in parts)

    result = quantize_aware(base, found, QuantAware("int4", least=16), QUICK, loss=loss, steps=6)
    assert len(result.onnx().model().graph.outputs) == 1
    drift = compare({"y": answers(result.net, found)}, run(result.tflite(), first_items(result.before, found, 128)))
    assert drift.agreement == 1


def test_an_artifact_can_be_taught_and_files_are_written(tmp_path: Path):
    result, found = taught("int8", "uint8")
    again = quantize_aware(result.before, found, QuantAware("int4"), QUICK, steps=2)
    for ending in (".onnx", ".tflite"):
        place = tmp_path / f"net{ending}"
        assert again.export(place).content == place.read_bytes()
    with pytest.raises(UsageError, match="wanted .onnx or .tflite"):
        again.export(tmp_path / "net.bin")


@given(
    values=st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=40),
    step=st.floats(0.0625, 4, width=32),
    top=st.sampled_from([1, 7, 127]),
)
@settings(max_examples=60)
def test_rounding_gives_levels_and_a_straight_slope(values: list[float], step: float, top: int):
    import torch

    from edge_runtime.compress.learn.fake_quant import rounded

    x = torch.tensor(values, requires_grad=True)
    size = torch.tensor(step, requires_grad=True)
    made = rounded(x, size, -top, top)
    made.sum().backward()
    levels = made.detach().numpy() / np.float32(step)
    assert np.allclose(levels, np.round(levels), atol=1e-4) and np.abs(levels).max() <= top + 1e-4
    exact = x.detach() / size.detach()
    assert ((x.grad == 1) == ((exact >= -top) & (exact <= top))).all()
    wanted = torch.where(exact.abs() <= top, exact.round() - exact, exact.sign() * top).sum()
    assert torch.isclose(size.grad, wanted, atol=1e-2)


@given(st.lists(st.one_of(st.integers(-200, 200), st.just(1e-43)), min_size=8, max_size=32), st.sampled_from(KINDS))
@settings(max_examples=30)
def test_weights_stand_on_their_grid(values: list[float], kind: str):
    import torch

    from edge_runtime.compress.layers import weighted
    from edge_runtime.compress.learn.fake_quant import Bits, WeightRounder
    from edge_runtime.compress.weight_only import Form
    from tests.unit.small_nets import net as graph
    from tests.unit.small_nets import node

    matrix = np.array([values, values[::-1]], np.float32) / np.float32(64)
    one = graph([node("Gemm", "x w", "y", transB=1)], {"w": matrix}, [len(values)], [2])
    (layer,) = weighted(one.model())
    bits = Bits(Form({"int8": 8, "int4": 4, "ternary": 2}[kind]), kind == "ternary")
    rounder, weight = WeightRounder(layer, layer.matrix(), bits), torch.from_numpy(matrix).requires_grad_()
    made, found = rounder(weight), rounder.levels(weight)
    assert np.allclose(found.real(), made.detach().numpy(), atol=1e-6)
    assert np.abs(found.levels).max() <= bits.most and (found.levels[matrix == 0] == 0).all()
    made.sum().backward()
    assert weight.grad.isfinite().all() and rounder.log.grad.isfinite().all()


def test_layers_too_small_to_be_rounded_are_told_from_none():
    with pytest.raises(InputError, match="found 4 layers with weights, the largest of 432, wanted one of at least 500"):
        quantize_aware(exported(), lessons(), QuantAware("int8", "float", least=500), QUICK)
    every = tuple(one.name for one in weighted(exported().model()))
    with pytest.raises(
        InputError, match="found 4 layers with weights and none that may be rounded, 4 of them in `keep`"
    ):
        quantize_aware(exported(), lessons(), QuantAware("int8", keep=every), QUICK)


def test_what_cannot_be_taught_is_named():
    import torch
    from torch import nn

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 4), nn.GRU(4, 4))

        def forward(self, x: Any) -> Any:
            return self.body(x)[0]

    class Sorted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Sequential(nn.Linear(4, 4), Median())

        def forward(self, x: Any) -> Any:
            return self.head(x)

    class Median(nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.sort(x, dim=1)[0]

    found = Lessons({"x": np.zeros((4, 4), np.float32)}, np.zeros(4, np.int64))
    plain = nn.Sequential(nn.Linear(4, 2))
    with pytest.raises(InputError, match=r"module 'body\.1': found GRU"):
        quantize_aware(Odd(), found)
    with pytest.raises(InputError, match=r"module 'head\.1': found the operator TopK"):
        quantize_aware(Sorted(), found)
    with pytest.raises(InputError, match="keep: found no layer 'nothing', wanted one of 0"):
        quantize_aware(plain, found, QuantAware(keep=("nothing",)))
    with pytest.raises(InputError, match="without labels"):
        quantize_aware(plain, Lessons({"x": np.zeros((4, 4), np.float32)}))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"weights": "int3"}, "int3"),
        ({"activations": "int16"}, "int16"),
        ({"ranges": "max"}, "max"),
        ({"block": 24, "activations": "float"}, "power of two"),
        ({"block": 32}, "integer products have no blocks"),
        ({"anneal": 1.0}, "anneal"),
        ({"scale_grid": 17}, "scale_grid 17"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said):
        QuantAware(**wrong)


def test_a_checkpoint_of_other_bits_is_refused(tmp_path: Path):
    def cut(words: str) -> None:  # told of the second epoch before its checkpoint is written: the first's stands
        if words.startswith("epoch 2"):
            raise KeyboardInterrupt

    about, place = (exported(), lessons()), tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        quantize_aware(*about, QuantAware("int8", least=16), QUICK, keep=place, notice=cut)
    with pytest.raises(UsageError, match="weights='int4'"):
        quantize_aware(*about, QuantAware("int4", least=16), QUICK, keep=place)
    quantize_aware(*about, QuantAware("int8", least=16), QUICK, keep=place)
    assert not place.exists()


def test_the_shipped_net_keeps_its_decisions_with_4_bits(data: Path):
    import csv

    import torch
    from PIL import Image

    from edge_runtime.compress.learn.graph_net import GraphNet
    from edge_runtime.task.cells import square
    from tests.unit.small_nets import malaria

    with (data / "malaria-cells" / "manifest.csv").open(newline="") as text:
        paths = [row["path"] for row in csv.DictReader(text) if row["path"].startswith("train")][::40]
    cells = [square(np.asarray(Image.open(data / "malaria-cells" / path).convert("RGB"))) for path in paths]
    pixels = np.stack(cells).transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    found, base = Lessons({"image": pixels}), malaria()
    teacher = GraphNet(base).eval()

    def loss(one: Any, inputs: Any, index: Any) -> Any:
        with torch.no_grad():
            word = torch.sigmoid(teacher(*inputs))
        return torch.nn.functional.binary_cross_entropy_with_logits(one(*inputs), word)

    settings = QuantAware("int4", scale_grid=2)
    result = quantize_aware(base, found, settings, Fit(batch=32, epochs=9, rate=1e-3, average=0.9), loss=loss, steps=30)
    wanted, samples = answers(teacher, found), first_items(base, found, found.count)
    for artifact in (result.onnx(), result.tflite()):
        assert compare({"y": wanted}, run(artifact, samples, 16)).agreement > 0.97
