"""What a layer sums, gathered over items as second moments: sums of products, never the activations themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.layers import Layer, attribute
from edge_runtime.compress.outputs import tap
from edge_runtime.compress.samples import Samples
from edge_runtime.compress.windows import padding
from edge_runtime.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Choose = Callable[[int, int], NDArray[np.int64]]

PLACES = 64  # of one item's picture: its neighbours say nearly the same
ROOM_BYTES = 2**30  # for the moments of the layers that one run over the items gathers


@dataclass
class Moments:
    """Of rows x (n, K): `products` float64 (K, K) sum of x x', `sums` (K,), `count` rows."""

    width: int
    products: NDArray[np.float64] = field(init=False)
    sums: NDArray[np.float64] = field(init=False)
    count: int = 0

    def __post_init__(self) -> None:
        self.products = np.zeros((self.width, self.width))
        self.sums = np.zeros(self.width)

    def add(self, rows: Floats) -> None:
        self.products += rows.T @ rows
        self.sums += rows.sum(axis=0, dtype=np.float64)
        self.count += len(rows)

    def mean(self) -> NDArray[np.float64]:
        """(K, K): the second moment of a row."""
        return self.products / max(self.count, 1)


def rows_of(array: Any, axis: int, places: int = PLACES, choose: Choose | None = None) -> Floats:
    """float (B, ...) to float32 (n, channels): up to `places` positions of each item, as `choose` has it (spread)."""
    moved = np.moveaxis(array, axis, -1)
    flat = moved.reshape(len(array), -1, moved.shape[-1]) if axis else moved[None]
    chosen = (choose or spread)(flat.shape[1], places)
    return np.ascontiguousarray(flat[:, chosen].reshape(-1, flat.shape[-1]), np.float32)


def spread(count: int, wanted: int) -> NDArray[np.int64]:
    """Up to `wanted` of `count` places: steps of the golden ratio, so that no row or column of a picture is met more
    often than others."""
    if count <= wanted:
        return np.arange(count)
    return np.unique((np.arange(wanted) * 0.6180339887498949 % 1 * count).astype(np.int64))


def drawn(count: int, wanted: int) -> NDArray[np.int64]:
    """Up to `wanted` of `count` places, at random with a fixed seed: for many of them, where steps would meet."""
    return np.arange(count) if count <= wanted else np.sort(np.random.default_rng(0).choice(count, wanted, False))


def patches(layer: Layer, array: Any, places: int = PLACES, choose: Choose = spread) -> Floats:
    """What each output of a layer sums: float32 (groups, n, K), K in the order of `Layer.matrix`."""
    node = layer.node
    if layer.kind == "dense":
        return rows_of(array, array.ndim - 1, places, choose)[None]
    if node.op_type != "Conv":
        raise InputError(f"layer {layer.name!r}: found {node.op_type}, wanted a convolution or a dense layer")
    kernel, groups = _weight_shape(layer)[2:], attribute(node, "group", 1)
    strides = attribute(node, "strides", (1,) * len(kernel))
    dilations = attribute(node, "dilations", (1,) * len(kernel))
    begin, end = padding(node, array.shape[2:], kernel)
    padded = np.pad(array, [(0, 0), (0, 0), *zip(begin, end, strict=True)])
    reach = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    spatial = tuple(range(2, array.ndim))
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=spatial)
    steps: list[Any] = (
        [slice(None)] * 2 + [slice(None, None, one) for one in strides] + [slice(None, None, d) for d in dilations]
    )
    windows = windows[tuple(steps)]
    sizes = windows.shape[2 : array.ndim]
    index = np.unravel_index(choose(int(np.prod(sizes)), places), sizes)
    taken = windows[(slice(None), slice(None), *index)]  # (B, C, n, *kernel)
    taken = np.moveaxis(taken, 2, 1).reshape(-1, groups, array.shape[1] // groups * int(np.prod(kernel)))
    return np.ascontiguousarray(np.moveaxis(taken, 1, 0), np.float32)


def _weight_shape(layer: Layer) -> tuple[int, ...]:
    assert layer.weight.const_value is not None
    return tuple(layer.weight.const_value.shape.numpy())


def layer_moments(
    artifact: Artifact, samples: Samples, layers: Sequence[Layer], places: int = PLACES
) -> Iterator[tuple[Layer, list[Moments]]]:
    """The moments of what each layer sums, one for each of its groups; layers together as memory allows."""
    waiting = list(layers)
    while waiting:
        chosen: list[Layer] = []
        room = ROOM_BYTES
        while waiting and (not chosen or _bytes(waiting[0]) <= room):
            room -= _bytes(waiting[0])
            chosen.append(waiting.pop(0))
        made = [_empty(layer) for layer in chosen]
        names = [_input_name(layer) for layer in chosen]
        for found in tap(artifact, samples, list(dict.fromkeys(names))):
            for layer, name, moments in zip(chosen, names, made, strict=True):
                for one, rows in zip(moments, patches(layer, found[name], places), strict=True):
                    one.add(rows)
        yield from zip(chosen, made, strict=True)


def _empty(layer: Layer) -> list[Moments]:
    groups = attribute(layer.node, "group", 1) if layer.kind != "dense" else 1
    return [Moments(layer.matrix().shape[1]) for _ in range(groups)]


def _bytes(layer: Layer) -> int:
    groups = attribute(layer.node, "group", 1) if layer.kind != "dense" else 1
    return int(groups * layer.matrix().shape[1] ** 2 * 8)


def _input_name(layer: Layer) -> str:
    value = layer.node.inputs[0]
    assert value is not None
    return value.name or ""


def energies(artifact: Artifact, samples: Samples, layers: Sequence[Layer]) -> dict[str, list[NDArray[np.float64]]]:
    """Mean square of each number that a layer's outputs sum, (K,) for each of its groups, by layer name."""
    names = [_input_name(layer) for layer in layers]
    sums: dict[str, Any] = {}
    counts: dict[str, int] = {}
    for found in tap(artifact, samples, list(dict.fromkeys(names))):
        for layer, name in zip(layers, names, strict=True):
            rows = patches(layer, found[name])
            sums[layer.name] = sums.get(layer.name, 0) + (rows.astype(np.float64) ** 2).sum(axis=1)
            counts[layer.name] = counts.get(layer.name, 0) + rows.shape[1]
    return {name: list(each / counts[name]) for name, each in sums.items()}
