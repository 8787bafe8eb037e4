"""Compact architectures: what they cost on paper is what PyTorch and the exported file say; both engines run them."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from edge_runtime.compress.learn.builders import BUILDERS, EfficientLite, MobileNetV3, Separable, make_builder
from edge_runtime.errors import UsageError

# parameters as published or as counted in the authors' own models, 1,000 classes
PUBLISHED = [
    ("mobilenetv1", {}, 4_231_976, 569),
    ("mobilenetv2", {}, 3_504_872, 301),
    ("mobilenetv3", {"kind": "small"}, 2_542_856, 57),
    ("mobilenetv3", {"kind": "large"}, 5_483_032, 217),
    ("squeezenet", {}, 1_235_496, 0),
    ("shufflenetv2", {}, 2_278_604, 145),
    ("efficientlite", {}, 4_652_008, 385),
]


@pytest.mark.parametrize(("name", "settings", "parameters", "million_macs"), PUBLISHED)
def test_full_size_is_what_was_published(name: str, settings: dict[str, Any], parameters: int, million_macs: int):
    paper = make_builder(name, resolution=224, classes=1000, **settings).paper()
    assert paper.trained == parameters
    if million_macs:
        assert paper.macs / 1e6 == pytest.approx(million_macs, rel=0.05)


def test_the_malaria_net_is_the_default_of_separable():
    assert Separable().paper().parameters == 11_601


def test_width_depth_and_resolution_each_cost():
    plain = make_builder("mobilenetv2", width=0.5).paper()
    assert make_builder("mobilenetv2", width=0.75).paper().parameters > plain.parameters
    assert make_builder("mobilenetv2", width=0.5, depth=1.5).paper().macs > plain.macs
    larger = make_builder("mobilenetv2", width=0.5, resolution=96).paper()
    assert larger.parameters == plain.parameters
    assert larger.peak_activation_bytes > plain.peak_activation_bytes
    assert EfficientLite.compound(0) == EfficientLite(resolution=224)
    assert EfficientLite.compound(2).resolution == 296


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("mobilnet2", {}, "the closest are mobilenetv2"),
        ("squeezenet", {"widht": 1}, "the closest are width"),
        ("squeezenet", {"width": 0}, "found 0, wanted a number from"),
        ("squeezenet", {"classes": 1.5}, "wanted a whole number from 1"),
        ("separable", {"depth": 5}, "wanted a width and a stride for each block"),
        ("separable", {"strides": [2, 1, 3, 1]}, "strides of 1 or 2"),
        ("mobilenetv3", {"kind": "tiny"}, "wanted small or large"),
        ("transformer", {"heads": 3}, "3 heads divide"),
    ],
)
def test_wrong_settings_are_named(name: str, settings: dict[str, Any], said: str):
    with pytest.raises(UsageError, match=said):
        make_builder(name, **settings)


TINY: list[tuple[str, dict[str, Any]]] = [
    ("separable", {"stem": 8, "widths": (8, 12), "strides": (2, 1), "depth": 2, "resolution": 24}),
    ("separable", {"stem": 4, "widths": (8,), "strides": (1,), "depth": 1, "resolution": 34, "most": False}),
    ("separable", {"stem": 4, "widths": (8,), "strides": (1,), "depth": 1, "resolution": 34, "shrink": 2}),
    ("mobilenetv1", {"width": 0.25, "depth": 0.25, "resolution": 32}),
    ("mobilenetv2", {"width": 0.25, "depth": 0.25, "resolution": 33}),
    ("mobilenetv3", {"width": 0.25, "depth": 0.25, "resolution": 32}),
    ("squeezenet", {"width": 0.25, "depth": 0.25, "resolution": 36}),
    ("shufflenetv2", {"width": 0.25, "depth": 0.25, "resolution": 36}),
    ("efficientlite", {"width": 0.25, "depth": 0.25, "resolution": 32}),
    ("dscnn", {"width": 8, "depth": 2, "frames": 21}),
    ("transformer", {"words": 40, "tokens": 12, "width": 24, "heads": 3, "layers": 2, "wide": 40}),
]


@functools.cache  # an export takes seconds
def _exported(place: int) -> tuple[Any, Any, Any]:
    from edge_runtime.compress.export import from_torch
    from edge_runtime.compress.prepare import prepare

    one, net = _made(*TINY[place])
    return one, net, prepare(from_torch(net, one.example()))


def _made(name: str, settings: dict[str, Any]) -> tuple[Any, Any]:
    """The builder and its net, with statistics and weights as a trained net has them: none alike, none zero."""
    import torch

    torch.manual_seed(1)
    one = make_builder(name, **settings)
    net = one.build()
    with torch.no_grad():
        for values in net.state_dict().values():
            if values.ndim == 1 and values.dtype.is_floating_point:
                values.add_(torch.rand(values.shape) * 0.5 + 0.1)
        for values in net.parameters():
            if values.ndim == 2:
                values.add_(torch.randn(values.shape) * 0.2)
    return one, net.eval()


@pytest.mark.torch
@pytest.mark.parametrize("place", range(len(TINY)))
def test_paper_is_what_torch_and_the_exported_file_say(place: int):
    from edge_runtime.compress.count import count
    from edge_runtime.compress.footprint_read import read_parts

    one, net, artifact = _exported(place)
    paper = one.paper()
    assert paper.trained == sum(values.numel() for values in net.parameters())
    found = count(artifact)
    single = sum(1 for value in artifact.model().graph.initializers.values() if _is_single_float(value))
    heads = sum(1 for values in net.parameters() if values.numel() == 1)
    assert found.parameters - (single - heads) == paper.parameters
    assert found.macs == paper.macs
    parts = read_parts(artifact.content, "onnx", "aarch64")
    said = paper.parts(parts.file_bytes)._replace(rest_bytes=0)
    assert said == parts._replace(rest_bytes=0)


def _is_single_float(value: Any) -> bool:
    return value.const_value is not None and value.const_value.size == 1 and value.dtype.is_floating_point()


@pytest.mark.torch
@pytest.mark.parametrize("place", range(len(TINY)))
def test_both_engines_answer_as_torch_does(place: int, tmp_path: Any):
    import torch

    from edge_runtime.compress.outputs import answers
    from edge_runtime.compress.samples import Samples
    from edge_runtime.compress.tflite_write import to_tflite
    from edge_runtime.engine import EngineOptions, find_engine

    one, net, artifact = _exported(place)
    given = tuple(_items(example) for example in one.example())
    with torch.no_grad():
        wanted = net(*given).numpy()
    names = [value.name for value in artifact.model().graph.inputs]
    arrays = {key: value.numpy() for key, value in zip(names, given, strict=True)}
    (onnx,) = answers(artifact, Samples("made up", 4, None, arrays), 4).values()
    assert np.abs(wanted).max() > 1e-3
    assert np.allclose(onnx, wanted, atol=2e-4, rtol=1e-3)
    file = tmp_path / "net.tflite"
    file.write_bytes(to_tflite(artifact.model()))
    program = find_engine("litert").load(file, EngineOptions(threads=1))
    for item_place in range(4):
        feed = {}
        for spec in program.inputs:
            item = arrays[spec.name][item_place : item_place + 1]
            feed[spec.name] = np.ascontiguousarray(item.transpose(0, 2, 3, 1)) if item.ndim == 4 else item
        (found,) = program.run(feed).values()
        assert np.allclose(found, wanted[item_place : item_place + 1], atol=2e-4, rtol=1e-3)
    program.close()


def _items(example: Any) -> Any:
    import torch

    dice = torch.Generator().manual_seed(3)
    shape = (4, *example.shape[1:])
    if example.dtype == torch.int64:
        return torch.randint(1, 2, shape, generator=dice)
    return torch.rand(shape, generator=dice)


@pytest.mark.torch
def test_parts_hold_features_and_attention():
    import torch

    one, net = _made("transformer", TINY[-1][1])
    parts = net.forward_parts(*one.example())
    assert parts["attention.1"].shape == (1, 3, 12, 12)
    assert parts["features.2"].shape == (1, 12, 24)
    assert torch.allclose(parts["attention.0"].sum(-1), torch.ones(1))
    assert torch.equal(parts["logits"], net(*one.example()))
    one, net = _made("separable", TINY[0][1])
    parts = net.forward_parts(*one.example())
    assert parts["features.2"].shape == (1, 12, 6, 6)


@pytest.mark.torch
@pytest.mark.parametrize("place", range(len(TINY) - 1))
def test_nodes_are_those_that_a_latency_is_predicted_from(place: int):
    import onnx

    from edge_runtime.compress.graph_onnx import _node, optimize

    one, _, artifact = _exported(place)
    found, made = optimize(artifact.content, portable=True), []
    for node in found.nodes:
        attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        known = _node(node, attributes, found.tensors, set(found.constants))
        made += [known] if known else []
    assert [_plain(node) for node in one.paper().nodes] == [_plain(node) for node in made]


def _plain(node: Any) -> list[Any]:
    return [getattr(node, key) for key in ("kind", "rows", "depth", "width", "kernel", "stride", "count")]


def test_every_builder_has_a_tiny_one_that_is_tested():
    assert {name for name, _ in TINY} == set(BUILDERS)
    assert MobileNetV3(kind="large").paper().operators > MobileNetV3().paper().operators


def test_a_picture_that_pools_use_up_is_refused():
    with pytest.raises(UsageError, match="wanted one at least as large"):
        make_builder("squeezenet", width=0.1, resolution=12)
    with pytest.raises(UsageError, match="found widths"):
        make_builder("separable", widths=(8.5,), strides=(1,), depth=1)
