"""How sure a drop is: intervals against what the literature prints and against draws, and items to test on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from edge_runtime.cli import main
from edge_runtime.compress import certainty, judging
from edge_runtime.compress.artifact import read_artifact
from edge_runtime.compress.outputs import answers
from edge_runtime.compress.samples import Samples
from edge_runtime.compress.scores import scores

from .compress_models import onnx_file


def test_the_interval_of_paired_proportions_holds_the_true_drop_as_often_as_it_says():
    dice = np.random.default_rng(3)
    cells = np.array([0.88, 0.03, 0.01, 0.08])  # both right, the first alone, the second alone, neither
    held = []
    for draw in dice.multinomial(300, cells, size=1500):
        low, high = certainty.newcombe(*map(int, draw))
        held.append(low <= 0.02 <= high)
    assert 0.93 < np.mean(held) < 0.985


def test_the_interval_is_that_of_a_printed_example():
    """Airway reactivity before and after transplantation (Fagerland, Lydersen and Laake, 2014)."""
    assert certainty.newcombe(1, 1, 7, 12) == pytest.approx((-0.507, -0.026), abs=5e-4)


def test_the_interval_is_tighter_than_that_of_two_samples_and_turns_with_the_nets():
    low, high = certainty.newcombe(880, 30, 10, 80)
    (a, b), (c, d) = certainty.wilson(910, 1000), certainty.wilson(890, 1000)
    assert low < 0.02 < high and high - low < np.hypot(b - a, d - c)
    back = certainty.newcombe(880, 10, 30, 80)
    assert back == pytest.approx((-high, -low))
    low, high = certainty.newcombe(100, 0, 0, 0)
    assert low == -high and high == pytest.approx(3.84 / 103.84, abs=1e-4), "no change in 100 items is no proof"


def test_one_item_says_next_to_nothing():
    one = np.array([1])
    found = certainty.paired(one, one, one, "accuracy", 2)
    assert found["error_points"] == 100 and found["interval"][1] > 70


def test_draws_of_the_items_give_the_score_that_is_reported():
    dice = np.random.default_rng(1)
    for classes in (2, 4):
        labels, found = dice.integers(0, classes, 500), dice.integers(0, classes, 500)
        logits = np.eye(classes, dtype=np.float32)[found]
        kinds, counts = np.unique(np.stack([labels, found]), axis=1, return_counts=True)
        for score in ("precision", "recall", "f1"):
            made = certainty._of_draws(counts[None], kinds[0], kinds[1], score, classes)
            assert made[0] == pytest.approx(scores({"y": logits}, labels)[score])
    after = np.where(dice.random(500) < 0.1, 0, found)
    low, high = certainty.drawn(found, after, labels, "f1", 4)
    assert low < high and certainty.drawn(found, found, labels, "f1", 4) is None


def test_cells_of_one_person_are_no_independent_items():
    dice = np.random.default_rng(2)
    person = np.repeat(np.arange(30), 40)
    before = labels = dice.integers(0, 2, 1200)
    after = np.where(person < 3, 1 - labels, labels)  # all of three people's cells are lost
    alone = certainty.paired(before, after, labels, "accuracy", 2)
    people = certainty.paired(before, after, labels, "accuracy", 2, person)
    assert people["interval"][0] < 10 < people["interval"][1] and people["method"] == "2,000 draws of people"
    assert np.diff(people["interval"]) > 4 * np.diff(alone["interval"])
    assert people["error_points"] == pytest.approx(5.5, abs=1)  # sqrt(0.1 * 0.9 / 30)


def test_a_rule_of_few_false_positives_is_said_not_to_bind():
    def slides(was: int) -> dict[str, object]:
        return {"original": {"false_positives": was, "healthy_cells": 50}, "false_positives": 1.25}

    assert "could not bind" in str(certainty.cannot_bind(slides(3))) and certainty.cannot_bind(slides(4)) is None
    assert certainty.cannot_bind(None) is None and certainty.cannot_bind({"not_judged": "why"}) is None


# ---------------------------------------------------------------- --test


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A net of three classes, items to judge it on that it answers rightly, and as many to test on."""
    weights = np.random.default_rng(0).normal(size=(256, 3)).astype(np.float32) / 16
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="head")]
    model = onnx_file(nodes, {"w": weights, "b": np.zeros(3, np.float32)}, ["batch", 256])
    (tmp_path / "net.onnx").write_bytes(model)
    for seed, name in enumerate(("judge", "test")):
        x = np.random.default_rng(seed).normal(size=(200, 256)).astype(np.float32)
        found = next(iter(answers(read_artifact(model, "net"), Samples("x", 200, None, {"x": x}), 8).values()))
        np.savez(tmp_path / f"{name}.npz", x=x, labels=found.argmax(axis=1))
        np.savez(tmp_path / f"{name}2.npz", x=x, labels=found.argmax(axis=1))
        np.savez(tmp_path / f"{name}-bare.npz", x=x)
    recipe = {"name": "three", "passes": [{"pass": "weights_int", "bits": 3, "block": 32}]}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> int:
    given = ["net.onnx", "--judge", "judge.npz", "--recipe", "recipe.json", "--quick", "-o", "out"]
    return main(["compress", *given, *words])


