"""Whether architectures and lessons suit each other, asked before a search: what is priced is what is taught."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from edge_runtime.compress.learn.lessons import Lessons
from edge_runtime.compress.learn.space import Space
from edge_runtime.compress.learn.trial import Rung, School, shrunk
from edge_runtime.compress.torch_graph import need_torch
from edge_runtime.errors import InputError, UsageError

Shapes = tuple[tuple[int, ...], ...]


def check_suits(space: Space, school: School, rungs: Sequence[Rung], seeds: Sequence[Any] = ()) -> None:
    """The inputs of all builders have the shape that lessons and val give, whole or as the last rung shrinks them, and
    there is a class for each label. Raises UsageError; InputError for items that are not finite."""
    torch = need_torch()
    parts = {"lessons": (school.lessons, torch.Generator().manual_seed(0)), "val": (school.val, None)}
    for name, (lessons, dice) in parts.items():
        _check_finite(name, lessons)
        sizes = [_shapes(shrunk(lessons, side).take(torch.arange(1), dice)) for side in (1, *(r.shrink for r in rungs))]
        given = sizes[0], sizes[-1]
        asked = set[Shapes]()
        for one in (*_edges(space), *seeds):
            _check_classes(name, one, lessons.largest_label)
            asked.add(_shapes(one.example()))
        # one of the two, and the same for all: prices of several sizes cannot be compared on items of one
        if not any(asked == {one} for one in given):
            raise UsageError(
                f"found architectures for inputs of {' and '.join(map(_words, sorted(asked)))}, but {name} that give "
                f"{_words(given[0])}: another net would be priced than is taught",
                hint="set the space's resolution and channels as the items have them, or change the items by `prepare`",
            )


def _edges(space: Space) -> Iterator[Any]:
    """Each value of each choice, beside the first of all others."""
    for name, values in space.choices.items():
        for place in range(len(values)):
            yield space.decode(tuple(place if one == name else 0 for one in space.choices))
    if not space.choices:
        yield space.decode(())


def _shapes(inputs: Sequence[Any]) -> Shapes:
    return tuple(tuple(int(size) for size in one.shape[1:]) for one in inputs)


def _words(shapes: Shapes) -> str:
    return " with ".join("x".join(map(str, one)) or "one number" for one in shapes)


def _check_finite(name: str, lessons: Lessons) -> None:
    """Of what `prepare` changes, answers tell (trial.judged)."""
    if lessons.prepare is not None:
        return
    for key, array in lessons.inputs.items():
        if array.dtype.kind != "f":
            continue
        good = np.isfinite(array).reshape(len(array), -1).all(1)
        if not good.all():
            raise InputError(
                f"{name}: input {key!r}: found {int((~good).sum())} of {len(good)} items with numbers that are not "
                f"finite, the first is {int(good.argmin())}, wanted finite ones",
                hint="lessons.where(mask) leaves items out",
            )


def _check_classes(name: str, one: Any, largest: int | None) -> None:
    classes = max(2, one.classes)
    if largest is not None and largest >= classes:
        raise UsageError(
            f"{name}: found {largest} as the largest label, an architecture for {one.classes} classes, wanted labels "
            f"from 0 to {classes - 1}",
            hint=f'set "classes": {largest + 1} in the space, or number the classes from 0 on',
        )
