"""The search for what fits a device and loses no more than allowed: its order, its end, its limits, and its words."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edge_runtime.bundle import load_bundle
from edge_runtime.cli import main
from edge_runtime.compress import judging, people, slide_figures
from edge_runtime.compress.candidates import Board, Candidate, of_recipe
from edge_runtime.compress.passes import prune_tune
from edge_runtime.compress.recipe import read_recipe
from edge_runtime.compress.samples import Samples, load_samples
from edge_runtime.compress.search import search
from edge_runtime.errors import InputError, UsageError
from edge_runtime.operators import OperatorTable, Point
from edge_runtime.task.verdict import Calibration
from edge_runtime.tensors import TensorSpec

from .search_jobs import BOTH, dice, goal, job, some, write_work

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return write_work(tmp_path)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the candidates that were really made."""
    names: list[str] = []
    real = judging.Bench.judge

    def judge(self, candidate, notice):
        names.append(candidate.name)
        return real(self, candidate, notice)

    monkeypatch.setattr(judging.Bench, "judge", judge)
    return names


def test_it_finds_the_one_technique_that_fits_and_writes_it_for_both_engines(work):
    found = search(job(work), goal(storage=7000), families=some("share"))
    bundle = load_bundle(work / "out.edge")
    assert found.answers and {one.format for one in bundle.variants} == {"onnx", "tflite"}
    assert all(one.name.startswith("share") for one in bundle.variants)
    assert (work / "out.report.html").read_text().count('<svg class="plane"') >= 2
    assert not list(work.glob(".out*")), "what was kept for another start is cleared away"


def test_what_cannot_fit_on_paper_is_not_made(work, made):
    found = search(job(work, out="made"), goal(storage=2000), families=some("share", "half", "weights"))
    # 2,304 weights: 8 and 16 bits each cannot take 2,000 bytes, 4 bits may
    assert made == ["as_is", "w4b16", "w4b32", "w3b32"]
    assert {"share5", "half", "w8"} <= set(found.search["on_paper"])
    assert found.answers == 0 and found.report is None and not (work / "made").exists()
    made.clear()
    small = search(job(work, out="made", steps=work / "s"), goal(ram=30 << 20), families=some("share", "weights"))
    assert made == ["as_is", "w8", "w4b16", "w4b32"], "these few may take less than the original"
    assert "memory: needs" in small.search["on_paper"]["share5"]
    assert any("more RAM than the 30 MiB allowed" in line for line in small.words)


def test_a_latency_budget_counts_by_the_profiles_operator_table(work, made):
    points = {"dense.float32": (Point(1, 768, 3, 1, 1, 5_000_000),)}
    table = OperatorTable("onnxruntime", "1", "aarch64", 1, "2026-01-01T00:00:00+00:00", 1000, points)
    tight = goal(latency=1.0)
    tight = replace(tight, device=replace(tight.device, operators=(table,)))
    found = search(job(work, engines=("onnxruntime",), out="made"), tight, families=some("share"))
    assert made == ["as_is"] and "latency: takes" in found.search["on_paper"]["share5"]
    first = found.search["points"][0]
    assert first["latency_ms"] > 4 and "latency from the operator table of 2026" in first["basis"]
    assert any("allowed 1 ms" in line for line in found.words)


@pytest.mark.slow
def test_what_is_good_enough_is_timed_here_and_labelled_so(work):
    found = search(job(work), goal(measure=True), families=some("share"))
    timed = [one for one in found.search["points"] if one["chosen"]]
    assert timed and all("measured here, on" in one["basis"] and one["latency_ms"] > 0 for one in timed)


