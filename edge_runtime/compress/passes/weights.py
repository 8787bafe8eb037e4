"""Weights alone as 8, 4, 3 or 2 bits: a smaller file; products are float still, so nothing gets much faster."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.drift import Drift, compare
from edge_runtime.compress.outputs import answers
from edge_runtime.compress.recipe import Context
from edge_runtime.compress.weight_only import Form, feedback, quantizable, store
from edge_runtime.errors import EdgeError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class WeightsOnly:
    """`block` 0: a scale for each output channel; else for each so many input channels of it (32, say), which 4 bits
    and fewer want. `tables`: embeddings are stored as int8, too. With items: levels are rounded together where the
    nearest ones change the answers by more than `limit_sd` on average, then guilty layers get 8 bits, at most half of
    them; then it is refused."""

    reads: ClassVar[tuple[str, ...]] = ("onnx",)
    writes: ClassVar[str | None] = "onnx_q"
    needs_items: ClassVar[bool] = False

    bits: int = 8
    block: int = 0
    symmetric: bool = True
    search: bool = True
    keep: tuple[str, ...] = ()
    tables: bool = True
    limit_sd: float = 0.1

    def __post_init__(self) -> None:
        if self.bits not in (8, 4, 3, 2):
            raise ValueError(f"bits: found {self.bits}, wanted 8, 4, 3 or 2")
        if self.block and (self.block < 16 or self.block & (self.block - 1)):
            raise ValueError(f"block: found {self.block}, wanted 0 or a power of two from 16 on")
        if not self.limit_sd > 0:
            raise ValueError(f"limit_sd: found {self.limit_sd}, wanted above 0")

    def __call__(self, artifact: Artifact, context: Context) -> Artifact:
        context = context.against(artifact)
        form = Form(self.bits, self.block, self.symmetric, self.search)
        forms = {one.name: form for one in quantizable(artifact, self.keep)}
        if self.bits < 4:
            context.note(
                "stored", f"{self.bits}-bit levels stand in 4-bit integers: the coder of a bundle takes the rest"
            )
        made = store(artifact, forms, None, self.tables)
        if context.samples is None:
            context.note("checked", "no items were given: the output change is not known")
            return made
        return rescue_weights(artifact, context, forms, made, self.limit_sd, self.tables)


def rescue_weights(
    artifact: Artifact, context: Context, forms: dict[str, Form], made: Artifact, limit_sd: float, tables: bool
) -> Artifact:
    """Raises EdgeError, naming the guilty layers, where nothing brings the change within the limit."""
    samples = context.items("weights alone")
    wanted = answers(context.original, samples, 16)
    tried: list[dict[str, object]] = []
    context.note("ladder", tried)

    def judge(words: str, one: Artifact) -> Drift:
        drift = compare(wanted, answers(one, samples, 16))
        tried.append({"rung": words, "mean_sd": drift.mean, "largest_sd": drift.largest, "agreement": drift.agreement})
        return drift

    drift = judge("nearest levels", made)
    if drift.mean <= limit_sd:
        return made

    def together(chosen: dict[str, Form], words: str) -> tuple[Artifact, Drift]:
        base, levels = feedback(artifact, samples, chosen, context.progress)
        found = store(base, chosen, levels, tables)
        return found, judge(words, found)

    made, drift = together(forms, "levels rounded together")
    if drift.mean <= limit_sd:
        return made
    guilt = guilt_of(artifact, context, forms, wanted)
    order = sorted(guilt, key=lambda name: -guilt[name])
    context.note("guilty", {name: guilt[name] for name in order[:10]})
    for share in (8, 4, 2):
        count = math.ceil(len(order) / share)
        raised = forms | {name: Form(8) for name in order[:count]}
        made, drift = together(raised, f"{count} of {len(order)} layers with 8 bits")
        if drift.mean <= limit_sd:
            context.note("layers_with_8_bits", order[:count])
            return made
    worst = ", ".join(f"{name} ({guilt[name]:.3f} sd alone)" for name in order[:5])
    raise EdgeError(
        f"so few bits are refused: the output changes by {drift.mean:.3f} sd on average at best, wanted at most "
        f"{limit_sd}; the guilty layers: {worst}",
        hint="take more bits or smaller blocks, name the layers in keep, or raise limit_sd",
    )


def guilt_of(
    artifact: Artifact, context: Context, forms: dict[str, Form], wanted: dict[str, NDArray[np.float32]]
) -> dict[str, float]:
    """Mean output change, in sd, of each layer alone with its form; on up to 48 items."""
    few = context.items("sensitivity").some(48)
    before = answers(context.original, few, 16)
    found = {}
    for number, (name, form) in enumerate(forms.items()):
        context.progress(number, len(forms), f"{name} alone")
        found[name] = compare(before, answers(store(artifact, {name: form}), few, 16)).mean
    return found
