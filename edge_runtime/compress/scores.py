"""Accuracy on labelled items, and how well it holds when the pictures are worse than those that it was judged on."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.drift import cut_of, decisions
from edge_runtime.compress.outputs import answers
from edge_runtime.compress.samples import Samples
from edge_runtime.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge_runtime.tensors import Array

    Pixels = NDArray[np.uint8]


def scores(outputs: Mapping[str, NDArray[np.float32]], labels: NDArray[np.int64], cut: float = 0.0) -> dict[str, float]:
    """accuracy, precision, recall, f1, from 0 to 1, of the first output (N, classes) or (N, 1).

    `cut`: above which a single number means class 1. With two classes, of class 1; with more, the mean over the
    classes. Raises InputError where labels and outputs do not belong together.
    """
    import numpy as np

    first = next(iter(outputs.values()))
    found = decisions(first, cut)
    if found.shape[1] != 1 or len(found) != len(labels):
        raise InputError(f"found answers {first.shape} and {len(labels)} labels, wanted one decision for each label")
    chosen = found[:, 0]
    count = check_labels(labels, first.shape[-1], "labels")
    classes = [1] if count == 2 else sorted({int(one) for one in labels})
    parts = []
    for one in classes:
        hit = float(((chosen == one) & (labels == one)).sum())
        precision = hit / max(1.0, float((chosen == one).sum()))
        recall = hit / max(1.0, float((labels == one).sum()))
        parts.append((precision, recall, 2 * precision * recall / max(1e-12, precision + recall)))
    precision, recall, f1 = (float(one) for one in np.mean(parts, axis=0))
    return {"accuracy": float((chosen == labels).mean()), "precision": precision, "recall": recall, "f1": f1}


def check_labels(labels: NDArray[np.int64], outputs: int | None, where: str) -> int:
    """How many classes there are: two for a single output. Raises InputError for labels that are none of them."""
    count = max(2, outputs or 2)
    if outputs is not None and (labels.min() < 0 or labels.max() >= count):
        raise InputError(
            f"{where}: found labels from {labels.min()} to {labels.max()}, the model knows 0 to {count - 1}"
        )
    return count


def unseen(labels: NDArray[np.int64], outputs: int | None) -> tuple[int, ...]:
    """Classes that no item is of."""
    return tuple(sorted(set(range(max(2, outputs or 2))) - {int(one) for one in labels}))


# ---------------------------------------------------------------- damage


def _blur(picture: Pixels, sigma: float) -> Pixels:
    import numpy as np
    from PIL import Image, ImageFilter

    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(sigma)))


def _noise(picture: Pixels, levels: float) -> Pixels:
    import numpy as np

    dice = np.random.default_rng(int(picture.sum()))  # the seed is the picture, so that runs repeat
    return _bytes(picture + dice.normal(0, levels, picture.shape))


def _brightness(picture: Pixels, gain: float) -> Pixels:
    return _bytes(picture * gain)


def _stain(picture: Pixels, turn: float) -> Pixels:
    """Another stain or white balance: the hue turned by a share of the circle. Grey pictures stay as they are."""
    import numpy as np
    from PIL import Image

    if picture.ndim == 2:
        return picture
    hsv = np.array(Image.fromarray(picture).convert("HSV"))
    hsv[:, :, 0] = (hsv[:, :, 0].astype(int) + round(256 * turn)) % 256
    return np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))


def _jpeg(picture: Pixels, quality: float) -> Pixels:
    import numpy as np
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(picture).save(data, "JPEG", quality=int(quality))
    return np.asarray(Image.open(data))


def _shift(picture: Pixels, share: float) -> Pixels:
    """To the right and down by a share of the side; what comes in is the edge again."""
    import numpy as np

    pixels = max(1, round(share * picture.shape[0]))
    pad = ((pixels, 0), (pixels, 0), (0, 0))[: picture.ndim]
    return np.pad(picture, pad, mode="edge")[: picture.shape[0], : picture.shape[1]]


def _bytes(changed: NDArray[np.floating]) -> Pixels:
    import numpy as np

    made: Pixels = np.clip(np.rint(changed), 0, 255).astype(np.uint8)
    return made


DAMAGES: dict[str, tuple[Callable[[Pixels, float], Pixels], tuple[float, float, float]]] = {
    "blur": (_blur, (0.6, 1.2, 2.0)),
    "noise": (_noise, (4, 8, 16)),
    "brightness": (_brightness, (0.85, 0.7, 0.5)),
    "stain": (_stain, (0.02, 0.04, 0.08)),
    "jpeg": (_jpeg, (60, 30, 10)),
    "shift": (_shift, (0.03, 0.06, 0.12)),
}
"""name: (function of a picture uint8 (H,W,3) or (H,W), its three strengths)"""


def takes_pictures(samples: Samples) -> bool:
    """Whether an item is one picture: one float input, (N,3,H,W), (N,1,H,W), or channels last."""
    shapes = [(one.shape, one.dtype.kind) for one in next(samples.feeds()).values()]
    if len(shapes) != 1 or shapes[0][1] != "f" or len(shapes[0][0]) != 4:
        return False
    shape = shapes[0][0]
    return (shape[1] in (1, 3) or shape[3] in (1, 3)) and max(shape[1:]) >= 8


def damaged(samples: Samples, name: str, strength: float) -> Samples:
    """The same items with every picture damaged, held in memory. The tensor's range over the items is taken as black
    to white, so any scaling by mean and deviation alike for all channels is allowed for."""
    import numpy as np

    (key, array), *_ = stacked(samples).items()
    last = array.shape[3] in (1, 3) and array.shape[1] not in (1, 3)
    pictures = array if last else np.moveaxis(array, 1, -1)
    low, high = float(pictures.min()), float(pictures.max())
    scale = max(high - low, 1e-12) / 255
    made = np.empty_like(pictures)
    for place, picture in enumerate(pictures):
        pixels = _bytes((picture - low) / scale)
        grey = pixels.shape[-1] == 1
        done = DAMAGES[name][0](pixels[:, :, 0] if grey else pixels, strength)
        made[place] = (done[:, :, None] if grey else done) * np.float32(scale) + np.float32(low)
    back = made if last else np.ascontiguousarray(np.moveaxis(made, -1, 1))
    said = f"{samples.name}, {name} {strength:g}"
    return Samples(said, samples.count, samples.labels, {key: back}, cut=samples.cut)


def stacked(samples: Samples) -> dict[str, Array]:
    """All items in memory, by input."""
    import numpy as np

    parts = list(samples.batches(64))
    return {key: np.concatenate([one[key] for one in parts]) for key in parts[0]}


def robustness(models: Mapping[str, Artifact], samples: Samples, batch: int = 16) -> list[dict[str, object]]:
    """For each damage and strength, by model: accuracy, or the share of decisions that stay as on the clean picture
    where the items have no labels. The first model is the original. Each damaged set is made once, and
    shown to all models."""
    firsts = {name: next(iter(answers(one, samples, batch).values())) for name, one in models.items()}
    cut = cut_of(next(iter(firsts.values())), samples.cut)
    clean = {name: decisions(one, cut)[:, 0] for name, one in firsts.items()}
    rows: list[dict[str, object]] = []
    for damage, (_, strengths) in DAMAGES.items():
        for strength in strengths:
            worse = damaged(samples, damage, strength)
            row: dict[str, object] = {"damage": damage, "strength": strength}
            for name, one in models.items():
                found = decisions(next(iter(answers(one, worse, batch).values())), cut)[:, 0]
                truth = clean[name] if samples.labels is None else samples.labels
                row[name] = float((found == truth).mean())
            rows.append(row)
    return rows
