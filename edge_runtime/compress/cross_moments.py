"""What a layer's inputs look like to its weights: mean and second moments of the numbers that each output sums.

Rounding a weight wrongly can be made good by its neighbours as far as their inputs move together; that is what these
moments say. Positions are drawn from each item with a fixed seed, so memory and time are bounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.layers import Layer
from edge_runtime.compress.moments import drawn, patches
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
            rows_now = patches(layer, found[name + suffix], an_item, drawn)
            made: list[NDArray[Any]] = [
                rows_now.sum(axis=1, dtype=np.float64),
                np.matmul(rows_now.transpose(0, 2, 1), rows_now),
            ]
            if old is not None:
                other = patches(layer, old[name], an_item, drawn)
                made += [other.sum(axis=1, dtype=np.float64), np.matmul(other.transpose(0, 2, 1), rows_now)]
            rows[place] += rows_now.shape[1]
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
