"""Mixed precision: each layer gets the bits that it needs, by what it was measured to do to the answers."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.drift import compare
from edge_runtime.compress.outputs import answers
from edge_runtime.compress.passes.weights import guilt_of
from edge_runtime.compress.recipe import Context
from edge_runtime.compress.weight_only import Form, feedback, quantizable, store
from edge_runtime.errors import EdgeError


@dataclass(frozen=True)
class Mixed:
    """Weights of 8 or 4 bits (or `bits`), greedily: the layer next that saves the most bytes for the change that it
    adds. Until `share` of the float weights' bytes is reached, or, where `share` is 0, as long as the change stays
    within `limit_sd`. With both, the limit counts too: what does not reach the share within it is refused."""

    reads: ClassVar[tuple[str, ...]] = ("onnx",)
    writes: ClassVar[str | None] = "onnx_q"
    needs_items: ClassVar[bool] = True

    bits: tuple[int, ...] = (8, 4)
    block: int = 32
    share: float = 0.0
    limit_sd: float = 0.05

    def __post_init__(self) -> None:
        if not self.bits or any(one not in (8, 4, 3, 2) for one in self.bits):
            raise ValueError(f"bits: found {list(self.bits)}, wanted some of 8, 4, 3, 2")
        if self.block and (self.block < 16 or self.block & (self.block - 1)):
            raise ValueError(f"block: found {self.block}, wanted 0 or a power of two from 16 on")
        if not 0 <= self.share < 1 or not self.limit_sd > 0:
            raise ValueError(f"found share {self.share}, limit_sd {self.limit_sd}, wanted 0 to 1, and above 0")

    def __call__(self, artifact: Artifact, context: Context) -> Artifact:
        context = context.against(artifact)
        layers = {one.name: one for one in quantizable(artifact)}
        samples = context.items("mixed precision")
        wanted = answers(context.original, samples, 16)
        ladder = [Form(one, 0 if one == 8 else self.block) for one in sorted(set(self.bits), reverse=True)]
        guilt = {form: guilt_of(artifact, context, dict.fromkeys(layers, form), wanted) for form in ladder}
        sizes = {form: {name: form.bytes_of(layer) for name, layer in layers.items()} for form in ladder}
        whole = 4 * sum(layer.matrix().size for layer in layers.values())
        forms = dict.fromkeys(layers, ladder[0])
        steps = self._steps(ladder, guilt, sizes)
        lowest: list[dict[str, Form]] = [dict(forms)]
        for name, form in steps:
            forms[name] = form
            lowest.append(dict(forms))
            if self.share and sum(sizes[one][each] for each, one in forms.items()) <= self.share * whole:
                break
        else:
            if self.share:
                least = sum(sizes[one][each] for each, one in forms.items()) / whole
                raise EdgeError(
                    f"mixed precision: found {least:.1%} of the float weights' bytes with the fewest bits everywhere, "
                    f"wanted {self.share:.1%}",
                    hint="allow fewer bits, larger blocks, or raise share",
                )
        return self._fit(artifact, context, lowest)

    def _steps(
        self,
        ladder: list[Form],
        guilt: dict[Form, dict[str, float]],
        sizes: dict[Form, dict[str, int]],
    ) -> list[tuple[str, Form]]:
        """Every lowering of a layer, the cheapest first: change squared (it adds up so) for each byte saved."""
        found = []
        for name in guilt[ladder[0]]:
            price = 0.0
            for before, after in itertools.pairwise(ladder):
                added = guilt[after][name] ** 2 - guilt[before][name] ** 2
                # never before the step above it
                price = max(price, added / max(1, sizes[before][name] - sizes[after][name]))
                found.append((price, name, after))
        order = {form: place for place, form in enumerate(ladder)}
        found.sort(key=lambda one: (one[0], order[one[2]], one[1]))
        return [(name, form) for _, name, form in found]

    def _fit(self, artifact: Artifact, context: Context, choices: list[dict[str, Form]]) -> Artifact:
        """The last choice that keeps the limit, found by halving: few models are made."""
        samples = context.items("mixed precision")
        wanted = answers(context.original, samples, 16)
        tried: list[dict[str, object]] = []
        context.note("tried", tried)
        best, low, high = None, 0, len(choices) - 1
        place = high
        while low <= high:
            base, levels = feedback(artifact, samples, choices[place], context.progress)
            made = store(base, choices[place], levels)
            drift = compare(wanted, answers(made, samples, 16))
            tried.append({"lowered": place, "mean_sd": drift.mean, "agreement": drift.agreement})
            if drift.mean <= self.limit_sd:
                best, low = (made, place), place + 1
            else:
                high = place - 1
            if self.share:
                break
            place = (low + high) // 2
        if best is None:
            raise EdgeError(
                f"mixed precision is refused: the output changes by {drift.mean:.3f} sd on average, wanted at most "
                f"{self.limit_sd}" + (f", with {self.share:.0%} of the bytes" if self.share else " with 8 bits"),
                hint="raise share or limit_sd, or look for guilty layers with weights_int",
            )
        context.note("bits", {name: form.bits for name, form in choices[best[1]].items()})
        return best[0]
