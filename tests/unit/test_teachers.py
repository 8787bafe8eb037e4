"""Every kind of teacher is heard, and its answers are kept without being taken for another's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.compress.learn import deliver
from edge_runtime.compress.learn.asked import ask_once
from edge_runtime.compress.learn.distill import distill
from edge_runtime.compress.learn.lessons import Lessons
from edge_runtime.compress.learn.loop import answers
from edge_runtime.compress.learn.teachers import OnnxTeacher, Several, StoredTeacher, TorchTeacher
from edge_runtime.errors import InputError, UsageError
from tests.unit.taught_nets import QUICK, Exact, lessons, student

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="torch is not installed")


def ask(teacher: Any, found: Lessons) -> Any:
    index = torch.arange(found.count)
    return teacher.bind(found, ())(found.take(index), index)["logits"]


def test_an_onnx_file_teaches_as_the_module_does(tmp_path: Path):
    net, found = student(seed=1).eval(), lessons()
    path = tmp_path / "teacher.onnx"
    path.write_bytes(deliver.artifact(net, found).content)
    assert torch.allclose(ask(OnnxTeacher(path), found), ask(TorchTeacher(net), found), atol=1e-5)
    softened = torch.nn.Sequential(net, torch.nn.Softmax(1))
    made = OnnxTeacher(deliver.artifact(softened, found).content)
    assert torch.allclose(
        torch.softmax(ask(made, found), 1), torch.softmax(ask(TorchTeacher(net), found), 1), atol=1e-5
    )


@pytest.mark.parametrize("ending", ["Softmax", "Sigmoid"])
def test_what_leaves_probabilities_as_they_are_hides_them_not(ending: str, tmp_path: Path):
    import onnx

    net, found = student(seed=1).eval(), lessons()
    proto = onnx.load_from_string(deliver.artifact(net, found).content)
    last = proto.graph.output[0].name
    for place, name in enumerate((ending, "Identity", "Cast")):
        more = {"to": onnx.TensorProto.FLOAT} if name == "Cast" else {}
        proto.graph.node.append(onnx.helper.make_node(name, [last], [last := f"t{place}"], **more))
    proto.graph.output[0].name = last
    path = tmp_path / "teacher.onnx"
    path.write_bytes(proto.SerializeToString())
    said, wanted = (torch.softmax(ask(one, found), 1) for one in (OnnxTeacher(str(path)), TorchTeacher(net)))
    assert torch.allclose(said, wanted, atol=1e-5)
    plain = ask(OnnxTeacher(path, probabilities=False), found)
    assert float(plain.min()) > 0 and float(plain.max()) < 1


def test_probabilities_that_the_graph_does_not_show_are_refused():
    net, found = torch.nn.Sequential(student(seed=1), torch.nn.Softmax(1)).eval(), lessons()
    shares = torch.nn.Sequential(net[0], Shares()).eval()
    file = deliver.artifact(shares, found).content
    shown = [OnnxTeacher(file), net, Several((student(seed=2), net)), StoredTeacher.of(answers(net, found))]
    for teacher in shown:
        with pytest.raises(InputError, match="wanted logits, not probabilities"):
            distill(student(), teacher, found, how=QUICK, steps=1)
    said = torch.softmax(ask(OnnxTeacher(file, probabilities=True), found), 1)
    assert np.allclose(said, answers(net, found), atol=1e-5)


class Shares(torch.nn.Module):
    """Softmax by hand."""

    def forward(self, x: Any) -> Any:
        return x.exp() / x.exp().sum(1, keepdim=True)


@pytest.mark.parametrize("size", [1, 8, 100])
def test_the_file_of_a_teacher_of_so_many_items_at_a_time_is_asked_so(size: int):
    import onnx

    net, found = student(seed=1).eval(), lessons()
    proto = onnx.load_from_string(deliver.artifact(net, found).content)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = size
    del proto.graph.value_info[:]
    made = OnnxTeacher(proto.SerializeToString())
    assert torch.allclose(ask(made, found), ask(TorchTeacher(net), found), atol=1e-5)


def test_several_teachers_are_the_weighted_mean_of_their_probabilities():
    first, second = np.log([[0.8, 0.2]]), np.log([[0.4, 0.6]])
    found = Lessons({"x": np.zeros((1, 1), np.float32)})
    teachers = tuple(StoredTeacher.of(one.astype(np.float32)) for one in (first, second))
    said = torch.softmax(ask(Several(teachers, (3, 1)), found), 1)
    assert np.allclose(said.numpy(), [[0.7, 0.3]])
    with pytest.raises(UsageError, match="2 teachers and weights"):
        Several(teachers, (1,))


def test_a_module_may_stand_among_several_teachers():
    found, net = lessons(), student(seed=1)
    made = Several((OnnxTeacher(deliver.artifact(net, found).content), net))
    assert torch.allclose(
        torch.softmax(ask(made, found), 1), torch.softmax(ask(TorchTeacher(net), found), 1), atol=1e-5
    )
    assert made.digest() != Several((TorchTeacher(student(seed=2)), net)).digest()
    with pytest.raises(UsageError, match="found a teacher of type str, wanted a PyTorch module or a teacher"):
        Several(("large.onnx", net))


def test_answers_are_computed_once_and_found_again(tmp_path: Path):
    net, found = student(seed=1), lessons()
    asked: list[int] = []
    net.register_forward_pre_hook(lambda _, inputs: asked.append(len(inputs[0])))
    first = ask_once(TorchTeacher(net), found, folder=tmp_path, batch=16)
    assert sum(asked) == 16 + found.count
    again = ask_once(TorchTeacher(net), found, folder=tmp_path, batch=16)
    assert np.array_equal(first.parts["logits"], again.parts["logits"])
    assert sum(asked) == 16 + found.count + 16  # the first batch tells whether it is the same teacher


def test_answers_of_another_teacher_are_not_taken(tmp_path: Path):
    """The same weights, with another function between them, or another view of the items."""
    net, found = student(seed=1), lessons()
    other = torch.nn.Sequential(net[0], torch.nn.Tanh(), net[2])
    file = deliver.artifact(net, found).content
    shown = [
        TorchTeacher(net), TorchTeacher(other), TorchTeacher(net, lambda inputs: (inputs[0] * 2,)),
        OnnxTeacher(file), OnnxTeacher(file, change=lambda inputs: (inputs[0] * 2,)),
    ]  # fmt: skip
    for one in shown:
        kept = ask_once(one, found, folder=tmp_path).parts["logits"]
        assert np.array_equal(kept, ask_once(one, found).parts["logits"])
    assert len(list(tmp_path.iterdir())) == len(shown)


def test_a_varied_item_is_shown_to_the_teacher_as_to_the_student():
    seen: list[float] = []

    def watched(x: Any) -> Any:
        seen.append(float(x.abs().max()))
        return 3 * x

    teacher = Exact()
    teacher.forward = watched  # type: ignore[method-assign]
    found = lessons(prepare=lambda parts, dice: parts if dice is None else (parts[0] * 100,))
    distill(student(), teacher, found, how=QUICK, steps=2)
    assert len(seen) == 5 and min(seen[3:]) > 50  # the checks of 2, 64 and 32 items, and two batches


def test_a_teacher_with_other_input_names_is_told_how_to_be_renamed():
    found = lessons()
    made = OnnxTeacher(deliver.artifact(student(), found).content)
    other = Lessons({"numbers": found.inputs["x"]})
    with pytest.raises(InputError, match="its inputs are x, the lessons' numbers") as caught:
        distill(student(), made, other, how=QUICK)
    assert caught.value.hint == "OnnxTeacher(..., rename={'x': 'numbers'})"
    renamed = OnnxTeacher(made.model, rename={"x": "numbers"})
    assert torch.allclose(ask(renamed, other), ask(made, found))
