"""What is wrong with the question is said before the work, and what earlier runs left behind does no harm."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edge_runtime.bundle import find_bundle
from edge_runtime.cli import main
from edge_runtime.compress import judging
from edge_runtime.compress.prepare import optimized
from edge_runtime.compress.recipe import read_recipe
from edge_runtime.compress.run import compress, read
from edge_runtime.compress.samples import Samples
from edge_runtime.compress.search import search
from edge_runtime.errors import EdgeError, InputError, UsageError

from .search_jobs import goal, job, some, write_work


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return write_work(tmp_path)


def test_a_model_that_the_bundles_task_does_not_take_is_refused_before_any_work(work):
    with pytest.raises(EdgeError, match="wanted"):
        read(job(work, like=find_bundle("malaria"), calibrate=None, judge=None))
    assert read(job(work, like=find_bundle("malaria"), calibrate=None, judge=None, out="made")).about


@pytest.mark.parametrize("words", [["--max-drop", "1"], ["--recipe", "recipe.json"]])
def test_an_engine_that_the_device_does_not_have_is_refused(work, capsys, monkeypatch, words):
    monkeypatch.chdir(work)
    Path("recipe.json").write_text(json.dumps({"name": "w8", "passes": [{"pass": "weights_int"}]}))
    given = ["compress", "net.onnx", "-o", "made", "--calibrate", "items.npz", "--engines", "onnxruntime"]
    assert main([*given, "--device", "lenovo-tab-2-a7-10", *words]) == 2
    assert "found onnxruntime, which lenovo-tab-2-a7-10 does not have, wanted litert" in capsys.readouterr().err


def test_a_record_with_other_fields_is_passed_over_and_made_anew(work, monkeypatch):
    asked = job(work, steps=work / "steps")
    first = search(asked, goal(), families=some("half"))
    record = work / "steps" / judging.RECORD
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    broken = ([{"engine": "litert"}], [7], {"engine": 1}, None)
    lines = [line | {"rows": rows} for line, rows in zip(lines, broken, strict=False)]
    record.write_text("\n".join(["[]", "7", *map(json.dumps, lines)]))
    again = search(asked, goal(), families=some("half"))
    assert again.search["taken_up"] == 0 and again.search["judged"] == first.search["judged"]
    monkeypatch.setattr(judging, "SCHEMA", judging.SCHEMA + 1)
    assert search(asked, goal(), families=some("half")).search["taken_up"] == 0


def test_a_folder_holds_the_last_runs_files_and_nothing_that_is_not_compresss_own(work):
    def names(recipe: str) -> list[str]:
        plain = read_recipe({"name": recipe, "passes": [{"pass": "weights_int"}]}, "r")
        compress(job(work, out="made", recipes=(plain,)))
        return sorted(one.name for one in (work / "made").iterdir() if one.suffix in (".onnx", ".tflite"))

    assert names("first") == ["first-lite.tflite", "first.onnx"]
    (work / "made" / "first.onnx").write_bytes(b"of somebody else by now")
    (work / "made" / "own.onnx").write_bytes(b"x")
    assert names("second") == ["first.onnx", "own.onnx", "second-lite.tflite", "second.onnx"]
    listed = {"schema": 1, "recipes": [], "variants": [{"name": "../net", "format": "onnx", "sha256": "0"}]}
    (work / "made" / "report.json").write_text(json.dumps(listed))
    assert "second.onnx" in names("third") and (work / "net.onnx").is_file()


def test_of_a_tflite_file_it_is_said_before_and_after_that_only_coding_can_be_tried(work):
    compress(job(work, out="made", recipes=(read_recipe({"name": "half", "passes": [{"pass": "weights_fp16"}]}, "r"),)))
    said: list[str] = []
    lite = replace(job(work, engines=("litert",)), model=work / "made" / "half-lite.tflite")
    found = search(lite, goal(), notice=said.append)
    wanted = (
        "mind: found a TFLite file, which no technique reads: all that is tried is to code its weights; give the ONNX"
    )
    assert said[0].startswith(wanted) and said[0] in found.words
    folder = search(replace(lite, out=work / "plain"), goal(storage=900))
    assert not folder.answers and any("where files are plain, nothing is tried" in line for line in folder.words)


def test_a_class_is_rare_by_how_many_there_are():
    def score(*counts: int) -> str:
        labels = np.repeat(np.arange(len(counts)), counts)
        return judging.score_for(None, Samples("s", len(labels), labels, {}))[0]

    assert score(*[10] * 10) == score(81, 19 + 2) == "accuracy" and score(81, 19) == score(*[10] * 9, 3) == "f1"


@pytest.mark.parametrize(("fresh", "words"), [([], ""), (["--fresh"], " without --fresh")])
def test_whoever_ends_a_search_is_told_how_it_goes_on(work, capsys, monkeypatch, fresh, words):
    def end(self, candidate, notice):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(judging.Bench, "judge", end)
    given = ["compress", str(work / "net.onnx"), "--judge", str(work / "judge.npz"), "-o", str(work / "made")]
    before = signal.getsignal(signal.SIGTERM)
    assert main([*given, "--device", "raspberry-pi-5", "--max-drop", "1", *fresh]) == 143
    signal.signal(signal.SIGTERM, before)
    assert f"judged and kept in {work / '.made.steps'}; the same command{words} goes on" in capsys.readouterr().err


def test_a_fresh_start_wants_a_folder_for_steps_that_is_not_there_yet(work):
    asked = job(work, resume=False, steps=work / "steps")
    assert search(asked, goal(), families=some("half")).answers
    with pytest.raises(UsageError, match="a fresh start and finished steps"):
        search(asked, goal(), families=some("half"))


# ---------------------------------------------------------------- a full disk


def test_where_the_disk_is_full_the_file_is_named_and_what_is_kept_and_no_candidate_is_to_blame(work, monkeypatch):
    real, count = judging.Record._append, []

    def full(self, line):
        count.append(line)
        if len(count) == 3:
            raise OSError(errno.EFBIG, "File too large")
        real(self, line)

    with monkeypatch.context() as patched:
        patched.setattr(judging.Record, "_append", full)
        with pytest.raises(InputError, match=r"search.jsonl: File too large") as error:
            search(job(work), goal(), families=some("share"))
    kept = f"2 candidates are judged and kept in {work / '.out.edge.steps'}; the same command goes on from there"
    assert error.value.hint == f"free some room: {kept}"
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1))
        with pytest.raises(InputError, match="found 1 bytes free") as error:
            search(job(work), goal(), families=some("half"))
    assert "1 candidates are judged and kept" in error.value.hint
    again = search(job(work), goal(), families=some("share", "half"))
    assert again.answers and "half" not in again.search["gone"] and again.search["taken_up"] == 2


def test_a_model_is_not_blamed_for_a_full_disk(work):
    content = (work / "net.onnx").read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(InputError, match="File too large") as error:
            optimized(content)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "TMPDIR" in error.value.hint and optimized(content)


# ---------------------------------------------------------------- items judged on that were learned from


def test_items_judged_on_and_calibrated_or_trained_on_are_told_also_where_the_file_is_another(work):
    x = np.load(work / "judge.npz")["x"]
    np.savez(work / "same.npz", x=x)
    np.savez(work / "some.npz", x=np.concatenate([x[40:50], np.load(work / "items.npz")["x"]]))
    said: list[str] = []
    asked = job(work, out="made", recipes=(read_recipe({"name": "w8", "passes": [{"pass": "weights_int"}]}, "r"),))
    plain = compress(asked, notice=said.append)
    assert not plain["judged_on"]["also_calibrated_on"] and not [word for word in said if word.startswith("mind")]
    leaky = replace(asked, calibrate=work / "same.npz", train=work / "some.npz")
    report = compress(leaky, notice=said.append)
    assert report["judged_on"]["also_calibrated_on"]
    assert report["judged_on"]["seen"] == {"calibrated": 90, "trained": 10}
    assert "mind: 10 of the 90 items judged on were trained on too: on new items more is lost" in said
    found = search(leaky, goal())
    assert sum(line.startswith("mind:") and "judged on were" in line for line in found.words) == 2


def test_images_are_the_same_item_where_their_files_are_the_same(tmp_path):
    paths = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    for path, content in zip(paths, (b"1", b"2", b"1"), strict=True):
        path.write_bytes(content)
    one, other = (Samples("s", len(some), None, {}, tuple(some)) for some in (paths[:2], paths[2:]))
    assert (one.shared(other), one.shared(one), one.shared(None)) == (1, 2, 0)
