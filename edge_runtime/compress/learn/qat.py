"""Quantization-aware training: weights of 8, 4 or under 2 bits, activations of 8 or in float, taught with the rounding
that the engines will do (Jacob et al., 2018; Krishnamoorthi, 2018), and written as files that both engines run.

    result = quantize_aware(net, lessons, QuantAware(weights="int4"), Fit(epochs=4))
    result.export(Path("net.onnx")), result.export(Path("net.tflite"))

Why not a library: PyTorch's own torch.ao.quantization is deprecated, and torchao's training covers linear layers and
embeddings. Brevitas covers convolutions and ternary weights, but wants the net rebuilt from its own layers (else a
functional relu or a sum of two branches is not rounded), writes fewer than 8 bits as 8 and a Clip, and no TFLite. Here
any module that PyTorch exports, or any ONNX file, is taught as the graph that is written: where it is rounded is
decided by the plan that writes QDQ files (qplan.py), and one set of integers becomes ONNX and TFLite.

Batch normalization is folded into the weights before training, as the engines have it; dropout is gone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.learn.lessons import Lessons
from edge_runtime.compress.learn.loop import Fit, Loss, cross_entropy, fit
from edge_runtime.compress.learn.settings import QuantAware as QuantAware
from edge_runtime.compress.learn.taught import Taught
from edge_runtime.compress.torch_graph import need_torch
from edge_runtime.errors import EdgeError

if TYPE_CHECKING:
    from edge_runtime.compress.learn.quant_net import QuantNet
    from edge_runtime.compress.samples import Samples

INT8 = QuantAware()
GENTLE = Fit(epochs=4, rate=1e-3)
SHOWN = 32  # items on which the file is compared with the net
APART_SD = 0.05  # more than a step of the output, on average


@dataclass(frozen=True)
class QatResult(Taught):
    """`net` answers as the engines will, `artifact` is what onnxruntime runs; `before` the float graph that training
    began from."""


def quantize_aware(
    net: Any,
    lessons: Lessons,
    settings: QuantAware = INT8,
    how: Fit = GENTLE,
    *,
    loss: Loss | None = None,
    steps: int | None = None,
    notice: Callable[[str], None] | None = None,
    keep: Path | None = None,
) -> QatResult:
    """`net`: a PyTorch module, which stays as it is, or an Artifact in float. `loss`: the labels' cross-entropy by
    default; distillation goes here. `steps`, `notice`, `keep` as in `fit`.

    Raises EngineError without torch; InputError: a layer that cannot be trained, named; no labels and no loss."""
    made, before = _begin(net, lessons, settings)
    teach = loss or cross_entropy(lessons)

    def grow(step: int, total: int) -> None:
        whole = settings.anneal * total
        made.strength = 1.0 if step >= whole else step / whole

    def hold(step: int, total: int) -> None:
        made.mask()

    more: dict[str, Any] = {"notice": notice, "keep": keep, "tag": repr(settings)}
    done = fit(made, lessons, teach, how, steps=steps, before=grow, after=hold, **more)
    done.strength = 1.0
    written, facts = done.quantized(), _facts(done)
    return QatResult(done, written, before, facts | {"file": _file_apart(done, written, lessons, notice)})


def plainly_rounded(net: Any, lessons: Lessons, settings: QuantAware = INT8) -> QatResult:
    """What `quantize_aware` begins from: the same bits by the same plan, ranges from the same items, nothing taught."""
    made, before = _begin(net, lessons, settings)
    return QatResult(made.eval(), made.quantized(), before, _facts(made))


def _begin(net: Any, lessons: Lessons, settings: QuantAware) -> tuple[QuantNet, Artifact]:
    """With the float graph."""
    torch = need_torch()
    from edge_runtime.compress.learn.graph_net import graph_and_parts
    from edge_runtime.compress.learn.quant_net import QuantNet

    before, parts = graph_and_parts(net, lessons.take(torch.arange(min(2, lessons.count))))
    return QuantNet(before, settings, first_items(before, lessons, settings.calibrate), parts), before


def first_items(artifact: Artifact, lessons: Lessons, most: int) -> Samples:
    """Up to `most` lessons, evenly spread and unvaried, as the graph's inputs."""
    import numpy as np

    from edge_runtime.compress.samples import Samples

    torch = need_torch()
    places = np.unique(np.linspace(0, lessons.count - 1, min(most, lessons.count)).round().astype(np.int64))
    names = [str(one.name) for one in artifact.model().graph.inputs]
    found = lessons.take(torch.from_numpy(places))
    arrays = {name: one.contiguous().numpy() for name, one in zip(names, found, strict=True)}
    return Samples("lessons", len(places), None, arrays)


def _file_apart(
    net: QuantNet, artifact: Artifact, lessons: Lessons, notice: Callable[[str], None] | None
) -> dict[str, Any] | None:
    """How far the file's answers in onnxruntime lie from the net's, on a few items: a kernel may not do what training
    took it to do, or 8-bit weights saturate on this machine. None for a file of a fixed batch above 1."""
    from edge_runtime.compress.drift import compare
    from edge_runtime.compress.outputs import BATCH
    from edge_runtime.compress.outputs import answers as run

    torch, first = need_torch(), artifact.model().graph.inputs[0].shape
    fixed = first[0] if first is not None and isinstance(first[0], int) else None
    if fixed is not None and fixed > 1:
        return None
    items = first_items(artifact, lessons, SHOWN)
    given = [torch.from_numpy(one).split(fixed or SHOWN) for one in items.arrays.values()]
    with torch.inference_mode():
        wanted = torch.cat([net.eval()(*some) for some in zip(*given, strict=True)]).numpy()
    try:
        (name, said), *_ = run(artifact, items, BATCH).items()
    except EdgeError as error:  # what was taught is not lost for it
        if notice:
            notice(f"the file could not be compared with the net: {error.message}")
        return {"items": items.count, "failed": error.message}
    drift = compare({name: wanted}, {name: said})
    if notice and drift.mean > APART_SD:
        notice(f"the file answers otherwise than the net that was taught: {drift}, in onnxruntime")
    return {"items": items.count, "mean_sd": drift.mean, "largest_sd": drift.largest}


def _facts(net: Any) -> dict[str, Any]:
    """By layer: how many weights, the largest level, the share of zeros."""
    made = {}
    for name, one in net.found_levels().items():
        zeros = round(float((one.levels == 0).mean()), 4)
        made[name] = {"weights": int(one.levels.size), "top": int(abs(one.levels).max()), "zeros": zeros}
    return {"layers": made}
