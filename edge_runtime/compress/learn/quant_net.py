"""A graph that computes in training as its integers will: the plan of what is rounded where is the one that writes the
files (qplan.py), so a net is taught exactly what the engines will do with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.calibrate import observe
from edge_runtime.compress.layers import Layer, weighted
from edge_runtime.compress.learn.fake_quant import ActivationRounder, Bits, WeightRounder
from edge_runtime.compress.learn.graph_net import GraphNet
from edge_runtime.compress.qplan import FIXED, Plan, data_inputs, plan
from edge_runtime.compress.quantizer import Options, tensors_to_watch, write
from edge_runtime.compress.ranges import Scale, choose, scale_of
from edge_runtime.compress.weight_only import Form, Levels, is_table, store
from edge_runtime.compress.weights import weight_scales
from edge_runtime.errors import InputError

if TYPE_CHECKING:
    from edge_runtime.compress.learn.settings import QuantAware
    from edge_runtime.compress.samples import Samples

DEPTHWISE, FIRST, LAST = "depthwise", "first", "last"
KINDS = (DEPTHWISE, FIRST, LAST)


@dataclass(frozen=True)
class _Places:
    """Where activations are rounded, by name of the tensor. `group`: the rounder that it has; `whole`: for everything
    that reads it, else for the nodes of these numbers alone."""

    group: dict[str, str]
    whole: frozenset[str]
    readers: dict[str, frozenset[int]]


class QuantNet(GraphNet):
    """`strength` 1 rounds fully, 0 not at all. `samples`: from which ranges of activations begin."""

    def __init__(
        self,
        artifact: Artifact,
        settings: QuantAware,
        samples: Samples,
        parts: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(artifact, parts)
        self.settings, self.strength = settings, 1.0
        model, self.whole = self.structure.model, settings.activations != "float"
        layers = weighted(model)
        kept = _named(layers, settings.keep, "keep")
        self.plan = plan(model, [one.name for one in kept]) if self.whole else None
        chosen = list(self.plan.layers.values()) if self.plan else [one for one in layers if one not in kept]
        # a weight that two layers share is rounded once
        chosen = list({str(one.weight.name): one for one in reversed(chosen)}.values())[::-1]
        chosen = [one for one in chosen if self.parameter(str(one.weight.name)) is not None]
        if not self.plan:
            chosen = _large(chosen, settings.least)
        if not chosen:
            raise InputError(
                f"found {len(layers)} layers with weights and none that may be rounded, {len(kept)} of them in `keep`, "
                "wanted a convolution or a linear layer",
                hint="shorten `keep`" if kept else None,
            )
        self.bits = self._bits(chosen, _named(chosen, settings.eight, "eight"))
        self.layers = {str(one.weight.name): one for one in chosen}
        self.rounders = nn.ModuleList(
            WeightRounder(one, one.matrix(), self.bits[name]) for name, one in self.layers.items()
        )
        self.masks = self._zeros() if settings.keep_zeros else {}
        self.tables = [] if self.whole or not settings.tables else _tables(model)
        self.scales = nn.ModuleDict()
        self.places = _Places({}, frozenset(), {})
        if self.plan:
            self._places(self.plan, artifact, samples)

    def __deepcopy__(self, memo: dict[int, Any]) -> QuantNet:
        """Plan and graph are shared."""
        import copy

        made = self.__class__.__new__(self.__class__)
        memo[id(self)] = made
        shared = ("plan", "structure", "layers", "bits", "places", "given", "settings")
        for key, value in self.__dict__.items():
            made.__dict__[key] = value if key in shared else copy.deepcopy(value, memo)
        return made

    def _bits(self, chosen: list[Layer], eight: list[Layer]) -> dict[str, Bits]:
        settings, made = self.settings, {}
        for layer in chosen:
            fine = settings.weights == "int8" or layer in eight
            block = 0 if self.whole or fine else settings.block
            form = Form(8 if fine else {"int4": 4, "ternary": 2}[settings.weights], block)
            # kernels of x86 without VNNI add pairs of products in 16 bits; those of depthwise layers do not
            spare = fine and self.whole and settings.spare_bit and layer.kind != "depthwise"
            ternary = not fine and settings.weights == "ternary"
            made[str(layer.weight.name)] = Bits(form, ternary, 64 if spare else 0, settings.scale_grid)
        return made

    def _zeros(self) -> dict[str, Any]:
        """Of all layers, those that stay float too."""
        weights = {str(one.weight.name): self.parameter(str(one.weight.name)) for one in weighted(self.structure.model)}
        found = {name: weight.detach() == 0 for name, weight in weights.items() if weight is not None}
        return {name: mask for name, mask in found.items() if mask.any()}

    def _places(self, found: Plan, artifact: Artifact, samples: Samples) -> None:
        seen = observe(artifact, samples, tensors_to_watch(artifact))
        made, heads = found.made_by(), found.members()
        given = {str(one.name) for one in self.structure.model.graph.inputs}
        group: dict[str, str] = {}
        for number, values in enumerate(heads.values()):
            names = [str(value.name) for value in values]
            maker = made.get(values[0])
            fixed = maker is not None and len(values) == 1 and maker.op_type in FIXED
            if fixed and maker is not None:
                scale = Scale(FIXED[maker.op_type][1] / 256, 0)
            else:
                ranges = [choose(seen[name], "minmax" if name in given else "mse", 0) for name in names if name in seen]
                scale = scale_of(min(one[0] for one in ranges), max(one[1] for one in ranges))
            still = fixed or any(name in given for name in names)
            self.scales[str(number)] = ActivationRounder(scale, self.settings.ranges == "learnt", still)
            group |= dict.fromkeys(names, str(number))
        numbers = {node: number for number, node in enumerate(self.structure.nodes)}
        readers: dict[str, set[int]] = {}
        for node in found.ends:
            for value in data_inputs(node, found):
                readers.setdefault(str(value.name), set()).add(numbers[node])
        whole = frozenset(str(value.name) for value in made)
        partial = {name: frozenset(some) for name, some in readers.items() if name not in whole}
        self.places = _Places(group, whole, partial)

    # ------------------------------------------------------------ computing

    def _towards(self, exact: Any, rounded: Any) -> Any:
        return rounded if self.strength == 1 else exact + self.strength * (rounded - exact)

    def weights(self) -> dict[str, Any]:
        found = super().weights()
        for (name, layer), rounder in zip(self.layers.items(), self.rounders, strict=True):
            exact = found[name]
            found[name] = self._towards(exact, rounder(exact))
            if self.whole and layer.bias is not None:
                bias = str(layer.bias.name)
                found[bias] = self._bias(layer, rounder, found.get(bias, self.structure.constants.get(bias)))
        for name in self.tables:
            found[name] = self._towards(found[name], _table(found[name]))
        return found

    def _bias(self, layer: Layer, rounder: WeightRounder, bias: Any) -> Any:
        """Whole numbers of the step that the sums have."""
        step = (self._input(layer).step() * rounder.scales()[:, 0]).detach().reshape(-1)
        exact = bias.detach()
        return bias + ((exact / step.reshape(exact.shape)).round() * step.reshape(exact.shape) - exact)

    def _input(self, layer: Layer) -> ActivationRounder:
        given = layer.node.inputs[0]
        assert given is not None
        made: ActivationRounder = self.scales[self.places.group[str(given.name)]]
        return made

    def seen(self, name: str, tensor: Any) -> Any:
        if name not in self.places.whole:
            return tensor
        return self._towards(tensor, self.scales[self.places.group[name]](tensor))

    def read(self, number: int, name: str, found: dict[str, Any]) -> Any:
        if number not in self.places.readers.get(name, ()):
            return found[name]
        return self._towards(found[name], self.scales[self.places.group[name]](found[name]))

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def mask(self) -> None:
        """Weights that were exactly 0 are so again."""
        for name, zeros in self.masks.items():
            self.parameter(name).masked_fill_(zeros, 0)

    # ------------------------------------------------------------ the file

    def found_levels(self) -> dict[str, Levels]:
        """By name of the layer."""
        rounders = dict(zip(self.layers, self.rounders, strict=True))
        names = [(one.name, str(one.weight.name)) for one in weighted(self.structure.model)]
        return {name: rounders[weight].levels(self.parameter(weight)) for name, weight in names if weight in rounders}

    def quantized(self) -> Artifact:
        """Form onnx_q: the integers that this net has learnt."""
        artifact, levels = self.artifact(), self.found_levels()
        if not self.whole:
            weights = {one.name: str(one.weight.name) for one in weighted(self.structure.model)}
            forms = {name: self.bits[weights[name]].form for name in levels}
            return store(artifact, forms, levels, bool(self.tables))
        model = artifact.model()
        kept = [one.name for one in _named(weighted(model), self.settings.keep, "keep")]
        found = plan(model, kept)
        scales = {}
        for head, values in found.members().items():
            numbers = [self.places.group[str(value.name)] for value in values if str(value.name) in self.places.group]
            scales[head] = self.scales[numbers[0]].scale()
        options = Options(
            levels={name: one.levels.astype("int8") for name, one in levels.items()},
            scales={name: one.scales[:, 0] for name, one in levels.items()},
        )
        return write(model, found, scales, options)


def module_of(layer: Layer) -> str:
    """Its path in the PyTorch module that it was exported from, as far as the weight's name says it."""
    return str(layer.weight.name).removesuffix(".weight")


