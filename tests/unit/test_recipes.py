"""Recipes on paper, items for calibration, the prepared model, and how a run is carried out and taken up again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from onnx import helper

from edge_runtime.compress import passes
from edge_runtime.compress.artifact import Artifact, load_artifact, read_artifact
from edge_runtime.compress.drift import compare, decisions
from edge_runtime.compress.layers import array_of, set_array, weighted
from edge_runtime.compress.outputs import answers, specs, tap
from edge_runtime.compress.prepare import prepare
from edge_runtime.compress.recipe import Context, load_recipe, read_recipe
from edge_runtime.compress.samples import load_samples
from edge_runtime.compress.scores import DAMAGES, damaged, robustness, scores, takes_pictures
from edge_runtime.compress.steps import CollapseError, run_recipe, write_whole
from edge_runtime.errors import InputError, UsageError

from .compress_models import onnx_file, pictures, small_net


@dataclass(frozen=True)
class Scale:
    """Multiplies the first layer's weights: a pass that the tests can see through."""

    by: float = 1.0
    names: tuple[str, ...] = ()

    reads: ClassVar[tuple[str, ...]] = ("onnx",)
    writes: ClassVar[str | None] = None
    needs_items: ClassVar[bool] = False
    runs: ClassVar[list[float]] = []

    def __post_init__(self) -> None:
        if self.by == 0:
            raise ValueError("found by=0, wanted any other factor")

    def __call__(self, artifact: Artifact, context: Context) -> Artifact:
        self.runs.append(self.by)
        if self.by == 99:
            raise KeyboardInterrupt
        model = artifact.model()
        layer = weighted(model)[0]
        set_array(layer.weight, layer.matrix().reshape(layer.weight.shape.numpy()) * np.float32(self.by))
        context.note("by", self.by)
        return Artifact.of(model, "onnx")


@pytest.fixture(autouse=True)
def scale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(passes.PASSES, "scale", "test_recipes:Scale")
    monkeypatch.setattr("edge_runtime.compress.recipe.find_pass", lambda name: _find(name))
    Scale.runs.clear()


def _find(name: str) -> type:
    if name == "scale":
        return Scale
    if name != "code":
        raise UsageError(f"found the pass {name!r}, wanted one of scale, code")
    from edge_runtime.compress.passes.code import Code

    return Code


@pytest.fixture
def net() -> Artifact:
    return prepare(read_artifact(small_net(), "net"))


def given(tmp_path: Path, **arrays: np.ndarray) -> Path:
    path = tmp_path / "items.npz"
    np.savez(path, **arrays)
    return path


def recipe(*steps: dict[str, object]):
    return read_recipe({"name": "r", "passes": list(steps)}, "r.json")


@pytest.mark.parametrize(
    ("plain", "wanted"),
    [
        ([], "wanted {"),
        ({"name": "", "passes": []}, "found the name ''"),
        ({"name": "../evil", "passes": []}, "found the name '../evil'"),
        ({"name": "original", "passes": []}, 'not "original"'),
        ({"name": "r-lite", "passes": []}, "found the name 'r-lite'"),
        ({"name": "r", "passes": []}, "found no passes, wanted at least one"),
        ({"name": "r", "passes": [{"pass": "scale", "by": float("nan")}]}, "wanted a finite number"),
        ({"name": "r", "passes": ["scale"]}, "step 1: found 'scale'"),
        ({"name": "r", "passes": [{"pass": "scala"}]}, "found the pass 'scala'"),
        ({"name": "r", "passes": [{"pass": "scale", "with": 1}]}, "found the setting 'with', it has by, names"),
        ({"name": "r", "passes": [{"pass": "scale", "by": "2"}]}, "by: found '2', wanted float"),
        ({"name": "r", "passes": [{"pass": "scale", "by": True}]}, "by: found True"),
        ({"name": "r", "passes": [{"pass": "scale", "by": 0}]}, "wanted any other factor"),
    ],
)
def test_a_recipe_that_says_nonsense_is_refused_with_its_place(plain, wanted):
    with pytest.raises(UsageError) as caught:
        read_recipe(plain, "r.json")
    assert wanted in caught.value.message and "r.json" in caught.value.message


