"""A teacher's answers that are computed once, and kept for other runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.compress.learn.teachers import LOGITS, StoredTeacher, Teacher
from edge_runtime.compress.torch_graph import need_torch, single_thread
from edge_runtime.digest import sha256

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_runtime.compress.learn.lessons import Lessons
    from edge_runtime.compress.learn.teachers import Ask


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
