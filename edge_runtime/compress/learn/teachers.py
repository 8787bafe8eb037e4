"""Whom a student learns from: a PyTorch module, an ONNX file, stored answers, or several of these as one.

A teacher gives parts of an item by name: "logits" always, and what else a student is to imitate: "features.K" (N, ...),
"attention.K" (N, heads, T, T). A module gives them by a method `forward_parts(*inputs)`; an ONNX file by its tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edge_runtime.compress.learn.checks import check_answer
from edge_runtime.compress.torch_graph import need_torch
from edge_runtime.digest import sha256
from edge_runtime.errors import InputError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from edge_runtime.compress.learn.lessons import Lessons

    Parts = dict[str, Tensor]
    Ask = Callable[[tuple[Tensor, ...], Tensor], Parts]
    Change = Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]

LOGITS = "logits"


class Teacher(Protocol):
    def bind(self, lessons: Lessons, names: Sequence[str]) -> Ask:
        """A function of a batch (what the student is shown, places in the lessons) that gives the logits and the parts
        called `names`, without gradients. Raises InputError where lessons, names and teacher do not suit."""
        ...

    def digest(self) -> str:
        """Changes when weights, files or settings do."""
        ...


@dataclass(frozen=True)
class TorchTeacher:
    """Any module; it is put in eval mode. `change` makes its inputs of the student's, where they differ."""

    module: nn.Module
    change: Change | None = None

    def bind(self, lessons: Lessons, names: Sequence[str]) -> Ask:
        torch = need_torch()
        module = self.module.eval()
        if names and not hasattr(module, "forward_parts"):
            raise InputError(
                f"teacher {type(module).__name__}: {', '.join(names)} are wanted, found no method forward_parts",
                hint='add forward_parts(*inputs), which returns {"logits": ..., "features.0": ...}',
            )

        def ask(inputs: tuple[Tensor, ...], index: Tensor) -> Parts:
            given = self.change(inputs) if self.change else inputs
            with torch.no_grad():
                found = module.forward_parts(*given) if names else {LOGITS: module(*given)}
            wanted = _wanted(found, names, f"teacher {type(module).__name__}")
            check_answer(wanted[LOGITS], f"teacher {type(module).__name__}")
            return wanted

        return ask

    def digest(self) -> str:
        whole = sha256(type(self.module).__name__.encode())
        for name, tensor in self.module.state_dict().items():
            whole.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return whole.hexdigest()


@dataclass(frozen=True)
class OnnxTeacher:
    """An ONNX file, run by onnxruntime. `logits`: the output's name, where it is not the first; `parts`: tensors inside
    the graph by the part's name; `rename`: the lessons' input by the file's, where they differ.

    A file that ends in Softmax or Sigmoid gives probabilities: their logits are taken, which temperature needs.
    `probabilities` says whether it does; None: what the graph ends in, but for nodes that leave numbers as they are.
    """

    model: Path | str | bytes
    logits: str | None = None
    parts: Mapping[str, str] = field(default_factory=dict)
    rename: Mapping[str, str] = field(default_factory=dict)
    change: Change | None = None
    threads: int = 1
    probabilities: bool | None = None

    def __post_init__(self) -> None:
        if isinstance(self.model, str):
            object.__setattr__(self, "model", Path(self.model))

    def bind(self, lessons: Lessons, names: Sequence[str]) -> Ask:
        torch = need_torch()
        session, outputs, undo = self._open(names)
        given = self._inputs(session, tuple(lessons.inputs))
        kinds = {one.name: one.type for one in session.get_inputs()}
        fixed = _fixed_batch(session)

        def run(feeds: dict[str, Any]) -> Parts:
            found = session.run(list(outputs.values()), feeds)
            for tensor, one in zip(outputs.values(), found, strict=True):
                if not hasattr(one, "dtype"):
                    raise InputError(f"teacher: found a {type(one).__name__} as {tensor!r}, wanted a tensor")
            return {name: torch.from_numpy(one) for name, one in zip(outputs, found, strict=True)}

        def ask(inputs: tuple[Tensor, ...], index: Tensor) -> Parts:
            shown = self.change(inputs) if self.change else inputs
            feeds = {name: _as(kinds[name], shown[place]) for name, place in given.items()}
            if fixed:
                parts = [run(_filled(feeds, start, fixed)) for start in range(0, len(index), fixed)]
                found = {name: torch.cat([one[name] for one in parts])[: len(index)] for name in outputs}
            else:
                found = run(feeds)
            said = found[LOGITS].float()
            found[LOGITS] = undo(said) if undo else said
            if undo is None and self.probabilities is None:
                refuse_shares(said, "teacher", "OnnxTeacher(..., probabilities=True), or False where they are logits")
            return found

        return ask

    def _open(self, names: Sequence[str]) -> tuple[Any, dict[str, str], Callable[[Tensor], Tensor] | None]:
        """A session, the tensor of each part, and what makes logits of the file's answer, where it is none."""
        import onnx
        import onnxruntime as ort

        from edge_runtime.compress.artifact import load_artifact, read_artifact

        model = self.model
        made = read_artifact(model, "teacher") if isinstance(model, bytes) else load_artifact(Path(model))
        if made.format != "onnx":
            raise InputError(
                "teacher: found a TFLite file, wanted an ONNX file", hint="store its answers: StoredTeacher"
            )
        proto = onnx.load_from_string(made.content)
        answer = self.logits or proto.graph.output[0].name
        makers = {name: node for node in proto.graph.node for name in node.output}
        outputs = {LOGITS: answer} | {name: self.parts.get(name, name) for name in names}
        for part, tensor in outputs.items():
            if tensor not in makers:
                raise InputError(
                    f"teacher: found no tensor {tensor!r} for {part}",
                    hint=f"name one of the graph's, such as {', '.join(list(makers)[-3:])}",
                )
        known = {one.name for one in proto.graph.output}
        inner = [tensor for tensor in outputs.values() if tensor not in known]
        proto.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in inner)
        settings = ort.SessionOptions()
        settings.intra_op_num_threads, settings.log_severity_level = self.threads, 4
        session = ort.InferenceSession(proto.SerializeToString(), settings, providers=["CPUExecutionProvider"])
        return session, outputs, _undo(_ending(makers, answer), self.probabilities)

    def _inputs(self, session: Any, lessons: tuple[str, ...]) -> dict[str, int]:
        """The place among the lessons' inputs of each of the file's."""
        wanted = [one.name for one in session.get_inputs()]
        named = {name: self.rename.get(name, name) for name in wanted}
        missing = [name for name, ours in named.items() if ours not in lessons]
        if missing:
            raise InputError(
                f"teacher: its inputs are {', '.join(wanted)}, the lessons' {', '.join(lessons)}",
                hint=f"OnnxTeacher(..., rename={{{missing[0]!r}: {lessons[0]!r}}})",
            )
        return {name: lessons.index(ours) for name, ours in named.items()}

    def digest(self) -> str:
        content = self.model if isinstance(self.model, bytes) else Path(self.model).read_bytes()
        settings = self.logits, dict(self.parts), dict(self.rename), self.probabilities
        return sha256(content + repr(settings).encode()).hexdigest()


