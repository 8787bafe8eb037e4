"""A search's answer is one: what it writes runs on the device as it was told, and what it says of the rest is so."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.bundle import load_bundle
from edge_runtime.compress.choosing import choose
from edge_runtime.compress.recipe import read_recipe
from edge_runtime.compress.search import search
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
    assert not found.answers and found.report is None and "storage: needs" in found.search["on_paper"]["share5"]


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
    originals = {one["engine"]: one for one in points if one["name"] == "as_is"}
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
