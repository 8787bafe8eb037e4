"""What a network is taught with: arrays in memory, perhaps labels, how often each item is shown, how it is varied."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import InputError

if TYPE_CHECKING:
    from edge_runtime.compress.samples import Samples

Tensors = tuple[Any, ...]
Prepare = Callable[[Tensors, Any], Tensors]
Batch = tuple[Any, Tensors]


@dataclass(frozen=True)
class Lessons:
    """`inputs`: an array (N, ...) for each input, in the order of the network's forward(). `labels` int64 (N,), or None
    where only a teacher's word counts. `times` int64 (N,): how often each item is shown in an epoch, None for once.

    `prepare` turns a batch of the stored arrays, as tensors, into what the network takes. It gets a torch.Generator
    when the network is taught, to vary the items with, and None when it is judged, which must give the same each time.

    Lists and tensors become arrays. Raises InputError: no items; arrays of different lengths; what is no array of
    numbers; a label or a count below 0.
    """

    inputs: dict[str, npt.NDArray[Any]]
    labels: npt.NDArray[np.int64] | None = None
    times: npt.NDArray[np.int64] | None = None
    prepare: Prepare | None = None

    def __post_init__(self) -> None:
        if not self.inputs:
            raise InputError("found lessons without an input, wanted an array for each input of the network")
        object.__setattr__(self, "inputs", {name: _array(one, name) for name, one in self.inputs.items()})
        for name in ("labels", "times"):
            given = getattr(self, name)
            object.__setattr__(self, name, None if given is None else _array(given, name))
        lengths = {name: len(one) for name, one in self.inputs.items()}
        for name, array in (("labels", self.labels), ("times", self.times)):
            if array is None:
                continue
            if array.ndim != 1 or array.dtype.kind not in "iu" or (len(array) and int(array.min()) < 0):
                raise InputError(
                    f"{name}: found {array.dtype} {array.shape}, wanted whole numbers from 0 on, one an item"
                )
            lengths[name] = len(array)
        if len(set(lengths.values())) > 1:
            raise InputError(f"found arrays of different lengths: {lengths}, wanted one entry an item in each")
        if not self.count:
            raise InputError("found no items to learn from")
        if self.times is not None and not self.times.any():
            raise InputError("times: found 0 for every item: nothing would be shown")

    @property
    def count(self) -> int:
        return len(next(iter(self.inputs.values())))

    @property
    def largest_label(self) -> int | None:
        """Of the items that are shown."""
        if self.labels is None:
            return None
        return int((self.labels if self.times is None else self.labels[self.times > 0]).max())

    def where(self, mask: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> Lessons:
        """The items that a mask or a list of places picks."""
        picked = [None if one is None else one[mask] for one in (self.labels, self.times)]
        inputs = {name: one[mask] for name, one in self.inputs.items()}
        return replace(self, inputs=inputs, labels=picked[0], times=picked[1])

    def shown(self) -> npt.NDArray[np.int64]:
        """Places of the items of one epoch, unshuffled."""
        return np.repeat(np.arange(self.count), 1 if self.times is None else self.times)

    def take(self, index: Any, dice: Any = None) -> Tensors:
        """The items at `index` (torch int64), as the network takes them; varied where `dice` is a torch.Generator.
        NumPy makes float64 of what is not told otherwise: a network has float32."""
        import torch

        places = index.numpy()
        found = tuple(torch.from_numpy(np.ascontiguousarray(one[places])) for one in self.inputs.values())
        made = found if self.prepare is None else self.prepare(found, dice)
        return tuple(one.float() if one.dtype == torch.float64 else one for one in made)

    def batches(self, size: int, dice: Any = None) -> Iterator[Batch]:
        """(places int64, inputs). With a torch.Generator: one epoch, shuffled and varied, without an incomplete last
        batch unless it is the only one. Without: every item once, in order."""
        import torch

        if dice is None:
            for index in torch.arange(self.count).split(size):
                yield index, self.take(index)
            return
        shown = torch.from_numpy(self.shown())
        order = shown[torch.randperm(len(shown), generator=dice)]
        whole = order[: max(len(order) // size * size, min(size, len(order)))]
        for index in whole.split(size):
            yield index, self.take(index, dice)

    def steps(self, size: int) -> int:
        """Batches of one epoch."""
        return max(1, len(self.shown()) // size)


def _array(given: Any, name: str) -> npt.NDArray[Any]:
    """An array as it is; of a tensor or a list, one. Raises InputError for what makes none, item by item."""
    if hasattr(given, "detach"):
        given = given.detach().cpu().numpy()
    try:
        made: npt.NDArray[Any] = given if isinstance(given, np.ndarray) else np.asarray(given)
    except ValueError:  # lists of different lengths
        made = np.asarray(None)
    if made.ndim < 1 or made.dtype.kind not in "biufc":
        raise InputError(
            f"{name}: found a {type(given).__name__} of {made.dtype} {made.shape}, wanted an array of numbers"
        )
    return made


def from_samples(samples: Samples) -> Lessons:
    """The arrays of an .npz, as `compress --calibrate` reads them, and its labels.

    Raises InputError for a folder of pictures, which is read one picture at a time and not held in memory.
    """
    if not samples.arrays:
        raise InputError(
            f"{samples.name}: found a folder of images, wanted an .npz of the model's inputs to learn from"
        )
    return Lessons(dict(samples.arrays), samples.labels)
