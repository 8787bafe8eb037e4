"""Pruning while a network is taught: what goes, goes little by little, and the rest learns to do without it.

    magnitude  the smallest weights, their share rising along a cubic curve (Zhu and Gupta, 2017)
    rigl       a fixed share from the start; the smallest living weights make way for dead ones with the steepest loss
               (Evci et al., 2020)
    set        the same, for dead ones at random (Mocanu et al., 2018)
    channels   whole channels, neurons and heads with all that depends on them, in rounds with tuning between

Channels go by the groups that the pass prune_channels finds in the exported graph (groups.py): it knows which layers
make the answers and which count over all channels, where libraries of PyTorch modules (Torch-Pruning) want to be told,
and what it leaves is the graph that is written. Single zeros make a file no faster: the coder makes it smaller.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.learn.lessons import Lessons
from edge_runtime.compress.learn.loop import Fit, Loss, cross_entropy, fit
from edge_runtime.compress.learn.taught import Taught
from edge_runtime.compress.torch_graph import need_torch
from edge_runtime.errors import UsageError

KINDS = ("magnitude", "rigl", "set", "channels")
SCOPES = ("layer", "global", "lamp")
TUNE = Fit(epochs=6, rate=2e-3)


@dataclass(frozen=True)
class PruneAndTune:
    """`share` of the weights (or of each group's channels) is gone in the end; or all but `n` of each `m` consecutive
    inputs. `scope`: the same share of each layer, one bar for all (global), or one on a layer-adaptive score (lamp).
    Shares rise from `begin` to `end` of the steps, every `every` steps. `exchange`: share of the living that rigl and
    set replace at first, less and less until `end`. Depthwise layers stay whole unless `depthwise`, those in `skip`
    (paths of modules; for channels, names of nodes, too) always.

    For channels: `rounds` cuts, by `importance` as in prune_channels, counts rounded to `multiple` at the last;
    `between`: share of the steps spent before the last cut.

    Raises ValueError for settings that make no sense."""

    share: float = 0.5
    kind: str = "magnitude"
    scope: str = "lamp"
    n: int = 0
    m: int = 0
    begin: float = 0.0
    end: float = 0.6
    every: int = 20
    exchange: float = 0.3
    skip: tuple[str, ...] = ()
    depthwise: bool = False
    rounds: int = 2
    importance: str = "activation"
    multiple: int = 1
    between: float = 0.3
    items: int = 256
    seed: int = 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS or self.scope not in SCOPES:
            raise ValueError(
                f"found kind {self.kind!r} and scope {self.scope!r}, wanted one of {', '.join(KINDS)} and one of "
                f"{', '.join(SCOPES)}"
            )
        if not 0 < self.share < 1 or not 0 <= self.begin < self.end <= 1:
            raise ValueError(
                f"found share {self.share}, begin {self.begin}, end {self.end}, wanted a share between 0 and 1, and "
                "begin before end, within 0 to 1"
            )
        if self.m and (not 0 < self.n < self.m or self.kind != "magnitude"):
            raise ValueError(f"found {self.n} of {self.m}, {self.kind}, wanted n between 0 and m, and magnitude")
        if min(self.every, self.rounds, self.multiple, self.items) < 1:
            raise ValueError("found every, rounds, multiple or items below 1, wanted 1 or more")
        if not 0 < self.exchange <= 1 or not 0 < self.between < 1:
            raise ValueError(f"found exchange {self.exchange}, between {self.between}, wanted them between 0 and 1")


@dataclass(frozen=True)
class PruneResult(Taught):
    """`net`: of the kind that was given, for single weights; a GraphNet, for channels. `artifact`: form onnx, with real
    zeros or smaller shapes. `facts`: zeros by layer, parameters and MACs before and after."""


def prune_and_tune(
    net: Any,
    lessons: Lessons,
    settings: PruneAndTune = PruneAndTune(),
    how: Fit = TUNE,
    *,
    loss: Loss | None = None,
    steps: int | None = None,
    notice: Callable[[str], None] | None = None,
) -> PruneResult:
    """`net`: a PyTorch module, which stays as it is, or an Artifact in float. `loss`: the labels' cross-entropy by
    default; distillation goes here.

    Raises EngineError without torch; InputError: nothing may go, a layer of `skip` that is not there, named."""
    torch = need_torch()
    from edge_runtime.compress.learn.graph_net import float_graph

    example = lessons.take(torch.arange(min(2, lessons.count)))
    teach = loss or cross_entropy(lessons)
    whole = lessons.steps(how.batch) * how.epochs
    total = whole if steps is None else min(steps, whole)
    if total < 1:
        raise UsageError(f"found {steps} steps to train, wanted 1 or more")
    before = float_graph(net, example)
    if settings.kind == "channels":
        made, artifact, facts = _channels(before, lessons, settings, how, teach, total, notice)
    else:
        made, facts = _weights(net, before, lessons, settings, how, teach, total, notice)
        artifact = _plain(float_graph(made, example))
    return PruneResult(made, artifact, before, facts | _counts(before, artifact))


def _weights(
    net: Any,
    before: Artifact,
    lessons: Lessons,
    settings: PruneAndTune,
    how: Fit,
    loss: Loss,
    total: int,
    notice: Callable[[str], None] | None,
) -> tuple[Any, dict[str, Any]]:
    import copy

    from edge_runtime.compress.learn.graph_net import GraphNet
    from edge_runtime.compress.learn.masks import Masks

    made = GraphNet(before) if isinstance(net, Artifact) else copy.deepcopy(net)
    masks = Masks(made, settings)
    made = fit(
        made,
        lessons,
        loss,
        how,
        steps=total,
        before=masks.before,
        gradients=masks.gradients,
        after=masks.after,
        notice=notice,
    )
    masks.hold(made)  # the running average remembers weights from before they went
    return made, {"zeros": {name: round(one, 4) for name, one in masks.zeros().items()}}


def _channels(
    artifact: Artifact,
    lessons: Lessons,
    settings: PruneAndTune,
    how: Fit,
    loss: Loss,
    total: int,
    notice: Callable[[str], None] | None,
) -> tuple[Any, Artifact, dict[str, Any]]:
    from edge_runtime.compress.layers import weighted
    from edge_runtime.compress.learn.graph_net import GraphNet
    from edge_runtime.compress.learn.qat import first_items
    from edge_runtime.compress.learn.quant_net import module_of
    from edge_runtime.compress.passes.prune_channels import PruneChannels
    from edge_runtime.compress.recipe import Context

    samples = first_items(artifact, lessons, settings.items)
    each = 1 - (1 - settings.share) ** (1 / settings.rounds)
    between = max(1, round(total * settings.between / max(1, settings.rounds - 1)))
    kept: list[Any] = []
    for number in range(settings.rounds):
        nodes = {module_of(layer): layer.name for layer in weighted(artifact.model())}
        last = number == settings.rounds - 1
        cut = PruneChannels(
            share=each,
            importance=settings.importance,
            multiple=settings.multiple if last else 1,
            items=settings.items,
            skip=tuple(nodes.get(name, name) for name in settings.skip),
        )
        facts: dict[str, Any] = {}
        artifact = cut(artifact, Context(artifact, samples, facts=facts))
        kept.append(facts["kept"])
        some = max(1, total - between * number) if last else between
        made = fit(GraphNet(artifact), lessons, loss, replace(how, seed=how.seed + number), steps=some, notice=notice)
        artifact = made.artifact()
    return made, artifact, {"kept": kept}


def _plain(artifact: Artifact) -> Artifact:
    """Zeros that came out negative, of a folded normalization, are written as zeros."""
    from edge_runtime.compress.code import plain_zeros

    return Artifact(artifact.form, plain_zeros(artifact.content, "onnx"))


def _counts(before: Artifact, after: Artifact) -> dict[str, Any]:
    from edge_runtime.compress.count import count

    old, new = count(before), count(after)
    return {"parameters": [old.parameters, new.parameters], "zero": new.zeros, "macs": [old.macs, new.macs]}