def test_it_ends_with_the_class_of_the_first_answer_unless_more_is_asked_for(work, made):
    found = search(job(work), goal(), families=some("share", "dynamic", "static"))
    assert "class 0" in found.search["ended"] and not {"dynamic", "static"} & set(made)
    made.clear()
    more = search(job(work), goal(thorough=True), families=some("share", "dynamic", "static"))
    assert "static" in made and "nothing was left" in more.search["ended"]
    made.clear()
    none = search(job(work), goal(minutes=0.0), families=some("share"))
    assert made == ["as_is"] and "0 minutes were over" in none.search["ended"]
    search(job(work, steps=work / "s"), goal(), families=some("share"))
    made.clear()
    again = search(job(work, steps=work / "s"), goal(minutes=0.0, drop=4), families=some("share", "half"))
    assert not made and again.search["taken_up"] > 1 and "0 minutes" in again.search["ended"], "what is known is free"


def test_an_interrupted_search_goes_on_without_doing_anything_twice(work, made, monkeypatch):
    real = judging.Bench.judge

    def stop(self, candidate, notice):
        if candidate.name == "half":
            raise KeyboardInterrupt
        return real(self, candidate, notice)

    monkeypatch.setattr(judging.Bench, "judge", stop)
    with pytest.raises(KeyboardInterrupt, match=r"candidates are judged and kept in .*the same command goes on"):
        search(job(work), goal(), families=some("share", "half"))
    before = list(made)
    assert before[:2] == ["as_is", "share5"]
    record = work / ".out.edge.steps" / "search.jsonl"
    record.write_bytes(record.read_bytes() + b'{"key": "torn')
    made.clear()
    monkeypatch.setattr(judging.Bench, "judge", real)
    found = search(job(work), goal(drop=4), families=some("share", "half"))
    assert not set(made) & set(before) and found.search["taken_up"] == len(before) and "half" in made


def test_the_front_is_of_what_was_judged_and_the_bundle_is_of_the_front(work):
    points = search(job(work), goal(), families=some("share", "weights")).search["points"]
    for one in points:
        beaten = [
            other
            for other in points
            if other["engine"] == one["engine"]
            and other["stored_bytes"] <= one["stored_bytes"]
            and other["ram_mib"] <= one["ram_mib"]
            and other["work"] <= one["work"]
            and other["score"] >= one["score"]
            and (other["stored_bytes"], other["ram_mib"], other["work"], other["score"])
            != (one["stored_bytes"], one["ram_mib"], one["work"], one["score"])
        ]
        assert one["front"] != bool(beaten)
    first = {one["name"] for one in points if one["chosen"] and one["engine"] == "onnxruntime"}
    assert 1 <= len(first) <= 3 and all(one["front"] for one in points if one["chosen"] and one["engine"] == BOTH[0])


def test_on_a_small_space_nothing_smaller_is_missed(work):
    """Every setting of three families and every combination of them, beside what the search tries of these."""
    families = tuple(replace(one, ladder=one.ladder[:3]) for one in some("sparse", "share", "weights"))
    found = search(job(work), goal(), families=families)
    every = []
    for settings in product(*[(None, *one.ladder) for one in families]):
        steps = [{"pass": one.technique} | dict(rung[1]) for one, rung in zip(families, settings, strict=True) if rung]
        if steps:
            every.append(read_recipe({"name": f"r{len(every)}", "passes": [*steps, {"pass": "code"}]}, "r"))
    assert len(every) == 63
    whole = search(job(work, recipes=tuple(every), out="whole.edge"), goal())

    def smallest(one) -> dict[str, int]:
        return {
            engine: min(p["content_bytes"] for p in one.search["points"] if p["engine"] == engine and not p["misses"])
            for engine in BOTH
        }

    assert smallest(found) == smallest(whole) and found.search["judged"] < 20


@pytest.mark.torch
def test_what_learns_is_tried_last_and_on_the_items_to_learn_from(work, monkeypatch):
    pytest.importorskip("torch")
    seen = []
    real = prune_tune.PruneTune.__call__

    def call(self, artifact, context):
        seen.append(context.samples.count)
        return real(replace(self, epochs=1), artifact, context)

    monkeypatch.setattr(prune_tune.PruneTune, "__call__", call)
    np.savez(work / "more.npz", x=dice(40, 3))
    found = search(job(work, train=work / "more.npz"), goal(thorough=True), families=some("share", "tuned"))
    classes = [one["class"] for one in found.search["points"]]
    assert seen and set(seen) == {40} and classes == sorted(classes) and 3 in classes


