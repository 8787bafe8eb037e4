"""Networks of a few kilobytes: the same answers on both engines, and a card that says what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.compress.code import encode
from edge_runtime.engine import EngineOptions, find_engine
from edge_runtime.phantom import Phantom, render_field
from edge_runtime.task import cells as device

MODELS = Path(__file__).resolve().parents[2] / "models"
METRICS = json.loads((MODELS / "malaria-tiny" / "metrics.json").read_text())


def phantom_cells() -> np.ndarray:
    """uint8 (N,64,64,3)."""
    field, truth = render_field(Phantom(cells=40, infected=20))
    boxes = [*truth.infected_boxes, *truth.clean_boxes]
    return np.stack([device.square(field[y : y + h, x : x + w]) for x, y, w, h in boxes])


def logits(path: Path, engine: str) -> np.ndarray:
    program = find_engine(engine).load(path, EngineOptions())
    found = []
    for cell in phantom_cells():
        image = cell[None].transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
        if engine == "litert":
            image = (cell ^ 128).view(np.int8)[None]
        found.append(program.run({"image": image})["logit"][0, 0])
    program.close()
    return np.array(found)


def test_one_set_of_integers_answers_alike_on_both_engines_in_few_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(str(MODELS / "malaria"))
    from tiny_files import TinyLayer, TinyNet, write_onnx, write_tflite

    dice = np.random.default_rng(1)

    def layer(shape: tuple[int, ...], stride: int, depthwise: bool) -> TinyLayer:
        weight = dice.integers(-7, 8, shape).astype(np.int8)
        return TinyLayer(weight, 0.02, dice.integers(0, 99, shape[0]).astype(np.int32) * 64, stride, depthwise)

    layers = layer((8, 3, 3, 3), 2, False), layer((8, 1, 3, 3), 2, True), layer((12, 8, 1, 1), 1, False)
    net = TinyNet(layers, 1 / 255, dice.integers(-7, 8, 24).astype(np.int8), 0.1, 0.3)
    write_onnx(net, tmp_path / "net.onnx")
    write_tflite(net, tmp_path / "net.tflite")
    one, two = logits(tmp_path / "net.onnx", "onnxruntime"), logits(tmp_path / "net.tflite", "litert")
    assert len(one) >= 20 and np.ptp(one) > 0.01
    assert np.abs(one - two).max() < 1e-4
    for name in ("onnx", "tflite"):
        assert len(encode((tmp_path / f"net.{name}").read_bytes(), name).content) < 2600


def test_its_card_and_rows_are_of_its_figures(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(MODELS / "malaria"))
    import tiny_card

    shipped = json.loads((MODELS / "malaria" / "metrics.json").read_text())
    assert (MODELS / "malaria-tiny" / "README.md").read_text() == tiny_card.write(METRICS, shipped)
    rows = [json.loads(line) for line in (MODELS / "malaria" / "bench.jsonl").read_text().splitlines()]
    ours = {row["step"]: row for row in rows if row.get("kind") == "learn" and "train_tiny" in row["command"]}
    assert {step: row["scores"] for step, row in ours.items()} == {
        step: made["test"] for step, made in METRICS["steps"].items() if "bytes" in made
    }
