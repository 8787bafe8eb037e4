"""The ladder: what is tried, in order, until a quantized model answers as the original does; else a refusal.

A rung is kept only where it lessens the change. Every one tried is noted with its numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.calibrate import Seen, observe
from edge_runtime.compress.cross_moments import gather, measurable
from edge_runtime.compress.drift import Drift, compare
from edge_runtime.compress.equalize import equalize
from edge_runtime.compress.layers import weighted
from edge_runtime.compress.outputs import answers
from edge_runtime.compress.quantizer import Options, quantize, tensors_to_watch
from edge_runtime.compress.recipe import Context
from edge_runtime.compress.rounding import factor, nearest, round_together, shrunk
from edge_runtime.compress.samples import Samples
from edge_runtime.compress.weights import weight_scales
from edge_runtime.errors import EdgeError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ITEMS_FOR_GUILT = 48
_SWEEPS = 3  # of bias correction: what one layer mends changes what those after it see


@dataclass(frozen=True)
class Limits:
    """`mean_sd`: of |change|; `agreement`: share of decisions kept, where one item may always flip."""

    mean_sd: float
    agreement: float

    def kept(self, drift: Drift) -> bool:
        return drift.mean <= self.mean_sd and (drift.agreement >= self.agreement or self.flips(drift) <= 1)

    def flips(self, drift: Drift) -> int:
        return round((1 - drift.agreement) * drift.items)


@dataclass(frozen=True)
class State:
    """`base`: the float model, perhaps equalised."""

    base: Artifact
    seen: Mapping[str, Seen]
    options: Options

    def made(self) -> Artifact:
        return quantize(self.base, self.seen, self.options)

    def but(self, **changes: Any) -> State:
        return dataclasses.replace(self, options=dataclasses.replace(self.options, **changes))


class Ladder:
    def __init__(self, context: Context, limits: Limits) -> None:
        self.context, self.limits = context, limits
        self.samples = context.items("quantization")
        self.wanted = answers(context.original, self.samples, 16)
        self.tried: list[dict[str, Any]] = []
        context.note("ladder", self.tried)

    def judge(self, words: str, state: State) -> tuple[Artifact, Drift]:
        made = state.made()
        drift = compare(self.wanted, answers(made, self.samples, 16), self.samples.cut)
        self.tried.append(
            {"rung": words, "mean_sd": drift.mean, "largest_sd": drift.largest, "agreement": drift.agreement}
        )
        self.context.progress(len(self.tried), 8, f"{words}: {drift.mean:.4f} sd")
        return made, drift

    def climb(self, state: State) -> Artifact:
        """Raises EdgeError, naming the guilty layers, where no rung helps."""
        made, drift = self.judge("as asked", state)
        rungs: tuple[tuple[str, Callable[[State], State | None]], ...] = (
            ("scales by channel", lambda one: None if one.options.per_channel else one.but(per_channel=True)),
            (
                "all values within range",
                lambda one: None if one.options.method == "minmax" else one.but(method="minmax"),
            ),
            ("ranges of least squared error", lambda one: one.but(method="mse")),
            ("weights of least squared error", lambda one: one.but(weight_search=True)),
            ("ranges without outliers", lambda one: one.but(method="percentile", percentile=99.999)),
            ("cross-layer equalisation", self._equalized),
            ("bias correction", self._corrected),
            ("adaptive rounding", self._rounded),
        )
        for words, rung in rungs:
            if self.limits.kept(drift):
                return made
            tried = rung(state)
            if tried is None:
                continue
            new, better = self.judge(words, tried)
            if (better.mean, -better.agreement) < (drift.mean, -drift.agreement):
                state, made, drift = tried, new, better
        return made if self.limits.kept(drift) else self._spare(state, drift)

    def _equalized(self, state: State) -> State | None:
        base, count = equalize(state.base, state.seen)
        if not count:
            return None
        seen = observe(base, self.samples, tensors_to_watch(base), self.context.progress)
        return State(base, seen, state.options)

    def _corrected(self, state: State) -> State | None:
        return corrected(state, self.samples)

    def _rounded(self, state: State) -> State | None:
        return adapted(state, self.samples, self.context)

    def _spare(self, state: State, drift: Drift) -> Artifact:
        """Single layers stay float, the most guilty first."""
        guilt = sensitivities(state, self.wanted, self.samples, self.context)
        order = sorted(guilt, key=lambda name: -guilt[name])
        self.context.note("guilty", {name: guilt[name] for name in order[:10]})
        count = 1
        while count <= max(1, len(order) // 2):
            keep = (*state.options.keep, *order[:count])
            made, found = self.judge(f"{count} of {len(order)} layers left float", state.but(keep=keep))
            if self.limits.kept(found):
                self.context.note("kept_float", list(order[:count]))
                return made
            drift = min(drift, found, key=lambda one: one.mean)
            count = count + 1 if count < 3 else count * 2
        worst = ", ".join(f"{name} ({guilt[name]:.3f} sd alone)" for name in order[:5])
        raise EdgeError(
            f"8 bits are refused: the output changes by {drift.mean:.3f} sd on average at best (wanted at most "
            f"{self.limits.mean_sd}), {drift.agreement:.2%} of {drift.items} decisions are kept (wanted "
            f"{self.limits.agreement:.2%}); the guilty layers: {worst}",
            hint="name them in keep, take activation_bits 16 or weights only, or raise limit_sd",
        )


def sensitivities(
    state: State, wanted: Mapping[str, NDArray[np.float32]], samples: Samples, context: Context
) -> dict[str, float]:
    """Mean output change, in sd, of each layer quantized alone."""
    few = samples.some(_ITEMS_FOR_GUILT)
    wanted = answers(context.original, few, 16)
    names = [one.name for one in weighted(state.base.model()) if one.name not in state.options.keep]
    found = {}
    for number, name in enumerate(names):
        context.progress(number, len(names), f"{name} alone")
        others = tuple(one for one in names if one != name)
        made = state.but(keep=(*state.options.keep, *others)).made()
        found[name] = compare(wanted, answers(made, few, 16)).mean
    return found


def corrected(state: State, samples: Samples) -> State:
    """What quantization does to the mean of each output channel of each layer goes into its bias; on items."""
    names = [str(one.node.outputs[0].name) for one in weighted(state.base.model()) if one.bias is not None]
    before = observe(state.base, samples, names, histograms=False)
    shift = dict(state.options.shift)
    for _ in range(_SWEEPS):
        made = state.but(shift=shift).made()
        there = {one.name for node in made.model().graph for one in node.outputs}
        # an output of the graph is called otherwise before its last pair
        called = {name: name if f"{name}_float" not in there else f"{name}_float" for name in names}
        after = observe(made, samples, list(called.values()), histograms=False)
        for layer in weighted(state.base.model()):
            name = str(layer.node.outputs[0].name)
            old, new = before.get(name), after.get(called.get(name, ""))
            if old is None or new is None or old.mean is None or new.mean is None or layer.name in state.options.keep:
                continue
            shift[layer.name] = shift.get(layer.name, 0.0) + old.mean - new.mean
    return state.but(shift=shift)


def adapted(state: State, samples: Samples, context: Context) -> State:
    """Weights rounded together, layer by layer, for what the layers before have become, towards the original."""
    import numpy as np

    layers = [one for one in weighted(state.base.model()) if measurable(one) and one.name not in state.options.keep]
    levels, scales = dict(state.options.levels), dict(state.options.scales)
    shift = dict(state.options.shift)
    for number, layer in enumerate(layers):
        context.progress(number, len(layers), f"rounding {layer.name}")
        made = state.but(levels=levels, scales=scales, shift=shift).made()
        moments = gather(made, samples, [layer], state.base, "_dq")[0]
        matrix, top = layer.matrix(), state.options.top(layer)
        steps = np.broadcast_to(
            weight_scales(matrix, top, state.options.per_channel, state.options.weight_search), len(matrix)
        )
        centred = layer.bias is not None
        target = moments.target(matrix, centred, 1.0)
        second = moments.centred() if centred else moments.second
        rows = len(matrix) // len(second)
        found = [
            round_together(
                target[place * rows : (place + 1) * rows],
                steps[place * rows : (place + 1) * rows],
                factor(shrunk(one, moments.rows)),
                nearest(top),
            )[0]
            for place, one in enumerate(second)
        ]
        rounded = np.concatenate(found)
        levels[layer.name] = rounded.astype(np.int8)
        scales[layer.name] = np.ascontiguousarray(steps if state.options.per_channel else steps[0], np.float32)
        if centred:
            shift[layer.name] = moments.shift(matrix, (rounded * steps[:, None]).astype(np.float32))
    return state.but(levels=levels, scales=scales, shift=shift)
