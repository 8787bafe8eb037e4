"""Which weights of a network are held at 0 while it is taught, and how that changes from step to step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edge_runtime.compress.learn.graph_net import GraphNet
from edge_runtime.errors import InputError

if TYPE_CHECKING:
    from edge_runtime.compress.learn.settings import PruneAndTune


def targets(net: Any, skip: tuple[str, ...] = (), depthwise: bool = False) -> dict[str, tuple[Any, int]]:
    """By the module's path: weights that may go, and the axis of their outputs. Depthwise layers have too few.

    Raises InputError: nothing may go, a name of `skip` that is not there."""
    found = _of_graph(net) if isinstance(net, GraphNet) else _of_module(net)
    missing = [name for name in skip if name not in found]
    if missing:
        raise InputError(f"skip: found no layer {missing[0]!r}, wanted one of {', '.join(found) or 'none'}")
    made = {name: one[:2] for name, one in found.items() if name not in skip and (depthwise or not one[2])}
    if not made:
        raise InputError("found no layer whose weights may go, wanted a convolution or a linear layer")
    return made


def _of_module(net: Any) -> dict[str, tuple[Any, int, bool]]:
    made, seen = {}, set()
    for name, one in net.named_modules():
        if not isinstance(one, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) or id(one.weight) in seen:
            continue  # a weight that two layers share has one mask
        seen.add(id(one.weight))
        depthwise = not isinstance(one, nn.Linear) and one.groups == one.in_channels > 1
        made[name] = (one.weight, 0, depthwise)
    return made


def _of_graph(net: GraphNet) -> dict[str, tuple[Any, int, bool]]:
    from edge_runtime.compress.layers import weighted

    made = {}
    for layer in weighted(net.structure.model):
        name = str(layer.weight.name)
        if layer.node.op_type != "ConvTranspose" and (weight := net.parameter(name)) is not None:
            made[name.removesuffix(".weight")] = (weight, layer.axis, layer.kind == "depthwise")
    return made


class Masks:
    """`kept`: for each target, 1 where a weight lives. Called around each step of `fit`; its checkpoints hold them."""

    def __init__(self, net: Any, settings: PruneAndTune) -> None:
        self.settings = settings
        self.found = targets(net, settings.skip, settings.depthwise)
        self.kept = {name: torch.ones_like(weight) for name, (weight, _) in self.found.items()}
        self.dice = torch.Generator().manual_seed(settings.seed)
        self.steep: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """What steps to come depend on; `steep` is used up within a step."""
        return {"kept": dict(self.kept), "dice": self.dice.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.kept = dict(state["kept"])
        self.dice.set_state(state["dice"])

    def before(self, step: int, total: int) -> None:
        """The share of zeros that this step shall have."""
        settings = self.settings
        first, last = round(settings.begin * total), max(round(settings.end * total), 1)
        if settings.kind in ("rigl", "set"):
            if step == 0:
                self._prune(settings.share)
            return
        if first <= step <= last and ((step - first) % settings.every == 0 or step == last):
            past = min(1.0, (step - first) / max(1, last - first))
            self._prune(settings.share * (1 - (1 - past) ** 3))
        elif step == total - 1:
            self._prune(settings.share)

    def gradients(self, step: int, total: int) -> None:
        """Dead weights have none: they do not count for clipping, and their momentum fades until they are born anew.
        For rigl, how steep they would be is kept for the exchange."""
        due = self.settings.kind == "rigl" and self._due(step, total)
        self.steep = {}
        for name, (weight, _) in self.found.items():
            if weight.grad is not None:
                if due:
                    self.steep[name] = weight.grad.abs()
                weight.grad.mul_(self.kept[name])

    def _due(self, step: int, total: int) -> bool:
        """Whether weights are exchanged after this step."""
        settings = self.settings
        return 0 < step < round(settings.end * total) and step % settings.every == 0

    def after(self, step: int, total: int) -> None:
        """What moved away from 0 goes back; weights are exchanged, where the kind says so."""
        settings = self.settings
        self.hold()
        last = round(settings.end * total)
        if settings.kind in ("rigl", "set") and self._due(step, total):
            self._exchange(settings.exchange / 2 * (1 + math.cos(math.pi * step / last)))

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def hold(self, net: Any = None) -> None:
        """Of another copy of the network, where one is given."""
        found = self.found if net is None else targets(net, self.settings.skip, self.settings.depthwise)
        for name, (weight, _) in found.items():
            weight.mul_(self.kept[name])
            weight.add_(0.0)  # no negative zero

    def zeros(self) -> dict[str, float]:
        return {name: 1 - float(mask.mean()) for name, mask in self.kept.items()}

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _prune(self, share: float) -> None:
        if self.settings.m:
            for name, (weight, axis) in self.found.items():
                self.kept[name] = self._n_of_m(weight, axis)
            self.hold()
            return
        scores = {name: self._score(weight) for name, (weight, _) in self.found.items()}
        if self.settings.scope == "layer":
            for name, one in scores.items():
                self.kept[name] = _largest(one, one.numel() - round(one.numel() * share))
        else:
            flat = torch.cat([one.reshape(-1) for one in scores.values()])
            whole = _largest(flat, flat.numel() - round(flat.numel() * share))
            parts = whole.split([one.numel() for one in scores.values()])
            self.kept = {name: part.reshape(scores[name].shape) for name, part in zip(scores, parts, strict=True)}
        self.hold()

    def _score(self, weight: Any) -> Any:
        """Larger stays. lamp: the square by the sum of those in its layer that are no smaller (Lee et al., 2021)."""
        square = weight.detach().double() ** 2
        if self.settings.scope != "lamp":
            return square
        order = square.reshape(-1).argsort(stable=True)
        sorted_ = square.reshape(-1)[order]
        rest = sorted_.flip(0).cumsum(0).flip(0)
        made = torch.empty_like(sorted_)
        made[order] = sorted_ / rest.clamp_min(1e-300)
        return made.reshape(square.shape)

    def _n_of_m(self, weight: Any, axis: int) -> Any:
        """A rest of fewer than m inputs stays."""
        n, m = self.settings.n, self.settings.m
        turned = weight.movedim(axis, 0)
        size = turned.reshape(len(turned), -1).abs()
        whole = size.shape[1] // m * m
        runs = size[:, :whole].reshape(len(size), -1, m)
        rank = (-runs).argsort(dim=2, stable=True).argsort(dim=2, stable=True)
        mask = torch.ones_like(size)
        mask[:, :whole] = (rank < n).float().reshape(len(size), whole)
        return mask.reshape(turned.shape).movedim(0, axis).contiguous()

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _exchange(self, share: float) -> None:
        """In each layer the smallest living weights die, and as many dead ones begin anew at 0."""
        for name, (weight, _) in self.found.items():
            living = self.kept[name].reshape(-1)
            dead = (living == 0).nonzero()[:, 0]
            count = min(round(float(living.sum()) * share), len(dead))
            if not count:
                continue
            size = weight.abs().reshape(-1).masked_fill(living == 0, math.inf)
            dying = size.argsort(stable=True)[:count]
            if self.settings.kind == "rigl" and name in self.steep:
                born = dead[self.steep[name].reshape(-1)[dead].argsort(descending=True, stable=True)[:count]]
            else:
                born = dead[torch.randperm(len(dead), generator=self.dice)[:count]]
            living[dying], living[born] = 0, 1
            self.kept[name] = living.reshape(weight.shape)
        self.hold()


def _largest(scores: Any, count: int) -> Any:
    """float32, 1 where one of the `count` largest stands; of equals, those that come first."""
    mask = torch.zeros(scores.numel())
    mask[(-scores.reshape(-1)).argsort(stable=True)[:count]] = 1
    return mask.reshape(scores.shape)
