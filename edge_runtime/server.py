"""What runs in the guarded child: a bundle's task on its model, or a model file alone.

Apart from session.py and program.py because the child loads this and not them: its memory is the model's budget.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.bundle import load_bundle
from edge_runtime.engine import EngineOptions, find_engine
from edge_runtime.errors import EngineError, InputError
from edge_runtime.items import Item, ItemDigest
from edge_runtime.task import Answer, Task, find_task
from edge_runtime.tensors import dequantize

if TYPE_CHECKING:
    from edge_runtime.child import Progress, Reply
    from edge_runtime.engine import Program
    from edge_runtime.tensors import Array


class BundleServer:
    def __init__(self, task: Task, program: Program, about: dict[str, Any]) -> None:
        self.task, self.program, self.about = task, program, about

    def handle(self, op: str, meta: dict[str, Any], arrays: dict[str, Array], progress: Progress) -> Reply:
        item = Item(meta["name"], tuple(Path(path) for path in meta["paths"]))
        start = time.perf_counter()
        digest = ItemDigest()
        prediction = self.task.decide(self._answers(item, digest, progress), details=meta["details"])
        latency = (time.perf_counter() - start) * 1e3
        reply = {
            "kind": prediction.kind,
            "summary": prediction.summary,
            "fields": prediction.fields,
            "latency_ms": round(latency, 3),
            "item_digest": digest.hexdigest(),
        }
        return reply, {}

    def _answers(self, item: Item, digest: ItemDigest, progress: Progress) -> Iterator[Answer]:
        outputs = self.program.outputs
        with contextlib.closing(self.task.feeds(item, self.program.inputs, digest)) as feeds:  # type: ignore[type-var]
            for feed in feeds:
                found = self.program.run(feed.tensors)
                progress(feed.done, feed.total)
                yield Answer(feed.tag, {spec.name: dequantize(found[spec.name], spec) for spec in outputs})


def serve_bundle(spec: dict[str, Any]) -> BundleServer:
    """Made in the child: reads and verifies the bundle, loads the variant, checks that task and model agree."""
    bundle = load_bundle(spec["bundle"])
    if bundle.digest != spec["digest"]:
        raise InputError(f"{bundle.path}: the bundle was changed after it was read", hint="run the command again")
    variant = bundle.variant(spec["variant"])
    engine = find_engine(spec["engine"])
    task = find_task(bundle)
    program = engine.load(bundle.read(variant.file), EngineOptions(spec["threads"]))
    found, wanted = [(one.inputs, one.outputs) for one in (program, variant)]
    if [_shapes(one) for one in found] != [_shapes(one) for one in wanted]:
        raise EngineError(
            f"{bundle.path}: {variant.name}: found tensors {found}, wanted those that the bundle states {wanted}"
        )
    task.check(program.inputs, program.outputs)
    _reserve()
    return BundleServer(task, program, {"engine_version": engine.version()})


def _reserve() -> None:
    """Let numpy's BLAS reserve now what it reserves at its first product (32 MiB of addresses, of which it touches
    little): the limit on what is left counts addresses, and is set when this server is ready."""
    import numpy as np

    double = np.eye(64)
    single = double.astype(np.float32)
    np.linalg.solve(double @ double, single @ single)


def _shapes(specs: tuple[Any, ...]) -> list[Any]:
    # scales may differ in the last digit between readers; shape, dtype and name may not
    return [replace(one, scale=None, zero_point=None) for one in specs]


class FileServer:
    def __init__(self, program: Program, version: str) -> None:
        self.program = program
        self.about = {
            "engine_version": version,
            "inputs": [spec.to_json() for spec in program.inputs],
            "outputs": [spec.to_json() for spec in program.outputs],
        }

    def handle(self, op: str, meta: dict[str, Any], arrays: dict[str, Array], progress: Progress) -> Reply:
        return {}, self.program.run(arrays)


def serve_file(spec: dict[str, Any]) -> FileServer:
    """Made in the child."""
    engine = find_engine(spec["engine"])
    program = engine.load(Path(spec["model"]), EngineOptions(spec["threads"]))
    return FileServer(program, engine.version())