def profile(work: Path, ram: str = "192MiB", storage: str = "256MiB") -> Path:
    text = (ROOT / "device_profiles" / "raspberry-pi-zero-2w.toml").read_text()
    head, _, rest = text.partition("[budget]\n")
    rest = rest.replace('ram = "192MiB"', f'ram = "{ram}"', 1).replace(
        'storage = "256MiB"', f'storage = "{storage}"', 1
    )
    path = work / "raspberry-pi-zero-2w.toml"
    path.write_text(f"{head}[budget]\n{rest}")
    return path


def run(work: Path, *words: str, recipe: dict[str, object] | None = None) -> int:
    given = ["compress", str(work / "net.onnx"), "--like", str(work / "about.json"), "--judge", str(work / "judge.npz")]
    given += ["--calibrate", str(work / "items.npz"), "--quick", "-o", str(work / "out.edge"), "--max-drop", "5"]
    if recipe:
        (work / "recipe.json").write_text(json.dumps(recipe))
        given += ["--recipe", str(work / "recipe.json")]
    return main([*given, *words])


def test_without_a_solution_it_says_what_is_closest_and_what_that_takes(work, capsys):
    recipe = {"name": "w8", "passes": [{"pass": "weights_int"}]}
    words = ["--device", str(profile(work, storage="3.8KiB"))]
    assert run(work, *words, recipe=recipe) == 3
    said = capsys.readouterr().out
    assert "nothing fits raspberry-pi-zero-2w" in said and "closest: w8 on onnxruntime: drop" in said
    assert "more storage than the 3.8 KiB allowed" in said and "--closest writes" in said
    assert not (work / "out.edge").exists()
    assert run(work, *words, "--closest", "--json", recipe=recipe) == 3
    report = json.loads(capsys.readouterr().out)
    assert report["search"]["answers"] == 0 and [one.name for one in load_bundle(work / "out.edge").variants] == ["w8"]


def test_a_drop_that_is_too_large_names_the_drop_that_would_do(work, capsys):
    recipe = {"name": "five", "passes": [{"pass": "share_weights", "bits": 5}, {"pass": "code"}]}
    assert run(work, "--device", str(profile(work, storage="3.4KiB")), "--max-drop", "1", recipe=recipe) == 3
    said = capsys.readouterr().out
    assert "closest: five on onnxruntime: drop 2.22" in said and "allow --max-drop 2.3" in said


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--max-drop", "1"], "--max-drop searches for a device, found none"),
        (["--device", "raspberry-pi-5", "--thorough"], "found --thorough without --max-drop"),
        (["--device", "raspberry-pi-5", "--most", "2", "--score", "f1"], "found --score, --most without --max-drop"),
        (["--device", "raspberry-pi-5", "--max-drop", "-1"], "--max-drop: found -1, wanted 0 or more"),
        (["--device", "raspberry-pi-5", "--max-drop", "nan"], "--max-drop: found nan, wanted 0 or more"),
        (["--device", "raspberry-pi-5", "--max-drop", "1", "--most", "0"], "--most: found 0, wanted 1 or more"),
        (["--device", "raspberry-pi-5", "--max-drop", "1", "--detection", "0.9"], "--detection: found 0.9, wanted 1"),
        (["--device", "raspberry-pi-5", "--max-drop", "1", "--thorough", "--minutes", "2"], "wanted one: how long"),
        (["--device", "raspberry-pi-5", "--max-drop", "1"], "found no items to judge with"),
        (
            ["--device", "raspberry-pi-5", "--max-drop", "1", "--calibrate", "items.npz", "--score", "f1"],
            "without labels",
        ),
    ],
)
def test_options_that_do_not_go_together_give_one_clear_error(work, capsys, monkeypatch, words, wanted):
    monkeypatch.chdir(work)
    assert main(["compress", "net.onnx", "-o", "made", *words]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("edge-runtime:")]
    assert len(said) == 1 and wanted in said[0]


