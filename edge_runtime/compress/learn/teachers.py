"""Whom a student learns from: a PyTorch module, an ONNX file, stored answers, or several of these as one.

A teacher gives parts of an item by name: "logits" always, and what else a student is to imitate: "features.K" (N, ...),
"attention.K" (N, heads, T, T). A module gives them by a method `forward_parts(*inputs)`; an ONNX file by its tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edge_runtime.compress.torch_graph import need_torch, single_thread
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
            return _wanted(found, names, f"teacher {type(module).__name__}")

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
    """

    model: Path | bytes
    logits: str | None = None
    parts: Mapping[str, str] = field(default_factory=dict)
    rename: Mapping[str, str] = field(default_factory=dict)
    change: Change | None = None
    threads: int = 1

    def bind(self, lessons: Lessons, names: Sequence[str]) -> Ask:
        torch = need_torch()
        session, outputs, undo = self._open(names)
        given = self._inputs(session, tuple(lessons.inputs))
        kinds = {one.name: one.type for one in session.get_inputs()}
        single = any(isinstance(one.shape[0], int) and one.shape[0] == 1 for one in session.get_inputs() if one.shape)

        def run(feeds: dict[str, Any]) -> Parts:
            found = session.run(list(outputs.values()), feeds)
            return {name: torch.from_numpy(one) for name, one in zip(outputs, found, strict=True)}

        def ask(inputs: tuple[Tensor, ...], index: Tensor) -> Parts:
            shown = self.change(inputs) if self.change else inputs
            feeds = {name: _as(kinds[name], shown[place]) for name, place in given.items()}
            if single:
                rows = [run({name: one[row : row + 1] for name, one in feeds.items()}) for row in range(len(index))]
                found = {name: torch.cat([one[name] for one in rows]) for name in outputs}
            else:
                found = run(feeds)
            found[LOGITS] = undo(found[LOGITS].float())
            return found

        return ask

    def _open(self, names: Sequence[str]) -> tuple[Any, dict[str, str], Callable[[Tensor], Tensor]]:
        """A session, the tensor of each part, and what makes logits of the file's answer."""
        import onnx
        import onnxruntime as ort

        from edge_runtime.compress.artifact import load_artifact, read_artifact

        made = read_artifact(self.model, "teacher") if isinstance(self.model, bytes) else load_artifact(self.model)
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
        return session, outputs, _undo(makers[answer].op_type)

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
        content = self.model if isinstance(self.model, bytes) else self.model.read_bytes()
        return sha256(content + repr((self.logits, dict(self.parts), dict(self.rename))).encode()).hexdigest()


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
    them is a TorchTeacher."""

    teachers: tuple[Teacher | nn.Module, ...]
    weights: tuple[float, ...] = ()

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
            logits = [widened(one[LOGITS]) for one in found]
            if len({one.shape for one in logits}) > 1:
                raise InputError(f"teachers: found answers {[list(one.shape) for one in logits]}, wanted one shape")
            shares = [torch.log_softmax(one, -1).double().exp() for one in logits]
            mean = sum(weight * one for weight, one in zip(self.weights, shares, strict=True))
            return found[0] | {LOGITS: mean.clamp_min(1e-30).log().float()}

        return ask

    def digest(self) -> str:
        parts = [one.digest() for one in self.teachers]
        return sha256(repr((parts, self.weights)).encode()).hexdigest()


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


def _undo(ending: str) -> Callable[[Tensor], Tensor]:
    torch = need_torch()
    tiny = 1e-12
    if ending == "Softmax":
        return lambda found: found.clamp_min(tiny).log()
    if ending == "Sigmoid":
        return lambda found: torch.logit(found.double(), eps=tiny).float()
    return lambda found: found


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


# ---------------------------------------------------------------- answers that are computed once


def ask_once(
    teacher: Teacher,
    lessons: Lessons,
    names: Sequence[str] = (),
    folder: Path | None = None,
    batch: int = 64,
    threads: int = 1,
) -> StoredTeacher:
    """The teacher's answers to every item as it is, without augmentation; parts other than logits in float16.

    `folder` keeps them as .npy files under a name made of the teacher's digest, its answers to the first batch, and the
    items': found again next time. A part whose size changes from batch to batch is filled up with zeros to the largest:
    where a batch is cut to its longest text, lessons in the order of length cost the teacher least.
    `threads`: PyTorch's.
    """
    if isinstance(teacher, StoredTeacher):
        return teacher
    with single_thread(need_torch(), threads):
        return _computed(teacher, lessons, names, folder, batch)


def _computed(
    teacher: Teacher, lessons: Lessons, names: Sequence[str], folder: Path | None, batch: int
) -> StoredTeacher:
    import numpy as np

    ask = teacher.bind(lessons, names)
    place = None
    if folder is not None:
        place = folder / _key(teacher, ask, lessons, names, batch)
        if place.is_dir():
            return StoredTeacher(
                {name: np.load(place / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in (LOGITS, *names)}
            )
    found: dict[str, list[NDArray[Any]]] = {name: [] for name in (LOGITS, *names)}
    for index, inputs in lessons.batches(batch, None):
        for name, tensor in ask(inputs, index).items():
            found[name].append(tensor.numpy().astype(np.float32 if name == LOGITS else np.float16))
    arrays = {name: _joined(parts) for name, parts in found.items()}
    if place is not None:
        _write(place, arrays)
    return StoredTeacher(arrays)


def _key(teacher: Teacher, ask: Ask, lessons: Lessons, names: Sequence[str], batch: int) -> str:
    """Of what the teacher is shown: another `prepare` is another key. And of what it says: a digest knows neither what
    happens between a module's weights nor what `change` does."""
    whole = sha256(repr((teacher.digest(), tuple(names), tuple(lessons.inputs))).encode())
    for place, (index, inputs) in enumerate(lessons.batches(batch)):
        said = ask(inputs, index).values() if place == 0 else ()
        for tensor in (*inputs, *said):
            whole.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.contiguous().numpy().tobytes())
    return whole.hexdigest()[:24]


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    import numpy as np

    largest = [max(sizes) for sizes in zip(*(one.shape[1:] for one in parts), strict=True)]
    made = np.zeros((sum(map(len, parts)), *largest), parts[0].dtype)
    start = 0
    for one in parts:
        made[(slice(start, start + len(one)), *map(slice, one.shape[1:]))] = one
        start += len(one)
    return made


def _write(place: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """A folder that is there is whole."""
    import os
    import shutil

    import numpy as np

    draft = place.with_name(f".{place.name}.{os.getpid()}")
    draft.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(draft / f"{name}.npy", array)
    try:
        draft.rename(place)
    except OSError:  # another run was first
        shutil.rmtree(draft)
