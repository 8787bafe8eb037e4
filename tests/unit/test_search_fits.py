"""A search's answer is one: what it writes runs on the device as it was told, and what it says of the rest is so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edge_runtime.bundle import load_bundle
from edge_runtime.compress import timed
from edge_runtime.compress.candidates import Board
from edge_runtime.compress.choosing import choose, names_to_time
from edge_runtime.compress.points import set_work
from edge_runtime.compress.recipe import read_recipe
from edge_runtime.compress.search import search
from edge_runtime.compress.search_words import nearest, no_answer
from edge_runtime.planner import plan

from .search_jobs import BOTH, goal, job, some, write_work

CODED = {"name": "four", "passes": [{"pass": "share_weights", "bits": 4}, {"pass": "code"}]}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return write_work(tmp_path)


# ---------------------------------------------------------------- storage


@pytest.mark.parametrize("storage", [3900, 7000])
def test_a_bundle_with_its_description_takes_no_more_than_was_told(work, storage):
    found = search(job(work), goal(storage=storage), families=some("share", "half"))
    bundle = load_bundle(work / "out.edge")
    assert found.answers and bundle.size <= storage and plan(bundle, goal(storage=storage).device).choice
    kept = [one for one in found.search["points"] if one["chosen"]]
    assert len(kept) == len(bundle.variants) == (1 if storage == 3900 else 2)
    assert {one["name"] for one in kept} == {"share5_coded"}, "half the bytes are too many, or too many beside it"


def test_the_description_alone_may_be_too_large(work):
    found = search(job(work), goal(storage=800), families=some("share"))
    assert not found.answers and found.report is None and found.search["on_paper"]
    assert all("storage: needs" in one["misses"][-1] for one in found.search["points"])


def test_what_is_written_after_all_is_asked_of_the_planner(work, monkeypatch):
    monkeypatch.setattr("edge_runtime.compress.described.Described.whole", lambda *given: 0)
    found = search(job(work), goal(storage=2100), families=some("share"))
    assert found.answers == 0 and found.report["search"]["answers"] == 0
    assert found.words[-1].startswith("what is written does not fit raspberry-pi-zero-2w")


def test_a_folder_holds_no_more_than_allowed_and_stores_plain(work):
    found = search(job(work, out="made", recipes=(read_recipe(CODED, "r"),)), goal(storage=8000))
    assert not found.answers and all(not one["coded"] for one in found.search["points"])
    both = search(job(work, out="made"), goal(storage=8000), families=some("half"))
    files = [*(work / "made").glob("*.onnx"), *(work / "made").glob("*.tflite")]
    assert both.answers == 2 and [one.name for one in files] == ["half.onnx"]


# ---------------------------------------------------------------- which files


def point(name: str, engine: str, stored: int, score: float, ram: int = 30) -> dict[str, object]:
    return {
        "name": name,
        "recipe": name,
        "engine": engine,
        "stored_bytes": stored,
        "ram_mib": ram,
        "work": 100,
        "score": score,
    }


def chosen(points, storage: int = 10_000, most: int = 3) -> list[tuple[str, str]]:
    originals = [one for one in points if one["name"] == "as_is"]
    good = [one for one in points if one["name"] != "as_is"]
    return [(one["name"], one["engine"]) for one in choose(good, originals, BOTH, most, storage, 100)]


def test_each_engine_has_files_of_its_own_front():
    onnx, lite = BOTH
    points = [point("as_is", onnx, 900, 0.9), point("as_is", lite, 900, 0.9)]
    points += [point("e3m2", onnx, 300, 0.89), point("e3m2", lite, 905, 0.91), point("w8", onnx, 310, 0.88)]
    points += [point("w8", lite, 400, 0.88), point("half", lite, 500, 0.87)]
    assert chosen(points) == [("e3m2", onnx), ("w8", lite)], "e3m2 gains nothing here, half is beaten"
    points += [point("share", onnx, 310, 0.9), point("share", lite, 410, 0.89)]
    assert chosen(points, most=2) == [("e3m2", onnx), ("w8", lite), ("share", onnx), ("share", lite)]


def test_an_engines_file_is_left_out_rather_than_too_much_written():
    onnx, lite = BOTH
    points = [point("a", onnx, 600, 0.9), point("a", lite, 900, 0.9), point("b", onnx, 500, 0.8)]
    assert chosen(points, storage=1000) == [("b", onnx), ("a", onnx)], "the head counts once"
    assert chosen(points, storage=1400) == [("b", onnx), ("a", lite)]
    assert chosen(points, storage=900) == [("b", onnx)]


# ---------------------------------------------------------------- latency


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Timing that takes no time: 2 ms for each file, the original 4. How many files were timed, by engine."""
    counts: list[int] = []

    def speeds(paths, engine):
        counts.append(len(paths))
        return [{"p50_ms": 2.0 if number else 4.0, "ratio": None} for number, _ in enumerate(paths)]

    monkeypatch.setattr(timed.verify, "speeds", speeds)
    return counts


def test_a_latency_that_is_not_known_is_no_answer(work):
    found = search(job(work), goal(latency=0.001), families=some("share"))
    assert found.answers == 0 and found.report is None
    assert "class 0" in found.search["ended"] and "only latency is missing" in found.search["ended"]
    assert any("its latency is not known: add --measure, or an operator table" in line for line in found.words)
    assert not any("allow --max-drop" in line for line in found.words)


