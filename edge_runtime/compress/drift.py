"""How far a compressed model's answers are from the original's, in standard deviations of the original's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_runtime.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Drift:
    """`mean`, `rms`, `largest`: of |change| over all numbers of all items, divided by the standard deviation of the
    original's output (all numbers of that output together). `agreement`: share of items with the same decision (the
    largest number of the classes; for a single number, whether it is above the cut), of the first output. The worst
    output counts. `cut`: the task's own (of slides, where a cell is called); else 0, or 0.5 where all of the original's
    answers lie from 0 to 1, as behind a sigmoid."""

    mean: float
    rms: float
    largest: float
    agreement: float
    items: int
    cut: float = 0.0

    def __str__(self) -> str:
        return (
            f"output change {self.mean:.4f} sd on average, {self.largest:.3f} sd at most, "
            f"{self.agreement:.2%} of {self.items} decisions kept"
        )


def compare(
    original: Mapping[str, NDArray[np.float32]], found: Mapping[str, NDArray[np.float32]], cut: float | None = None
) -> Drift:
    """Outputs by place: a converter may rename them. `cut`: the task's own. Raises InputError where shapes differ."""
    import numpy as np

    if len(original) != len(found):
        raise InputError(f"found {len(found)} outputs, the original has {len(original)}")
    worst = np.zeros(3)
    for (name, old), new in zip(original.items(), found.values(), strict=True):
        if old.shape != new.shape:
            raise InputError(f"output {name!r}: found shape {new.shape}, the original has {old.shape}")
        change = np.abs(new.astype(np.float64) - old)
        figures = np.array([change.mean(), np.sqrt((change**2).mean()), change.max()])
        worst = np.maximum(worst, figures / _spread(old))
    first, other = next(iter(original.values())), next(iter(found.values()))
    above = cut_of(first, cut)
    same = decisions(first, above) == decisions(other, above)
    mean, rms, largest = (float(one) for one in worst)
    return Drift(mean, rms, largest, float(same.mean()), len(first), above)


def squares(
    original: Mapping[str, NDArray[np.float32]], found: Mapping[str, NDArray[np.float32]]
) -> NDArray[np.float64]:
    """(N,): each item's mean square of the change in standard deviations, of the output that changes most: the root of
    their mean is Drift.rms."""
    import numpy as np

    both = [
        (((new.astype(np.float64) - old) / _spread(old)) ** 2).reshape(len(old), -1).mean(axis=1)
        for old, new in zip(original.values(), found.values(), strict=True)
    ]
    return max(both, key=lambda one: float(one.mean()))


def _spread(old: NDArray[np.float32]) -> float:
    """What a change is divided by."""
    import numpy as np

    spread, size = float(old.std(dtype=np.float64)), float(np.abs(old).max(initial=0))
    return spread if spread > 1e-6 * size else max(size, 1e-12)  # items that are all alike have no spread


def cut_of(output: NDArray[np.float32], cut: float | None = None) -> float:
    """Above which a single number means yes: of the original's answers, for all that is compared with it. `cut`: what
    the task says, which goes before."""
    if cut is not None:
        return cut
    alone = output.ndim < 2 or output.shape[1 if output.ndim == 4 else -1] == 1
    return 0.5 if alone and output.size and output.min() >= 0 and output.max() <= 1 else 0.0


def decisions(output: NDArray[np.float32], cut: float = 0.0) -> NDArray[np.int64]:
    """(N, ...) to (N, -1): the largest of the classes, or whether a single number is above the cut. Classes stand on
    the last axis; in maps of pictures, (N, classes, H, W), on the first after the items."""
    import numpy as np

    if output.ndim == 4:
        output = np.moveaxis(output, 1, -1)
    flat = output.reshape(len(output), -1, output.shape[-1]) if output.ndim > 1 else output.reshape(-1, 1, 1)
    chosen = (flat[..., 0] > cut).astype(np.int64) if flat.shape[-1] == 1 else flat.argmax(axis=-1)
    return chosen.reshape(len(output), -1)