def test_a_recipe_comes_back_from_json_with_every_setting(tmp_path):
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"name": "r", "passes": [{"pass": "scale", "by": 2, "names": ["a"]}]}))
    made = load_recipe(path)
    assert made.to_json()["passes"] == [{"pass": "scale", "by": 2.0, "names": ["a"]}]
    assert read_recipe(made.to_json(), "again") == made
    path.write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        load_recipe(path)
    path.write_text('{"name": "r", "name": "s", "passes": []}')
    with pytest.raises(InputError, match="a key stands twice"):
        load_recipe(path)


def test_an_impossible_order_and_missing_items_are_refused_on_paper(monkeypatch):
    with pytest.raises(UsageError, match=r"step 1 \(scale\): found a model in the form tflite, wanted onnx"):
        recipe({"pass": "scale"}).check("tflite", False)
    with pytest.raises(UsageError, match=r"step 1 \(code\): it must be the last step"):
        recipe({"pass": "code"}, {"pass": "scale"}).check("onnx", False)
    monkeypatch.setattr(Scale, "needs_items", True)
    with pytest.raises(UsageError, match="needs items to calibrate with"):
        recipe({"pass": "scale"}).check("onnx", False)


# ---------------------------------------------------------------- what is read


def test_preparing_folds_normalization_keeps_the_answers_and_is_done_once(net, tmp_path):
    whole = read_artifact(small_net(), "net")
    samples = load_samples(given(tmp_path, x=pictures()), specs(net)[0])
    assert "BatchNormalization" not in [node.op_type for node in net.model().graph]
    assert compare(answers(whole, samples), answers(net, samples, 8)).largest < 1e-5
    assert prepare(net) == net


def test_an_old_opset_is_brought_up_and_a_foreign_operator_named():
    old = prepare(read_artifact(small_net(opset=11), "net"))
    assert old.model().graph.opset_imports[""] >= 17
    nodes = [helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")]
    with pytest.raises(InputError, match=r"com.microsoft.Gelu"):
        prepare(Artifact("onnx", _unchecked(nodes, ["n", 4])))
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    with pytest.raises(InputError, match=r"input 'x': found sizes \['free', 3, 'free'\]"):
        prepare(Artifact("onnx", onnx_file(nodes, {}, ["n", 3, "w"])))


def _unchecked(nodes: list[object], shape: list[object]) -> bytes:
    from onnx import TensorProto

    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    graph = helper.make_graph(nodes, "g", tensors[:1], tensors[1:])
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return bytes(helper.make_model(graph, opset_imports=domains, ir_version=8).SerializeToString())


def test_files_that_are_no_model_and_weights_that_are_no_numbers(tmp_path):
    for content in (b"", b"nonsense" * 9, small_net()[:-40]):
        (tmp_path / "m.onnx").write_bytes(content)
        with pytest.raises(InputError, match="no valid ONNX"):
            load_artifact(tmp_path / "m.onnx")
    with pytest.raises(InputError, match="No such file"):
        load_artifact(tmp_path / "none.onnx")
    broken = onnx_file([helper.make_node("Add", ["x", "w"], ["y"])], {"w": np.float32([1, np.nan])}, ["n", 2])
    with pytest.raises(InputError, match="weight 'w': found 1 of 2 numbers that are not finite"):
        read_artifact(broken, "m.onnx")


@pytest.mark.parametrize(
    ("arrays", "wanted"),
    [
        ({"y": pictures(2)}, "found arrays y, wanted one for each input: x"),
        ({"x": pictures(0)}, "wanted the same number, at least one"),
        ({"x": pictures(3), "labels": np.zeros(2, int)}, "wanted the same number"),
        (
            {"x": pictures(3), "labels": np.linspace(0, 1, 3)},
            "labels: found float64 of shape [3], wanted one whole number",
        ),
        ({"x": pictures(3), "labels": np.eye(3, dtype=int)}, "labels: found int64 of shape [3, 3]"),
        ({"x": pictures(3), "labels": np.array(["a", "b", "c"])}, "labels: found <U1"),
        ({"x": pictures(3), "labels": np.array([0, -1, 0])}, "from 0 on"),
        ({"x": pictures(2)[:, :, :8]}, "found float32 of shape [3, 8, 16] an item, wanted float32 [3, 16, 16]"),
        ({"x": pictures(2) + np.float32([[[[0]]], [[[np.inf]]]])}, "item 1 holds numbers that are not finite"),
    ],
)
def test_items_that_do_not_suit_the_model(net, tmp_path, arrays, wanted):
    with pytest.raises(InputError) as caught:
        load_samples(given(tmp_path, **arrays), specs(net)[0])
    assert wanted in caught.value.message


def test_npz_files_that_are_damaged_or_are_none(net, tmp_path):
    whole = given(tmp_path, x=pictures(4)).read_bytes()
    path = tmp_path / "other.npz"
    np.save(tmp_path / "one.npy", pictures(2))
    for content in (whole[:-300], whole[:200] + b"?" + whole[201:], (tmp_path / "one.npy").read_bytes(), b""):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"cannot be read as \.npz"):
            load_samples(path, specs(net)[0])