# ---------------------------------------------------------------- what is tried


def walk(board: Board, cost: int, keeps) -> list[str]:
    names = []
    while (one := board.next(cost)) is not None:
        names.append(one.name)
        board.tell(one, *keeps(one))
    return names


def test_a_ladder_is_climbed_while_it_is_kept_and_left_downwards_where_it_is_lost():
    board = Board("onnx", True, 1.0, families=some("share"))
    assert walk(board, 0, lambda one: (one.name != "share3", 0.5)) == ["share5", "share4", "share3"]
    board = Board("onnx", True, 1.0, families=some("share"))
    assert walk(board, 0, lambda one: (one.name == "share7", 2.0)) == ["share5", "share6", "share7"]


def test_only_survivors_are_combined_and_three_only_where_each_two_survived():
    families = some("sparse", "share", "weights", "half")

    def keeps(one: Candidate) -> tuple[bool, float]:
        return "w" not in one.name, 0.0  # no kind of integer weights survives

    names = walk(Board("onnx", True, 1.0, families=families, learns=False), 0, keeps)
    assert "sparse85-share3" in names and not [name for name in names if "-w" in name or "half-" in name]
    lost = {"sparse85-share3", "sparse70-share3", "sparse50-share3", "sparse85-share4", "sparse70-share4"}
    names = walk(Board("onnx", True, 1.0, families=families, learns=False), 0, lambda one: (one.name not in lost, 0.0))
    assert "share3-w3b32" in names and "sparse85-share3-w3b32" not in names


def test_two_start_where_their_losses_add_up_to_no_more_than_is_allowed():
    drops = {"sparse85": 0.9, "sparse70": 0.3, "share3": 0.6}
    board = Board("onnx", True, 1.0, families=some("sparse", "share"), learns=False)
    names = walk(board, 0, lambda one: (True, drops.get(one.name, 0.0)))
    assert names[-1] == "sparse70-share3"


def test_what_was_lost_is_repaired_where_items_and_pytorch_are_there():
    def keeps(one: Candidate) -> tuple[bool, float]:
        return "sparse" not in one.name or "repair" in one.name, 2.0 if "sparse" in one.name else 0.0

    board = Board("onnx", True, 1.0, families=some("sparse", "weights"), learns=True)
    walk(board, 0, keeps)
    names = walk(board, 3, keeps)
    assert names == ["sparse30-repair", "sparse50-repair", "sparse50-repair-w3b32"]
    assert walk(Board("onnx", False, 1.0, families=some("sparse"), learns=True), 3, keeps) == []
    pair = Board("onnx", True, 1.0, families=some("sparse", "share"), learns=True)

    def lost(one: Candidate) -> tuple[bool, float]:
        return one.name.count("-") != 1, 2.0 * one.name.count("-")  # every pair, until it is repaired

    walk(pair, 0, lost)
    made = walk(pair, 3, lost)
    assert made == [f"{name}-repair" for name in ("sparse50-share3", "sparse70-share3", "sparse85-share3")]


def test_a_recipe_of_the_users_is_of_the_class_of_its_dearest_step():
    plain = {"name": "r", "passes": [{"pass": "share_weights"}, {"pass": "static_w8a8"}, {"pass": "code"}]}
    one = of_recipe(read_recipe(plain, "r.json"))
    assert (one.cost, one.coded, one.written(True).name, len(one.written(True).passes)) == (1, (True,), "r", 3)


# ---------------------------------------------------------------- slides


def cells(count: int = 600, seed: int = 4):
    """Hand-made scores: 12 infected people, of whose cells every second is infected, and 8 healthy ones."""
    dice = np.random.default_rng(seed)
    person = np.array([f"p{number:02d}" for number in dice.integers(0, 20, count)])
    healthy = person >= "p12"
    infected = ~healthy & (dice.random(count) < 0.5)
    scores = dice.normal(0, 1, count) + np.where(infected, 6.0, -2.0) + (np.char.str_len(person) - 3)
    return scores.astype(np.float32), infected, healthy, person


