"""`edge-runtime compress` from end to end: files and bundles that both engines run, a report, and clear refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from edge_runtime.bundle import find_bundle, load_bundle
from edge_runtime.cli import main
from edge_runtime.compress.artifact import load_artifact
from edge_runtime.compress.outputs import answers
from edge_runtime.compress.samples import Samples

from .compress_models import onnx_file, pictures, small_net

STATIC = {"name": "static", "passes": [{"pass": "static_w8a8"}]}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "net.onnx").write_bytes(small_net())
    (tmp_path / "static.json").write_text(json.dumps(STATIC))
    labels = np.arange(48) % 3
    np.savez(tmp_path / "items.npz", x=pictures(48), labels=labels)
    return tmp_path


def compress(work: Path, *words: str, recipe: str = "static.json", out: str = "made", quick: bool = True) -> int:
    given = ["compress", str(work / "net.onnx"), "--recipe", str(work / recipe), "-o", str(work / out)]
    return main([*given, "--calibrate", str(work / "items.npz"), *(["--quick"] if quick else []), *words])


def test_static_8_bit_runs_in_both_engines_alike_and_again_gives_the_same_bytes(work, capsys):
    assert compress(work) == 0
    said = capsys.readouterr()
    assert "static-lite" in said.out and "step 1 of 1, static_w8a8" in said.err
    samples = Samples("x", 48, None, {"x": pictures(48)})
    found = [next(iter(answers(load_artifact(work / "made" / name), samples).values())) for name in _files(work)]
    float_net = answers(load_artifact(work / "net.onnx"), samples)["y"]
    step = 2 * np.ptp(float_net) / 255
    assert np.abs(found[0] - found[1]).max() <= step and np.abs(found[0] - float_net).mean() < 0.1 * float_net.std()
    before = [(work / "made" / name).read_bytes() for name in _files(work)]
    assert compress(work) == 0
    assert [(work / "made" / name).read_bytes() for name in _files(work)] == before
    assert not list(work.glob(".made*")), "finished steps are cleared away"


def _files(work: Path) -> list[str]:
    return ["static.onnx", "static-lite.tflite"]


@pytest.mark.slow
def test_the_report_judges_everything_and_opens_without_a_network(work, capsys):
    assert compress(work, "--json", quick=False) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((work / "made" / "report.json").read_text())
    assert [row["name"] for row in report["originals"]] == ["original", "original-lite"]
    for row in report["variants"]:
        assert row["speed"]["ratio"] > 0 and row["speed"]["peak_bytes"] > 1e6 and 0 <= row["scores"]["f1"] <= 1
    assert len(report["robustness"]["rows"]) == 18 and report["layers"]["static"]
    assert report["judged_on"]["also_calibrated_on"]
    page = (work / "made" / "report.html").read_text()
    assert "Judged on the items that it was calibrated on" in page and "Layer by layer" in page
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.slow
def test_a_tflite_file_is_timed_on_the_one_engine_that_runs_it(work, capsys):
    assert compress(work) == 0
    (work / "code.json").write_text(json.dumps({"name": "coded", "passes": [{"pass": "code"}]}))
    words = ["compress", str(work / "made" / "static-lite.tflite"), "--recipe", str(work / "code.json")]
    assert main([*words, "-o", str(work / "again")]) == 0
    (row,) = json.loads((work / "again" / "report.json").read_text())["variants"]
    assert row["engine"] == "litert" and row["speed"]["peak_bytes"] > 1e6


def test_a_bundle_has_the_variants_with_recipe_and_figures(data, tmp_path, capsys):
    bundle = load_bundle("malaria")
    (tmp_path / "net.onnx").write_bytes(bundle.read(bundle.variant("fp32").file))
    (tmp_path / "static.json").write_text(json.dumps(STATIC))
    cells = tmp_path / "cells"
    for label, name in (("infected", "Parasitized"), ("uninfected", "Uninfected")):
        (cells / label).mkdir(parents=True)
        for path in sorted((data / "malaria-cells" / "val" / name).iterdir())[:20]:
            (cells / label / path.name).symlink_to(path)
    words = ["compress", str(tmp_path / "net.onnx"), "--recipe", str(tmp_path / "static.json"), "--like", "malaria"]
    assert main([*words, "--calibrate", str(cells), "--quick", "-o", str(tmp_path / "out.edge")]) == 0
    made = load_bundle(tmp_path / "out.edge")
    made.verify()
    assert [one.name for one in made.variants] == ["static", "static-lite"]
    assert [one.recipe[0]["activations"] for one in made.variants] == ["uint8", "int8"]
    assert made.variants[0].metrics["judged"]["scores"]["accuracy"] > 0.8
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "out.edge")]) == 0
    assert "static_w8a8" in capsys.readouterr().out and (tmp_path / "out.report.html").is_file()


@pytest.mark.parametrize(
    ("words", "code", "wanted"),
    [
        (["--engines", "tensorrt"], 2, "found the engine 'tensorrt', wanted onnxruntime or litert"),
        (["-o", "made.edge"], 2, "a bundle needs a task, labels and preprocessing"),
        (["--like", "nothing.edge", "-o", "made.edge"], 1, "No such file"),
        (["-o", "no/such/made"], 2, "its folder is not there"),
        (["--calibrate", "net.onnx"], 1, "found no folder of images and no .npz file there"),
        (["--judge", "other.npz"], 1, "found arrays z, wanted one for each input: x"),
        (["--device", "no-such-device"], 1, "no-such-device"),
    ],
)
def test_what_cannot_work_is_said_before_any_work(work, capsys, monkeypatch, words, code, wanted):
    monkeypatch.chdir(work)
    np.savez("other.npz", z=pictures(2))
    assert compress(work, *words) == code
    said = capsys.readouterr().err
    assert wanted in said and "step 1" not in said


def test_a_collapse_on_other_items_than_those_calibrated_on_is_refused_and_nothing_is_written(
    work, capsys, monkeypatch
):
    (work / "low.json").write_text(json.dumps({"name": "low", "passes": [{"pass": "prune_weights", "share": 0.9}]}))
    monkeypatch.setattr("edge_runtime.compress.run.MOST_CHANGE_SD", 0.01)
    words = ["compress", str(work / "net.onnx"), "--recipe", str(work / "low.json"), "-o", str(work / "made")]
    assert main([*words, "--judge", str(work / "items.npz"), "--quick"]) == 1
    assert "of the decisions kept" in capsys.readouterr().err and not (work / "made").exists()
    (work / "code.json").write_text(json.dumps({"name": "coded", "passes": [{"pass": "code"}]}))
    assert main([*words[:3], str(work / "code.json"), *words[4:], "--quick"]) == 0
    assert "mind: Not judged on any items" in capsys.readouterr().out


def test_a_recipe_that_is_refused_does_not_cost_the_others(work, capsys):
    (work / "bad.json").write_text(
        json.dumps({"name": "bad", "passes": [{"pass": "weights_int", "bits": 2, "limit_sd": 1e-6}]})
    )
    assert compress(work, "--recipe", str(work / "bad.json")) == 1
    said = capsys.readouterr()
    assert "mind: Recipe bad was refused: so few bits" in said.out and "bad: refused" in said.err
    assert (work / "made" / "static.onnx").is_file() and not (work / "made" / "bad.onnx").exists()
    report = json.loads((work / "made" / "report.json").read_text())
    assert list(report["refused"]) == ["bad"] and {row["recipe"] for row in report["variants"]} == {"static"}


def test_small_floats_give_the_same_in_both_engines(work, capsys):
    (work / "e4m3.json").write_text(json.dumps({"name": "e4m3", "passes": [{"pass": "weights_minifloat"}]}))
    assert compress(work, "--json", recipe="e4m3.json") == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["drift"]["mean"] < 0.2 for row in report["variants"]] == [True, True]


def test_folders_that_are_no_labels_are_named(data, tmp_path, capsys):
    bundle = load_bundle("malaria")
    (tmp_path / "net.onnx").write_bytes(bundle.read(bundle.variant("fp32").file))
    (tmp_path / "static.json").write_text(json.dumps(STATIC))
    cell = next((data / "malaria-cells" / "val" / "Parasitized").iterdir())
    for name in ("infected", "uninfectd"):
        (tmp_path / "cells" / name).mkdir(parents=True)
        (tmp_path / "cells" / name / cell.name).symlink_to(cell)
    words = ["compress", str(tmp_path / "net.onnx"), "--recipe", str(tmp_path / "static.json"), "--like", "malaria"]
    assert main([*words, "--calibrate", str(tmp_path / "cells"), "--quick", "-o", str(tmp_path / "out.edge")]) == 0
    assert "mind: Judged without labels: images lie under uninfectd, the labels are" in capsys.readouterr().out


def test_what_a_missing_package_rules_out_is_said_before_any_work(work, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    steps = [{"pass": "share_weights"}, {"pass": "repair"}]
    (work / "r.json").write_text(json.dumps({"name": "r", "passes": steps}))
    assert compress(work, recipe="r.json") != 0
    said = capsys.readouterr().err
    assert "needs PyTorch" in said and "step 1" not in said


def test_labels_that_the_model_does_not_know_are_said_before_any_work(work, capsys):
    np.savez(work / "other.npz", x=pictures(4), labels=np.array([0, 1, 2, 10]))
    assert compress(work, "--judge", str(work / "other.npz")) == 1
    said = capsys.readouterr().err
    assert "other.npz: found labels from 0 to 10" in said and "step 1" not in said


def test_a_layer_to_be_kept_that_is_not_there_is_named(work, capsys):
    (work / "r.json").write_text(json.dumps({"name": "r", "passes": [{"pass": "static_w8a8", "keep": ["conv99"]}]}))
    assert compress(work, recipe="r.json") == 1
    assert "found no layer 'conv99' with weights, the model has" in capsys.readouterr().err


def test_a_bundle_gives_its_float_model_and_its_description(data, tmp_path, capsys):
    (tmp_path / "r.json").write_text(json.dumps({"name": "half", "passes": [{"pass": "weights_fp16"}]}))
    words = ["--recipe", str(tmp_path / "r.json"), "-o", str(tmp_path / "m.edge"), "--quick"]
    for model in ("malaria", str(find_bundle("malaria"))):
        assert main(["compress", model, *words]) == 0
    assert [one.name for one in load_bundle(tmp_path / "m.edge").variants] == ["half", "half-lite"]


def test_an_operator_that_one_engine_does_not_know_is_named_before_any_work(work, capsys):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="first"),
        helper.make_node("Det", ["c"], ["y"], name="odd"),
    ]
    weights = {"w": np.ones((4, 3, 1, 1), np.float32)}
    (work / "net.onnx").write_bytes(onnx_file(nodes, weights, ["batch", 3, 16, 16]))
    assert compress(work) == 1
    said = capsys.readouterr().err
    assert "odd" in said and "Det" in said and "--engines onnxruntime" in said


def test_every_pass_is_listed_with_its_settings(capsys):
    from edge_runtime.compress.passes import PASSES

    assert main(["compress", "--passes", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["pass"] for row in rows] == list(PASSES) and all(row["reads"] for row in rows)
    assert main(["compress"]) == 2
