"""Weights on a grid, chosen so that few bits say them: the transport size.

Every weight becomes a whole number of steps of its layer. Steps are shared out so that a bit bought in any layer takes
off the same output change; rounding gives the error of one weight to its neighbours, and prefers the level that costs
fewer bits where the error grows little. The file itself does not shrink and runs no faster: the weights are float32
still, exactly level * step. What shrinks is the bundle, whose coder finds the levels again.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.cross_moments import Moments, gather, measurable, stages
from edge_runtime.compress.drift import Drift, compare
from edge_runtime.compress.entropy import activity, adaptive_bits, entropy_bits, learn
from edge_runtime.compress.layers import Layer, array_of, set_array, weighted
from edge_runtime.compress.outputs import answers
from edge_runtime.compress.recipe import Context
from edge_runtime.compress.rounding import factor, nearest, round_together, shrunk
from edge_runtime.errors import EdgeError, InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SMALL = 64  # weights of a layer with fewer stay as they are
_TOP = 32_000
_ITEMS_FOR_SENSITIVITY = 48


@dataclass
class _Known:
    """What is found out once about a layer. `factors`: float32 (groups, K, K) in a file. `steepness`: output change
    squared (sd) for each unit of the layer's own loss. `fine`: the step where a bit costs the same everywhere."""

    name: str
    moments: Moments
    factors: Path
    steepness: float = 1.0
    fine: float = 1.0


@dataclass(frozen=True)
class Grid:
    """`limit_sd`: the largest output change allowed on the items, in standard deviations; the step is searched for
    it. `step`: used instead of a search where above 0, in units of output change (about the rms in sd that all layers
    together give). `rate`: how much a bit weighs against a change; 0 rounds to the nearest."""

    reads: ClassVar[tuple[str, ...]] = ("onnx",)
    writes: ClassVar[str | None] = "onnx"
    needs_items: ClassVar[bool] = True

    limit_sd: float = 0.06
    step: float = 0.0
    rate: float = 0.12
    damping: float = 0.01
    follow: float = 1.0
    tries: int = 4

    def __post_init__(self) -> None:
        if self.step < 0 or not (self.limit_sd > 0 or self.step > 0):
            raise ValueError(f"found limit_sd {self.limit_sd} and step {self.step}, wanted one of them above 0")
        if not 0 <= self.rate <= 2 or not 0 < self.damping < 1:
            raise ValueError(f"found rate {self.rate}, damping {self.damping}, wanted 0 to 2, and 0 to 1")

    def __call__(self, artifact: Artifact, context: Context) -> Artifact:
        samples = context.items("a grid for weights")
        before = answers(artifact, samples, 16)
        with tempfile.TemporaryDirectory(prefix="edge-runtime-") as folder:
            known = self._measure(artifact, context, Path(folder))
            made, bits = self._search(artifact, context, known, before)
        context.note("weights", sum(one[0] for one in bits.values()))
        context.note("entropy_bytes", round(sum(one[1] for one in bits.values()) / 8))
        context.note("coded_bytes_estimated", round(sum(one[2] for one in bits.values()) / 8))
        context.note("layers", {name: round(one[2] / one[0], 3) for name, one in bits.items()})
        return made

    def _measure(self, artifact: Artifact, context: Context, folder: Path) -> list[_Known]:
        import numpy as np

        samples = context.items("a grid for weights")
        few = samples.some(_ITEMS_FOR_SENSITIVITY)
        before = answers(artifact, few, 16)
        layers = [one for one in weighted(artifact.model()) if one.matrix().size >= _SMALL and measurable(one)]
        if not layers:
            raise InputError("found no layer with 64 weights or more, wanted some to put on a grid")
        made: list[_Known] = []
        for part in stages(layers):
            for layer, moments in zip(part, gather(artifact, samples, part), strict=True):
                context.progress(len(made), len(layers), f"sensitivity of {layer.name}")
                path = folder / f"{len(made)}.npy"
                factors = _factors(layer, moments, self.damping)
                np.save(path, factors)
                known = _Known(layer.name, moments, path)
                known.steepness = _steepness(artifact, layer.name, moments, factors, few, before)
                known.fine = 1 / math.sqrt(known.steepness * _typical(factors))
                # only the mean is wanted from here on
                moments.second = moments.second[:, :0, :0]
                made.append(known)
        # in all, steps of `fine` times f change the output by about f (rms, in sd)
        weights = sum(layer.matrix().size for layer in layers)
        for known in made:
            known.fine *= math.sqrt(12 / weights)
        return made

    def _search(
        self, artifact: Artifact, context: Context, known: list[_Known], before: dict[str, NDArray[np.float32]]
    ) -> tuple[Artifact, dict[str, tuple[int, float, float]]]:
        """The coarsest common factor whose largest change stays within the limit."""
        samples = context.items("a grid for weights")
        if self.step > 0:
            made, bits = self._follow(artifact, context, known, self.step)
            self._note(context, self.step, compare(before, answers(made, samples, 16)), bits)
            return made, bits
        common, low, high = self.limit_sd / 6, 0.0, math.inf
        best: tuple[Artifact, dict[str, tuple[int, float, float]]] | None = None
        for _ in range(self.tries):
            made, bits = self._follow(artifact, context, known, common)
            drift = compare(before, answers(made, samples, 16))
            self._note(context, common, drift, bits)
            if drift.largest <= self.limit_sd:
                low, best = common, (made, bits)
                if drift.largest > 0.95 * self.limit_sd:
                    break
            else:
                high = common
            guess = common * min(4.0, max(0.25, 0.98 * self.limit_sd / max(drift.largest, 1e-9)))
            common = guess if low < guess < high else math.sqrt(low * high) if low > 0 else high / 2
        while best is None:  # halving ends: a step small enough changes nothing
            made, bits = self._follow(artifact, context, known, common)
            drift = compare(before, answers(made, samples, 16))
            self._note(context, common, drift, bits)
            if drift.largest <= self.limit_sd:
                best = made, bits
            elif common < self.limit_sd * 1e-4:
                raise EdgeError(
                    f"no step keeps the largest output change within {self.limit_sd} sd; the finest tried gave "
                    f"{drift.largest:.4f} sd",
                    hint="raise limit_sd",
                )
            common /= 2
        return best

    def _follow(
        self, artifact: Artifact, context: Context, known: list[_Known], common: float
    ) -> tuple[Artifact, dict[str, tuple[int, float, float]]]:
        """Each layer is fitted to what the layers before it have become; in stages, for a run takes its time."""
        import numpy as np

        samples = context.items("a grid for weights")
        model = artifact.model()
        by_name = {one.name: one for one in known}
        bits: dict[str, tuple[int, float, float]] = {}
        layers = [one for one in weighted(model) if one.name in by_name]
        for part in stages(layers):
            context.progress(len(bits), len(layers), f"rounding {part[0].name}")
            for layer, moments in zip(part, gather(Artifact.of(model, "onnx"), samples, part, artifact), strict=True):
                old = by_name[layer.name]
                path = old.factors.with_suffix(".followed.npy")
                np.save(path, _factors(layer, moments, self.damping))
                now = _Known(layer.name, moments, path, old.steepness, old.fine)
                levels = _round_layer(layer, now, common, self.rate, self.follow)
                bits[layer.name] = (levels.size, entropy_bits(levels), adaptive_bits(levels))
        return Artifact.of(model, "onnx"), bits

    def _note(self, context: Context, common: float, drift: Drift, bits: dict[str, tuple[int, float, float]]) -> None:
        tried = context.facts.setdefault("tried", [])
        tried.append(
            {
                "step": common,
                "mean_sd": drift.mean,
                "rms_sd": drift.rms,
                "largest_sd": drift.largest,
                "bits_a_weight": sum(one[2] for one in bits.values()) / sum(one[0] for one in bits.values()),
            }
        )


