"""Quantization-aware training against the answers of the original, on items without labels: int8, int4 or ternary.

Where training does not help, the net that was only rounded is kept: items that taught nothing decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.learn.loop import Fit
from edge_runtime.compress.learn.qat import QuantAware, plainly_rounded, quantize_aware
from edge_runtime.compress.learn.taught import Taught
from edge_runtime.compress.passes.repair import apart
from edge_runtime.compress.recipe import Context

if TYPE_CHECKING:
    from edge_runtime.compress.learn.lessons import Lessons
    from edge_runtime.compress.samples import Samples

TAUGHT, ROUNDED = "taught", "only rounded"


@dataclass(frozen=True)
class QuantizeAware:
    """Mean square of the difference of answers, in standard deviations of the original's, is made small while weights
    and activations are rounded as the engines will. `weights` int8, int4 or ternary; `activations` uint8 or float;
    `block`, `scale_grid`, `ranges`, `anneal`, `keep`, `eight` as in edge_runtime.compress.learn.qat. `average`: weight
    of the past in the running average of the weights. `held_out` share of the items judges, and teaches nothing: what
    was only rounded, to the same bits, is kept where it is nearer to the original there. Items are held in memory."""

    reads: ClassVar[tuple[str, ...]] = ("onnx",)
    writes: ClassVar[str | None] = "onnx_q"
    needs_items: ClassVar[bool] = True

    weights: str = "int8"
    activations: str = "uint8"
    block: int = 0
    scale_grid: int = 0
    ranges: str = "learnt"
    anneal: float = 0.0
    keep: tuple[str, ...] = ()
    eight: tuple[str, ...] = ()
    epochs: int = 8
    batch: int = 32
    rate: float = 1e-3
    average: float = 0.99
    held_out: float = 0.15
    seed: int = 1

    def __post_init__(self) -> None:
        self._settings()
        self._fit()
        if not 0 < self.held_out < 1:
            raise ValueError(f"found held_out {self.held_out}, wanted it between 0 and 1")

    def __call__(self, artifact: Artifact, context: Context) -> Artifact:
        """Raises EngineError without torch; InputError: an operator or a layer that cannot be trained, named; fewer
        than 2 items."""
        settings, what = self._settings(), "quantization-aware training"
        held, rest = apart(context.items(what), self.held_out, "train")
        lessons = lessons_of(rest)
        made = {
            TAUGHT: teach(quantize_aware, artifact, context, lessons, settings, self._fit()),
            ROUNDED: plainly_rounded(artifact, lessons, settings),
        }
        kept = made[nearer({name: one.artifact for name, one in made.items()}, held, context)]
        context.note("layers", kept.facts["layers"])
        return kept.artifact

    def _settings(self) -> QuantAware:
        names = ("weights", "activations", "block", "scale_grid", "ranges", "anneal", "keep", "eight")
        return QuantAware(**{name: getattr(self, name) for name in names})

    def _fit(self) -> Fit:
        return Fit(self.epochs, self.batch, self.rate, 0.0, average=self.average, seed=self.seed)


def nearer(made: Mapping[str, Artifact], held: Samples, context: Context) -> str:
    """The one that changes the original's answers least on items that taught nothing; of equals, that which keeps more
    decisions, then the first. As the ladder of static quantization judges its rungs (rescue.py)."""
    from edge_runtime.compress.drift import compare
    from edge_runtime.compress.outputs import BATCH, answers

    wanted = answers(context.original, held, BATCH)
    drifts = {name: compare(wanted, answers(one, held, BATCH), held.cut) for name, one in made.items()}
    kept = min(drifts, key=lambda name: (drifts[name].mean, -drifts[name].agreement))
    figures = {name: {"mean_sd": one.mean, "agreement": one.agreement} for name, one in drifts.items()}
    context.note("held_out", {"items": held.count, "kept": kept, **figures})
    return kept


def lessons_of(samples: Samples) -> Lessons:
    """All items, in memory."""
    from edge_runtime.compress.torch_graph import need_torch

    need_torch()
    from edge_runtime.compress.learn.lessons import Lessons
    from edge_runtime.compress.scores import stacked

    return Lessons(stacked(samples))


def teach(run: Any, artifact: Artifact, context: Context, lessons: Lessons, settings: Any, how: Fit) -> Taught:
    """The result of `run`, quantize_aware or prune_and_tune, on the lessons and the original's answers to them.
    Where the context has a place for a checkpoint, a run that was cut goes on; `epochs` tells of those since then."""
    said: list[str] = []

    def notice(words: str) -> None:
        said.append(words)
        context.progress(len(said), how.epochs, words)

    loss = against(context.original, lessons)
    made: Taught = run(artifact, lessons, settings, how, loss=loss, notice=notice, keep=context.checkpoint)
    context.note("epochs", said)
    return made


def against(original: Artifact, lessons: Any) -> Any:
    """The loss: all outputs against the original's on the same items, as they are."""
    from edge_runtime.compress.learn.graph_net import GraphNet, graph_and_parts
    from edge_runtime.compress.torch_graph import need_torch

    torch = need_torch()
    teacher = GraphNet(*graph_and_parts(original, ())).eval()
    with torch.inference_mode():
        found = [list(teacher.forward_parts(*inputs).values()) for _, inputs in lessons.batches(32)]
    wanted = [torch.cat(parts) for parts in zip(*found, strict=True)]
    spread = [one.std().clamp_min(1e-12) if one.numel() > 1 else torch.ones(()) for one in wanted]

    def loss(net: Any, inputs: tuple[Any, ...], index: Any) -> Any:
        said = net.forward_parts(*inputs).values()
        total: Any = 0
        for one, all_, scale in zip(said, wanted, spread, strict=True):
            total = total + ((one - all_[index]) / scale).square().mean()
        return total

    return loss
