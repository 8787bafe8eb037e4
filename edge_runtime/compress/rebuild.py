"""After a cut: each layer's weights fitted anew, so that it answers what it answered before. No labels, no gradients.

What a layer read before, x, is fitted from what it reads now, y: x is about A y, by ridge regression in closed form on
second moments gathered over items; W A then stands where W was. Done layer by layer from the front, each seeing what
the layers before it, cut and fitted, now give it. After He, Zhang, Sun (2017, channel pruning by reconstruction) and
Luo, Wu, Lin (2017, ThiNet), which fit by layer outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.groups import Dependencies
from edge_runtime.compress.layers import Layer, add_array, array_of, attribute, set_array, weighted
from edge_runtime.compress.moments import PLACES, ROOM_BYTES, rows_of
from edge_runtime.compress.outputs import tap
from edge_runtime.compress.recipe import Progress
from edge_runtime.compress.samples import Samples
from edge_runtime.compress.shapes import settle

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    Matrix = NDArray[np.float64]

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the mean square of a channel; the best on held-out items is taken
HELD = 4  # every fourth batch is held out


def rebuild(dependencies: Dependencies, keep: Any, artifact: Artifact, samples: Samples, tell: Progress) -> Artifact:
    """`artifact`: what `dependencies.cut(keep)` made. Layers that read nothing changed stay as they are."""
    before = dependencies.artifact
    old = {layer.name: layer for layer in weighted(before.model())}
    names = [node.name for node in before.model().graph]
    read = {names[mark.node]: mark.ids for mark in dependencies.marks if mark.role == "in"}
    made = {names[mark.node]: mark.ids for mark in dependencies.marks if mark.role == "out"}
    first = _first_changed(dependencies, keep)
    shared = _shared(artifact.model())
    found = [
        layer
        for layer in weighted(artifact.model())
        if _fits(layer) and names.index(layer.node.name) > first and layer.name in old
        if layer.weight.name not in shared
    ]
    for number, (layer, rows) in enumerate(_rows_before(before, samples, found)):
        tell(number, len(found), f"fitting {layer.name}")
        # the original's weights, of the outputs that are left, its inputs first
        whole = np.moveaxis(array_of(old[layer.name].weight), _into(layer), 0)
        if layer.name in made:
            whole = whole[:, dependencies.kept(keep, made[layer.name])]
        chosen = np.arange(len(whole))
        if layer.name in read:
            chosen = chosen[dependencies.kept(keep, read[layer.name])]
        fitted = _fit(rows, artifact, samples, layer, chosen, whole)
        if fitted is not None:
            artifact = _write(artifact, layer.name, *fitted)
    tell(len(found), len(found), "fitted")
    return settle(artifact.model())


def _rows_before(before: Artifact, samples: Samples, layers: list[Layer]) -> Iterator[tuple[Layer, list[Any]]]:
    """For each layer, batch by batch, the rows that it read in the original: layers together as memory allows, so
    that the original runs seldom."""
    waiting = list(layers)
    while waiting:
        chosen: list[Layer] = []
        room = ROOM_BYTES
        while waiting and (not chosen or _row_bytes(waiting[0], samples) <= room):
            room -= _row_bytes(waiting[0], samples)
            chosen.append(waiting.pop(0))
        kept: dict[str, list[Any]] = {layer.name: [] for layer in chosen}
        for found in tap(before, samples, list(dict.fromkeys(_input(layer) for layer in chosen))):
            for layer in chosen:
                kept[layer.name].append(_rows(layer, found[_input(layer)]))
        for layer in chosen:
            yield layer, kept.pop(layer.name)


def _row_bytes(layer: Layer, samples: Samples) -> int:
    return int(samples.count * PLACES * array_of(layer.weight).shape[_into(layer)] * 4)


def _rows(layer: Layer, array: Any) -> Any:
    return rows_of(array, 1 if layer.kind != "dense" else array.ndim - 1)


def _input(layer: Layer) -> str:
    value = layer.node.inputs[0]
    assert value is not None
    return value.name or ""


def _fits(layer: Layer) -> bool:
    return (
        layer.node.op_type != "ConvTranspose" and layer.kind != "depthwise" and attribute(layer.node, "group", 1) == 1
    )


def _first_changed(dependencies: Dependencies, keep: Any) -> int:
    changed = [mark.node for mark in dependencies.marks if not dependencies.kept(keep, mark.ids).all()]
    return min(changed, default=10**9)


def _shared(model: ir.Model) -> set[str]:
    return {name for name, value in model.graph.initializers.items() if len(value.uses()) > 1}


def _into(layer: Layer) -> int:
    return 1 if layer.node.op_type == "Conv" else 1 - layer.axis


def _centered(layer: Layer) -> bool:
    """Whether a constant may be moved into its bias: not where it is padded with zeros, as they do not move."""
    padded = any(attribute(layer.node, "pads", (0,))) or attribute(layer.node, "auto_pad", "NOTSET") != "NOTSET"
    plain = attribute(layer.node, "alpha", 1.0) == 1 and attribute(layer.node, "beta", 1.0) == 1
    return layer.node.op_type in ("Conv", "Gemm") and plain and not padded


def _fit(
    before: list[Any], now: Artifact, samples: Samples, layer: Layer, chosen: Any, whole: Any
) -> tuple[Any, Any] | None:
    """(weights, what is added to the bias) in the layer's own order of axes; None where nothing is different."""
    name = _input(layer)
    sums: list[Any] = [_Sums(len(whole), len(chosen)) for _ in range(2)]
    for number, (old, found) in enumerate(zip(before, tap(now, samples, [name]), strict=True)):
        sums[number % HELD == HELD - 1].add(old, _rows(layer, found[name]))
    both = sums[0] + sums[1]
    if both.unchanged(chosen):
        return None
    gains = whole.reshape(len(whole), -1).astype(np.float64)
    weigh = gains @ gains.T
    center = _centered(layer)
    ridge = RIDGES[2]
    if sums[1].count:
        losses = [sums[1].loss(*sums[0].solve(chosen, one, center), weigh) for one in RIDGES]
        ridge = RIDGES[int(np.argmin(losses))]
    turn, shift = both.solve(chosen, ridge, center)
    made = np.tensordot(turn.T, whole.astype(np.float64), axes=1)  # (kept inputs, ...)
    added = np.tensordot(shift, whole.astype(np.float64), axes=1)  # (outputs, taps) or (outputs,)
    added = added.reshape(len(added), -1).sum(axis=1)
    return np.moveaxis(made, 0, _into(layer)), added


