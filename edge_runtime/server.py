"""What runs in the guarded child: a bundle's task on its model, or a model file alone.

Apart from session.py and program.py because the child loads this and not them: its memory is the model's budget.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edge_runtime.bundle import read_bundle
from edge_runtime.cores import allowed_cores
from edge_runtime.engine import EngineOptions, find_engine
from edge_runtime.errors import EngineError, InputError
from edge_runtime.items import Item, ItemDigest
from edge_runtime.outside import refuse_outside
from edge_runtime.task import Answer, Feed, Task, find_task
from edge_runtime.task.pictures import DECODING
from edge_runtime.tensors import dequantize, quantize

if TYPE_CHECKING:
    from edge_runtime.child import Progress, Reply
    from edge_runtime.engine import Program
    from edge_runtime.tensors import Array


SMALL_MODEL_BYTES = 1 << 20
_SWITCH_S = 0.0005
_ALIKE = 1e-3  # relative; the order of a sum makes 1e-6


class BundleServer:
    def __init__(self, task: Task, program: Program, about: dict[str, Any], batch: int = 1) -> None:
        self.task, self.program, self.about, self.batch = task, program, about, batch

    def handle(self, op: str, meta: dict[str, Any], arrays: dict[str, Array], progress: Progress) -> Reply:
        item = Item(meta["name"], tuple(Path(path) for path in meta["paths"]))
        start, clock = time.perf_counter(), _Clock()
        decoded_s = DECODING.seconds
        self.program.reset()  # an answer depends on its item, and not on those before
        digest = ItemDigest()
        prediction = self.task.decide(self._answers(item, digest, progress, clock), details=meta["details"])
        whole_s, decode_s = time.perf_counter() - start, DECODING.seconds - decoded_s
        parts_s = {"decode": decode_s, "preprocess": clock.feed_s - decode_s, "infer": clock.infer_s}
        parts_s["decide"] = whole_s - clock.feed_s - clock.infer_s
        reply = {
            "kind": prediction.kind,
            "summary": prediction.summary,
            "fields": prediction.fields,
            "latency_ms": round(whole_s * 1e3, 3),
            "parts_ms": {name: round(seconds * 1e3, 3) for name, seconds in parts_s.items()},
            "feeds": clock.feeds,
            "item_digest": digest.hexdigest(),
        }
        return reply, {}

    def _answers(self, item: Item, digest: ItemDigest, progress: Progress, clock: _Clock) -> Iterator[Answer]:
        with contextlib.closing(self.task.feeds(item, self.program.inputs, digest)) as feeds:  # type: ignore[type-var]
            while group := clock.take(feeds, self.batch):
                yield from self._infer(group, clock)
                progress(group[-1].done, group[-1].total)

    def _infer(self, group: list[Feed], clock: _Clock) -> list[Answer]:
        """The answers to some feeds: of a full batch together, of what is left at the end one by one."""
        start = time.perf_counter()
        if 1 < len(group) == self.batch:
            import numpy as np

            names = group[0].tensors
            found = self.program.run({name: np.concatenate([one.tensors[name] for one in group]) for name in names})
            parts = [{name: array[place : place + 1] for name, array in found.items()} for place in range(self.batch)]
        else:
            parts = [self.program.run(one.tensors) for one in group]
        clock.infer_s += time.perf_counter() - start
        outputs = self.program.outputs
        return [
            Answer(feed.tag, {spec.name: dequantize(part[spec.name], spec) for spec in outputs})
            for feed, part in zip(group, parts, strict=True)
        ]


class _Clock:
    """Where an item's time goes: making the inputs (reading and decoding with it), and inference."""

    def __init__(self) -> None:
        self.feed_s = self.infer_s = 0.0
        self.feeds = 0

    def take(self, feeds: Iterator[Feed], count: int) -> list[Feed]:
        start = time.perf_counter()
        taken = list(itertools.islice(feeds, count))
        self.feed_s += time.perf_counter() - start
        self.feeds += len(taken)
        return taken


def serve_bundle(spec: dict[str, Any]) -> BundleServer:
    """Made in the child: reads and verifies the bundle, loads the variant, checks that task and model agree."""
    task, program, version, batch = load_variant(spec)
    _reserve()
    if spec.get("roomy"):
        # The thread that decodes must get the interpreter's lock back soon, or it is never ahead.
        sys.setswitchinterval(_SWITCH_S)
    return BundleServer(task, program, {"engine_version": version}, batch)


