"""Distillation: losses are what the papers say, and a student learns from a teacher."""

from __future__ import annotations

import builtins
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.compress.learn import deliver
from edge_runtime.compress.learn.distill import Distillation, born_again, distill, learn_from_itself
from edge_runtime.compress.learn.lessons import Lessons
from edge_runtime.compress.learn.likeness import answer_loss, attention_loss, feature_loss, label_loss
from edge_runtime.compress.learn.loop import answers
from edge_runtime.compress.learn.teachers import OnnxTeacher, Several, StoredTeacher, TorchTeacher
from edge_runtime.errors import EngineError, InputError, UsageError
from tests.conftest import ROOT
from tests.unit.taught_nets import QUICK, Exact, lessons, student

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="torch is not installed")
PAIRS = (("features.0", "features.0"), ("attention.0", "attention.0"))


class Reader(torch.nn.Module):
    """A sequence (N,T,3) with its mask: features and attention of its own width and number of heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        torch.manual_seed(width)
        self.widen, self.look, self.head = (
            torch.nn.Linear(3, width), torch.nn.Linear(3, heads), torch.nn.Linear(width, 2)
        )  # fmt: skip

    def forward_parts(self, x: Any, mask: Any) -> dict[str, Any]:
        hidden = self.widen(x)
        rows = torch.softmax(self.look(x).transpose(1, 2)[:, :, None, :].expand(-1, -1, x.shape[1], -1), 3)
        return {"logits": self.head(hidden.mean(1)), "features.0": hidden, "attention.0": rows}

    def forward(self, x: Any, mask: Any) -> Any:
        return self.forward_parts(x, mask)["logits"]


def sequences() -> Lessons:
    dice = np.random.default_rng(0)
    x = dice.normal(size=(32, 5, 3)).astype(np.float32)
    return Lessons({"x": x, "mask": np.ones((32, 5), np.int64)}, (x[:, 0, 0] > 0).astype(np.int64))


# ---------------------------------------------------------------- losses


def test_the_loss_on_answers_is_the_divergence_of_softened_probabilities():
    ours, theirs = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 2 * np.log(3)]])
    # at temperature 2 the teacher says 1/4 and 3/4, the student 1/2 and 1/2
    wanted = 4 * (0.25 * np.log(0.25 / 0.5) + 0.75 * np.log(0.75 / 0.5))
    assert float(answer_loss(ours, theirs, 2.0)) == pytest.approx(wanted, rel=1e-5)
    assert float(answer_loss(theirs, theirs, 2.0)) == pytest.approx(0, abs=1e-7)


def test_one_logit_means_what_two_mean():
    one, other = torch.tensor([[1.5], [-0.3]]), torch.tensor([[0.2], [0.9]])
    two = torch.cat([torch.zeros(2, 1), one], 1)
    assert torch.allclose(answer_loss(other, one, 3.0), answer_loss(other, two, 3.0))
    binary = torch.nn.functional.binary_cross_entropy_with_logits(one[:, 0], torch.tensor([1.0, 0.0]))
    assert torch.allclose(label_loss(one, torch.tensor([1, 0])), binary)


def test_a_high_temperature_matches_logits():
    """Hinton and others, 2015, equation 4: half the mean square of centred logits' difference, over the classes."""
    dice = torch.Generator().manual_seed(1)
    ours, theirs = torch.randn(6, 4, generator=dice).double(), torch.randn(6, 4, generator=dice).double()
    centred = (ours - ours.mean(1, keepdim=True)) - (theirs - theirs.mean(1, keepdim=True))
    assert float(answer_loss(ours, theirs, 1e3)) == pytest.approx(float(centred.square().sum(1).mean() / 8), rel=1e-2)


def test_a_low_temperature_leaves_the_teachers_decision():
    ours, theirs = torch.tensor([[0.01, 0.03]]), torch.tensor([[0.0, 1.0]])
    low = float(answer_loss(ours, theirs, 0.01)) / 0.01**2
    assert low == pytest.approx(float(label_loss(ours / 0.01, torch.tensor([1]))), rel=1e-4)


