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
from pathlib import Path
from typing import Any

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.learn.lessons import Lessons
from edge_runtime.compress.learn.loop import Fit, Loss, cross_entropy, fit
from edge_runtime.compress.learn.settings import PruneAndTune as PruneAndTune
from edge_runtime.compress.learn.taught import Taught
from edge_runtime.compress.torch_graph import need_torch
from edge_runtime.errors import InputError, UsageError

HALF = PruneAndTune()
TUNE = Fit(epochs=6, rate=2e-3)


@dataclass(frozen=True)
class PruneResult(Taught):
    """`net`: of the kind that was given, for single weights; a GraphNet, for channels. `artifact`: form onnx, with real
    zeros or smaller shapes. `facts`: zeros by layer, parameters and MACs before and after."""


def prune_and_tune(
    net: Any,
    lessons: Lessons,
    settings: PruneAndTune = HALF,
    how: Fit = TUNE,
    *,
    loss: Loss | None = None,
    steps: int | None = None,
    notice: Callable[[str], None] | None = None,
    keep: Path | None = None,
) -> PruneResult:
    """`net`: a PyTorch module, which stays as it is, or an Artifact in float. `loss`: the labels' cross-entropy by
    default; distillation goes here. `steps`, `notice`, `keep` as in `fit`; of channels, `keep` is numbered by rounds.

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
        made, artifact, facts = _channels(before, lessons, settings, how, teach, total, notice, keep)
    else:
        made, facts = _weights(net, before, lessons, settings, how, teach, total, notice, keep)
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
    keep: Path | None,
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
        keep=keep,
        tag=repr(settings),
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
    keep: Path | None,
) -> tuple[Any, Artifact, dict[str, Any]]:
    from edge_runtime.compress.layers import weighted
    from edge_runtime.compress.learn.checkpoint import stages
    from edge_runtime.compress.learn.graph_net import GraphNet
    from edge_runtime.compress.learn.qat import first_items
    from edge_runtime.compress.learn.quant_net import module_of
    from edge_runtime.compress.passes.prune_channels import PruneChannels
    from edge_runtime.compress.recipe import Context

    samples = first_items(artifact, lessons, settings.items)
    each = 1 - (1 - settings.share) ** (1 / settings.rounds)
    between = max(1, round(total * settings.between / max(1, settings.rounds - 1)))
    kept: list[Any] = []
    fewer = False
    with stages(keep, settings.rounds) as places:
        for number, place in enumerate(places):
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
            fewer = fewer or facts["parameters"][1] < facts["parameters"][0]
            if not fewer and (last or settings.multiple == 1):  # rounds to come would be like this one
                raise _nothing(facts["kept"], settings)
            some = max(1, total - between * number) if last else between
            more: dict[str, Any] = {"notice": notice, "keep": place, "stay": True, "tag": repr(settings)}
            seeded = replace(how, seed=how.seed + number)
            made = fit(GraphNet(artifact), lessons, loss, seeded, steps=some, **more)
            artifact = made.artifact()
    return made, artifact, {"kept": kept}


def _nothing(kept: dict[str, str], settings: PruneAndTune) -> InputError:
    groups = "; ".join(f"{makers}: {count}" for makers, count in kept.items())
    return InputError(
        f"channels: found that all stay ({groups}), wanted fewer: share {settings.share:g} in {settings.rounds} rounds "
        f"is less than one of a group, with counts rounded to {settings.multiple}",
        hint="a larger share, fewer rounds or a smaller multiple",
    )


def _plain(artifact: Artifact) -> Artifact:
    """Zeros that came out negative, of a folded normalization, are written as zeros."""
    from edge_runtime.compress.code import plain_zeros

    return Artifact(artifact.form, plain_zeros(artifact.content, "onnx"))


def _counts(before: Artifact, after: Artifact) -> dict[str, Any]:
    from edge_runtime.compress.count import count

    old, new = count(before), count(after)
    return {"parameters": [old.parameters, new.parameters], "zero": new.zeros, "macs": [old.macs, new.macs]}