@dataclass(frozen=True)
class StoredTeacher:
    """Answers that are there already, item by item in the order of the lessons: logits (N, C), or parts by name."""

    parts: Mapping[str, NDArray[Any]]

    @classmethod
    def of(cls, logits: NDArray[Any]) -> StoredTeacher:
        return cls({LOGITS: logits})

    def bind(self, lessons: Lessons, names: Sequence[str]) -> Ask:
        torch = need_torch()
        wanted = _wanted(dict(self.parts), names, "stored answers")
        for name, array in wanted.items():
            if len(array) != lessons.count:
                raise InputError(f"stored answers: found {len(array)} of {name}, wanted {lessons.count}, one an item")

        def ask(inputs: tuple[Tensor, ...], index: Tensor) -> Parts:
            places = index.numpy()
            return {name: torch.from_numpy(array[places]).float() for name, array in wanted.items()}

        return ask

    def digest(self) -> str:
        whole = sha256(b"stored")
        for name in sorted(self.parts):
            whole.update(name.encode() + self.parts[name].tobytes())
        return whole.hexdigest()


@dataclass(frozen=True)
class Several:
    """Some teachers as one: the logits are the logarithm of the weighted mean of their probabilities, so that with
    temperature 1 the student's target is that mean. Other parts are the first teacher's. A module among
    them is a TorchTeacher. `numbers`: answers are numbers, of which the weighted mean is taken."""

    teachers: tuple[Teacher | nn.Module, ...]
    weights: tuple[float, ...] = ()
    numbers: bool = False

    def __post_init__(self) -> None:
        weights = self.weights or (1.0,) * len(self.teachers)
        if not self.teachers or len(weights) != len(self.teachers) or min(weights) < 0 or sum(weights) <= 0:
            raise UsageError(
                f"found {len(self.teachers)} teachers and weights {list(self.weights)}, wanted a weight for each"
            )
        object.__setattr__(self, "weights", tuple(one / sum(weights) for one in weights))
        object.__setattr__(self, "teachers", tuple(named(one) for one in self.teachers))

    def bind(self, lessons: Lessons, names: Sequence[str]) -> Ask:
        torch = need_torch()
        asks: list[Ask] = [one.bind(lessons, names if place == 0 else ()) for place, one in enumerate(self.teachers)]

        def ask(inputs: tuple[Tensor, ...], index: Tensor) -> Parts:
            found = [one(inputs, index) for one in asks]
            logits = [one[LOGITS] if self.numbers else widened(one[LOGITS]) for one in found]
            if len({one.shape for one in logits}) > 1:
                raise InputError(f"teachers: found answers {[list(one.shape) for one in logits]}, wanted one shape")
            if self.numbers:
                return found[0] | {LOGITS: sum(share * one for share, one in zip(self.weights, logits, strict=True))}
            for one in logits:
                refuse_shares(one, "one of several teachers", AS_LOGITS)
            shares = [torch.log_softmax(one, -1).double().exp() for one in logits]
            mean = sum(weight * one for weight, one in zip(self.weights, shares, strict=True))
            return found[0] | {LOGITS: mean.clamp_min(1e-30).log().float()}

        return ask

    def digest(self) -> str:
        parts = [one.digest() for one in self.teachers]
        return sha256(repr((parts, self.weights, self.numbers)).encode()).hexdigest()