def test_features_are_compared_in_the_teachers_variance_where_the_mask_is_1():
    ours, theirs = torch.zeros(1, 2, 1), torch.tensor([[[1.0, -1.0], [50.0, 50.0]]])
    mask = torch.tensor([[1, 0]])
    assert float(feature_loss(ours, theirs, lambda x: x.expand(-1, 2), mask)) == pytest.approx(1.0)
    maps, smaller = torch.ones(1, 2, 4, 4), torch.randn(1, 2, 2, 2)
    assert float(feature_loss(maps, smaller, lambda x: smaller.movedim(1, -1))) == 0


def test_attention_is_compared_row_by_row_heads_averaged():
    theirs = torch.tensor([[[[0.9, 0.1], [0.5, 0.5]], [[0.7, 0.3], [0.5, 0.5]]]])  # two heads: 0.8 and 0.2 on average
    ours = torch.tensor([[[[0.5, 0.5], [0.5, 0.5]]]])
    wanted = 0.8 * np.log(0.8 / 0.5) + 0.2 * np.log(0.2 / 0.5)
    assert float(attention_loss(ours, theirs)) == pytest.approx(wanted / 2, rel=1e-5)
    assert float(attention_loss(ours, theirs, torch.tensor([[1, 0]]))) == pytest.approx(wanted, rel=1e-5)


# ---------------------------------------------------------------- learning


def test_a_student_learns_from_a_teacher_without_labels():
    found = lessons(labels=False)
    made = distill(student(), Exact(), found, how=QUICK)
    assert (answers(made, found).argmax(1) == found.inputs["x"].argmax(1)).mean() > 0.9


def test_labels_and_teacher_are_weighed():
    found = lessons()
    wrong = StoredTeacher.of(np.roll(-3 * np.eye(3, dtype=np.float32)[found.labels], 1, 1))
    right = distill(student(), wrong, found, Distillation(hard=1.0), QUICK)
    misled = distill(student(), wrong, found, Distillation(hard=0.0), QUICK)
    agree = [(answers(one, found).argmax(1) == found.labels).mean() for one in (right, misled)]
    assert agree[0] > 0.9 > 0.6 > agree[1]


def test_a_checkpoint_of_another_distillation_is_refused(tmp_path: Path):
    def cut(step: int, total: int) -> None:
        if step == 8:
            raise KeyboardInterrupt

    found, place = lessons(), tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        distill(student(), Exact(), found, Distillation(4.0), QUICK, after=cut, keep=place)
    with pytest.raises(UsageError, match=r"found a checkpoint of .*temperature=4.0.*temperature=1.0"):
        distill(student(), Exact(), found, Distillation(1.0, hard=0.9), QUICK, keep=place)
    with pytest.raises(UsageError, match="found a checkpoint of "):
        distill(student(), student(seed=1), found, Distillation(4.0), QUICK, keep=place)
    distill(student(), Exact(), found, Distillation(4.0, folder=tmp_path), QUICK, keep=place)
    assert not place.exists()


def test_features_and_attention_come_nearer_and_the_projection_is_gone():
    found, teacher, made = sequences(), Reader(8, 4).eval(), Reader(4, 2)
    names = {name for name, _ in made.named_parameters()}
    settings = Distillation(features=1.0, attention=1.0, layers=PAIRS, mask="mask")

    def unlike(net: Any) -> float:
        inputs = found.take(torch.arange(found.count))
        pair = [one.forward_parts(*inputs)["attention.0"].detach() for one in (net, teacher)]
        return float(attention_loss(*pair))

    before = unlike(made)
    taught = distill(made, teacher, found, settings, QUICK)
    assert {name for name, _ in taught.named_parameters()} == names
    assert unlike(taught) < before / 2


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_student_learns_numbers(outputs: int):
    """Far from 0, where a softmax would say the same of each item."""
    found, many = lessons(labels=False), (QUICK, Distillation(numbers=True))
    teacher = torch.nn.Linear(3, outputs)
    with torch.no_grad():
        teacher.weight.copy_(2 * torch.eye(3)[:outputs]), teacher.bias.fill_(0)
        teacher.bias[-1] = 37
    several = Several((teacher, StoredTeacher.of(answers(teacher, found) + 2)), (1, 1))
    wanted = answers(teacher, found)
    for one, more in ((teacher, 0.0), (several, 1.0)):
        made = distill(student(outputs), one, found, many[1], replace(many[0], epochs=60, rate=0.1, average=0.0))
        assert np.sqrt(np.square(answers(made, found) - wanted - more).mean(0)).max() < 0.5
    with pytest.raises(InputError, match="class 1 as its answer to each of 96 items, beyond doubt") as caught:
        distill(student(outputs), teacher, found, how=QUICK, steps=1)
    assert caught.value.hint and "numbers=True" in caught.value.hint


