"""Take whole channels, neurons and attention heads out of a graph: a smaller graph, which every engine runs faster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.recipe import Context


@dataclass(frozen=True)
class PruneChannels:
    """One of `share` (of each group's channels, goes), `macs`, `parameters` (share of the whole, stays) is above 0.

    `importance` activation, l1, l2 or taylor (needs torch); `floor` the least share of a group that stays; `multiple`
    what counts of channels are rounded to, as kernels work on whole vectors; `rebuild` fits the layers that are left
    to what they answered before; `items` at most are looked at; `skip` names layers whose outputs stay whole.
    """

    reads: ClassVar[tuple[str, ...]] = ("onnx",)
    writes: ClassVar[str | None] = None
    share: float = 0.0
    macs: float = 0.0
    parameters: float = 0.0
    importance: str = "activation"
    floor: float = 0.1
    multiple: int = 8
    rebuild: bool = True
    items: int = 256
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        from edge_runtime.compress.importance import KINDS

        given = {"share": self.share, "macs": self.macs, "parameters": self.parameters}
        if sum(value != 0 for value in given.values()) != 1 or not all(0 <= value < 1 for value in given.values()):
            raise ValueError(f"found {given}, wanted one of them between 0 and 1, the others 0")
        if self.importance not in KINDS:
            raise ValueError(f"found importance {self.importance!r}, wanted one of {', '.join(KINDS)}")
        if not 0 <= self.floor <= 1:
            raise ValueError(f"found floor {self.floor}, wanted 0 to 1")
        if self.multiple < 1 or self.items < 1:
            raise ValueError(f"found multiple {self.multiple} and items {self.items}, wanted 1 or more")

    @property
    def needs_items(self) -> bool:
        return self.rebuild or self.importance in ("activation", "taylor")

    def __call__(self, artifact: Artifact, context: Context) -> Artifact:
        """Raises InputError: nothing may go, a layer of `skip` that is not there, a target out of reach."""
        from edge_runtime.compress.count import count
        from edge_runtime.compress.decide import Limits, by_share, by_target
        from edge_runtime.compress.groups import find_groups
        from edge_runtime.compress.importance import score
        from edge_runtime.compress.layers import need_layers

        need_layers(artifact.model(), self.skip)
        found = find_groups(artifact)
        context.note("groups", [str(group) for group in found.groups])
        context.note("whole", found.left)
        context.progress(0, 1, "measuring which channels matter")
        scores = score(found, self.importance, context, self.items)
        limits = Limits(self.floor, self.multiple, self.skip)
        if self.share:
            keep = by_share(found, scores, self.share, limits)
        else:
            keep = by_target(found, scores, self.macs, self.parameters, limits)
        made = found.cut(keep)
        left = {group: int(keep[list(group.units)].sum()) for group in found.groups}
        context.note("kept", {", ".join(one.makers): f"{count} of {len(one.units)}" for one, count in left.items()})
        before, after = count(artifact), count(made)
        context.note("macs", [before.macs, after.macs])
        context.note("parameters", [before.parameters, after.parameters])
        return self._fitted(found, keep, made, context) if self.rebuild else made

    def _fitted(self, found: object, keep: object, made: Artifact, context: Context) -> Artifact:
        from edge_runtime.compress.drift import compare
        from edge_runtime.compress.groups import Dependencies
        from edge_runtime.compress.outputs import BATCH, answers
        from edge_runtime.compress.rebuild import rebuild

        assert isinstance(found, Dependencies)
        samples = context.items("fitting what is left").some(self.items)
        fitted = rebuild(found, keep, made, samples, context.progress)
        old = answers(found.artifact, samples, BATCH)
        changes = [compare(old, answers(one, samples, BATCH)) for one in (made, fitted)]
        context.note("change_sd", {"cut": changes[0].mean, "fitted": changes[1].mean})
        return fitted if changes[1].rms <= changes[0].rms else made
