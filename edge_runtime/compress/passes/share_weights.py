"""Few values for many weights: each is replaced by the nearest of the 2 to the power of `bits` values of its layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.recipe import Context

STARTS = ("linear", "quantile")
SAID = "weights are float32 as before: only coded bytes shrink, nothing gets faster"


@dataclass(frozen=True)
class ShareWeights:
    """k-means in one dimension (Lloyd), layer by layer, from values spread evenly over the range (linear) or over the
    weights (quantile). Zeros stay zeros where `keep_zeros`: then 0 is one of the values. Layers in `skip` stay."""

    reads: ClassVar[tuple[str, ...]] = ("onnx",)
    writes: ClassVar[str | None] = None
    needs_items: ClassVar[bool] = False
    bits: int = 5
    start: str = "linear"
    rounds: int = 30
    keep_zeros: bool = True
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 12:
            raise ValueError(f"found {self.bits} bits, wanted 1 to 12")
        if self.start not in STARTS or self.rounds < 1:
            raise ValueError(
                f"found start {self.start!r}, rounds {self.rounds}, wanted {' or '.join(STARTS)}, and 1 or more"
            )

    def __call__(self, artifact: Artifact, context: Context) -> Artifact:
        """Raises InputError for a layer of `skip` that is not there."""
        import numpy as np

        from edge_runtime.compress.layers import need_layers, weighted
        from edge_runtime.compress.shapes import settle

        model = artifact.model()
        need_layers(model, self.skip)
        layers = [layer for layer in weighted(model) if layer.name not in self.skip]
        values: dict[str, int] = {}
        for number, layer in enumerate(layers):
            context.progress(number, len(layers), f"sharing in {layer.name}")
            matrix = layer.matrix()
            free = matrix != 0 if self.keep_zeros else np.ones(matrix.shape, np.bool_)
            count = 2**self.bits - int(not free.all())
            if free.any():
                matrix[free] = share(matrix[free], count, self.start, self.rounds)
            layer.set_matrix(matrix)
            values[layer.name] = len(np.unique(matrix))
        context.progress(len(layers), len(layers), "sharing")
        context.note("values", values)
        context.note("said", SAID)
        return settle(model)


def share(weights: Any, count: int, start: str, rounds: int) -> Any:
    """float32 (N,) to the same with at most `count` different values; of weights that are few, each its own."""
    import numpy as np

    ordered = np.sort(weights.astype(np.float64))
    if len(np.unique(ordered)) <= count:
        return weights
    if start == "linear":
        centers = np.linspace(ordered[0], ordered[-1], count)
    else:
        centers = np.unique(ordered[np.linspace(0, len(ordered) - 1, count).round().astype(np.int64)])
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    for _ in range(rounds):
        bounds = np.searchsorted(ordered, (centers[1:] + centers[:-1]) / 2)
        edges = np.concatenate([[0], bounds, [len(ordered)]])
        counts = np.diff(edges)
        means = np.diff(sums[edges]) / np.maximum(counts, 1)
        moved = np.where(counts > 0, means, centers)  # a value that nothing takes waits where it is
        if np.array_equal(moved, centers):
            break
        centers = moved
    book = centers.astype(np.float32)
    return book[np.searchsorted((centers[1:] + centers[:-1]) / 2, weights.astype(np.float64))]
