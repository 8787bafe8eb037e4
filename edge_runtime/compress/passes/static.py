"""Static int8: weights and activations as integers, ranges from calibration; the speed of integer kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.calibrate import observe
from edge_runtime.compress.integers import count_integers
from edge_runtime.compress.layers import need_layers
from edge_runtime.compress.quantizer import Options, tensors_to_watch
from edge_runtime.compress.ranges import METHODS
from edge_runtime.compress.recipe import Context
from edge_runtime.compress.rescue import Ladder, Limits, State, corrected


@dataclass(frozen=True)
class Static:
    """`method`: of choosing ranges for activations. `weight_bits` 0: 7 on x86-64 and on an unknown target, where
    kernels add pairs of products in 16 bits and would saturate; 8 on ARM. `activation_bits` 16: for LiteRT; in
    onnxruntime the model then runs in float. `keep`: names of layers that stay float. `rescue`: climb the ladder where
    the answers drift more than `limit_sd` (mean |change| in standard deviations) or keep less than `agreement` of the
    decisions."""

    reads: ClassVar[tuple[str, ...]] = ("onnx",)
    writes: ClassVar[str | None] = "onnx_q"
    needs_items: ClassVar[bool] = True

    method: str = "minmax"
    percentile: float = 99.99
    per_channel: bool = True
    weight_bits: int = 0
    activation_bits: int = 8
    keep: tuple[str, ...] = ()
    bias_correction: bool = False
    rescue: bool = True
    limit_sd: float = 0.03
    agreement: float = 0.995

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method: found {self.method!r}, wanted one of {', '.join(METHODS)}")
        if not 90 <= self.percentile <= 100:
            raise ValueError(f"percentile: found {self.percentile}, wanted 90 to 100")
        if self.weight_bits not in (0, 7, 8):
            raise ValueError(f"weight_bits: found {self.weight_bits}, wanted 0 (by target), 7 or 8")
        if self.activation_bits not in (8, 16):
            raise ValueError(f"activation_bits: found {self.activation_bits}, wanted 8 or 16")
        if not self.limit_sd > 0 or not 0 <= self.agreement <= 1:
            raise ValueError(f"limits: found {self.limit_sd} sd and {self.agreement}, wanted above 0, and 0 to 1")

    def __call__(self, artifact: Artifact, context: Context) -> Artifact:
        context = context.against(artifact)
        samples = context.items("static quantization")
        need_layers(artifact.model(), self.keep)
        seen = observe(artifact, samples, tensors_to_watch(artifact), context.progress)
        state = State(artifact, seen, self.options(context.target.arch))
        if self.bias_correction:
            state = corrected(state, samples)
        ladder = Ladder(context, Limits(self.limit_sd, self.agreement)) if self.rescue else None
        made = ladder.climb(state) if ladder is not None else state.made()
        note_integers(made, context)
        return made

    def options(self, arch: str) -> Options:
        bits = self.weight_bits or (8 if arch in ("aarch64", "armv7l") else 7)
        if self.activation_bits == 16:
            bits = self.weight_bits or 8  # products of 16-bit numbers are added in 32 bits and more
        return Options(
            method=self.method,
            percentile=self.percentile,
            per_channel=self.per_channel,
            weight_bits=bits,
            activation_bits=self.activation_bits,
            keep=self.keep,
        )


def note_integers(artifact: Artifact, context: Context) -> None:
    found = count_integers(artifact)
    context.note("integer_layers", found.integer_layers)
    context.note("float_layers", found.float_layers)
    context.note("conversions", found.conversions)
    if found.float_names:
        context.note("float_layer_names", list(found.float_names[:20]))
