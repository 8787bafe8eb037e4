"""The training loop: it learns, repeats, goes on where it was cut, and says what is wrong with its lessons."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.compress.learn.lessons import Lessons, from_samples
from edge_runtime.compress.learn.loop import Fit, answers, cross_entropy, fit
from edge_runtime.compress.samples import Samples
from edge_runtime.errors import EdgeError, InputError, UsageError

pytestmark = pytest.mark.torch
pytest.importorskip("torch", reason="torch is not installed")
QUICK = Fit(epochs=4, batch=16, rate=0.05, decay=0.0)


def lessons(count: int = 96, **more: Any) -> Lessons:
    """Which of three numbers is the largest."""
    values = np.random.default_rng(3).normal(size=(count, 3)).astype(np.float32)
    return Lessons({"x": values}, values.argmax(1).astype(np.int64), **more)


def net(outputs: int = 3) -> Any:
    import torch

    torch.manual_seed(5)
    return torch.nn.Sequential(
        torch.nn.Linear(3, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, outputs)
    )


def weights(one: Any) -> np.ndarray:
    return np.concatenate([value.detach().numpy().ravel() for value in one.state_dict().values()])


def test_it_learns_and_the_same_run_gives_the_same_weights():
    found = lessons()
    made = [fit(net(), found, cross_entropy(found), QUICK) for _ in range(2)]
    assert (answers(made[0], found).argmax(1) == found.labels).mean() > 0.8
    assert np.array_equal(weights(made[0]), weights(made[1]))


def test_one_logit_is_a_choice_of_two():
    values = np.random.default_rng(3).normal(size=(96, 3)).astype(np.float32)
    found = Lessons({"x": values}, (values[:, 0] > 0).astype(np.int64))
    made = fit(net(1), found, cross_entropy(found), QUICK)
    assert ((answers(made, found)[:, 0] > 0) == found.labels).mean() > 0.9


def test_a_run_that_was_cut_goes_on_to_the_same_weights(tmp_path: Path):
    found, place = lessons(), tmp_path / "run.pt"

    def cut(step: int, total: int) -> None:
        if step == 14:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(net(), found, cross_entropy(found), QUICK, after=cut, keep=place)
    said: list[str] = []
    resumed = fit(net(), found, cross_entropy(found), QUICK, keep=place, notice=said.append)
    assert len(said) == 2 and not place.exists()
    assert np.array_equal(weights(resumed), weights(fit(net(), found, cross_entropy(found), QUICK)))


def left_behind(place: Path, found: Lessons, loss: Any = None, **more: Any) -> None:
    def cut(step: int, total: int) -> None:
        if step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(net(), found, loss or cross_entropy(found), QUICK, after=cut, keep=place, **more)


def flipped() -> Lessons:
    found = lessons()
    assert found.labels is not None
    return Lessons({"x": found.inputs["x"] * 0}, 2 - found.labels)


def other_net() -> Any:
    made = net()
    made[0].weight.data.mul_(2)
    return made


@pytest.mark.parametrize(
    ("found", "make", "more", "said"),
    [
        (lessons(), net, {"settings": Fit(epochs=9, batch=16)}, "epochs 4.* wanted one of epochs 9"),
        (flipped(), net, {}, "lessons "),
        (lessons(), other_net, {}, "net "),
        (lessons(prepare=lambda inputs, dice: (inputs[0] + 1,)), net, {}, "shown "),
        (lessons(), net, {"loss": cross_entropy(lessons(), 0.5)}, "loss "),
        (lessons(), net, {"tag": "int4"}, "tag , wanted one of tag int4"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, found: Lessons, make: Any, more: Any, said: str):
    place = tmp_path / "run.pt"
    left_behind(place, lessons())
    given = {"loss": cross_entropy(found), "settings": QUICK} | more
    with pytest.raises(UsageError, match=f"found a checkpoint of (.*, )?{said}"):
        fit(make(), found, **given, keep=place)


def test_a_checkpoint_is_no_change_of_course(tmp_path: Path):
    """Asking what a run begins from moves neither its random numbers nor its statistics."""
    import torch

    made = []
    for keep in (None, tmp_path / "run.pt"):
        one = net()
        one.insert(3, torch.nn.Dropout(0.3))
        made.append(fit(one, lessons(), cross_entropy(lessons()), QUICK, keep=keep))
    assert np.array_equal(weights(made[0]), weights(made[1]))


def test_the_callers_random_numbers_and_threads_stay_the_callers():
    import torch

    found, drawn, threads = lessons(), [], torch.get_num_threads()
    seen: list[int] = []
    watched = net()
    watched.register_forward_pre_hook(lambda *_: seen.append(torch.get_num_threads()))
    for seed in (1, 2):
        torch.manual_seed(seed)
        wanted = torch.rand(1)
        torch.manual_seed(seed)
        fit(watched, found, cross_entropy(found), replace(QUICK, threads=2), steps=2)
        drawn.append(torch.rand(1))
        assert drawn[-1] == wanted
    answers(watched, found, threads=3)
    assert drawn[0] != drawn[1] and seen == [2, 2, 2, 2, 3] and torch.get_num_threads() == threads


def test_items_are_shown_as_often_as_asked_and_varied_only_when_taught():
    import torch

    def prepare(inputs: tuple[Any, ...], dice: Any) -> tuple[Any, ...]:
        return inputs if dice is None else (inputs[0] + 100,)

    found = lessons(4, times=np.array([0, 1, 2, 3]), prepare=prepare)
    places = torch.cat([index for index, _ in found.batches(2, torch.Generator().manual_seed(0))])
    assert sorted(places.tolist()) == [1, 2, 2, 3, 3, 3]
    (plain,) = found.take(torch.tensor([1]))
    (varied,) = found.take(torch.tensor([1]), torch.Generator())
    assert torch.equal(varied, plain + 100)


def test_a_run_can_be_ended_after_a_few_steps():
    left: list[int] = []
    found, one = lessons(), net()
    fit(one, found, cross_entropy(found), QUICK, steps=5, after=lambda step, total: left.append(total - step))
    assert left == [5, 4, 3, 2, 1]


def test_gradients_may_be_changed_before_they_are_clipped():
    """What is taken out must not count into the norm: the rest is then moved as if it stood alone."""
    import torch

    told: list[tuple[int, int]] = []
    one, found = net(), lessons()
    held = one[3].weight.detach().clone()

    def gradients(step: int, total: int) -> None:
        told.append((step, total))
        one[3].weight.grad.zero_()

    fit(one, found, cross_entropy(found), replace(QUICK, clip=1e-3), steps=2, gradients=gradients)
    assert told == [(0, 2), (1, 2)] and torch.equal(one[3].weight, held)
    grads = [value.grad for value in one.parameters()]
    assert float(torch.stack([value.norm() for value in grads]).norm()) == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("kind", [np.int32, np.uint8])
def test_labels_of_any_whole_numbers_teach_the_same(kind: Any):
    found = lessons()
    assert found.labels is not None
    other = Lessons(found.inputs, found.labels.astype(kind))
    made = [fit(net(), one, cross_entropy(one), QUICK, steps=3) for one in (found, other)]
    assert np.array_equal(weights(made[0]), weights(made[1]))


def test_float64_is_learned_from_as_float32():
    found = lessons()
    wide = Lessons({"x": found.inputs["x"].astype(np.float64)}, found.labels)
    made = [fit(net(), one, cross_entropy(one), QUICK, steps=3) for one in (found, wide)]
    assert np.array_equal(weights(made[0]), weights(made[1]))
    assert np.array_equal(answers(made[0], found), answers(made[1], wide))


@pytest.mark.parametrize(
    ("outputs", "labels", "said"),
    [(1, [1, 2], "found 2 as the largest, 1 outputs of the network, wanted labels from 0 to 1"),
     (2, [1, 2], "found 2 as the largest, 2 outputs"), (3, [0, 300], "found 300 as the largest")],
)  # fmt: skip
def test_labels_that_are_no_class_are_refused(outputs: int, labels: list[int], said: str):
    found = Lessons({"x": np.zeros((8, 3), np.float32)}, np.array(labels * 4))
    with pytest.raises(InputError, match=said):
        fit(net(outputs), found, cross_entropy(found), QUICK)


def test_a_label_that_is_never_shown_need_be_no_class():
    found = Lessons({"x": np.ones((3, 3), np.float32)}, np.array([0, 1, 9]), times=np.array([2, 2, 0]))
    fit(net(2), found, cross_entropy(found), QUICK, steps=1)


def test_answers_without_an_axis_of_classes_are_refused():
    import torch

    found = Lessons({"x": np.zeros((8, 3), np.float32)}, np.array([0, 1] * 4))
    flat = torch.nn.Sequential(net(1), torch.nn.Flatten(0))
    with pytest.raises(InputError, match=r"found answers of shape \[8\], wanted logits \(N, 1\) or \(N, C\)"):
        fit(flat, found, cross_entropy(found), QUICK)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Lessons({}), "without an input"),
        (lambda: Lessons({"x": np.zeros((0, 3), np.float32)}), "no items"),
        (lambda: Lessons({"x": np.zeros((2, 3))}, np.zeros(3, np.int64)), "different lengths"),
        (lambda: Lessons({"x": np.zeros((2, 3))}, np.array([0, -1])), "whole numbers from 0 on"),
        (lambda: Lessons({"x": np.zeros((2, 3))}, times=np.zeros(2, np.int64)), "nothing would be shown"),
        (lambda: cross_entropy(Lessons({"x": np.zeros((2, 3), np.float32)})), "without labels"),
        (lambda: cross_entropy(lessons(), 1.0), "smoothing 1.0"),
    ],
)
def test_lessons_that_teach_nothing_are_refused(make: Any, said: str):
    with pytest.raises(EdgeError, match=said):
        make()


def test_a_loss_that_is_not_finite_ends_the_run():
    found = Lessons({"x": np.full((8, 3), np.inf, np.float32)}, np.zeros(8, np.int64))
    with pytest.raises(InputError, match="found a loss of"):
        fit(net(), found, cross_entropy(found), QUICK)


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"rate": 0.0}, {"warm": 1.0}, {"average": -0.1}, {"clip": -1.0}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]):
    with pytest.raises(ValueError, match="wanted"):
        Fit(**wrong)


def test_items_of_compress_teach_and_a_folder_of_pictures_is_refused(tmp_path: Path):
    found = lessons()
    samples = Samples("items.npz", found.count, found.labels, found.inputs)
    taught = from_samples(samples)
    assert taught.inputs.keys() == {"x"} and np.array_equal(taught.labels, found.labels)
    with pytest.raises(InputError, match="found a folder of images"):
        from_samples(Samples("pictures", 1, None, paths=(tmp_path / "a.png",)))


def test_lists_and_tensors_are_lessons_too():
    import torch

    found = lessons()
    assert found.labels is not None
    for inputs, labels in (
        (found.inputs["x"].tolist(), found.labels.tolist()),
        (torch.from_numpy(found.inputs["x"]).requires_grad_(), torch.from_numpy(found.labels)),
    ):
        made = Lessons({"x": inputs}, labels, times=[1] * 96)  # type: ignore[dict-item,arg-type]
        assert np.array_equal(made.inputs["x"], found.inputs["x"]) and np.array_equal(made.labels, found.labels)
        assert fit(net(), made, cross_entropy(made), QUICK, steps=2)
    for inputs in ([[1.0], [1.0, 2.0]], ["a", "b"], 3.0):
        with pytest.raises(InputError, match="x: found a .*, wanted an array of numbers"):
            Lessons({"x": inputs})  # type: ignore[dict-item]
