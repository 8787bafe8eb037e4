"""The small reader as it ships: its size, the same answers on both engines, and a card that says what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.bundle import load_bundle
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


def logits(variant: str, engine: str) -> np.ndarray:
    bundle = load_bundle("malaria-tiny")
    program = find_engine(engine).load(bundle.read(bundle.variant(variant).file), EngineOptions())
    found = []
    for cell in phantom_cells():
        image = cell[None].transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
        if engine == "litert":
            image = (cell ^ 128).view(np.int8)[None]
        found.append(program.run({"image": image})["logit"][0, 0])
    program.close()
    return np.array(found)


def test_it_reads_cells_alike_on_both_engines():
    one, two = logits("int8", "onnxruntime"), logits("int8-lite", "litert")
    assert len(one) >= 20 and np.ptp(one) > 1
    assert ((one > 0) == (two > 0)).all()
    assert np.abs(one - two).max() < 0.05


@pytest.mark.parametrize(("variant", "step"), [("int8", "tiny"), ("int8-lite", "tiny_lite")])
def test_its_entries_are_as_small_as_the_card_says(variant: str, step: str):
    file = load_bundle("malaria-tiny").variant(variant).file
    assert file.coded and file.size == METRICS["steps"][step]["stored"] <= 16384
    assert file.coded.size == METRICS["steps"][step]["bytes"]


def test_its_card_and_rows_are_of_its_figures(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(MODELS / "malaria"))
    import tiny_card

    shipped = json.loads((MODELS / "malaria" / "metrics.json").read_text())
    assert (MODELS / "malaria-tiny" / "README.md").read_text() == tiny_card.write(METRICS, shipped)
    rows = [json.loads(line) for line in (MODELS / "malaria" / "bench.jsonl").read_text().splitlines()]
    ours = {row["step"]: row for row in rows if row.get("kind") == "learn" and "train_tiny" in row["command"]}
    assert {step: row["scores"] for step, row in ours.items()} == {
        step: made["test"] for step, made in METRICS["steps"].items()
    }
