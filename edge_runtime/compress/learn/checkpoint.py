"""A checkpoint of a run, and of which run it is: one of other lessons, weights, losses or settings is refused."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.compress.torch_graph import need_torch
from edge_runtime.digest import blake2b
from edge_runtime.errors import UsageError

if TYPE_CHECKING:
    from edge_runtime.compress.learn.lessons import Lessons
    from edge_runtime.compress.learn.settings import Fit, Loss


def origin(
    net: Any, taught: Iterable[Any], lessons: Lessons, loss: Loss, settings: Fit, total: int, tag: str
) -> dict[str, Any]:
    """What a run begins from, before its first step, in plain values. Random numbers go on as if nothing was asked."""
    arrays: dict[str, Any] = {f"input {name}": one for name, one in lessons.inputs.items()}
    arrays |= {"labels": lessons.labels, "times": lessons.times}
    start = dict(net.state_dict()) | {f"taught {place}": one for place, one in enumerate(taught)}
    return asdict(settings) | {
        "total": total,
        "items": lessons.count,
        "lessons": digest_of(arrays),
        "net": digest_of(start),
        **_first_step(net, lessons, loss, settings),
        "tag": tag,
    }


def digest_of(values: dict[str, Any]) -> str:
    """Of arrays and tensors by name; of anything else, its words."""
    torch = need_torch()
    whole = blake2b(digest_size=12)
    for name, one in values.items():
        if isinstance(one, torch.Tensor):
            plain = one.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        elif isinstance(one, np.ndarray):
            plain = np.ascontiguousarray(one).reshape(-1).view(np.uint8)
        else:
            whole.update(f"{name} {one!r}".encode())
            continue
        whole.update(f"{name} {one.dtype} {tuple(one.shape)}".encode())
        whole.update(plain)
    return whole.hexdigest()


def _first_step(net: Any, lessons: Lessons, loss: Loss, settings: Fit) -> dict[str, str]:
    """The first batch as it is shown, which tells how items are varied, and a copy's loss on it: what losses are made
    of, such as a teacher, is out of sight otherwise."""
    torch = need_torch()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        index, inputs = next(lessons.batches(settings.batch, torch.Generator().manual_seed(settings.seed)))
        shown = digest_of({str(place): one for place, one in enumerate(inputs)})
        value = float(loss(copy.deepcopy(net).train(), inputs, index).detach())
    return {"shown": shown, "loss": f"{value:.4g}"}


@contextmanager
def stages(keep: Path | None, count: int) -> Iterator[list[Path | None]]:
    """A checkpoint for each of `count` runs, one after the other, where `keep` is wanted. Those that are to stay do so
    until all runs are done, so that a cut among the last does not cost the first."""
    places = [keep and keep.with_name(f"{keep.stem}.{number}{keep.suffix}") for number in range(1, count + 1)]
    yield places
    for place in filter(None, places):
        place.unlink(missing_ok=True)


def write(path: Path, state: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(f"{path.suffix}.new")
    need_torch().save(state, fresh)
    os.replace(fresh, path)


def read(path: Path, of: dict[str, Any]) -> dict[str, Any]:
    """Raises UsageError where it is of another run, and says in what it differs."""
    state: dict[str, Any] = need_torch().load(path, weights_only=True)
    found = state["of"]
    if unlike := [name for name in dict.fromkeys([*found, *of]) if found.get(name) != of.get(name)]:
        raise UsageError(
            f"{path}: found a checkpoint of {_words(found, unlike)}, wanted one of {_words(of, unlike)}",
            hint=f"rm {path}",
        )
    return state


def _words(of: dict[str, Any], names: list[str]) -> str:
    return ", ".join(f"{name} {of.get(name)}" for name in names)