class Loaded(NamedTuple):
    """A variant ready to infer; `batch` is how many of its inputs are given to it together."""

    task: Task
    program: Program
    engine_version: str
    batch: int


def load_variant(spec: dict[str, Any]) -> Loaded:
    """`spec` has bundle (its path), digest, variant, engine, threads; with `roomy` there is memory for batches and
    for decoding ahead (planner.is_roomy). Raises EdgeError where they do not agree."""
    roomy = bool(spec.get("roomy"))
    bundle = read_bundle(Path(spec["bundle"]))  # whom to believe was decided by who sent the digest
    if bundle.digest != spec["digest"]:
        raise InputError(f"{bundle.path}: the bundle was changed after it was read", hint="run the command again")
    variant = bundle.variant(spec["variant"])
    engine = find_engine(spec["engine"])
    task = find_task(bundle, decode_ahead=roomy and allowed_cores() > 1)
    content = bundle.read(variant.file)
    refuse_outside(content, variant.format, f"{bundle.path}: {variant.name}")
    program = engine.load(content, EngineOptions(spec["threads"]))
    del content
    found, wanted = [(one.inputs, one.outputs) for one in (program, variant)]
    if [_shapes(one) for one in found] != [_shapes(one) for one in wanted]:
        raise EngineError(
            f"{bundle.path}: {variant.name}: found tensors {found}, wanted those that the bundle states {wanted}"
        )
    task.check(program.inputs, program.outputs)
    batch = _batch(program, engine.BATCH, variant.file.read_bytes) if roomy else 1
    return Loaded(task, program, engine.version(), batch)


def _batch(program: Program, most: int, model_bytes: int) -> int:
    """How many feeds to infer together: more than one where the engine gains by it, the model's first size is free, and
    a batch of inputs and activations is small beside everything else."""
    import numpy as np

    shapes = [one.shape for one in (*program.inputs, *program.outputs)]
    if not all(shape[:1] == (None,) and None not in shape[1:] for shape in shapes):
        return 1
    input_bytes = sum(
        math.prod(size or 0 for size in one.shape[1:]) * np.dtype(one.dtype).itemsize for one in program.inputs
    )
    small = model_bytes <= SMALL_MODEL_BYTES and most * input_bytes <= SMALL_MODEL_BYTES
    return most if most > 1 and small and _alike(program, most) else 1


def _alike(program: Program, batch: int) -> bool:
    """Whether inputs together are answered as each alone: a network that takes a range or a mean over its batch
    (dynamic quantization does) must not let one cell's neighbours into its score."""
    import numpy as np

    feeds = []
    for place in range(batch):  # darker and brighter ones: a shared range must show
        real = {
            one.name: (place + 1) / batch * _noise([1, *(size or 1 for size in one.shape[1:])], place)
            for one in program.inputs
        }
        feeds.append(
            {
                one.name: quantize(real[one.name], one) if one.scale else real[one.name].astype(one.dtype)
                for one in program.inputs
            }
        )
    together = program.run({name: np.concatenate([one[name] for one in feeds]) for name in feeds[0]})
    for place, feed in enumerate(feeds):
        for name, alone in program.run(feed).items():
            if alone.dtype.kind != "f":
                if not np.array_equal(alone[0], together[name][place]):
                    return False
            elif not np.allclose(
                alone[0], together[name][place], rtol=_ALIKE, atol=_ALIKE * float(np.abs(alone).max())
            ):
                return False
    return True


def _noise(shape: list[int], seed: int) -> Array:
    """Numbers in 0..1 without order, float64. Not numpy.random: its import alone takes 7 MiB of the model's budget."""
    import numpy as np

    mixed = (np.arange(math.prod(shape), dtype=np.uint64) + np.uint64(seed * 1009 + 1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return ((mixed >> np.uint64(11)) / 2.0**53).reshape(shape)


def _reserve() -> None:
    """Let numpy's BLAS reserve now what it reserves at its first product (32 MiB of addresses, of which it touches
    little): the limit on what is left counts addresses, and is set when this server is ready."""
    import numpy as np

    double = np.eye(64)
    single = double.astype(np.float32)
    np.linalg.solve(double @ double, single @ single)


def _shapes(specs: tuple[Any, ...]) -> list[Any]:
    # scales may differ in the last digit between readers; shape, dtype and name may not
    return [one._replace(scale=None, zero_point=None) for one in specs]
