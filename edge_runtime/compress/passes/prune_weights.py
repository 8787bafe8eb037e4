"""Set single weights to exact zeros: fewer bytes once coded, no faster on ordinary kernels, and the report says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.recipe import Context

if TYPE_CHECKING:
    from edge_runtime.compress.layers import Layer

SCOPES = ("layer", "global", "lamp")
SCORES = ("magnitude", "activation")
SAID = "only coded bytes shrink: ordinary kernels multiply by zeros as fast as by anything else"
ROUNDS = 40  # of conjugate gradients


@dataclass(frozen=True)
class PruneWeights:
    """`share` of the weights goes, or all but `n` of each `m` consecutive inputs of an output, where `m` is above 0.

    `scope`: the same share of each layer; one threshold for all (global); one for all on a layer-adaptive score (lamp:
    a weight's square by the sum of those in its layer that are no smaller; Lee et al., 2021), which starves no layer.
    `score`: the weight's square (magnitude), or times the mean square of what it multiplies (activation: Sun et al.,
    2023, Wanda). `block` consecutive inputs of an output go or stay together. `compensate`: the weights that stay are
    fitted to the answers of the whole layer by least squares. Depthwise layers and those named in `skip` stay whole.
    """

    reads: ClassVar[tuple[str, ...]] = ("onnx",)
    writes: ClassVar[str | None] = None
    share: float = 0.0
    scope: str = "lamp"
    score: str = "magnitude"
    n: int = 0
    m: int = 0
    block: int = 1
    compensate: bool = False
    items: int = 256
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.scope not in SCOPES or self.score not in SCORES:
            raise ValueError(
                f"found scope {self.scope!r} and score {self.score!r}, wanted one of {', '.join(SCOPES)} and one of "
                f"{', '.join(SCORES)}"
            )
        if bool(self.share) == bool(self.m) or not 0 <= self.share < 1:
            raise ValueError(f"found share {self.share} and m {self.m}, wanted a share between 0 and 1, or n of m")
        if self.m and not 0 < self.n < self.m:
            raise ValueError(f"found {self.n} of {self.m}, wanted n between 0 and m")
        if self.block < 1 or (self.m and self.block > 1) or self.items < 1:
            raise ValueError(
                f"found block {self.block}, m {self.m}, items {self.items}, wanted 1 or more, and no blocks with n of m"
            )

    @property
    def needs_items(self) -> bool:
        return self.compensate or self.score == "activation"

    def __call__(self, artifact: Artifact, context: Context) -> Artifact:
        """Raises InputError: no layer with weights, a layer of `skip` that is not there."""
        import numpy as np

        from edge_runtime.compress.count import count
        from edge_runtime.compress.shapes import settle

        model = artifact.model()
        layers = self._layers(model)
        energies = self._energies(artifact, layers, context)
        scores = [self._scored(layer, energies.get(layer.name)) for layer in layers]
        masks = self._n_of_m(scores) if self.m else self._by_share(scores)
        if self.block > 1:
            widths = [layer.matrix().shape[1] for layer in layers]
            masks = [np.repeat(one, self.block, axis=1)[:, :wide] for one, wide in zip(masks, widths, strict=True)]
        for layer, mask in zip(layers, masks, strict=True):
            if not self.compensate:
                layer.set_matrix(layer.matrix() * mask)
        if self.compensate:
            self._compensated(artifact, layers, masks, context)
        context.note("said", SAID)
        context.note("zero", {one.name: round(1 - float(m.mean()), 4) for one, m in zip(layers, masks, strict=True)})
        made = settle(model)
        counted = count(made)
        context.note("weights", [counted.parameters, counted.zeros])
        return made

    def _layers(self, model: Any) -> list[Layer]:
        from edge_runtime.compress.layers import need_layers, weighted
        from edge_runtime.errors import InputError

        need_layers(model, self.skip)
        found: dict[str | None, Layer] = {}
        for layer in weighted(model):
            whole = layer.kind == "depthwise" or layer.name in self.skip or layer.node.op_type == "ConvTranspose"
            if not whole:
                found.setdefault(layer.weight.name, layer)
        if not found:
            raise InputError("found no layer whose weights may go, wanted a convolution or a dense layer")
        return list(found.values())

    def _energies(self, artifact: Artifact, layers: Sequence[Layer], context: Context) -> dict[str, Any]:
        """Mean square of what each weight multiplies: (groups, inputs) by layer."""
        import numpy as np

        from edge_runtime.compress.moments import energies

        if self.score == "magnitude":
            return {}
        samples = context.items("the score 'activation'").some(self.items)
        return {name: np.stack(each) for name, each in energies(artifact, samples, layers).items()}

    def _scored(self, layer: Layer, energy: Any) -> Any:
        """float64 (outputs, blocks of inputs): what goes first is small."""
        import numpy as np

        score = layer.matrix().astype(np.float64) ** 2
        if energy is not None:
            score *= np.repeat(energy, len(score) // len(energy), axis=0)
            score /= max(float(score.sum()), 1e-300)
        if self.block > 1:
            starts = np.arange(0, score.shape[1], self.block)
            score = np.add.reduceat(score, starts, axis=1) / np.diff([*starts, score.shape[1]])
        if self.scope != "lamp":
            return score
        order = np.argsort(score, axis=None, kind="stable")
        rest = np.cumsum(score.ravel()[order][::-1])[::-1]  # of it and all that are no smaller
        made = np.empty(score.size)
        made[order] = score.ravel()[order] / np.maximum(rest, 1e-300)
        return made.reshape(score.shape)

    def _by_share(self, scores: Sequence[Any]) -> list[Any]:
        import numpy as np

        if self.scope == "layer":
            return [_largest(one, one.size - round(one.size * self.share)) for one in scores]
        flat = np.concatenate([one.ravel() for one in scores])
        whole = _largest(flat, flat.size - round(flat.size * self.share))
        bounds = np.cumsum([one.size for one in scores])[:-1]
        return [part.reshape(one.shape) for part, one in zip(np.split(whole, bounds), scores, strict=True)]

    def _n_of_m(self, scores: Sequence[Any]) -> list[Any]:
        """A rest of fewer than m inputs stays."""
        import numpy as np

        masks = []
        for score in scores:
            mask = np.ones(score.shape, np.float32)
            whole = score.shape[1] // self.m * self.m
            runs = score[:, :whole].reshape(len(score), -1, self.m)
            rank = np.argsort(np.argsort(-runs, axis=2, kind="stable"), axis=2, kind="stable")
            mask[:, :whole] = (rank < self.n).reshape(len(score), whole)
            masks.append(mask)
        return masks

    def _compensated(self, artifact: Artifact, layers: Sequence[Layer], masks: Sequence[Any], context: Context) -> None:
        import numpy as np

        from edge_runtime.compress.moments import layer_moments

        samples = context.items("compensation").some(self.items)
        by_name = {layer.name: mask for layer, mask in zip(layers, masks, strict=True)}
        for number, (layer, moments) in enumerate(layer_moments(artifact, samples, layers)):
            context.progress(number, len(layers), f"compensating in {layer.name}")
            parts = zip(
                np.split(layer.matrix(), len(moments)),
                np.split(by_name[layer.name], len(moments)),
                moments,
                strict=True,
            )
            layer.set_matrix(np.concatenate([compensate(matrix, mask, one.mean()) for matrix, mask, one in parts]))
        context.progress(len(layers), len(layers), "compensated")


def _largest(scores: Any, count: int) -> Any:
    """float32, 1 where one of the `count` largest stands; of equals, those that come first."""
    import numpy as np

    mask = np.zeros(scores.size, np.float32)
    mask[np.argsort(-scores.ravel(), kind="stable")[:count]] = 1
    return mask.reshape(scores.shape)


def compensate(matrix: Any, mask: Any, moment: Any, damp: float = 0.01) -> Any:
    """`matrix` (outputs, inputs) with zeros where `mask` is 0, what stays changed so that what it answers to inputs of
    second moment `moment` (inputs, inputs) changes least: least squares for all outputs at once by conjugate gradients,
    each step of which leaves less to miss.
    """
    import numpy as np

    scale = max(float(np.trace(moment)) / len(moment), 1e-12)
    damped = (moment / scale + damp * np.eye(len(moment))).astype(np.float32)
    made = np.array(matrix * mask, np.float32)
    rest = ((matrix - made) @ damped) * mask
    soften = 1 / np.diag(damped)
    step = rest * soften
    size = (rest * step).sum(axis=1, keepdims=True)
    for _ in range(ROUNDS):
        turned = (step @ damped) * mask
        length = size / np.maximum((step * turned).sum(axis=1, keepdims=True), 1e-30)
        made += length * step
        rest -= length * turned
        before, size = size, (rest * rest * soften).sum(axis=1, keepdims=True)
        step = rest * soften + size / np.maximum(before, 1e-30) * step
    return made * mask
