"""Nothing is written over but what an earlier run wrote: no input, and no file of somebody else's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_runtime.compress import products
from edge_runtime.compress.recipe import read_recipe
from edge_runtime.compress.run import compress, read
from edge_runtime.compress.search import search
from edge_runtime.errors import InputError, UsageError

from .search_jobs import goal, job, some, write_work

W8 = read_recipe({"name": "w8", "passes": [{"pass": "weights_int"}]}, "r")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return write_work(tmp_path)


def test_what_is_asked_for_may_not_be_an_input_nor_a_link_to_one(work):
    bundle = work / "out.edge"
    search(job(work), goal(), families=some("half"))
    whole = bundle.read_bytes()
    (work / "link.edge").symlink_to(bundle)
    for out in ("out.edge", "link.edge"):
        with pytest.raises(UsageError, match="is --like too, and would be written over"):
            read(job(work, out=out, like=bundle))
    (work / "mine").mkdir()
    with pytest.raises(UsageError, match="is --test too"):
        search(job(work, out="mine"), goal(test=work / "mine"))
    assert bundle.read_bytes() == whole


def test_in_a_folder_neither_the_model_nor_the_work_of_others_is_written_over(work):
    made = work / "made"
    made.mkdir()
    for name in ("w8.onnx", "sparse50-w8.onnx", "own.onnx"):
        (made / name).write_bytes((work / "net.onnx").read_bytes())
    with pytest.raises(UsageError, match=r"w8.onnx: found there what .*report.json does not list"):
        compress(job(work, out="made", recipes=(W8,)))
    (made / "w8.onnx").unlink()
    with pytest.raises(UsageError, match=r"sparse50-w8.onnx: found there"):
        search(job(work, out="made"), goal(), families=some("half"))
    (made / "sparse50-w8.onnx").unlink()
    (made / "report.json").write_text(json.dumps({"variants": []}))
    with pytest.raises(UsageError, match=r"report.json: found there"):
        compress(job(work, out="made", recipes=(W8,)))


def test_what_an_earlier_run_wrote_is_written_over_and_is_no_input_of_the_next(work):
    for _ in range(2):
        compress(job(work, out="made", recipes=(W8,)))
        search(job(work), goal(), families=some("half"))
    asked = job(work, out="made", recipes=(read_recipe(W8.to_json() | {"name": "other"}, "r"),))
    with pytest.raises(UsageError, match="would be written over or cleared away"):
        read(type(asked)(work / "made" / "w8.onnx", asked.recipes, asked.out))
    with (work / "out.edge").open("ab") as bundle:
        bundle.write(b"signed since")
    with pytest.raises(UsageError, match=r"out.edge: found there"):
        read(job(work))


def test_a_run_that_could_not_write_its_report_changes_nothing_and_is_not_in_the_next_ones_way(work, monkeypatch):
    def full(*_: object) -> None:
        raise InputError("no room")

    with monkeypatch.context() as patched:
        patched.setattr(products, "write_report", full)
        for out in ("made", "out.edge"):
            with pytest.raises(InputError, match="no room"):
                compress(job(work, out=out, recipes=(W8,)))
    assert not list((work / "made").iterdir()) and not (work / "out.edge").exists()
    compress(job(work, recipes=(W8,)))
    whole = {path: path.read_bytes() for path in work.glob("out.*")}
    monkeypatch.setattr(products, "write_report", full)
    with pytest.raises(InputError, match="no room"):
        compress(job(work, recipes=(read_recipe(W8.to_json() | {"name": "other"}, "r"),)))
    assert len(whole) == 3 and {path: path.read_bytes() for path in work.glob("out.*")} == whole
    monkeypatch.undo()
    compress(job(work, recipes=(read_recipe(W8.to_json() | {"name": "other"}, "r"),)))
    assert (work / "out.edge").read_bytes() != whole[work / "out.edge"]


def test_the_folder_where_one_is_can_be_written_to(work, monkeypatch):
    (work / "here").mkdir()
    monkeypatch.chdir(work / "here")
    asked = job(work, recipes=(W8,))
    compress(type(asked)(asked.model, asked.recipes, Path("."), asked.calibrate, speed=False, robust=False))
    assert (work / "here" / "w8.onnx").is_file() and not list(Path(".").glob(".*"))
