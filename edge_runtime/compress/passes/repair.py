"""Fine-tune a damaged model against the answers of the original, on items without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.recipe import Context, Progress
from edge_runtime.compress.samples import Samples

if TYPE_CHECKING:
    from edge_runtime.compress.torch_graph import TorchGraph

MOST_HELD = 256
MOST_VALUES = 4096  # of one layer that count as shared


@dataclass(frozen=True)
class Repair:
    """Mean square of the difference of answers, in standard deviations of the original's, is made small by Adam.

    `features` weighs the difference of inner tensors besides, those that both graphs have under one name and in one
    shape; `augment` turns, shifts and lightens pictures, as items are few; `keep_zeros` leaves weights at 0 that are 0;
    `keep_values` moves weights that are equal in a layer together (after share_weights; Han et al., 2016), so that
    values stay few; `held_out` share of the items judges: the best epoch is taken, none if all are worse than before.
    """

    reads: ClassVar[tuple[str, ...]] = ("onnx",)
    writes: ClassVar[str | None] = None
    needs_items: ClassVar[bool] = True
    epochs: int = 8
    learning_rate: float = 1e-3
    batch: int = 32
    features: float = 0.0
    augment: bool = True
    keep_zeros: bool = True
    keep_values: bool = False
    held_out: float = 0.15
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"found {name} {getattr(self, name)}, wanted 1 or more")
        if not 0 < self.learning_rate < 1 or self.features < 0:
            raise ValueError(
                f"found learning_rate {self.learning_rate} and features {self.features}, wanted the first between 0 "
                "and 1, the second 0 or more"
            )
        if not 0 < self.held_out < 1:
            raise ValueError(f"found held_out {self.held_out}, wanted it between 0 and 1")

    def __call__(self, artifact: Artifact, context: Context) -> Artifact:
        """Raises EngineError without torch; InputError: an operator that cannot be trained, too few items."""
        samples = context.items("repair")
        made, facts = repair(context.original, artifact, samples, self, context.progress)
        for key, value in facts.items():
            context.note(key, value)
        return made


def repair(
    original: Artifact,
    artifact: Artifact,
    samples: Samples,
    settings: Repair = Repair(),
    progress: Progress = lambda done, total, words: None,
) -> tuple[Artifact, dict[str, Any]]:
    """`artifact` with weights that answer more like `original`'s; facts: drift on the held-out items, before and
    after, by epoch, and the epoch taken (0: none, the weights are as they were)."""
    from edge_runtime.compress import torch_graph

    torch = torch_graph.need_torch()
    held, lessons = apart(samples, settings.held_out, "repair")
    with torch_graph.single_thread(torch, settings.threads):
        torch.manual_seed(settings.seed)
        teacher, student = torch_graph.TorchGraph(original), torch_graph.TorchGraph(artifact)
        return _train(torch, teacher, student, lessons, held, artifact, settings, progress)


def apart(samples: Samples, share: float, what: str) -> tuple[Samples, Samples]:
    """Held out: up to MOST_HELD items, evenly spread; the rest to learn from. Raises InputError for too few."""
    import numpy as np

    from edge_runtime.errors import InputError

    count = min(max(round(samples.count * share), 1), MOST_HELD)
    if samples.count < 2 * count:
        raise InputError(f"found {samples.count} items to {what} with, wanted at least 2: some to learn, some to judge")
    held = np.unique(np.linspace(0, samples.count - 1, count).round().astype(np.int64))
    rest = np.setdiff1d(np.arange(samples.count), held)
    return _chosen(samples, held), _chosen(samples, rest)


def _chosen(samples: Samples, places: Any) -> Samples:
    return replace(
        samples,
        count=len(places),
        labels=None,
        arrays={key: one[places] for key, one in samples.arrays.items()},
        paths=tuple(samples.paths[place] for place in places) if samples.paths else (),
    )


def _train(
    torch: Any,
    teacher: TorchGraph,
    student: TorchGraph,
    lessons: Samples,
    held: Samples,
    artifact: Artifact,
    settings: Repair,
    progress: Progress,
) -> tuple[Artifact, dict[str, Any]]:
    shared = _shared_tensors(teacher, student) if settings.features else []
    deviation = _deviations(torch, teacher, held, settings.batch)
    before = _drift(torch, teacher, student, held, deviation, settings.batch)
    project = _projection(torch, student, settings)
    weights = list(student.parameters.values())
    optimizer = torch.optim.Adam(weights, settings.learning_rate)
    steps = settings.epochs * -(-lessons.count // settings.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=steps + 1, pct_start=0.2
    )
    best, taken, drifts, done = before, 0, [], 0
    kept = [one.detach().clone() for one in weights]
    for epoch in range(1, settings.epochs + 1):
        for feed in _batches(torch, lessons, settings, epoch):
            loss = _loss(torch, teacher, student, feed, deviation, shared, settings.features)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            project()
            done += 1
            progress(done, steps, f"repair: epoch {epoch} of {settings.epochs}, output change {best:.4f} sd")
        drifts.append(_drift(torch, teacher, student, held, deviation, settings.batch))
        if drifts[-1] < best:
            best, taken = drifts[-1], epoch
            kept = [one.detach().clone() for one in weights]
    facts = {
        "held_out": held.count,
        "change_rms_sd": {"before": before, "after": best, "by_epoch": drifts},
        "epoch": taken,
    }
    if not taken:
        return artifact, facts | {"said": "no epoch was better on the held-out items: the weights are as they were"}
    for weight, value in zip(weights, kept, strict=True):
        weight.data.copy_(value)
    return student.artifact(), facts


def _shared_tensors(teacher: TorchGraph, student: TorchGraph) -> list[str]:
    """Computed tensors that both graphs have, in one shape, as far as weighted layers make them."""
    from edge_runtime.compress.shapes import find_shapes

    old, new = find_shapes(teacher.artifact()), find_shapes(student.artifact())
    made = [node.outputs[0].name or "" for node in student.nodes if node.op_type in ("Conv", "Gemm", "MatMul", "Add")]
    return [name for name in made if old.get(name) == new.get(name) and name not in student.outputs]


def _tensors(torch: Any, feed: dict[str, Any]) -> dict[str, Any]:
    made = {key: torch.from_numpy(array) for key, array in feed.items()}
    return {
        key: one.contiguous(memory_format=torch.channels_last) if one.ndim == 4 else one for key, one in made.items()
    }


def _deviations(torch: Any, teacher: TorchGraph, held: Samples, batch: int) -> dict[str, float]:
    """Standard deviation of each output, over all of its numbers."""
    with torch.no_grad():
        found = [teacher(_tensors(torch, feed)) for feed in held.batches(batch)]
    return {
        name: max(float(torch.cat([one[name] for one in found]).std()) if held.count > 1 else 1.0, 1e-12)
        for name in teacher.outputs
        if found[0][name].is_floating_point()
    }


def _drift(
    torch: Any, teacher: TorchGraph, student: TorchGraph, held: Samples, deviation: dict[str, float], batch: int
) -> float:
    """Root of the mean square of the worst output's change, in its standard deviations; on the items as they are."""
    total = dict.fromkeys(deviation, 0.0)
    with torch.no_grad():
        for feed in held.batches(batch):
            given = _tensors(torch, feed)
            old, new = teacher(given), student(given)
            for place, (name, scale) in enumerate(deviation.items()):
                change = (new[student.outputs[place]] - old[name]) / scale
                total[name] += float((change**2).mean()) * len(change)
    return float(max(value / held.count for value in total.values()) ** 0.5)