SEARCH = ("--device", "raspberry-pi-5", "--max-drop", "9.9")


def test_what_is_chosen_is_judged_once_on_items_that_took_no_part(work, capsys, monkeypatch):
    looked = []
    real = certainty.answers

    def look(artifact, samples, batch):
        looked.append(samples.name)
        return real(artifact, samples, batch)

    monkeypatch.setattr(certainty, "answers", look)
    monkeypatch.setattr(judging, "answers", lambda artifact, samples, batch: real(artifact, judged(samples), batch))

    def judged(samples):
        assert samples.name == "judge.npz", "the search sees no item to test on"
        return samples

    assert run(*SEARCH, "--test", "test.npz") == 0
    report = json.loads((work / "out" / "report.json").read_text())
    sure = report["search"]["certainty"]
    assert sure["test"]["items"] == 200 and looked.count("test.npz") == 1 + 2 + len(sure["test"]["rows"])
    assert {row["engine"] for row in sure["test"]["rows"]} == {"onnxruntime", "litert"}
    points = {(one["name"], one["engine"]): one["drop"] for one in report["search"]["points"]}
    for row in sure["judged"]["rows"]:
        low, high = row["interval"]
        assert row["drop"] == points[row["name"], row["engine"]] and low <= row["drop"] <= high
        assert row["drop"] == pytest.approx((row["worse"] - row["better"]) / 2)
    said, page = capsys.readouterr().out, (work / "out" / "report.html").read_text()
    assert "chosen as the best of" in said and "on these 200 items (one item is 0.5 points)" in said
    for row in sure["test"]["rows"]:
        words = f"{row['drop']:.2f} (95 %: {row['interval'][0]:.2f} to {row['interval'][1]:.2f})"
        assert words in page and f"on test.npz {words}" in said


def test_few_items_are_said_to_be_few_and_a_test_that_fails_is_said(work, capsys, monkeypatch):
    with np.load("judge.npz") as found:
        two = [0, int((found["labels"] != found["labels"][0]).argmax())]
        np.savez("two.npz", x=found["x"][two], labels=found["labels"][two])
        np.savez("one.npz", x=found["x"][:1])
    with np.load("test.npz") as found:
        np.savez("turned.npz", x=found["x"], labels=found["labels"])
    with np.load("two.npz") as two, np.load("turned.npz") as found:
        both = {key: np.concatenate([found[key][2:], two[key]]) for key in ("x", "labels")}
    np.savez("turned.npz", **both)
    words = ["--device", "raspberry-pi-5", "--max-drop", "0", "--judge", "two.npz", "--test", "turned.npz"]
    assert run(*words) == 0
    said = capsys.readouterr().out
    assert "mind: 2 items are few for a drop of 0 points: its standard error is 50 points" in said
    assert "mind: 2 of the 200 items of turned.npz are among those of --judge too" in said
    assert "points on the 200 items of turned.npz, more than the 0 allowed" in said
    assert run("--device", "raspberry-pi-5", "--max-drop", "0", "--judge", "one.npz") == 0
    assert (
        "1 item is few for a drop of 0 points: its standard error is 100 points, one item is 100"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("--test", "test.npz"), "found --test without --max-drop"),
        ((*SEARCH, "--test", "judge.npz"), "the same items for --test and --judge"),
        ((*SEARCH, "--test", "judge2.npz"), "the same items for --test and --judge"),
        ((*SEARCH, "--test", "test2.npz", "--calibrate", "test.npz"), "the same items for --test and --calibrate"),
        ((*SEARCH, "--test", "test-bare.npz"), "found no labels, wanted some as --judge has"),
        ((*SEARCH, "--test", "none.npz"), "none.npz"),
    ],
)
def test_items_to_test_on_that_are_no_test_give_one_clear_error(work, capsys, words, wanted):
    assert run(*words) in (1, 2) and not Path("out").exists()
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("edge-runtime:")]
    assert len(said) == 1 and wanted in said[0]


def test_without_labels_what_changes_is_counted_and_pixels_are_no_items():
    dice = np.random.default_rng(5)
    before = dice.integers(0, 3, (50, 1))
    after = np.where(np.arange(50)[:, None] < 5, (before + 1) % 3, before)
    found = certainty.paired(before, after, None, "decisions kept", 2)
    assert found["worse"] == 5 and found["interval"][0] < 10 < found["interval"][1]
    maps = np.zeros((50, 1000), np.int64)
    other = maps + (np.arange(50)[:, None] < 5)
    wide = certainty.paired(maps, other, None, "decisions kept", 2)["interval"]
    assert wide[1] - wide[0] > 10, "a tenth of the items is all changed: as sure as items, not as pixels, make it"
