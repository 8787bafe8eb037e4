"""Items for calibration and for judging: what the model is fed, read again each time, one at a time.

    FILE.npz            an array for each input of the model (its first axis counts the items), perhaps `labels` besides
                        and, of cells of slides, `person` (whose cell it is) with `healthy` (of somebody without the
                        disease): then slides are judged and not cells alone
    a folder            images, read as the task of a bundle or of a description (bundle.json) reads them; where the
                        images stand in folders named as the task's labels, those are their labels

A folder's images are read as they are needed, so only a batch is ever in memory; an .npz is read whole.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.digest import blake2b, sha256
from edge_runtime.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge_runtime.task import Task
    from edge_runtime.tensors import Array, TensorSpec

LABELS = "labels"
PERSON, HEALTHY = "person", "healthy"


@dataclass(frozen=True)
class Samples:
    """`labels` int64 (N,) or None. `arrays` (N, ...) by input name, or `paths` of images with `task` to read them.
    `person` (N,) of text and `healthy` (N,) of bool are there together. `cut`: the task's own, from which on a single
    number means yes; None where it has none."""

    name: str
    count: int
    labels: NDArray[np.int64] | None
    arrays: dict[str, Array] = field(default_factory=dict)
    paths: tuple[Path, ...] = ()
    task: Task | None = None
    inputs: tuple[TensorSpec, ...] = ()
    unlabelled: str = ""  # why a folder's images have no labels
    person: NDArray[np.str_] | None = None
    healthy: NDArray[np.bool_] | None = None
    cut: float | None = None

    def feeds(self) -> Iterator[dict[str, Array]]:
        """One item each: arrays with a first axis of 1."""
        yield from self.batches(1)

    def batches(self, size: int) -> Iterator[dict[str, Array]]:
        """Up to `size` items each, stacked on the first axis, in the order of the items."""
        import numpy as np

        if self.arrays:
            for start in range(0, self.count, size):
                yield {key: np.ascontiguousarray(one[start : start + size]) for key, one in self.arrays.items()}
            return
        for start in range(0, self.count, size):
            found = [self._image(path) for path in self.paths[start : start + size]]
            yield {key: np.concatenate([one[key] for one in found]) for key in found[0]}

    def _image(self, path: Path) -> dict[str, Array]:
        from edge_runtime.items import Item

        assert self.task is not None
        (feed,) = self.task.feeds(Item(path.name, (path,)), self.inputs)
        return dict(feed.tensors)

    def some(self, count: int) -> Samples:
        """`count` of them, spread evenly over the order in which they are listed; all, where there are no more."""
        import numpy as np

        if count >= self.count:
            return self
        kept = np.linspace(0, self.count - 1, count).round().astype(np.int64)
        return replace(
            self,
            count=count,
            labels=None if self.labels is None else self.labels[kept],
            arrays={key: one[kept] for key, one in self.arrays.items()},
            paths=tuple(self.paths[place] for place in kept) if self.paths else (),
            person=None if self.person is None else self.person[kept],
            healthy=None if self.healthy is None else self.healthy[kept],
        )

    def keys(self) -> list[bytes]:
        """One for each item: equal where the model is fed the same. Of images, the same files."""
        if not self.arrays:
            return [blake2b(path.read_bytes(), digest_size=16).digest() for path in self.paths]
        found = []
        for feed in self.batches(1):
            whole = blake2b(digest_size=16)
            for key in sorted(feed):
                whole.update(feed[key].tobytes())
            found.append(whole.digest())
        return found

    def shared(self, other: Samples | None) -> int:
        """How many of these items are among the others too."""
        if other is None or other is self:
            return self.count if other is self else 0
        known = set(other.keys())
        return sum(key in known for key in self.keys())

    def digest(self) -> str:
        """Changes when what the model is fed changes."""
        whole = sha256(f"{self.count}{'' if self.cut is None else f' {self.cut!r}'}".encode())
        if self.arrays:
            for feed in self.batches(64):
                for key in sorted(feed):
                    whole.update(f"{key} {feed[key].dtype} {feed[key].shape}".encode())
                    whole.update(feed[key].tobytes())
        for path in self.paths:
            whole.update(path.name.encode(errors="surrogateescape") + path.read_bytes())
        return whole.hexdigest()


def load_samples(path: Path, inputs: tuple[TensorSpec, ...], about: Any = None, *, judged: bool = False) -> Samples:
    """`inputs`: what the model takes, in real numbers; `about`: a bundle, whose task reads a folder's images; `judged`:
    labels count, so that a folder of which only some images have one is refused.

    Raises InputError: nothing there, no items, an array that is missing, of the wrong shape, or not finite; a folder
    without a task to read it.
    """
    cut = task_cut(about)
    if path.suffix == ".npz":
        return replace(_from_arrays(path, inputs), cut=cut)
    if not path.is_dir():
        raise InputError(f"{path}: found no folder of images and no .npz file there, wanted one of them")
    if about is None:
        raise InputError(
            f"{path}: a folder of images needs a description of how they are read (size, mean, labels)",
            hint="add --like BUNDLE.edge or --like bundle.json, or give an .npz file",
        )
    return replace(_from_folder(path, inputs, about, judged), cut=cut)


def task_cut(about: Any) -> float | None:
    """From which logit on a slides bundle calls a cell; None for other tasks, and where there is no calibration."""
    task = {} if about is None else about.task
    if task.get("kind") != "slides" or not isinstance(task.get("calibration"), dict):
        return None
    from edge_runtime.task.verdict import Calibration

    return Calibration.from_json(task["calibration"]).threshold


def _from_arrays(path: Path, inputs: tuple[TensorSpec, ...]) -> Samples:
    import numpy as np

    try:
        with path.open("rb") as stream:
            stored = np.load(stream, allow_pickle=False)
            if not isinstance(stored, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array without a name")
            found = {key: stored[key] for key in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: cannot be read as .npz: {error}") from error
    labels = found.pop(LABELS, None)
    taken = {one.name for one in inputs}
    of_people = {key: found.pop(key) for key in (PERSON, HEALTHY) if key in found and key not in taken}
    wanted = {one.name for one in inputs}
    if set(found) != wanted:
        raise InputError(
            f"{path}: found arrays {', '.join(sorted(found)) or 'none'}, wanted one for each input: "
            f"{', '.join(sorted(wanted))}, and perhaps {LABELS}"
        )
    counts = {key: len(one) if one.ndim else 0 for key, one in found.items()}
    if labels is not None:
        if labels.ndim != 1 or labels.dtype.kind not in "iub" or (labels.size and labels.min() < 0):
            raise InputError(
                f"{path}: {LABELS}: found {labels.dtype} of shape {list(labels.shape)}, wanted one whole number from 0 "
                "on for each item: the place of its class among the outputs"
            )
        counts[LABELS] = len(labels)
    if of_people:
        counts |= {key: len(one) for key, one in of_people.items()} | _check_people(of_people, labels, str(path))
    if len(set(counts.values())) != 1 or not max(counts.values()):
        raise InputError(f"{path}: found {counts} items, wanted the same number, at least one, in each array")
    for spec in inputs:
        _check(found[spec.name], spec, str(path))
    found = {spec.name: found[spec.name].astype(spec.dtype, copy=False) for spec in inputs}
    kept = None if labels is None else labels.astype(np.int64)
    return Samples(
        str(path), max(counts.values()), kept, found, person=of_people.get(PERSON), healthy=of_people.get(HEALTHY)
    )


def _check_people(found: dict[str, Array], labels: Array | None, where: str) -> dict[str, int]:
    """How many there are of each. Raises InputError."""
    import numpy as np

    kinds = " ".join(f"{key} {one.dtype.kind}{one.ndim}" for key, one in sorted(found.items()))
    if labels is None or kinds not in (f"{HEALTHY} b1 {PERSON} U1", f"{HEALTHY} b1 {PERSON} S1"):
        said = ", ".join(f"{key} {one.dtype} {list(one.shape)}" for key, one in found.items())
        said += "" if labels is not None else ", no labels"
        raise InputError(
            f"{where}: found {said}, wanted {LABELS}, {PERSON} (a name of text) and {HEALTHY} (bool), one for each item"
        )
    ill = labels[found[HEALTHY]] != 0 if len(labels) == len(found[HEALTHY]) else labels[:0]
    if ill.any():
        raise InputError(f"{where}: found {int(ill.sum())} items of healthy people with another label than 0")
    found[PERSON] = found[PERSON].astype(np.str_)
    return {key: len(one) for key, one in found.items()}


def _check(array: Array, spec: TensorSpec, where: str) -> None:
    import numpy as np

    wanted = spec.shape[1:]
    fits = len(array.shape) == len(spec.shape) and all(
        want in (None, size) for want, size in zip(wanted, array.shape[1:], strict=True)
    )
    if not fits or array.dtype.kind != np.dtype(spec.dtype).kind:
        shape = ", ".join("free" if one is None else str(one) for one in wanted)
        raise InputError(
            f"{where}: input {spec.name!r}: found {array.dtype} of shape {list(array.shape[1:])} an item, wanted "
            f"{spec.dtype} [{shape}]"
        )
    if array.dtype.kind == "f":
        bad = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
        if bad.any():
            raise InputError(
                f"{where}: input {spec.name!r}: item {int(bad.argmax())} holds numbers that are not finite"
            )


def _from_folder(folder: Path, inputs: tuple[TensorSpec, ...], about: Any, judged: bool) -> Samples:
    import numpy as np

    from edge_runtime.items import is_image
    from edge_runtime.task import find_task

    paths = tuple(sorted(one for one in folder.rglob("*") if one.is_file() and is_image(one.name)))
    if not paths:
        raise InputError(f"{folder}: found no image in it or below, wanted items to calibrate with")
    task = find_task(about)
    names = [path.relative_to(folder).parts[0] for path in paths]
    known = {label.lower(): number for number, label in enumerate(about.labels)}
    labels = None
    strange = sorted({name for name in names if name.lower() not in known})
    why = ""
    if strange:
        lie = ", ".join(strange[:3]) + (f" and {len(strange) - 3} more" if len(strange) > 3 else "")
        why = f"images lie under {lie}, the labels are {', '.join(about.labels)}"
        if judged and (fine := sorted(set(names) - set(strange))):
            raise InputError(
                f"{folder}: found images under {lie}, which are no labels, beside {', '.join(fine[:3])}, wanted all "
                f"images below folders named {', '.join(about.labels)}",
                hint="rename or move them, or give a folder without labels, whose decisions are compared",
            )
    else:
        labels = np.array([known[name.lower()] for name in names], np.int64)
    made = Samples(str(folder), len(paths), labels, {}, paths, task, inputs, why)
    next(made.feeds())  # the first image says whether the description suits the model
    return made
