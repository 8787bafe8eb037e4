"""What values the tensors of a model take on items: ranges, then histograms. Nothing else is kept of the activations,
so the memory needed grows with the number of tensors and not with the number of items."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.layers import WEIGHTED, attribute
from edge_runtime.compress.outputs import tap
from edge_runtime.compress.recipe import Progress
from edge_runtime.compress.samples import Samples
from edge_runtime.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
    from numpy.typing import NDArray

BINS = 2048
_NUMBERS_A_BATCH = 16_000_000  # of all tensors together: 64 MB of float32


@dataclass
class Seen:
    """What one tensor was seen to hold. `low`, `high`: the least and the largest, 0 always within. `counts` int64
    (BINS,) over [low, high], empty until counted. By channel (axis 1, else the last): `mean` and `peak` (largest
    |value|), float64 (channels,)."""

    low: float = 0.0
    high: float = 0.0
    counts: NDArray[np.int64] | None = None
    mean: NDArray[np.float64] | None = None
    peak: NDArray[np.float64] | None = None
    _numbers: float = field(default=0.0, repr=False)

    def add(self, array: NDArray[np.float32], waves: bool = False) -> None:
        """`waves`: three axes are (item, channel, time), not (item, word, feature)."""
        import numpy as np

        self.low, self.high = min(self.low, float(array.min())), max(self.high, float(array.max()))
        axis = 1 if array.ndim > 3 or (array.ndim == 3 and waves) else array.ndim - 1
        others = tuple(place for place in range(array.ndim) if place != axis)
        total = array.sum(axis=others, dtype=np.float64)
        peak = np.maximum(array.max(axis=others), -array.min(axis=others)).astype(np.float64)
        if self.mean is None or self.peak is None or self.mean.shape != total.shape:
            self.mean, self.peak, self._numbers = np.zeros_like(total), peak, 0.0
        count = array.size / max(1, total.size)
        self.mean = (self.mean * self._numbers + total) / (self._numbers + count)
        self._numbers += count
        self.peak = np.maximum(self.peak, peak)

    def count(self, array: NDArray[np.float32]) -> None:
        import numpy as np

        if self.high <= self.low:
            return
        found, _ = np.histogram(array, bins=BINS, range=(self.low, self.high))
        self.counts = found if self.counts is None else self.counts + found


def batch_size(artifact: Artifact, names: Sequence[str]) -> int:
    """How many items at once keep what is tapped within bounds, from the shapes that the graph states."""
    known = {one.name: one for node in artifact.model().graph for one in node.outputs}
    numbers = 0
    for name in names:
        shape = known[name].shape if name in known else None
        numbers += math.prod(size if isinstance(size, int) else 1 for size in shape) if shape is not None else 100_000
    return max(1, min(16, _NUMBERS_A_BATCH // max(1, numbers)))


def _rank(node: ir.Node) -> int | None:
    """Axes of a convolution's weight."""
    kernel, weight = attribute(node, "kernel_shape"), node.inputs[1]
    if kernel is not None:
        return len(kernel) + 2
    return None if weight is None or weight.shape is None else len(weight.shape)


def observe(
    artifact: Artifact,
    samples: Samples,
    names: Sequence[str],
    progress: Progress = lambda done, total, words: None,
    histograms: bool = True,
) -> dict[str, Seen]:
    """Runs the items once for ranges, again for histograms. Raises InputError for a value that is not finite, naming
    its tensor, and for no items."""
    import numpy as np

    if samples.count < 1:
        raise InputError(f"{samples.name}: found no items, wanted some to calibrate with")
    seen = {name: Seen() for name in names}
    batch = batch_size(artifact, names)
    # one axis after the channels: by the weights, and they are another operator's outputs once they are quantized
    waves = any(node.op_type == "Conv" and _rank(node) == 3 for node in artifact.model().graph)
    total = samples.count * (2 if histograms else 1)
    done = 0
    for found in tap(artifact, samples, names, batch):
        size = 0
        for name, array in found.items():
            if not np.isfinite(array).all():
                bad = int((~np.isfinite(array)).sum())
                raise InputError(
                    f"tensor {name!r} ({_maker(artifact, name)}): found {bad} numbers that are not finite, for items "
                    f"{done} to {done + len(array) - 1} of {samples.name}"
                )
            seen[name].add(array, waves)
            size = max(size, min(len(array), batch))
        done += max(1, size)
        progress(min(done, total), total, "ranges of activations")
    if histograms:
        for found in tap(artifact, samples, names, batch):
            for name, array in found.items():
                seen[name].count(array)
            done += max(1, size)
            progress(min(done, total), total, "histograms of activations")
    return seen


def _maker(artifact: Artifact, name: str) -> str:
    """The layer that a tensor comes from: Relu and the like are passed over."""
    makers = {one.name: node for node in artifact.model().graph for one in node.outputs}
    node = makers.get(name)
    while node is not None and node.op_type not in WEIGHTED and node.inputs and node.inputs[0] is not None:
        before = makers.get(node.inputs[0].name)
        if before is None:
            break
        node = before
    return f"from {node.op_type} {node.name!r}" if node is not None else "an input"
