"""What items can tell of a model is said before any work: classes that none is of, pictures without a label."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from PIL import Image

from edge_runtime.compress.artifact import load_artifact
from edge_runtime.compress.outputs import answers
from edge_runtime.compress.recipe import read_recipe
from edge_runtime.compress.run import compress, read
from edge_runtime.compress.samples import Samples
from edge_runtime.compress.search import search
from edge_runtime.errors import InputError, UsageError

from .compress_models import onnx_file
from .search_jobs import dice, goal, job, some, write_work

W8 = read_recipe({"name": "w8", "passes": [{"pass": "weights_int"}]}, "r")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return write_work(tmp_path)


def numbers(work: Path, middle: float = 37) -> Path:
    """A model of one number around the middle, and items without labels."""
    weights = np.random.default_rng(0).normal(size=(768, 1)).astype(np.float32) / 28
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("Gemm", ["f", "w", "b"], ["y"], name="head")]
    content = onnx_file(nodes, {"w": weights, "b": np.full(1, middle, np.float32)}, ["batch", 3, 16, 16])
    (work / "net.onnx").write_bytes(content)
    np.savez(work / "judge.npz", x=dice(90, 1))
    np.savez(work / "test.npz", x=dice(90, 3))
    return work


def test_a_model_of_numbers_is_judged_by_how_far_they_move_and_not_by_decisions_all_alike(work):
    asked = job(numbers(work), out="made", like=None)
    with pytest.raises(UsageError, match="decides all 90 items alike, and no labels") as error:
        search(asked, goal(), families=some("share", "half"))
    assert "--score change" in error.value.hint
    wanted = goal(score="change", drop=3, test=work / "test.npz")
    found = search(asked, wanted, families=some("share", "half"))
    drops = {one["recipe"]: one["drop"] for one in found.search["points"] if one["engine"] == "onnxruntime"}
    assert drops["half"] < 0.1 < drops["share6"] < 3 < drops["share5"], "in hundredths of a standard deviation"
    original, items = load_artifact(work / "net.onnx"), Samples("s", 90, None, {"x": dice(90, 1)})
    before, after = (answers(one, items)["y"] for one in (original, load_artifact(work / "made" / "half.onnx")))
    moved = 100 * float(np.sqrt(np.mean((after - before) ** 2)) / before.std())
    assert drops["half"] == pytest.approx(moved, rel=1e-3)
    sure = next(one for one in found.search["certainty"]["judged"]["rows"] if one["name"] == "half")
    assert sure["drop"] == pytest.approx(moved, rel=1e-3) and sure["interval"][0] < sure["drop"] < sure["interval"][1]
    assert found.search["certainty"]["test"]["rows"] and not [one for one in found.words if "one item is" in one]


def test_of_a_single_number_it_is_said_what_its_decisions_are(work):
    found = search(job(numbers(work, 0), out="made", like=None), goal(), families=some("half"))
    assert (
        "mind: decisions kept are whether its one number is above 0: if that is a figure, --score change" in found.words
    )


def pictures(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 16, 3), 30 * number, np.uint8)).save(folder / name)
    return folder


def test_classes_that_no_item_is_of_are_named_before_the_work_and_one_class_alone_is_no_judge(work):
    x = np.load(work / "judge.npz")["x"]
    said: list[str] = []
    np.savez(work / "two.npz", x=x, labels=np.arange(90) % 2)
    asked = job(work, judge=work / "two.npz")
    words = search(asked, goal(), notice=said.append, families=some("half")).words
    assert f"mind: no item of {work / 'two.npz'} is of class c: what becomes of it is not judged" in said[:1]
    assert f"mind: {said[0][6:]}" in words and said[1] == "judged by accuracy: no class is rare"
    report = compress(replace(asked, out=work / "made", recipes=(W8,)), notice=said.append)
    assert report["judged_on"]["unseen"] == ["c"]
    np.savez(work / "one.npz", x=x, labels=np.ones(90, int))
    with pytest.raises(UsageError, match=r"found items of one class alone \(none of a, c\)"):
        search(job(work, judge=work / "one.npz"), goal())


def test_a_folder_of_which_some_images_have_labels_is_refused_to_judge_with_and_told_else(work):
    folder = pictures(work / "some", "a/1.png", "B/2.png", "loose.png", "cc/3.png")
    with pytest.raises(InputError, match=r"under cc, loose.png, which are no labels, beside B, a, wanted all"):
        read(job(work, judge=folder))
    with pytest.raises(InputError, match="which are no labels"):
        search(job(work), goal(test=folder))
    said: list[str] = []
    none = pictures(work / "none", *(f"x{number}.png" for number in range(5)))
    for asked in (job(work, calibrate=folder, judge=None), job(work, judge=none)):
        search(asked, goal(), notice=said.append, families=some("half"))
    heads = [line for line in said if line.startswith("judged by decisions kept: the items have no labels: images lie")]
    assert "cc, loose.png" in heads[0] and "x0.png, x1.png, x2.png and 2 more" in heads[1]
