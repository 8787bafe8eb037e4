"""A bundle on a device: open a session, ask it about items. The model runs in a guarded child.

The parent reads the bundle's header only; the child reads the model, the images and the engine, under the limit.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.bundle import load_bundle
from edge_runtime.engine import EngineOptions, find_engine
from edge_runtime.errors import BudgetError, EdgeError, EngineError, InputError
from edge_runtime.guard import Child, Limits, Reply
from edge_runtime.items import Item
from edge_runtime.planner import Candidate, Plan, plan
from edge_runtime.profile import load_profile
from edge_runtime.results import Origin, Outcome, Prediction
from edge_runtime.task import Answer, Task, find_task
from edge_runtime.tensors import dequantize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_runtime.bundle import Bundle
    from edge_runtime.engine import Program
    from edge_runtime.guard import Progress
    from edge_runtime.profile import DeviceProfile
    from edge_runtime.tensors import Array

_SERVE = "edge_runtime.session:serve"


class Session:
    """Reads items. Not for several threads. After a breach the next item gets a fresh child."""

    def __init__(self, bundle: Bundle, device: DeviceProfile, plan: Plan, threads: int) -> None:
        self.bundle, self.device, self.plan, self.threads = bundle, device, plan, threads
        self.candidate: Candidate
        self.refused: list[str] = []
        self._child: Child | None = None
        self._version = ""
        self._open(plan.demand())

    def _open(self, candidates: Sequence[Candidate]) -> None:
        """The first candidate whose engine starts; one that dies or refuses is recorded in `refused`."""
        last: EdgeError | None = None
        for one in candidates:
            try:
                self.candidate = one
                self._start()
                return
            except (EngineError, BudgetError) as error:
                self.refused.append(f"{one.variant} on {one.engine}: {error.message}")
                last = error
        if isinstance(last, BudgetError):
            raise last
        raise EngineError(f"{self.bundle.path}: {'; '.join(self.refused)}", hint="edge-runtime doctor") from last

    def _start(self) -> None:
        spec = {
            "bundle": str(self.bundle.path.resolve()),
            "digest": self.bundle.digest,
            "variant": self.candidate.variant,
            "engine": self.candidate.engine,
            "threads": self.threads,
            "predicted_bytes": self.candidate.cost.ram_bytes,
        }
        child = Child(_SERVE, spec, Limits(self.device.budget.ram_bytes))
        try:
            self._version = child.ready()["engine_version"]
        except BaseException:
            child.close()
            raise
        self._child = child

    @property
    def origin(self) -> Origin:
        one = self.candidate
        return Origin(
            f"{self.bundle.name} {self.bundle.version}",
            self.bundle.digest,
            one.variant,
            one.engine,
            self._version,
            self.device.name,
        )

    @property
    def peak_ram_bytes(self) -> int:
        """Peak resident memory of the child so far."""
        return self._child.peak_bytes if self._child else 0

    def predict(
        self,
        item: str | os.PathLike[str] | Item,
        *,
        details: bool = False,
        progress: Progress | None = None,
    ) -> Prediction:
        """What the model says of one item. Raises EdgeError: InputError for the item, BudgetError over the limit."""
        outcome = self.run(item, details=details, progress=progress)
        if outcome.error is not None:
            raise outcome.error
        if outcome.prediction is None:
            raise EngineError(f"{outcome.item}: no prediction")
        return outcome.prediction

    def run(
        self,
        item: str | os.PathLike[str] | Item,
        *,
        details: bool = False,
        progress: Progress | None = None,
        digest: str | None = None,
    ) -> Outcome:
        """One item, read or failed: an Outcome either way, with its digest (worked out here unless given)."""
        item = item if isinstance(item, Item) else Item(str(item), (Path(item),))
        prediction: Prediction | None = None
        error: EdgeError | None = None
        latency: float | None = None
        try:
            digest = digest or item.digest()
            if self._child is None or not self._child.alive:
                self._start()
            meta = {"name": item.name, "paths": [str(path.absolute()) for path in item.paths], "details": details}
            assert self._child is not None
            reply, _ = self._child.call("predict", meta, progress=progress)
            prediction = Prediction(reply["kind"], reply["summary"], reply["fields"])
            latency = reply["latency_ms"]
        except EdgeError as caught:
            error = caught
        peak = self.peak_ram_bytes or None
        if isinstance(error, BudgetError):
            peak = error.measured_bytes
        when = datetime.now(UTC).isoformat(timespec="seconds")
        return Outcome(item.name, digest or "", when, self.origin, prediction, error, latency, peak)

    def close(self) -> None:
        if self._child:
            self._child.close()
            self._child = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_session(
    bundle: Bundle | str | os.PathLike[str],
    device: DeviceProfile | str | os.PathLike[str] = "this-device",
    *,
    engine: str | None = None,
    variant: str | None = None,
    threads: int | None = None,
) -> Session:
    """Choose what fits (see `plan`), start it under the device's memory limit, and return it ready.

    Close it, or use it in `with`. Raises BudgetError when nothing fits, EngineError when nothing starts, BundleError.
    """
    if isinstance(bundle, str | os.PathLike):
        bundle = load_bundle(bundle)
    if isinstance(device, str | os.PathLike):
        device = load_profile(device)
    cores = os.cpu_count() or 1
    return Session(
        bundle,
        device,
        # an engine that dies at its import is found when the child starts, so no probe's import is paid beforehand
        plan(bundle, device, engine=engine, variant=variant),
        threads or min(device.threads, cores),
    )


# ---------------------------------------------------------------- the child's side


class _Server:
    def __init__(self, task: Task, program: Program, about: dict[str, Any]) -> None:
        self.task, self.program, self.about = task, program, about

    def handle(self, op: str, meta: dict[str, Any], arrays: dict[str, Array], progress: Progress) -> Reply:
        item = Item(meta["name"], tuple(Path(path) for path in meta["paths"]))
        start = time.perf_counter()
        prediction = self.task.decide(self._answers(item, progress), details=meta["details"])
        latency = (time.perf_counter() - start) * 1e3
        reply = {
            "kind": prediction.kind,
            "summary": prediction.summary,
            "fields": prediction.fields,
            "latency_ms": round(latency, 3),
        }
        return reply, {}

    def _answers(self, item: Item, progress: Progress) -> Iterator[Answer]:
        outputs = self.program.outputs
        with contextlib.closing(self.task.feeds(item, self.program.inputs)) as feeds:  # type: ignore[type-var]
            for feed in feeds:
                found = self.program.run(feed.tensors)
                progress(feed.done, feed.total)
                yield Answer(feed.tag, {spec.name: dequantize(found[spec.name], spec) for spec in outputs})


def serve(spec: dict[str, Any]) -> _Server:
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
    return _Server(task, program, {"engine_version": engine.version()})


def _shapes(specs: tuple[Any, ...]) -> list[Any]:
    # scales may differ in the last digit between readers; shape, dtype and name may not
    return [replace(one, scale=None, zero_point=None) for one in specs]
