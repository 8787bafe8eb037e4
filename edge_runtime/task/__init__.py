"""Tasks: what an item means to a model, and what its answers mean to a person.

A task is a pair of streams. `feeds` turns an item into inputs one at a time, so that memory does not grow with the
number of cells, and calibration and benchmarks can use it alone. `decide` turns the answers into one prediction. What
`feeds` knows and `decide` needs (which file, where in it, how sharp) goes along as the feed's `tag`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from edge_runtime.errors import BundleError

if TYPE_CHECKING:
    from edge_runtime.bundle import Bundle
    from edge_runtime.items import Item, ItemDigest
    from edge_runtime.results import Prediction
    from edge_runtime.tensors import Array, TensorSpec

# kind -> module: to add a task, a file here with `make(bundle, decode_ahead)`, and its line.
TASKS = {"image": "image", "slides": "slides"}


class Feed(NamedTuple):  # made for every cell: a tuple costs a fifth of a frozen dataclass
    """Inputs of one inference, fitted to the model; `done` of `total` images of the item are read (None: unknown)."""

    tensors: Mapping[str, Array]
    tag: Any
    done: int = 0
    total: int | None = None


class Answer(NamedTuple):
    """What the model said to a feed: its outputs as real numbers (dequantized), by name."""

    tag: Any
    outputs: Mapping[str, Array]


class Task(Protocol):
    def check(self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        """Raises BundleError where a model's tensors are not what this task feeds and reads."""
        ...

    def feeds(self, item: Item, inputs: tuple[TensorSpec, ...], digest: ItemDigest | None = None) -> Iterator[Feed]:
        """`digest` is fed every image as it is read."""
        ...

    def decide(self, answers: Iterator[Answer], *, details: bool = False) -> Prediction:
        """`details`: also keep what is known of every answer (each cell's score), however many there are."""
        ...


def find_task(bundle: Bundle, decode_ahead: bool = False) -> Task:
    """The task that a bundle names, made with its settings. `decode_ahead`: the next image of an item is decoded while
    the present one is read, in a second thread and with the memory of one more image. Raises BundleError."""
    kind = bundle.task["kind"]
    if kind not in TASKS:
        raise BundleError(f"{bundle.path}: found task {kind!r}, this version knows {', '.join(TASKS)}")
    module = importlib.import_module(f"edge_runtime.task.{TASKS[kind]}")
    task: Task = module.make(bundle, decode_ahead)
    return task
