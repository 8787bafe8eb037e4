"""Classification of one image: any model with labels; the most likely ones come out.

task = {"kind": "image", "top": 5, "scores": "probabilities" | "logits"}; the model gives one row with a number a label.
Fields: `labels`, a list of {"label", "score"}, best first; scores are probabilities.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.errors import BundleError, InputError
from edge_runtime.results import Prediction
from edge_runtime.task import Answer, Feed
from edge_runtime.task.pictures import DECODING, Preprocessing, load_image

if TYPE_CHECKING:
    from edge_runtime.bundle import Bundle
    from edge_runtime.items import Item, ItemDigest
    from edge_runtime.tensors import TensorSpec


@dataclass(frozen=True)
class ImageTask:
    where: Path
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    top: int
    logits: bool

    def check(self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        self.preprocessing.check(inputs, str(self.where))
        if len(outputs) != 1 or outputs[0].shape[-1] not in (None, len(self.labels)):
            raise BundleError(
                f"{self.where}: found outputs {', '.join(map(str, outputs))}, wanted one with {len(self.labels)} "
                "numbers, one a label"
            )

    def feeds(self, item: Item, inputs: tuple[TensorSpec, ...], digest: ItemDigest | None = None) -> Iterator[Feed]:
        for path, number, found, content in item.contents(digest):
            if found != 1:
                raise InputError(f"{item.name}: found {found} images, wanted one", hint="give the images themselves")
            with DECODING:
                picture = load_image(path, content, upright=True)
            pixels = self.preprocessing.fit_size(picture)
            yield Feed({inputs[0].name: self.preprocessing.tensor(pixels, inputs[0])}, path.name, number, found)

    def decide(self, answers: Iterator[Answer], *, details: bool = False) -> Prediction:
        import numpy as np

        (answer,) = answers
        scores = next(iter(answer.outputs.values())).astype(np.float64).ravel()
        if len(scores) != len(self.labels) or not np.isfinite(scores).all():
            raise BundleError(f"{self.where}: found {len(scores)} scores, wanted {len(self.labels)} finite ones")
        if self.logits:
            scores = np.exp(scores - scores.max())
            scores /= scores.sum()
        best = np.argsort(-scores, kind="stable")[: len(scores) if details else self.top]
        ranked = [{"label": self.labels[index], "score": round(float(scores[index]), 6)} for index in best]
        summary = ", ".join(f"{one['label']} {one['score']:.3f}" for one in ranked[: self.top])
        return Prediction("image", summary, {"labels": ranked})


def make(bundle: Bundle, decode_ahead: bool = False) -> ImageTask:  # an item is one image: nothing is ahead
    settings = dict(bundle.task)
    top, scores = settings.pop("top", 5), settings.pop("scores", "logits")
    if set(settings) != {"kind"} or type(top) is not int or top < 1 or scores not in ("logits", "probabilities"):
        raise BundleError(f"{bundle.path}: found task {dict(bundle.task)}, wanted top (1 or more), scores")
    if not bundle.labels:
        raise BundleError(f"{bundle.path}: found no labels, wanted one for each number that the model gives")
    preprocessing = Preprocessing.from_json(bundle.preprocessing, str(bundle.path))
    return ImageTask(bundle.path, bundle.labels, preprocessing, top, scores == "logits")