def test_a_sigmoid_among_numbers_stays():
    found = lessons(labels=False)
    teacher = torch.nn.Sequential(student(1, seed=1), torch.nn.Sigmoid()).eval()
    made = distill(student(1), OnnxTeacher(deliver.artifact(teacher, found).content), found,
                   Distillation(numbers=True), QUICK)  # fmt: skip
    assert np.abs(answers(made, found) - answers(teacher, found)).mean() < 0.05


def test_one_class_with_doubt_is_told_and_taught():
    found, said = lessons(labels=False), list[str]()
    doubtful = StoredTeacher.of(np.array([[1.0, 0.0, 0.0]], np.float32) + found.inputs["x"] / 100)
    distill(student(), doubtful, found, how=QUICK, steps=1, notice=said.append)
    assert said[0].startswith("teacher: found class 0 as its answer to each of 96 items")


class Pair(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return 3 * x, x


def test_a_tuple_is_no_answer_and_a_frozen_net_no_student():
    found = lessons()
    for pair in ((torch.nn.Sequential(student(), Pair()), Exact()), (student(), Pair())):
        for settings in (Distillation(), Distillation(numbers=True), Distillation(once=False)):
            with pytest.raises(InputError, match="found a tuple as its answer, wanted one tensor"):
                distill(*pair, found, settings, how=QUICK)
    for teacher in (Exact(), None):
        with pytest.raises(UsageError, match="found no weight that may change") as caught:
            distill(student().requires_grad_(False), teacher, found, how=QUICK)
    assert caught.value.hint == "net.requires_grad_(True)"


def test_generations_are_networks_of_their_own():
    found = lessons()
    nets = born_again(lambda _: student(), found, how=QUICK, generations=3, steps=40)
    said = [answers(one, found) for one in nets]
    assert len(nets) == 3 and not np.allclose(said[0], said[1]) and not np.allclose(said[1], said[2])
    assert (said[2].argmax(1) == found.labels).mean() > 0.6


def test_a_network_teaches_itself_and_stays():
    found, net = lessons(), student()
    before = answers(net, found)
    net.train()
    made = learn_from_itself(net, found, how=QUICK, steps=20)
    assert net.training and made is not net
    assert np.array_equal(before, answers(net, found)) and not np.array_equal(before, answers(made, found))


@pytest.mark.parametrize("teach", [distill, lambda net, _, found, **more: learn_from_itself(net, found, **more)])
def test_the_callers_random_numbers_and_threads_stay(teach: Any):
    seen: list[int] = []
    teacher = Exact()
    teacher.register_forward_pre_hook(lambda *_: seen.append(torch.get_num_threads()))
    net, threads = student(), torch.get_num_threads()
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    teach(net, teacher, lessons(), how=replace(QUICK, threads=3), steps=2)
    assert torch.equal(torch.rand(3), wanted) and set(seen) <= {3} and torch.get_num_threads() == threads


def test_a_student_is_not_its_own_teacher():
    net = student()
    shared = torch.nn.Sequential(net[0], torch.nn.ReLU(), torch.nn.Linear(8, 3))
    for teacher in (net, TorchTeacher(net), Several((Exact(), net)), shared):
        with pytest.raises(UsageError, match="wanted two networks"):
            distill(net, teacher, lessons(), how=QUICK)
    for one in net[0].parameters():  # what both have and none is taught
        one.requires_grad_(False)
    distill(net, shared, lessons(), how=QUICK, steps=1)


def test_what_was_taught_is_judged_on_both_engines():
    found = lessons()
    rows = deliver.judge(distill(student(), Exact(), found, how=QUICK), found)
    assert set(rows) == {"onnxruntime", "litert"} and rows["litert"]["drift"]["agreement"] == 1
    assert all(row["scores"]["accuracy"] > 0.9 for row in rows.values())


def test_the_example_in_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    dice = np.random.default_rng(1)
    items = {"features": dice.normal(size=(1024, 6)).astype(np.float32)}
    items["labels"] = (items["features"][:, 0] > 0).astype(np.int64)
    np.savez(tmp_path / "items.npz", **items)
    teacher = torch.nn.Linear(6, 2)
    with torch.no_grad():
        teacher.weight.copy_(torch.tensor([[-3.0], [3.0]]) * torch.eye(6)[:1])
        teacher.bias.zero_()
    found = deliver.artifact(teacher, Lessons({"features": items["features"]}))
    (tmp_path / "teacher.onnx").write_bytes(found.content)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    (code,) = (one for one in blocks if "OnnxTeacher" in one)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    exec(code, {})
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [one[0] for one in said] == ["onnxruntime", "litert"] and all(float(one[2]) > 0.8 for one in said)


# ---------------------------------------------------------------- what is wrong is said


@pytest.mark.parametrize(
    ("teacher", "settings", "words"),
    [
        (None, {}, "neither a teacher nor labels"),
        (StoredTeacher.of(np.zeros((96, 4), np.float32)), {}, r"answers \[3\] an item of the student, \[4\]"),
        (StoredTeacher.of(np.zeros((5, 3), np.float32)), {}, "found 5 of logits, wanted 96"),
        (Exact(), {"features": 1.0, "layers": PAIRS[:1]}, "teacher Exact: features.0 are wanted"),
        (Several((TorchTeacher(Exact()), StoredTeacher.of(np.zeros((96, 2), np.float32)))), {}, "wanted one shape"),
    ],
)
def test_what_does_not_suit_is_refused(teacher: Any, settings: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        distill(student(), teacher, lessons(labels=False), Distillation(**settings), QUICK)


@pytest.mark.parametrize("labels", [True, False])
def test_logits_without_an_axis_of_classes_are_refused(labels: bool):
    """(N,) would be a softmax over the items of a batch."""
    flat = torch.nn.Sequential(student(1), torch.nn.Flatten(0))
    found = Lessons({"x": lessons().inputs["x"]}, np.zeros(96, np.int64) if labels else None)
    for pair in ((flat, StoredTeacher.of(np.zeros(96, np.float32))), (student(1), flat)):
        with pytest.raises(InputError, match=r"found answers of shape \[2\], wanted logits \(N, 1\) or \(N, C\)"):
            distill(*pair, found, how=QUICK)


def test_labels_are_whole_numbers_of_any_size_and_classes():
    found = lessons()
    small = Lessons(found.inputs, found.labels.astype(np.int32))  # type: ignore[union-attr]
    made = [answers(distill(student(), Exact(), one, how=QUICK, steps=3), found) for one in (found, small)]
    assert np.array_equal(*made)
    with pytest.raises(InputError, match="labels: found 3 as the largest, 3 outputs of the student Sequential"):
        distill(student(), Exact(), Lessons(found.inputs, found.labels + 1), how=QUICK)  # type: ignore[operator]
    distill(student(), Exact(), Lessons(found.inputs, found.labels + 1), Distillation(hard=0.0), QUICK, steps=1)  # type: ignore[operator]


def test_parts_that_cannot_be_compared_are_refused():
    found = sequences()
    with pytest.raises(InputError, match="heads a multiple of the student's"):
        distill(Reader(4, 3), Reader(8, 4), found, Distillation(attention=1.0, layers=PAIRS[1:]), QUICK)
    settings = Distillation(attention=1.0, layers=PAIRS[1:], mask="attention_mask")
    with pytest.raises(InputError, match="wanted 'attention_mask' among them"):
        distill(Reader(4, 2), Reader(8, 4), found, settings, QUICK)
    with pytest.raises(InputError, match="student Sequential: layers are to be imitated"):
        distill(student(), StoredTeacher({"logits": np.zeros((96, 3), np.float32), "features.0": np.zeros((96, 3))}),
                lessons(), Distillation(features=1.0, layers=PAIRS[:1]), QUICK)  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [{"temperature": 0.0}, {"temperature": ()}, {"hard": 1.5}, {"features": 1.0}, {"layers": PAIRS[:1]},
     {"answers": 0.0}, {"features": 1.0, "layers": (("hidden.0", "features.0"),)}],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any]):
    with pytest.raises(ValueError, match="found"):
        Distillation(**settings)


def test_without_torch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name == "torch":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(EngineError, match="torch is not installed"):
        distill(None, None, lessons())  # type: ignore[arg-type]
