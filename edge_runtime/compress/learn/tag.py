"""What the judgements of a record hold for: not for other lessons, scores or ways of teaching."""

from __future__ import annotations

import inspect
from functools import partial
from typing import TYPE_CHECKING, Any

from edge_runtime.compress.torch_graph import need_torch
from edge_runtime.digest import sha256

if TYPE_CHECKING:
    from edge_runtime.compress.learn.trial import School

_ITEMS = 8


def tag_of(school: School) -> str:
    """Changes when lessons, val, what is done to their items, or the way of teaching and scoring change."""
    torch = need_torch()
    whole = sha256(f"{school.fit} {school.smoothing} {told(school.score)}".encode())
    for lessons, dice in ((school.lessons, torch.Generator().manual_seed(0)), (school.val, None)):
        for array in (*lessons.inputs.values(), lessons.labels, lessons.times):
            if array is not None:
                whole.update(f"{array.dtype} {array.shape}".encode())
                whole.update(array.tobytes())
        for one in lessons.take(torch.arange(min(_ITEMS, lessons.count)), dice):
            whole.update(one.contiguous().numpy().tobytes())
    return whole.hexdigest()[:12]


def told(function: Any) -> str:
    """A function in words: where it stands, its source, and what is bound to it."""
    if function is None:
        return "none"
    if isinstance(function, partial):
        bound = ", ".join([*map(repr, function.args), *(f"{key}={one!r}" for key, one in function.keywords.items())])
        return f"{told(function.func)}({bound})"
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):  # of no file, or an object that is called
        source = repr(getattr(function, "__dict__", ""))
    cells = [one.cell_contents for one in getattr(function, "__closure__", None) or ()]
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{name} {source} {cells!r} {getattr(function, '__defaults__', None)!r}"
