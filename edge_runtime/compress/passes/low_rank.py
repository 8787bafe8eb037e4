"""Split layers into products of smaller layers, where that saves multiplications."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.recipe import Context

if TYPE_CHECKING:
    from edge_runtime.compress.factor import Factors, Splitter
    from edge_runtime.compress.layers import Layer

SHARES = tuple(number / 20 for number in range(2, 20))  # of a layer's MACs: what is tried
PROBE = 0.5  # the share at which a layer's effect on the answers is measured
PROBE_ITEMS = 64


@dataclass(frozen=True)
class LowRank:
    """One of `energy` (each layer keeps this share of its answers' mean square) and `macs` (share of the model's MACs
    that stays, ranks chosen by how much the model's answers move) is above 0.

    `multiple`: ranks are rounded down to it; `items` at most are looked at; layers in `skip` stay as they are.
    Depthwise and grouped layers, and weights that several layers share, stay.
    """

    reads: ClassVar[tuple[str, ...]] = ("onnx",)
    writes: ClassVar[str | None] = None
    needs_items: ClassVar[bool] = True
    energy: float = 0.0
    macs: float = 0.0
    multiple: int = 8
    items: int = 256
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.energy) == bool(self.macs) or not 0 <= self.energy <= 1 or not 0 <= self.macs < 1:
            raise ValueError(f"found energy {self.energy} and macs {self.macs}, wanted one of them between 0 and 1")
        if self.multiple < 1 or self.items < 1:
            raise ValueError(f"found multiple {self.multiple} and items {self.items}, wanted 1 or more")

    def __call__(self, artifact: Artifact, context: Context) -> Artifact:
        """Raises InputError: a target out of reach, a layer of `skip` that is not there."""
        from edge_runtime.compress.count import count
        from edge_runtime.compress.layers import need_layers

        need_layers(artifact.model(), self.skip)
        choices = self._choices(artifact, context)
        before = count(artifact)
        if self.energy:
            chosen = {
                name: next((one for one in found if one.error <= 1 - self.energy), None)
                for name, found in choices.items()
            }
        else:
            chosen = self._under(artifact, choices, before.macs, context)
        kept = {name: one for name, one in chosen.items() if one is not None}
        made = split(artifact, kept) if kept else artifact
        after = count(made)
        context.note("macs", [before.macs, after.macs])
        context.note("parameters", [before.parameters, after.parameters])
        context.note("ranks", {name: [one.kind, *one.ranks] for name, one in kept.items()})
        context.note("missed", {name: round(one.error, 5) for name, one in kept.items()})
        if not kept:
            context.note("said", "no layer could be split with fewer multiplications: the model is as it was")
        return made

    def _choices(self, artifact: Artifact, context: Context) -> dict[str, list[Factors]]:
        """By layer name, what it may become, from the cheapest on, each saving MACs."""
        from edge_runtime.compress.layers import weighted
        from edge_runtime.compress.moments import layer_moments
        from edge_runtime.compress.shapes import find_shapes

        layers = [one for one in weighted(artifact.model()) if _may_split(one) and one.name not in self.skip]
        shapes = find_shapes(artifact)
        samples = context.items("low_rank").some(self.items)
        made = {}
        for number, (layer, (moments,)) in enumerate(layer_moments(artifact, samples, layers)):
            context.progress(number, len(layers), f"splitting {layer.name}")
            splitter = _splitter(layer, moments.mean(), shapes)
            found = [splitter.at(splitter.macs * share, self.multiple) for share in SHARES]
            made[layer.name] = [one for one in _distinct(found) if one.macs < splitter.macs]
        context.progress(len(layers), len(layers), "splitting")
        return {name: found for name, found in made.items() if found}

    def _under(
        self, artifact: Artifact, choices: dict[str, list[Factors]], whole: int, context: Context
    ) -> dict[str, Factors | None]:
        """The choice of least effect with all MACs within the target, by a price for each MAC."""
        from edge_runtime.compress.count import count
        from edge_runtime.errors import InputError

        effects = self._effects(artifact, choices, context)
        context.note("effects", {name: float(f"{value:.4g}") for name, value in effects.items()})
        layers = count(artifact).by_layer
        wanted = self.macs * whole

        def at(price: float) -> dict[str, Factors | None]:
            made: dict[str, Factors | None] = {}
            for name, found in choices.items():
                best = min(found, key=lambda one: effects[name] * one.error + price * one.macs)
                worth = effects[name] * best.error + price * best.macs < price * layers[name]
                made[name] = best if worth else None
            return made

        def cost(chosen: dict[str, Factors | None]) -> int:
            return whole + sum(one.macs - layers[name] for name, one in chosen.items() if one is not None)

        low, high = 1e-16, 1e4  # effect for each MAC: from nothing to anything
        if cost(at(high)) > wanted:
            raise InputError(
                f"found that at least {cost(at(high)) / whole:.2f} of the MACs must stay, wanted {self.macs}",
                hint="a larger share, or prune_channels",
            )
        for _ in range(80):
            middle = (low * high) ** 0.5
            low, high = (low, middle) if cost(at(middle)) <= wanted else (middle, high)
        return at(high)

    def _effects(self, artifact: Artifact, choices: dict[str, list[Factors]], context: Context) -> dict[str, float]:
        """Mean square change of the model's answers, in sd, for each share of a layer's own answers that is missed."""
        from edge_runtime.compress.drift import compare
        from edge_runtime.compress.outputs import BATCH, answers

        samples = context.items("low_rank").some(min(self.items, PROBE_ITEMS))
        old = answers(artifact, samples, BATCH)
        made = {}
        for number, (name, found) in enumerate(choices.items()):
            context.progress(number, len(choices), f"measuring what {name} does to the answers")
            probe = found[min(len(found) - 1, int(len(found) * PROBE))]
            change = compare(old, answers(split(artifact, {name: probe}), samples, BATCH)).rms
            made[name] = change**2 / max(probe.error, 1e-12)
        return made


def _distinct(found: Sequence[Factors | None]) -> list[Factors]:
    made: list[Factors] = []
    for one in found:
        if one is not None and (one.kind, one.ranks) not in [(each.kind, each.ranks) for each in made]:
            made.append(one)
    return made


def _may_split(layer: Layer) -> bool:
    from edge_runtime.compress.layers import attribute

    if layer.kind == "depthwise" or layer.node.op_type == "ConvTranspose" or attribute(layer.node, "transA", 0):
        return False
    return attribute(layer.node, "group", 1) == 1 and len(layer.weight.uses()) == 1


def _splitter(layer: Layer, moment: Any, shapes: Any) -> Splitter:
    from math import prod

    from edge_runtime.compress.factor import Splitter, Spots
    from edge_runtime.compress.layers import array_of

    value = layer.node.inputs[0]
    assert value is not None
    given, answer = shapes[value.name or ""], shapes[layer.node.outputs[0].name or ""]
    matrix = layer.matrix()
    if layer.kind == "dense":
        spots = Spots(prod(given[:-1]), prod(answer[:-1]))
        return Splitter(matrix, matrix.shape, moment, spots)
    shape = array_of(layer.weight).shape
    return Splitter(matrix, shape, moment, Spots(prod(given[2:]), prod(answer[2:])))


def split(artifact: Artifact, chosen: dict[str, Factors]) -> Artifact:
    """The graph with these layers split."""
    from edge_runtime.compress.layers import weighted
    from edge_runtime.compress.shapes import settle

    model = artifact.model()
    for layer in weighted(model):
        if layer.name in chosen:
            _replace(model, layer, chosen[layer.name].weights)
    return settle(model)


def _replace(model: Any, layer: Layer, weights: Sequence[Any]) -> None:
    """The layer's own node becomes the last factor, with its bias; the others come before it."""
    import onnx_ir as ir

    from edge_runtime.compress.layers import add_array

    node = layer.node
    value = node.inputs[0]
    for number, weight in enumerate(weights[:-1]):
        turned = layer.kind == "dense" and layer.axis == 1
        held = add_array(model, f"{layer.weight.name}_{number}", weight.T.copy() if turned else _kernel(layer, weight))
        settings = _settings(layer, held, carries=weight.ndim > 2 or len(weights) == 2)
        made = ir.node(node.op_type, [value, held], settings, name=f"{layer.name}_{number}")
        made.outputs[0].name = f"{layer.name}_{number}_out"
        node.prepend(made)
        value = made.outputs[0]
    node.replace_input_with(0, value)
    last = weights[-1]
    turned = layer.kind == "dense" and layer.axis == 1
    held = add_array(model, f"{layer.weight.name}_last", last.T.copy() if turned else _kernel(layer, last))
    node.replace_input_with(1, held)
    if layer.kind != "dense":
        rank = len(layer.weight.shape or ()) - 2
        node.attributes.update({one.name: one for one in ir.convenience.convert_attributes(_point(rank))})
        node.attributes.pop("auto_pad", None)


def _kernel(layer: Layer, weight: Any) -> Any:
    """A matrix as a kernel of one tap, for a convolution."""
    rank = len(layer.weight.shape or ())
    return weight if layer.kind == "dense" or weight.ndim > 2 else weight.reshape(*weight.shape, *[1] * (rank - 2))


def _point(rank: int) -> dict[str, Any]:
    return {
        "kernel_shape": [1] * rank,
        "strides": [1] * rank,
        "dilations": [1] * rank,
        "pads": [0] * 2 * rank,
        "group": 1,
    }


def _settings(layer: Layer, held: Any, carries: bool) -> dict[str, Any]:
    """Attributes of a new node: strides and padding stand with the factor that has the kernel."""
    from edge_runtime.compress.layers import attribute

    node = layer.node
    if layer.kind == "dense":
        return {"transB": attribute(node, "transB", 0)} if node.op_type == "Gemm" else {}
    rank = len(layer.weight.shape or ()) - 2
    if not carries:
        return _point(rank)
    made = {name: attribute(node, name) for name in ("strides", "dilations", "pads", "auto_pad")}
    return {"kernel_shape": list(held.shape)[2:], "group": 1} | {
        name: list(value) if isinstance(value, tuple) else value for name, value in made.items() if value is not None
    }
