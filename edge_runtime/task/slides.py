"""One slide of a stained thin blood film: images to cells, cells to scores, scores to one verdict.

An item's images are cell images (one red cell each, black around it) or whole-field photographs, told apart by their
size; fields are cut into cells here, on the device. Cells stream: memory does not grow with their number.

task = {"kind": "slides", "calibration": {...}} (verdict.py); the model takes one cell and gives one logit, above zero
the more likely a parasite. Fields of the prediction, after those of verdict.decide:

    images             how many images were read
    fields             how many of them were whole fields; `fields_unreadable` lists those that gave no cell, with why
    white_cells        seen in the fields, and left out; likewise `left_out`, by reason
    cell_scores        with details only: {"file", "box" (null for a cell image), "score"} of every cell
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edge_runtime.ahead import ahead
from edge_runtime.errors import BundleError, InputError
from edge_runtime.items import printable
from edge_runtime.results import Prediction
from edge_runtime.task import Answer, Feed
from edge_runtime.task.cells import features
from edge_runtime.task.pictures import DECODING, Preprocessing, as_pixels, load_image
from edge_runtime.task.verdict import Calibration, Tally, decide

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from edge_runtime.bundle import Bundle
    from edge_runtime.items import Item, ItemDigest
    from edge_runtime.task.segment import Box
    from edge_runtime.tensors import TensorSpec

# Cut-out cells of the training set are 58 to 364 pixels; the smallest field camera gives 640 x 480.
CELL_SIDE = 400
LEAST_CELL_SIDE = 16
# JPEGs of fields are decoded at about this size: cells stay larger than what the network reads.
FIELD_SIDE = 1600
# The gate needs averages over a slide, and measuring costs as much as a tenth of reading a cell: the first so many
# cells are measured, then one in MEASURE_EVERY.
MEASURE_FIRST, MEASURE_EVERY = 128, 32


class _Tag(NamedTuple):
    file: str
    box: Box | None
    features: NDArray[np.float32] | None


class _Seen(Counter[str]):
    """What was met on the way through a slide's images, besides cells."""

    def __init__(self) -> None:
        super().__init__()
        self.unreadable: dict[str, str] = {}


@dataclass(frozen=True)
class SlidesTask:
    where: Path
    preprocessing: Preprocessing
    calibration: Calibration
    seen: list[_Seen]  # of the item being read: feeds fills it, decide reports it
    decode_ahead: bool = False

    def check(self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        self.preprocessing.check(inputs, str(self.where))
        if len(outputs) != 1 or outputs[0].shape not in ((None, 1), (1, 1)):
            raise BundleError(f"{self.where}: found outputs {', '.join(map(str, outputs))}, wanted one logit a cell")

    def feeds(self, item: Item, inputs: tuple[TensorSpec, ...], digest: ItemDigest | None = None) -> Iterator[Feed]:
        seen = _Seen()
        self.seen[:] = [seen]
        spec, number = inputs[0], 0
        for image, done, total, decoded in self._pictures(item, digest):
            for box, picture in self._cells(image, decoded.pop(), seen):
                pixels = self.preprocessing.fit_size(picture)
                measured = number < MEASURE_FIRST or number % MEASURE_EVERY == 0
                number += 1
                tag = _Tag(printable(image.name), box, features(pixels) if measured else None)
                yield Feed({spec.name: self.preprocessing.tensor(pixels, spec)}, tag, done, total)
            seen["images"] += 1

    def _pictures(self, item: Item, digest: ItemDigest | None) -> Iterator[tuple[Path, int, int, list[Image]]]:
        """(path, which, of how many, the decoded image); in a list, so that whoever takes it out holds the only one."""

        def decoded() -> Iterator[tuple[Path, int, int, list[Image]]]:
            for image, done, total, content in item.contents(digest):
                yield image, done, total, [load_image(image, content, draft_side=FIELD_SIDE)]

        stream = ahead(decoded()) if self.decode_ahead else decoded()
        while True:
            with DECODING:
                found = next(stream, None)
            if found is None:
                return
            yield found

    def _cells(self, image: Path, picture: Image, seen: _Seen) -> Iterator[tuple[Box | None, Image]]:
        width, height = picture.size
        if min(height, width) < LEAST_CELL_SIDE:
            raise InputError(f"{image}: found {width} x {height} pixels, wanted a cell of at least {LEAST_CELL_SIDE}")
        if max(height, width) <= CELL_SIDE:
            yield None, picture
            return
        from PIL.Image import fromarray

        # imported here: a slide of cell images needs none of it
        from edge_runtime.task.segment import cut_out, survey

        seen["fields"] += 1
        rgb = as_pixels(picture)
        del picture  # one copy of a field is enough
        field = survey(rgb)
        seen.update(white_cells=field.white, cut=field.cut, small=field.small, clumps=field.clumps)
        if field.problem or not len(field):
            seen.unreadable[printable(image.name)] = field.problem or "no whole cell"
        for cell in cut_out(rgb, field):
            yield cell.box, fromarray(cell.crop)

    def decide(self, answers: Iterator[Answer], *, details: bool = False) -> Prediction:
        tally = Tally(self.calibration)
        scores: list[dict[str, Any]] = []
        for answer in answers:
            (output,) = answer.outputs.values()
            logit = float(output.ravel()[0])
            tally.add(logit, answer.tag.features)
            if details:
                score = round(self.calibration.probability(logit), 6)
                scores.append({"file": answer.tag.file, "box": answer.tag.box, "score": score})
        (seen,) = self.seen
        fields = dict(decide(tally, self.calibration))
        fields |= {"images": seen["images"], "fields": seen["fields"], "fields_unreadable": seen.unreadable}
        fields |= {"white_cells": seen["white_cells"]}
        fields |= {"left_out": {why: seen[why] for why in ("cut", "small", "clumps")}}
        if details:
            fields["cell_scores"] = scores
        return Prediction("slides", _summary(fields), fields)


def _summary(fields: dict[str, Any]) -> str:
    text = f"{fields['verdict']:<15} {fields['cells']:>6} cells, {fields['infected']:>4} infected"
    if fields["verdict"] == "parasites_found":
        low, high = fields["interval_percent"]
        text += f", {fields['parasitaemia_percent']:.2g} % ({low:.2g} to {high:.2g}), "
        return text + f"about {_two_figures(fields['parasites_per_ul']):,} per microlitre"
    return f"{text}. {' '.join(fields['reasons'])}"


def _two_figures(value: float) -> int:
    """1204 -> 1200: what an estimate with a wide interval deserves."""
    return int(float(f"{value:.2g}"))


def make(bundle: Bundle, decode_ahead: bool = False) -> SlidesTask:
    settings = dict(bundle.task)
    if set(settings) != {"kind", "calibration"} or not isinstance(settings["calibration"], dict):
        raise BundleError(f"{bundle.path}: found task settings {sorted(settings)}, wanted kind and calibration")
    preprocessing = Preprocessing.from_json(bundle.preprocessing, str(bundle.path))
    try:
        calibration = Calibration.from_json(settings["calibration"])
    except BundleError as error:
        raise BundleError(f"{bundle.path}: {error.message}") from error
    return SlidesTask(bundle.path, preprocessing, calibration, [], decode_ahead)