class _Sums:
    """Moments of x (before) and y (now): float64."""

    def __init__(self, width: int, kept: int) -> None:
        self.count = 0
        self.xx, self.xy, self.yy = np.zeros((width, width)), np.zeros((width, kept)), np.zeros((kept, kept))
        self.x, self.y = np.zeros(width), np.zeros(kept)

    def add(self, x: Any, y: Any) -> None:
        self.count += len(x)
        both, width = np.concatenate([x, y], axis=1), x.shape[1]
        made = both.T @ both
        self.xx, self.xy, self.yy = (
            self.xx + made[:width, :width],
            self.xy + made[:width, width:],
            self.yy + made[width:, width:],
        )
        self.x, self.y = self.x + x.sum(axis=0, dtype=np.float64), self.y + y.sum(axis=0, dtype=np.float64)

    def __add__(self, other: _Sums) -> _Sums:
        made = _Sums(len(self.x), len(self.y))
        made.count = self.count + other.count
        for name in ("xx", "xy", "yy", "x", "y"):
            setattr(made, name, getattr(self, name) + getattr(other, name))
        return made

    def unchanged(self, chosen: Any) -> bool:
        same = len(chosen) == len(self.x) and np.allclose(self.xx, self.yy, rtol=1e-5) and np.allclose(self.xy, self.xx)
        # a channel that was always 0 is lost without a loss
        gone = np.setdiff1d(np.arange(len(self.x)), chosen)
        kept = self.xx[np.ix_(chosen, chosen)]
        return bool(same or (not self.xx[gone][:, gone].any() and np.allclose(kept, self.yy, rtol=1e-5)))

    def solve(self, chosen: Any, ridge: float, center: bool) -> tuple[Matrix, Any]:
        """A (width, kept) and b (width,) of x = A y + b, drawn towards each kept channel standing for itself."""
        count = max(self.count, 1)
        x, y = (self.x / count, self.y / count) if center else (np.zeros_like(self.x), np.zeros_like(self.y))
        xy, yy = self.xy / count - np.outer(x, y), self.yy / count - np.outer(y, y)
        prior = np.zeros_like(xy)
        prior[chosen, np.arange(len(chosen))] = 1
        strength = ridge * max(float(np.trace(yy)) / len(yy), 1e-12)
        turn = prior + np.linalg.solve(yy + strength * np.eye(len(yy)), (xy - prior @ yy).T).T
        return turn, x - turn @ y

    def loss(self, turn: Matrix, shift: Any, weigh: Matrix) -> float:
        """Mean square of W (x - A y - b) on these items."""
        count = max(self.count, 1)
        x, y = self.x / count, self.y / count
        cross = turn @ self.xy.T / count
        rest = self.xx / count - cross - cross.T + turn @ self.yy @ turn.T / count
        off = np.outer(x - turn @ y, shift)
        return float((weigh * (rest - off - off.T + np.outer(shift, shift))).sum())


def _write(artifact: Artifact, name: str, weight: Any, added: Any) -> Artifact:
    model = artifact.model()
    layer = next(one for one in weighted(model) if one.name == name)
    set_array(layer.weight, np.ascontiguousarray(weight, np.float32))
    if added.any() and layer.node.op_type in ("Conv", "Gemm"):
        if layer.bias is None:
            layer.node.resize_inputs(3)
            layer.node.replace_input_with(2, add_array(model, f"{name}_bias", added.astype(np.float32)))
        else:
            set_array(layer.bias, (array_of(layer.bias) + added).astype(np.float32))
    return Artifact.of(model, artifact.form)