def test_a_folder_without_images_or_without_a_description(net, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="needs a description"):
        load_samples(tmp_path / "empty", specs(net)[0])
    with pytest.raises(InputError, match="wanted one of them"):
        load_samples(tmp_path / "none", specs(net)[0])
    from edge_runtime.bundle import load_bundle

    with pytest.raises(InputError, match="found no image in it or below"):
        load_samples(tmp_path / "empty", specs(net)[0], load_bundle("malaria"))


def test_some_items_are_spread_evenly_and_batches_are_in_order(net, tmp_path):
    samples = load_samples(given(tmp_path, x=pictures(10), labels=np.arange(10) % 3), specs(net)[0])
    assert np.array_equal(np.concatenate([one["x"] for one in samples.batches(4)]), pictures(10))
    some = samples.some(4)
    assert some.count == 4 and some.labels is not None and list(some.labels) == [0, 0, 0, 0]
    assert samples.digest() != some.digest() and samples.some(99) is samples


def test_tensors_inside_the_graph_come_batch_by_batch(net, tmp_path):
    samples = load_samples(given(tmp_path, x=pictures(10)), specs(net)[0])
    parts = list(tap(net, samples, ["r1", "y"], batch=4))
    assert [len(one["r1"]) for one in parts] == [4, 4, 2] and parts[0]["r1"].min() == 0
    assert np.allclose(np.concatenate([one["y"] for one in parts]), answers(net, samples)["y"], atol=1e-5)


# ---------------------------------------------------------------- judging


def test_output_change_is_in_deviations_of_the_original():
    old = {"y": np.float32([[0, 2], [2, 0]])}
    drift = compare(old, {"other": np.float32([[0.5, 2], [2, 2.5]])})
    assert (drift.mean, drift.largest, drift.agreement) == (0.75, 2.5, 0.5)
    alike = {"y": np.float32([[2], [2]])}
    assert compare(alike, {"y": np.float32([[2], [1]])}).mean == 0.25
    sure = {"y": np.float32([[0.9], [0.2]])}  # behind a sigmoid: above a half means yes
    assert compare(sure, {"y": np.float32([[0.6], [0.7]])}).agreement == 0.5 and compare(sure, sure).cut == 0.5
    with pytest.raises(InputError, match="found shape"):
        compare(old, {"y": np.zeros((2, 3), np.float32)})
    assert decisions(np.float32([[-1], [2]])).ravel().tolist() == [0, 1]
    maps = np.zeros((2, 3, 1, 5), np.float32)
    maps[:, 2] = 1
    assert (decisions(maps) == 2).all() and decisions(maps).shape == (2, 5)


