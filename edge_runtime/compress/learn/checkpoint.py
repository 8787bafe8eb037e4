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
from edge_runtime.errors import InputError, UsageError

if TYPE_CHECKING:
    from edge_runtime.compress.learn.lessons import Lessons
    from edge_runtime.compress.learn.settings import Fit, Loss

PARTS = {"of", "done", "epoch", "net", "mean", "taught", "optimizer", "schedule", "dice", "global"}


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
    keep = None if keep is None else Path(keep)
    places = [keep and keep.with_name(f"{keep.stem}.{number}{keep.suffix}") for number in range(1, count + 1)]
    yield places
    for place in filter(None, places):
        place.unlink(missing_ok=True)


def _fresh(path: Path) -> Path:
    return path.with_suffix(f"{path.suffix}.new")


def ready(path: Path) -> None:
    """Makes the folder. Raises InputError where nothing can be written there, before an epoch is spent."""
    if path.is_dir():
        raise InputError(
            f"{path}: found a folder, wanted a file for a checkpoint", hint=f"keep={str(path / 'run.pt')!r}"
        )
    fresh = _fresh(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.touch()
        fresh.unlink()
    except OSError as error:
        raise _unwritten(path, error) from error


def write(path: Path, state: dict[str, Any]) -> None:
    """Whole or not at all. Raises InputError where it cannot be written, as on a full disk."""
    fresh = _fresh(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with fresh.open("wb") as file:
            need_torch().save(state, file)
        os.replace(fresh, path)
    except (OSError, RuntimeError) as error:  # torch wraps what the disk says
        fresh.unlink(missing_ok=True)
        raise _unwritten(path, error) from error


def _unwritten(path: Path, error: Exception) -> InputError:
    kept = f"; the one of the epoch before stays in {path}" if path.is_file() else ""
    reason = str(error).splitlines()[0]
    return InputError(
        f"{path}: found no way to write a checkpoint: {reason}{kept}", hint=f"df -h {path.parent}; ls -ld {path.parent}"
    )


def read(path: Path, of: dict[str, Any]) -> dict[str, Any]:
    """Raises InputError for what is no checkpoint; UsageError for one of another run, with what differs."""
    try:
        state: dict[str, Any] = need_torch().load(path, weights_only=True)
    except Exception as error:  # of many kinds: unpickling, zip archives, files
        raise _foreign(path, f"{type(error).__name__} when it was read") from error
    if not isinstance(state, dict) or PARTS - set(state) or not isinstance(state["of"], dict):
        raise _foreign(path, "another file of PyTorch")
    found = state["of"]
    if unlike := [name for name in dict.fromkeys([*found, *of]) if found.get(name) != of.get(name)]:
        raise UsageError(
            f"{path}: found a checkpoint of {_words(found, unlike)}, wanted one of {_words(of, unlike)}",
            hint=f"rm {path}",
        )
    return state


def _foreign(path: Path, what: str) -> InputError:
    return InputError(
        f"{path}: found no checkpoint but {what}, wanted one of this run or no file",
        hint=f"rm {path}, if nothing else needs it, or give another path",
    )


def _words(of: dict[str, Any], names: list[str]) -> str:
    return ", ".join(f"{name} {of.get(name)}" for name in names)
