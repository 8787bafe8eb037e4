"""A bundle on a device: open a session, ask it about items. The model runs in a guarded child.

The parent reads the bundle's header only; the child reads the model, the images and the engine, under the limit.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.bundle import demand, load_bundle
from edge_runtime.choice import choose
from edge_runtime.digest import sha256
from edge_runtime.engine import check_threads
from edge_runtime.errors import BudgetError, EdgeError, EngineError, InputError
from edge_runtime.guard import TIME_LIMIT_S, Child, Limits, check_time_limit
from edge_runtime.items import Item, printable
from edge_runtime.planner import Candidate, Plan, is_roomy, plan, usual_threads
from edge_runtime.profile import load_profile
from edge_runtime.results import Origin, Outcome, Prediction
from edge_runtime.shelf import hold

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edge_runtime.bundle import Bundle
    from edge_runtime.child import Progress
    from edge_runtime.profile import DeviceProfile

_SERVE = "edge_runtime.server:serve_bundle"


class Session:
    """Reads items. Not for several threads. After a breach the next item gets a fresh child."""

    def __init__(
        self,
        bundle: Bundle,
        device: DeviceProfile,
        plan: Plan,
        threads: int | None,
        time_limit_s: float = TIME_LIMIT_S,
    ) -> None:
        self.bundle, self.device, self.plan, self.threads = bundle, device, plan, threads
        self.time_limit_s = time_limit_s
        self.candidate: Candidate
        self.refused: list[str] = []
        self._child: Child | None = None
        self._version = ""
        self._device_digest = sha256(json.dumps(asdict(device), sort_keys=True).encode()).hexdigest()
        self._held = hold(bundle.path)  # the store keeps what a session may have to read again
        try:
            self._open(plan.demand())
        except BaseException:
            self.close()
            raise

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
        self._threads = self.threads or self.candidate.threads or self._usual_threads()
        spec = {
            "bundle": str(self.bundle.path.resolve()),
            "digest": self.bundle.digest,
            "variant": self.candidate.variant,
            "engine": self.candidate.engine,
            "threads": self._threads,
            "predicted_bytes": self.candidate.cost.ram_bytes,
            "roomy": is_roomy(self.candidate.cost.ram_bytes, self.device),
        }
        child = Child(_SERVE, spec, Limits(self.device.budget.ram_bytes, self.time_limit_s))
        try:
            self._version = child.ready()["engine_version"]
        except BaseException:
            child.close()
            raise
        if self._child:
            self._child.close()
        self._child = child

    def _usual_threads(self) -> int:
        return usual_threads(self.bundle.variant(self.candidate.variant).file.read_bytes, self.device)

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
            self.bundle.variant(one.variant).sha256,
            self._threads,
            self.device.budget.ram_bytes,
            self._device_digest,
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
    ) -> Outcome:
        """One item, read or failed: an Outcome either way, with the digest of what was read ("" where it cannot be).

        Raises EdgeError only where the model cannot be started again after an item that ended it.
        """
        item = item if isinstance(item, Item) else Item(printable(item), (Path(item),))
        prediction: Prediction | None = None
        error: EdgeError | None = None
        latency: float | None = None
        digest = ""
        if self._child is None or not self._child.alive:
            self._start()
        try:
            meta = {"name": item.name, "paths": [str(path.absolute()) for path in item.paths], "details": details}
            reply, _ = self._running().call("predict", meta, progress=progress)
            prediction = Prediction(reply["kind"], reply["summary"], reply["fields"])
            latency, digest = reply["latency_ms"], reply["item_digest"]
        except EdgeError as caught:
            error = caught
            with contextlib.suppress(InputError):
                digest = item.digest()
        peak = self.peak_ram_bytes or None
        if isinstance(error, BudgetError):
            peak = error.measured_bytes
        when = datetime.now(UTC).isoformat(timespec="seconds")
        return Outcome(
            item.name, digest, when, self.origin, prediction, error, latency, peak, extra=self._passed_over()
        )

    def _passed_over(self) -> dict[str, list[str]]:
        return {"passed_over": list(self.refused)} if self.refused else {}

    def _running(self) -> Child:
        if self._child is None:
            raise EngineError("the session is closed: open another")
        return self._child

    def close(self) -> None:
        if self._child:
            self._child.close()
            self._child = None
        if self._held >= 0:
            os.close(self._held)
            self._held = -1

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
    measure: bool | None = None,
    time_limit_s: float = TIME_LIMIT_S,
    notice: Callable[[str], None] | None = None,
) -> Session:
    """Choose what fits (see `plan`), start it under the device's memory limit, and return it ready.

    `measure`: where several candidates fit, race them on this machine for some seconds and take the fastest (see
    choice.py); what was learned is remembered, and `notice` is told when it takes time. Left out: unless the
    environment has EDGE_RUNTIME_MEASURE=0. `time_limit_s`: an item whose next image takes longer is given up, with the
    model's process; loading the model has the same limit. Close it, or use it in `with`. Raises BudgetError when
    nothing fits, EngineError when nothing starts, BundleError, TrustError (see trust.py).
    """
    if threads is not None:
        check_threads(threads)
    check_time_limit(time_limit_s)
    if isinstance(bundle, str | os.PathLike):
        bundle = load_bundle(bundle)
    demand(bundle)  # one that the caller has packed or had read before a key was accepted
    if isinstance(device, str | os.PathLike):
        device = load_profile(device)
    # an engine that dies at its import is found when the child starts, so no probe's import is paid beforehand
    found = plan(bundle, device, engine=engine, variant=variant)
    if measure is None:
        measure = os.environ.get("EDGE_RUNTIME_MEASURE") != "0"
    if measure:
        found = choose(bundle, device, found, threads=threads, notice=notice)
    return Session(bundle, device, found, threads, time_limit_s)