def test_scores_are_those_of_the_textbook_and_labels_must_belong_to_the_model():
    outputs = {"y": np.float32([[1, 0], [0, 1], [0, 1], [1, 0]])}
    found = scores(outputs, np.array([0, 1, 0, 1]))
    assert found == {"accuracy": 0.5, "precision": 0.5, "recall": 0.5, "f1": 0.5}
    with pytest.raises(InputError, match="found labels from 0 to 2, the model knows 0 to 1"):
        scores(outputs, np.array([0, 1, 2, 1]))


def test_every_damage_changes_pictures_more_when_it_is_stronger(net, tmp_path):
    samples = load_samples(given(tmp_path, x=pictures(6) * 4 - 2), specs(net)[0])
    assert takes_pictures(samples)
    before = samples.arrays["x"]
    for name, (_, strengths) in DAMAGES.items():
        found = [float(np.abs(damaged(samples, name, one).arrays["x"] - before).mean()) for one in strengths]
        least = 0 if name == "shift" else 1e-6  # a small picture shifts by whole pixels only
        assert found[0] > 0.001 and found[1] >= found[0] + least and found[2] >= found[1] + least, name
    rows = robustness({"a": net, "b": net}, samples)
    assert len(rows) == 18 and all(row["a"] == row["b"] for row in rows)


# ---------------------------------------------------------------- carrying out


def test_a_run_reports_each_step_and_gives_the_same_bytes_again(net, tmp_path):
    samples = load_samples(given(tmp_path, x=pictures()), specs(net)[0])
    context = Context(net, samples)
    steps = recipe({"pass": "scale", "by": 1.01}, {"pass": "scale", "by": 1 / 1.01})
    made, reports = run_recipe(net, steps, context)
    assert [one.facts for one in reports] == [{"by": 1.01}, {"by": 1 / 1.01}]
    assert reports[0].drift.mean > 1e-4 > reports[1].drift.mean and made == run_recipe(net, steps, context)[0]


def test_an_interrupted_run_is_taken_up_where_it_stopped(net, tmp_path):
    keep = tmp_path / "steps"
    context = Context(net, None)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(net, recipe({"pass": "scale", "by": 2.0}, {"pass": "scale", "by": 99.0}), context, keep=keep)
    assert Scale.runs == [2.0, 99.0]
    steps = recipe({"pass": "scale", "by": 2.0}, {"pass": "scale", "by": 0.5})
    made, reports = run_recipe(net, steps, context, keep=keep)
    assert Scale.runs == [2.0, 99.0, 0.5] and [one.resumed for one in reports] == [True, False]
    next(keep.glob("*.model")).write_bytes(b"damaged")
    assert run_recipe(net, steps, context, keep=keep)[0] == made


def test_a_collapse_is_refused_with_the_step_that_did_it(net, tmp_path):
    samples = load_samples(given(tmp_path, x=pictures(64)), specs(net)[0])
    model = net.model()
    head = weighted(model)[-1]
    set_array(
        head.bias, array_of(head.bias) - answers(net, samples)["y"].mean(axis=0)
    )  # then the pictures are of more than one class
    net = Artifact.of(model, "onnx")
    assert len(np.unique(decisions(answers(net, samples)["y"]))) > 1
    with pytest.raises(CollapseError, match=r"scale: \d+.\d% kept"):
        run_recipe(net, recipe({"pass": "scale", "by": -30.0}), Context(net, samples))


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "made.onnx"
    path.write_bytes(b"before")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("usage", (), {"free": 3}))
    with pytest.raises(InputError, match="found 3 bytes free, wanted 5"):
        write_whole(path, b"after")
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]
