"""From a taught network to what devices run: an ONNX file, its TFLite form, and how both decide on their engines.

What came out of training is judged here on onnxruntime and LiteRT, never in PyTorch. `artifact` is also the model of a
`compress` job: `Job(model=artifact(net, lessons), recipes=...)` goes on with quantization, grids and coding.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.drift import compare
from edge_runtime.compress.export import from_torch
from edge_runtime.compress.learn.lessons import Lessons
from edge_runtime.compress.outputs import BATCH, answers
from edge_runtime.compress.prepare import prepare
from edge_runtime.compress.samples import Samples
from edge_runtime.compress.scores import scores
from edge_runtime.compress.tflite_write import to_tflite
from edge_runtime.errors import InputError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

ENGINES = ("onnxruntime", "litert")


def artifact(net: nn.Module, lessons: Lessons) -> Artifact:
    """The network as ONNX by PyTorch's exporter, made ready for recipes; inputs have the lessons' names, the output is
    `logits`. Raises InputError where it cannot be exported."""
    names = list(lessons.inputs)
    example = lessons.where(np.arange(min(2, lessons.count)))
    (_, inputs), *_ = example.batches(2)
    made = from_torch(net, inputs)
    model = made.model()
    if len(model.graph.inputs) != len(names) or len(model.graph.outputs) != 1:
        raise InputError(
            f"found {len(model.graph.inputs)} inputs and {len(model.graph.outputs)} outputs in the exported network, "
            f"wanted {', '.join(names)} and logits"
        )
    for value, name in zip([*model.graph.inputs, *model.graph.outputs], [*names, "logits"], strict=True):
        value.name = name
    return prepare(Artifact.of(model, made.form))


def samples(lessons: Lessons, name: str = "lessons") -> Samples:
    """What the exported network is fed: the items as `prepare` gives them, unvaried, with their labels."""
    parts = [inputs for _, inputs in lessons.batches(256)]
    arrays = {key: np.concatenate([one[place].numpy() for one in parts]) for place, key in enumerate(lessons.inputs)}
    return Samples(name, lessons.count, lessons.labels, arrays)


def judge(
    model: nn.Module | Artifact, lessons: Lessons, engines: tuple[str, ...] = ENGINES
) -> dict[str, dict[str, Any]]:
    """By engine: {"file_bytes", "scores": as scores() or None without labels, "drift": from onnxruntime's answers}."""
    if strange := [one for one in engines if one not in ENGINES]:
        raise UsageError(f"found the engines {', '.join(strange)}, wanted {' or '.join(ENGINES)}")
    made = model if isinstance(model, Artifact) else artifact(model, lessons)
    items = samples(lessons)
    reference = answers(made, items, BATCH)
    found = {}
    for engine in engines:
        form = made if engine == "onnxruntime" else Artifact("tflite", to_tflite(made.model(), "float"))
        said = reference if engine == "onnxruntime" else answers(form, items, BATCH)
        drift = compare(reference, said)
        found[engine] = {
            "file_bytes": len(form.content),
            "scores": None if lessons.labels is None else scores(_logits(said), lessons.labels, drift.cut),
            "drift": asdict(drift),
        }
    return found


def _logits(said: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    return dict([next(iter(said.items()))])