def _loss(
    torch: Any,
    teacher: TorchGraph,
    student: TorchGraph,
    feed: dict[str, Any],
    deviation: dict[str, float],
    shared: list[str],
    features: float,
) -> Any:
    with torch.no_grad():
        old = teacher(feed, shared)
    new = student(feed, shared)
    total = sum(
        (((new[student.outputs[place]] - old[name]) / scale) ** 2).mean()
        for place, (name, scale) in enumerate(deviation.items())
    )
    for name in shared:
        total = total + features / len(shared) * ((new[name] - old[name]) ** 2).mean() / old[name].var().clamp_min(
            1e-12
        )
    return total


def _projection(torch: Any, student: TorchGraph, settings: Repair) -> Callable[[], None]:
    """What is done to the weights after each step, so that they stay what an earlier pass made of them."""
    masks, books = [], []
    for weight in student.parameters.values():
        if weight.ndim < 2:
            continue
        zeros = weight.detach() == 0
        if settings.keep_zeros and zeros.any():
            masks.append((weight, zeros))
        if settings.keep_values:
            values, places = torch.unique(weight.detach().reshape(-1), return_inverse=True)
            if len(values) <= min(MOST_VALUES, weight.numel() // 2):
                books.append((weight, places, torch.bincount(places)))

    def project() -> None:
        with torch.no_grad():
            for weight, places, counts in books:
                moved = torch.bincount(places, weight.reshape(-1)) / counts
                weight.copy_(moved[places].reshape(weight.shape))
            for weight, zeros in masks:
                weight.masked_fill_(zeros, 0)

    return project


def _batches(torch: Any, lessons: Samples, settings: Repair, epoch: int) -> Iterator[dict[str, Any]]:
    """The items in another order each epoch, pictures varied."""
    import numpy as np

    dice = np.random.default_rng([settings.seed, epoch])
    order = dice.permutation(lessons.count)
    for start in range(0, lessons.count, settings.batch):
        some = _chosen(lessons, np.sort(order[start : start + settings.batch]))
        (feed,) = some.batches(settings.batch)
        yield _tensors(torch, {key: _varied(one, dice) if settings.augment else one for key, one in feed.items()})


def _varied(array: Any, dice: Any) -> Any:
    """float (N,C,H,W) mirrored, moved by up to a sixteenth, lightened by up to a tenth of its range; else unchanged."""
    import numpy as np

    if array.ndim != 4 or array.dtype.kind != "f":
        return array
    made = np.empty_like(array)
    low, high = float(array.min()), float(array.max())
    reach = [size // 16 for size in array.shape[2:]]
    for number, one in enumerate(array):
        one = one[:, :, ::-1] if dice.random() < 0.5 else one
        one = one[:, ::-1] if dice.random() < 0.5 else one
        if one.shape[1] == one.shape[2] and dice.random() < 0.5:
            one = one.transpose(0, 2, 1)
        moved = np.roll(one, [int(dice.integers(-far, far + 1)) for far in reach], axis=(1, 2))
        made[number] = low + (moved - low) * (1 + dice.uniform(-0.1, 0.1))
    return np.clip(made, low, high)
