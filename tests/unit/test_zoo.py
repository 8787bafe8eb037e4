"""Models made to be compressed: cards say what was recorded; with PyTorch, the networks are the published ones."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from models.zoo import card, files
from models.zoo.train import FAMILIES

MODELS = Path(__file__).resolve().parents[2] / "models"
FACTS: dict[str, Any] = {
    "parameters": 1234,
    "file_bytes": 5678,
    "train_seconds": 9,
    "val": {"accuracy": 0.5},
    "test": {"accuracy": 0.25},
}
PUBLISHED = {"resnet18": 11_177_538, "mobilenetv2": 2_226_434, "squeezenet": 723_522, "vgg": 16_031_682}
"""With two classes. The published numbers, 1,000 classes: 11,689,512, 3,504,872 and 1,235,496."""


@pytest.fixture(scope="module")
def torch() -> ModuleType:
    return pytest.importorskip("torch", reason="PyTorch is not installed: pip install -e '.[train]' brings it")


@pytest.mark.parametrize("folder", [one for one in card.FOLDERS if (MODELS / one).is_dir()])
def test_a_card_says_what_was_recorded(folder: str):
    metrics = json.loads((MODELS / folder / "metrics.json").read_text())
    assert tuple(metrics) == card.FOLDERS[folder]
    assert (MODELS / folder / "README.md").read_text() == card.render(folder, metrics)


def test_nothing_of_the_data_without_a_licence_has_a_card():
    carded = {name for names in card.FOLDERS.values() for name in names}
    assert set(FAMILIES) - carded == {"bearing"}
    assert {one.name for one in (MODELS / "bearing").iterdir()} <= {"README.md", "bench.jsonl", "recipes"}


def test_a_card_shows_both_figures():
    assert "| resnet18 | 1,234 | 5,678 | accuracy | 0.5000 | 0.2500 |" in card.render("resnet18", {"resnet18": FACTS})


def test_a_model_that_its_facts_do_not_tell_of_is_not_judged(tmp_path: Path):
    files.write_bytes(tmp_path / "ai4i.onnx", b"another model")
    digest = hashlib.sha256(b"a model").hexdigest()
    files.write_bytes(tmp_path / "ai4i.json", json.dumps({"file_sha256": digest}).encode())
    with pytest.raises(SystemExit, match=r"run train.py ai4i .* again"):
        card.judged("ai4i", tmp_path)


def test_items_are_spread_over_training_and_written_whole(tmp_path: Path):
    train = {"x": np.arange(5000.0), "labels": np.arange(5000)}
    few = {"x": np.zeros(3), "labels": np.zeros(3, np.int64)}
    files.write_items(tmp_path / "new", "a", train, few, few)
    found = {path.name: np.load(path) for path in (tmp_path / "new").iterdir()}
    assert sorted(found) == [f"a-{part}.npz" for part in ("calibration", "test", "unlabelled", "val")]
    calibration = found["a-calibration.npz"]
    assert len(calibration["x"]) == 256 and len(found["a-unlabelled.npz"]["x"]) == 2000
    assert calibration["labels"][[0, -1]].tolist() == [0, 4999] and (calibration["x"] == calibration["labels"]).all()
    files.write_items(tmp_path / "small", "a", few, few, few)
    with np.load(tmp_path / "small" / "a-unlabelled.npz") as arrays:
        assert len(arrays["x"]) == 3
    for arrays in found.values():
        arrays.close()


def test_missing_data_is_said_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EDGE_RUNTIME_DATA", str(tmp_path))
    with pytest.raises(SystemExit, match=r"found no data there; set EDGE_RUNTIME_DATA .* sms-spam"):
        files.data_folder("sms-spam")


@pytest.mark.parametrize("name", PUBLISHED)
def test_networks_have_the_published_number_of_parameters(torch: ModuleType, name: str):
    from models.zoo import networks

    net = networks.BUILDERS[name]()
    assert networks.parameters(net) == PUBLISHED[name]
    with torch.inference_mode():
        assert net.eval()(torch.rand(2, 3, 64, 64)).shape == (2, 2)


def test_two_steps_of_training_move_the_weights(torch: ModuleType):
    from models.zoo import learn, networks
    from models.zoo.pictures import Split

    dice = np.random.default_rng(0)
    lessons = Split(dice.integers(0, 256, (16, 64, 64, 3), np.uint8), np.arange(16) % 2, np.arange(16) == 3)
    net = networks.squeezenet()
    before = [one.detach().clone() for one in net.parameters()]
    learn.train(net, lessons, lessons, learn.Settings(sides=(48, 64), batch=4), steps=2)
    assert not net.training and any((a != b).any() for a, b in zip(before, net.parameters(), strict=True))
    assert learn.logits(net, lessons).shape == (16, 2)


def test_cells_are_turned_and_never_changed(torch: ModuleType):
    from models.zoo.learn import vary

    x = torch.rand(40, 3, 6, 6)
    turned = vary(x, 0.0, torch.Generator().manual_seed(1))
    assert torch.equal(turned.flatten(2).sort(2)[0], x.flatten(2).sort(2)[0])
    assert sum(torch.equal(a, b) for a, b in zip(turned, x, strict=True)) < 20  # one in eight stays as it was


def test_an_exported_network_answers_as_the_module(torch: ModuleType):
    pytest.importorskip("onnxscript", reason="onnxscript is not installed: PyTorch's exporter needs it")
    import onnx

    from models.zoo import networks
    from models.zoo.export import answers, to_onnx

    net = networks.squeezenet().eval()
    content = to_onnx(net, (torch.rand(2, 3, 64, 64),), ("image",))
    image = torch.rand(3, 3, 64, 64)
    assert np.allclose(answers(content, {"image": image.numpy()}), net(image).detach().numpy(), atol=1e-5)
    graph = onnx.load_from_string(content).graph
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert str(MODELS.parent).encode() not in content