def named(teacher: Any) -> Teacher:
    """A bare module is a TorchTeacher. Raises UsageError for what is no teacher."""
    if isinstance(teacher, need_torch().nn.Module):
        return TorchTeacher(teacher)
    if not all(callable(getattr(teacher, name, None)) for name in ("bind", "digest")):
        raise UsageError(
            f"found a teacher of type {type(teacher).__name__}, wanted a PyTorch module or a teacher",
            hint="OnnxTeacher(path) for a file, StoredTeacher.of(logits) for answers",
        )
    found: Teacher = teacher
    return found


def as_numbers(teacher: Teacher) -> Teacher:
    """The same teacher, whose answers are numbers rather than logits of classes: a Sigmoid at its end is not undone."""
    if isinstance(teacher, OnnxTeacher) and teacher.probabilities is None:
        return replace(teacher, probabilities=False)
    if isinstance(teacher, Several):
        return replace(teacher, teachers=tuple(as_numbers(named(one)) for one in teacher.teachers), numbers=True)
    return teacher


def modules_of(teacher: Teacher) -> Iterator[nn.Module]:
    """The PyTorch modules that it asks."""
    if isinstance(teacher, TorchTeacher):
        yield teacher.module
    elif isinstance(teacher, Several):
        for one in teacher.teachers:
            yield from modules_of(one)


def widened(logits: Tensor) -> Tensor:
    """A single number a item is the logit of class 1: the same probabilities as two logits, 0 and it."""
    torch = need_torch()
    return torch.cat([torch.zeros_like(logits), logits], dim=-1) if logits.shape[-1] == 1 else logits


AS_LOGITS = "a module without its Softmax, or StoredTeacher.of(np.log(answers))"

SAME = ("Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Dropout")
"""Nodes that leave the numbers of their first input as they are."""


def _ending(makers: Mapping[str, Any], answer: str) -> str:
    """The operator that made the numbers of this tensor."""
    node = makers[answer]
    while node.op_type in SAME and node.input[0] in makers:
        node = makers[node.input[0]]
    return str(node.op_type)


def _undo(ending: str, probabilities: bool | None) -> Callable[[Tensor], Tensor] | None:
    torch = need_torch()
    tiny = 1e-12
    if probabilities is False:
        return None
    if ending == "Sigmoid":
        return lambda found: torch.logit(found.double(), eps=tiny).float()
    if ending == "Softmax":
        return lambda found: found.clamp_min(tiny).log()
    if probabilities:
        return lambda found: torch.logit(found, eps=1e-6) if found.shape[-1] == 1 else found.clamp_min(tiny).log()
    return None


def refuse_shares(logits: Tensor, who: str, hint: str) -> None:
    """Raises InputError for rows from 0 to 1 that add up to 1: Softmax gives such ones, and logits are never like that
    for item after item."""
    if logits.ndim != 2 or min(logits.shape) < 2 or float(logits.min()) < 0 or float(logits.max()) > 1:
        return
    if float((logits.sum(1) - 1).abs().max()) < 1e-3:
        raise InputError(
            f"{who}: found answers from 0 to 1 that add up to 1, wanted logits, not probabilities", hint=hint
        )


def _fixed_batch(session: Any) -> int:
    """How many items the file takes at a time, 0 for any number."""
    found = {one.shape[0] for one in session.get_inputs() if one.shape and isinstance(one.shape[0], int)}
    if len(found) > 1:
        shapes = ", ".join(f"{one.name} {one.shape}" for one in session.get_inputs())
        raise InputError(f"teacher: found inputs {shapes}, wanted items along the first axis of each")
    return found.pop() if found else 0


def _filled(feeds: Mapping[str, NDArray[Any]], start: int, size: int) -> dict[str, NDArray[Any]]:
    """So many items from `start` on; where there are fewer, the last one again and again."""
    count = len(next(iter(feeds.values())))
    rows = [min(row, count - 1) for row in range(start, start + size)]
    return {name: one[rows] for name, one in feeds.items()}


def _as(kind: str, tensor: Tensor) -> NDArray[Any]:
    """As the session takes it: "tensor(int64)", "tensor(float)"."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    array: NDArray[Any] = tensor.detach().contiguous().numpy()
    return array.astype({"float": "float32", "double": "float64"}.get(name, name), copy=False)


def _wanted(found: dict[str, Any], names: Sequence[str], who: str) -> dict[str, Any]:
    missing = [name for name in (LOGITS, *names) if name not in found]
    if missing:
        raise InputError(f"{who}: found {', '.join(found)}, wanted {', '.join(missing)} besides")
    return {name: found[name] for name in (LOGITS, *names)}