def _named(layers: list[Layer], names: tuple[str, ...], setting: str) -> list[Layer]:
    """By module, by node, or by kind. Raises InputError for a name that none has."""
    made = []
    for name in names:
        if name == FIRST:
            some = layers[:1]
        elif name == LAST:
            some = layers[-1:]
        else:
            some = [one for one in layers if name in (module_of(one), one.name) or name == one.kind == DEPTHWISE]
        if not some and name not in KINDS:
            known = ", ".join(module_of(one) for one in layers)
            raise InputError(f"{setting}: found no layer {name!r}, wanted one of {known}; or {', '.join(KINDS)}")
        made += some
    return made


def _large(layers: list[Layer], least: int) -> list[Layer]:
    """Those of `least` weights at least. Raises InputError where there are layers, and all of them are smaller."""
    sizes = [one.matrix().size for one in layers]
    if sizes and max(sizes) < least:
        raise InputError(
            f"found {len(layers)} layers with weights, the largest of {max(sizes)}, wanted one of at least {least}: "
            "with float activations, smaller ones stay float",
            hint=f'QuantAware(least={max(sizes)}) or less, or activations="uint8"',
        )
    return [one for one, size in zip(layers, sizes, strict=True) if size >= least]


def _tables(model: Any) -> list[str]:
    return [str(node.inputs[0].name) for node in model.graph if is_table(node)]


def _table(table: Any) -> Any:
    """As store_tables will round it: a scale for each column."""
    exact = table.detach()
    scales = torch.from_numpy(weight_scales(exact.T.contiguous().numpy(), 127))
    return table + ((exact / scales).round().clamp(-127, 127) * scales - exact)
