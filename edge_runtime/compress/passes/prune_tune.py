"""Zeros that come little by little while the rest is taught the original's answers, on items without labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.learn.loop import Fit
from edge_runtime.compress.learn.prune_tune import PruneAndTune, prune_and_tune
from edge_runtime.compress.recipe import Context


@dataclass(frozen=True)
class PruneTune:
    """`share` of the weights (of each group's channels, for kind channels) is gone in the end, or all but `n` of each
    `m` inputs; `kind`, `scope`, `depthwise`, `skip` as in edge_runtime.compress.learn.prune_tune. `average`: weight of
    the past in the running average of the weights. Items are held in memory."""

    reads: ClassVar[tuple[str, ...]] = ("onnx",)
    writes: ClassVar[str | None] = None
    needs_items: ClassVar[bool] = True

    share: float = 0.5
    kind: str = "magnitude"
    scope: str = "lamp"
    n: int = 0
    m: int = 0
    depthwise: bool = False
    skip: tuple[str, ...] = ()
    epochs: int = 8
    batch: int = 32
    rate: float = 1e-3
    average: float = 0.99
    seed: int = 1

    def __post_init__(self) -> None:
        self._settings()
        self._fit()

    def __call__(self, artifact: Artifact, context: Context) -> Artifact:
        """Raises EngineError without torch; InputError: nothing may go, a layer of `skip` that is not there."""
        from edge_runtime.compress.passes.quantize_aware import lessons_of, teach

        lessons = lessons_of(context.items("pruning with tuning"))
        made = teach(prune_and_tune, artifact, context, lessons, self._settings(), self._fit())
        for key, value in made.facts.items():
            context.note(key, value)
        return made.artifact

    def _settings(self) -> PruneAndTune:
        names = ("share", "kind", "scope", "n", "m", "depthwise", "skip")
        settings: dict[str, Any] = {name: getattr(self, name) for name in names}
        return PruneAndTune(**settings)

    def _fit(self) -> Fit:
        return Fit(self.epochs, self.batch, self.rate, 0.0, average=self.average, seed=self.seed)