def test_slide_figures_are_those_of_the_shipped_nets_own_card(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "models" / "malaria"))
    evaluate = pytest.importorskip("evaluate")
    scores, infected, healthy, person = cells()
    calibration = Calibration.from_json(load_bundle("malaria").task["calibration"])
    samples = Samples("c", len(scores), infected.astype(np.int64), {}, person=person, healthy=healthy)
    found = slide_figures.figures(scores[:, None], samples, calibration)
    path = np.full(len(scores), "malaria-cells/x")
    table = SimpleNamespace(path=path, infected=infected, suspect=np.zeros(len(scores), bool), healthy=healthy)
    own = evaluate.cell_figures(table, scores, found["cut"])
    assert found["false_positives_per_5000_healthy"] == pytest.approx(own["false_positives_per_5000_healthy"])
    assert own["sensitivity_at_cut"] == pytest.approx(0.9, abs=0.01) and found["accuracy_at_0"] == own["accuracy"]
    groups = [people.by_person(scores, person, mask) for mask in (healthy, infected)]
    slides = evaluate.slide_figures(*groups, calibration, evaluate.people.Choice())
    for count in ("1000", "5000"):
        assert round(1000 * found["detectable"][count], 2) == slides[count]["limit_shipped"]
        assert round(found["healthy_slides_called"][count], 4) == slides[count]["healthy_called"]
    for name in ("evaluate", "people", "dataset"):
        sys.modules.pop(name, None)


def test_slides_may_not_be_read_worse_than_the_rules_say():
    before = {
        "false_positives": 8,
        "healthy_cells": 100,
        "detectable": {"1000": 0.01},
        "healthy_slides_called": {"1000": 0.0},
    }
    rules = slide_figures.Rules()

    def broken(**changes) -> int:
        return len(rules.broken(before, before | changes, 0.05))

    assert broken() == broken(false_positives=10) == broken(detectable={"1000": 0.011}) == 0
    assert broken(false_positives=11) == broken(detectable={"1000": 0.0112}) == 1
    assert broken(healthy_slides_called={"1000": 0.06}) == 1
    none = before | {"false_positives": 0}
    assert not rules.broken(none, none | {"false_positives": 1}, 0.05), "one cell more is chance"


def test_cells_are_called_at_the_bundles_threshold_and_people_are_read_from_the_items(tmp_path):
    spec = (TensorSpec("x", (None, 1), "float32"),)
    about = load_bundle("malaria")
    x = np.float32([[1], [2]])
    np.savez(tmp_path / "a.npz", x=x, labels=[0, 1], person=["a", "b"], healthy=[True, False])
    found = load_samples(tmp_path / "a.npz", spec, about)
    assert found.cut == about.task["calibration"]["threshold"] and found.some(1).person.tolist() == ["a"]
    for wrong in ({"person": ["a", "b"]}, {"person": ["a", "b"], "healthy": [1, 0]}, {"healthy": [True, False]}):
        np.savez(tmp_path / "b.npz", x=x, labels=[0, 1], **wrong)
        with pytest.raises(InputError, match="wanted labels, person"):
            load_samples(tmp_path / "b.npz", spec, about)
    np.savez(tmp_path / "b.npz", x=x, labels=[1, 1], person=["a", "b"], healthy=[True, False])
    with pytest.raises(InputError, match="1 items of healthy people"):
        load_samples(tmp_path / "b.npz", spec, about)
    assert "do not say whose cells" in slide_figures.why_not(about.task, replace(found, person=None, healthy=None))


def test_a_score_is_chosen_by_the_labels():
    def samples(*labels: int) -> Samples:
        return Samples("s", len(labels), np.array(labels), {})

    assert judging.score_for(None, samples(0, 1, 0, 1))[0] == "accuracy"
    assert (
        judging.score_for(None, samples(*[0] * 9, 1))[0] == "f1"
        and judging.score_for("recall", samples(0, 1))[0] == "recall"
    )
    with pytest.raises(UsageError, match="items without labels"):
        judging.score_for("f1", Samples("s", 3, None, {}))
