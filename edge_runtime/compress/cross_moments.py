"""What a layer's inputs look like to its weights: mean and second moments of the numbers that each output sums.

Rounding a weight wrongly can be made good by its neighbours as far as their inputs move together; that is what these
moments say. Positions are drawn from each item with a fixed seed, so memory and time are bounded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.layers import Layer, array_of, attribute
from edge_runtime.compress.outputs import tap
from edge_runtime.compress.samples import Samples

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ROWS = 12_000  # positions of one layer at most, over all items
_BATCH = 64
LARGEST = 9_216  # inputs of one output: moments of more would take above 340 MB


@dataclass
class Moments:
    """For `groups` groups of channels: `mean` float64 (groups, K), `second` float32 (groups, K, K): E[x x^T].
    `rows`: how many positions they come from. Where the inputs come from a model that was changed already:
    `wanted_mean` of the inputs x0 in the original at the same places, `cross` E[x0 x^T]."""

    mean: NDArray[np.float64]
    second: NDArray[np.float32]
    rows: int
    wanted_mean: NDArray[np.float64] | None = None
    cross: NDArray[np.float32] | None = None

    def centred(self) -> NDArray[np.float32]:
        """Covariances, (groups, K, K): what remains where the bias takes up the mean error."""
        import numpy as np

        mean = self.mean.astype(np.float32)
        return self.second - mean[:, :, None] * mean[:, None, :]

    def target(self, matrix: NDArray[np.float32], centred: bool, damping: float) -> NDArray[np.float32]:
        """Weights (O, K) that make of the changed inputs what `matrix` makes of the original's (least squares)."""
        import numpy as np

        if self.cross is None or self.wanted_mean is None:
            return matrix
        mean, wanted = self.mean.astype(np.float32), self.wanted_mean.astype(np.float32)
        second = self.centred() if centred else self.second
        cross = self.cross - wanted[:, :, None] * mean[:, None, :] if centred else self.cross
        parts = matrix.reshape(len(second), -1, matrix.shape[1])
        size = second.shape[1]
        made = []
        for part, one, other in zip(parts, second, cross, strict=True):
            more = damping * float(np.trace(one)) / size * max(1.0, size / max(1, self.rows))
            firm = one + np.float32(max(more, 1e-9)) * np.eye(size, dtype=np.float32)
            made.append(part + np.linalg.solve(firm, (part @ (other - one)).T).T)
        return np.concatenate(made)

    def shift(self, before: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[np.float64]:
        """What the bias has to take up, float64 (O,): the mean of the original's outputs with weights `before` less
        the mean of the changed inputs' with weights `after`."""
        import numpy as np

        wanted = self.mean if self.wanted_mean is None else self.wanted_mean

        def mean(matrix: NDArray[np.float32], inputs: NDArray[np.float64]) -> NDArray[np.float64]:
            parts = matrix.reshape(len(inputs), -1, matrix.shape[1]).astype(np.float64)
            made: NDArray[np.float64] = np.einsum("gok,gk->go", parts, inputs).reshape(-1)
            return made

        return mean(before, wanted) - mean(after, self.mean)


def measurable(layer: Layer) -> bool:
    """Whether `gather` knows the layer's inputs."""
    if layer.node.op_type == "ConvTranspose":
        return False
    return bool(layer.matrix().shape[1] <= LARGEST)


def gather(
    artifact: Artifact,
    samples: Samples,
    layers: Sequence[Layer],
    original: Artifact | None = None,
    suffix: str = "",
) -> list[Moments]:
    """Of each layer, from one run. `artifact` holds a layer's input under the name that the layer has for it and
    `suffix`, `original` (where it is given) under that name."""
    import numpy as np

    names = [str(one.node.inputs[0].name) for one in layers if one.node.inputs[0] is not None]
    sums: list[list[NDArray[Any]]] = [[] for _ in layers]
    rows = [0] * len(layers)
    an_item = max(4, ROWS // samples.count)
    before = tap(original, samples, sorted(set(names)), _BATCH) if original is not None else None
    for found in tap(artifact, samples, sorted({name + suffix for name in names}), _BATCH):
        old = next(before) if before is not None else None
        for place, (layer, name) in enumerate(zip(layers, names, strict=True)):
            patches = inputs_of(layer, found[name + suffix], an_item)
            made: list[NDArray[Any]] = [
                patches.sum(axis=1, dtype=np.float64),
                np.matmul(patches.transpose(0, 2, 1), patches),
            ]
            if old is not None:
                other = inputs_of(layer, old[name], an_item)
                made += [other.sum(axis=1, dtype=np.float64), np.matmul(other.transpose(0, 2, 1), patches)]
            rows[place] += patches.shape[1]
            for one, more in zip(sums[place], made, strict=False):
                one += more
            sums[place] = sums[place] or made
    return [_moments(one, count) for one, count in zip(sums, rows, strict=True)]


def _moments(sums: Sequence[NDArray[Any]], rows: int) -> Moments:
    import numpy as np

    made = Moments(sums[0] / rows, np.asarray(sums[1] / rows, np.float32), rows)
    if len(sums) > 2:
        made.wanted_mean, made.cross = sums[2] / rows, np.asarray(sums[3] / rows, np.float32)
    return made


def stages(layers: Sequence[Layer], count: int = 8) -> list[list[Layer]]:
    """The layers in order, in about `count` parts whose moments fit in memory together (240 MB, or one layer)."""
    made: list[list[Layer]] = []
    numbers = 0
    many = -(-len(layers) // count)
    for layer in layers:
        size = layer.matrix().shape[1] ** 2 * (layer.matrix().shape[0] if layer.kind == "depthwise" else 1)
        if not made or len(made[-1]) >= many or numbers + size > 60_000_000:
            made.append([])
            numbers = 0
        made[-1].append(layer)
        numbers += size
    return made


def inputs_of(layer: Layer, array: NDArray[np.float32], an_item: int) -> NDArray[np.float32]:
    """float32 (groups, rows, K): what the weights of each group are multiplied with, at up to `an_item` positions of
    each item; the order of K is that of Layer.matrix. All items at once: small products are slow."""
    import numpy as np

    random = np.random.default_rng(0)
    if layer.kind == "dense":
        flat = array.reshape(len(array), -1, array.shape[-1])
        count = flat.shape[1]
        if count > an_item:
            flat = flat[:, np.sort(random.choice(count, an_item, replace=False))]
        return flat.reshape(1, -1, array.shape[-1])
    group = attribute(layer.node, "group", 1)
    kernel = array_of(layer.weight).shape[2:]
    rank = len(kernel)
    strides = attribute(layer.node, "strides", (1,) * rank)
    dilations = attribute(layer.node, "dilations", (1,) * rank)
    padded = np.pad(array, [(0, 0), (0, 0), *_pads(layer, array.shape[2:], kernel, strides, dilations)])
    spans = tuple((size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True))
    view = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=tuple(range(2, 2 + rank)))
    steps = tuple(slice(None, None, one) for one in strides)
    holes = tuple(slice(None, None, one) for one in dilations)
    view = view[(slice(None), slice(None), *steps, *holes)]
    places = math.prod(view.shape[2 : 2 + rank])
    kept = np.arange(places) if places <= an_item else np.sort(random.choice(places, an_item, replace=False))
    where = np.unravel_index(kept, view.shape[2 : 2 + rank])
    # (items, C, *out, *kernel) to (positions, items, C, *kernel): what is advanced goes first
    taken = np.moveaxis(view, (0, 1), (rank, rank + 1))[where]
    split = taken.reshape(len(kept) * len(array), group, array.shape[1] // group, -1).transpose(1, 0, 2, 3)
    return np.ascontiguousarray(split).reshape(group, len(kept) * len(array), -1)


def _pads(
    layer: Layer, size: tuple[int, ...], kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]
) -> list[tuple[int, int]]:
    rank = len(kernel)
    how = attribute(layer.node, "auto_pad", "NOTSET")
    if how in ("NOTSET", "VALID"):
        pads = attribute(layer.node, "pads", (0,) * (2 * rank)) if how == "NOTSET" else (0,) * (2 * rank)
        return [(pads[axis], pads[axis + rank]) for axis in range(rank)]
    made = []
    for axis in range(rank):
        out = -(-size[axis] // strides[axis])
        need = max(0, (out - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1 - size[axis])
        small, large = need // 2, need - need // 2
        made.append((small, large) if how == "SAME_UPPER" else (large, small))
    return made