def _factors(layer: Layer, moments: Moments, damping: float) -> NDArray[np.float32]:
    """float32 (groups, K, K). Where there is a bias to take up the mean, only covariances count."""
    import numpy as np

    second = moments.centred() if layer.bias is not None else moments.second
    return np.stack([factor(shrunk(one, moments.rows), damping) for one in second])


def _round_layer(layer: Layer, known: _Known, common: float, rate: float, follow: float) -> NDArray[np.float32]:
    """Writes the layer's weights and the bias that takes up the mean error; returns its levels (O, K)."""
    import numpy as np

    old = layer.matrix()
    matrix = known.moments.target(old, layer.bias is not None, follow) if follow > 0 else old.copy()
    matrix[old == 0] = 0
    step = np.float32(known.fine * common)
    levels = np.zeros_like(matrix)
    factors = np.load(known.factors, mmap_mode="r", allow_pickle=False)
    trade = rate * float(step) ** 2 * _typical(factors)
    rows = len(matrix) // len(factors)
    for group in range(len(factors)):
        part = matrix[group * rows : (group + 1) * rows]
        steps = np.full(len(part), step, np.float32)
        r = np.asarray(factors[group])
        found, _ = round_together(part, steps, r, nearest(_TOP))
        if rate > 0:
            classes = activity(part / step)
            for _ in range(2):
                price = learn(found, classes)
                found, _ = round_together(part, steps, r, price.rounder(trade, _TOP))
        found[part == 0] = 0 if (part == 0).mean() > 0.05 else found[part == 0]
        levels[group * rows : (group + 1) * rows] = found
    rounded = (levels * step).astype(np.float32)
    shift_bias(layer, old, rounded, known.moments)
    layer.set_matrix(rounded)
    return levels


def _typical(factors: NDArray[np.float32]) -> float:
    """The geometric mean of what a rounding costs: R_jj^2."""
    import numpy as np

    diagonal = np.maximum(np.diagonal(factors, axis1=1, axis2=2), 1e-12).astype(np.float64)
    return math.exp(2 * float(np.log(diagonal).mean()))


def shift_bias(layer: Layer, before: NDArray[np.float32], after: NDArray[np.float32], moments: Moments) -> None:
    """Weights float32 (O, K): what they change in the mean goes into the bias, where there is one."""
    import numpy as np

    if layer.bias is None:
        return
    bias = array_of(layer.bias)
    shift = moments.shift(before, after)
    set_array(layer.bias, (bias + shift.reshape(bias.shape)).astype(np.float32))


def _steepness(
    artifact: Artifact,
    name: str,
    moments: Moments,
    factors: NDArray[np.float32],
    samples: object,
    before: dict[str, NDArray[np.float32]],
) -> float:
    """Output change squared for each unit of the layer's own loss, measured with noise in place of rounding."""
    import numpy as np

    from edge_runtime.compress.samples import Samples

    assert isinstance(samples, Samples)
    model = artifact.model()
    layer = next(one for one in weighted(model) if one.name == name)
    matrix = layer.matrix()
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, matrix.shape).astype(np.float32)
    noise *= np.float32(0.25 * matrix.std())
    groups = len(factors)
    loss = float((np.matmul(noise.reshape(groups, len(matrix) // groups, -1), factors) ** 2).sum())
    shift_bias(layer, matrix, matrix + noise, moments)
    layer.set_matrix(matrix + noise)
    drift = compare(before, answers(Artifact.of(model, "onnx"), samples, 16))
    return max(drift.rms, 1e-6) ** 2 / max(loss, 1e-20)
