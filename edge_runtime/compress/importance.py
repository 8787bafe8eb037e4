"""How much each unit of channels matters: by the size of its weights, by what it adds to the layers that read it, or
by how far the model's answers would move without it (first order)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.groups import Dependencies
from edge_runtime.compress.layers import array_of, attribute
from edge_runtime.compress.moments import rows_of
from edge_runtime.compress.outputs import tap
from edge_runtime.compress.recipe import Context
from edge_runtime.compress.samples import Samples

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Scores = NDArray[np.float64]

KINDS = ("activation", "l1", "l2", "taylor")
SEED = 0  # of the directions along which `taylor` looks


def score(dependencies: Dependencies, kind: str, context: Context, items: int) -> Scores:
    """float64 by unit number: what would be lost with it; 0 for what is no unit.

    activation  the mean square that it adds to each layer that reads it, as a share of that layer's whole, summed
    l1, l2      the size of its weights in every layer that makes or reads it, against the mean of that layer
    taylor      mean square of its first-order effect on the answers, over random directions of them (needs torch)
    """
    if kind in ("l1", "l2"):
        return _by_weights(dependencies, 1 if kind == "l1" else 2)
    samples = context.items(f"the importance {kind!r}").some(items)
    if kind == "activation":
        return _by_activation(dependencies, samples)
    return _by_effect(dependencies, samples)


def _by_effect(dependencies: Dependencies, samples: Samples) -> Scores:
    """Setting what readers take from a unit to 0 moves the answers by weight x gradient, to first order."""
    from edge_runtime.compress.torch_graph import effects

    marks = [mark for mark in dependencies.marks if mark.role == "in"]
    made = np.zeros(len(dependencies.root))
    for found in effects(dependencies.artifact, samples, sorted({mark.value for mark in marks}), SEED):
        one = np.zeros(len(made))
        for mark in marks:
            moved = np.moveaxis(found[mark.value], mark.axis, 0)
            np.add.at(one, dependencies.root[mark.ids], moved.reshape(len(moved), -1).sum(axis=1))
        made += one**2
    return made / samples.count


def _by_weights(dependencies: Dependencies, power: int) -> Scores:
    model = dependencies.artifact.model()
    made, times = np.zeros(len(dependencies.root)), np.zeros(len(dependencies.root))
    for mark in dependencies.marks:
        if mark.role == "along":
            continue
        weight = np.moveaxis(array_of(model.graph.initializers[mark.value]), mark.axis, 0)
        sizes = (np.abs(weight.reshape(len(weight), -1)).astype(np.float64) ** power).sum(axis=1) ** (1 / power)
        sizes /= max(float(sizes.mean()), 1e-30)
        np.add.at(made, dependencies.root[mark.ids], sizes)
        np.add.at(times, dependencies.root[mark.ids], 1)
    return made / np.maximum(times, 1)


def _by_activation(dependencies: Dependencies, samples: Samples) -> Scores:
    artifact: Artifact = dependencies.artifact
    model = artifact.model()
    nodes = list(model.graph)
    made = np.zeros(len(dependencies.root))
    marks = [mark for mark in dependencies.marks if mark.role == "in"]
    inputs = {mark.node: nodes[mark.node].inputs[0] for mark in marks}
    names = {number: value.name or "" for number, value in inputs.items() if value is not None}
    squares: dict[str, Any] = {}
    counts: dict[str, int] = {}
    wanted = list(dict.fromkeys(names.values()))
    for found in tap(artifact, samples, wanted) if wanted else ():
        for name, array in found.items():
            rows = rows_of(array, array.ndim - 1 if array.ndim == 3 and _dense(nodes, names, name) else 1)
            squares[name] = squares.get(name, 0) + (rows.astype(np.float64) ** 2).sum(axis=0)
            counts[name] = counts.get(name, 0) + len(rows)
    for mark in marks:
        weight = np.moveaxis(array_of(model.graph.initializers[mark.value]), mark.axis, 0)
        gains = (weight.reshape(len(weight), -1).astype(np.float64) ** 2).sum(axis=1)
        energy = squares[names[mark.node]] / max(counts[names[mark.node]], 1)
        groups = attribute(nodes[mark.node], "group", 1)
        share = gains * energy.reshape(groups, -1).sum(axis=0)
        np.add.at(made, dependencies.root[mark.ids], share / max(float(share.sum()), 1e-30))
    return made


def _dense(nodes: list[Any], names: dict[int, str], name: str) -> bool:
    return any(nodes[number].op_type in ("MatMul", "Gemm") for number, each in names.items() if each == name)