@pytest.mark.parametrize(("latency", "answers"), [(1.0, False), (3.0, True)])
def test_what_is_timed_here_counts_as_timed_here_and_memory_stays_estimated(work, clock, latency, answers):
    tight = goal(latency=latency, ram=1 << 20, measure=True)
    assert not search(job(work, engines=BOTH[:1]), tight, families=some("share")).answers and not clock
    found = search(job(work, engines=BOTH[:1]), goal(latency=latency, measure=True), families=some("share"))
    said = " ".join(word for one in found.search["points"] for word in one["misses"])
    assert bool(found.answers) == answers and clock and "latency: takes 4 ms (measured here, on" in said
    assert all(one["measured_here"] for one in found.search["points"] if one["chosen"])
    assert "memory" not in said and "(measured)" not in said
    if answers:
        page = (work / "out.report.html").read_text()
        assert page.count("(here: measured on ") == 1 and "2 ms (here)" in page


def test_the_front_alone_is_timed_and_its_work_is_milliseconds(work, clock):
    found = search(job(work, engines=BOTH[:1]), goal(measure=True), families=some("share", "half", "minifloat"))
    timed_names = {one["recipe"] for one in found.search["points"] if one.get("measured_here")}
    assert clock == [len(timed_names)] and len(timed_names) < found.search["judged"]
    assert all((one["work"] is None) != bool(one.get("measured_here")) for one in found.search["points"])
    late = search(job(work, out="late.edge"), goal(measure=True, minutes=0.0), families=some("share"))
    assert len(clock) == 1 and "minutes were over" in late.search["ended"]


def test_milliseconds_and_macs_are_never_one_figure():
    points = [point("a", "litert", 1, 1) | {"macs": 5, "latency_ms": ms, "misses": []} for ms in (None, 2.0)]
    set_work(points)
    assert [one["work"] for one in points] == [5, 5]
    points[1]["measured_here"] = "x86_64"
    set_work(points)
    assert [one["work"] for one in points] == [None, 2.0]
    assert names_to_time(points, ("litert",), 1) == {"a"}


# ---------------------------------------------------------------- another model


def test_what_compress_would_refuse_to_write_is_no_answer_however_large_the_drop(work):
    found = search(job(work), goal(drop=60, thorough=True), families=some("share", "weights", "sparse"))
    other = [one for one in found.search["points"] if one["drift"]["agreement"] < 0.9]
    assert other and all("another model:" in one["lost"][0] for one in other), "a drop of 60 points is allowed"
    assert found.answers and found.report is not None and not found.report["refused"]
    kept = [one for one in found.search["points"] if one["chosen"]]
    assert kept and not any(one["misses"] for one in kept) and len(kept) == len(found.report["variants"])


# ---------------------------------------------------------------- nothing fits, or nothing yet


def test_a_rung_beyond_one_that_was_lost_is_tried_before_it_ends_without_an_answer():
    board = Board("onnx", False, 1.0, families=some("weights"), learns=False)

    def keeps(one) -> tuple[bool, float]:
        return one.name != "w4b16", 0.5

    def go(step) -> list[str]:
        names = []
        while (one := step(0)) is not None:
            names.append(one.name)
            board.tell(one, *keeps(one))
        return names

    assert go(board.next) == ["w8", "w4b16"] and go(board.rest) == ["w4b32", "w3b32"]


def test_an_answer_beyond_a_lost_rung_is_found(work):
    (weights,) = some("weights")
    w8, w4, _, w3 = weights.ladder
    found = search(job(work), goal(storage=3800), families=(replace(weights, ladder=(w8, w3, w4), start=1),))
    assert found.answers == 1 and [one.name for one in load_bundle(work / "out.edge").variants] == ["w4b16"]


def said(name: str, stored: int, drop: float) -> dict[str, object]:
    return point(name, "litert", stored, 1.0) | {
        "ram_bytes": 1,
        "latency_ms": None,
        "drop": drop,
        "lost": [],
        "misses": ["a", "b"] if drop else ["a"],
    }


def test_the_closest_misses_least_in_all_and_not_the_fewest_things():
    budget = {"ram_bytes": 10, "storage_bytes": 5000, "latency_ms": None}
    plain = {"budget": budget, "max_drop": 0.5, "device": "d", "on_paper": {}}
    points = [said("as_is", 26_000, 0.0), said("w4", 7400, 0.6)]
    assert [one["name"] for one in nearest(points, plain)] == ["w4"]
    lines = no_answer(plain, points, False)
    assert lines[1].startswith("closest: w4") and "--max-drop 0.6; and it takes 2.34 KiB more storage" in lines[1]
    assert lines[2].startswith("or: as_is")


def test_what_was_not_made_is_made_where_it_may_be_nearer_than_all_that_was(work):
    found = search(job(work, out="made"), goal(storage=1000), families=some("half", "weights"))
    assert found.words[3].startswith("closest: w4b16")
    assert "half" in found.search["on_paper"] and "w4b16" not in found.search["on_paper"]
