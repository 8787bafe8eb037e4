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
from typing import TYPE_CHECKING, Any, NamedTuple

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
from edge_runtime.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edge_runtime.bundle import Bundle
    from edge_runtime.child import Progress
    from edge_runtime.profile import DeviceProfile

_SERVE = "edge_runtime.server:serve_bundle"
# After so many items in a row that the variant in use was too large for and a smaller one read, the smaller one stays.
GIVE_UP_AFTER = 3
_SMALLER = 0.98  # of the predicted memory: what is no smaller than this is not worth starting


class Way(NamedTuple):
    """How an item is read: a candidate, and whether without what makes it faster and takes memory (is_roomy)."""

    candidate: Candidate
    lean: bool = False

    def __str__(self) -> str:
        return f"{self.candidate.variant} on {self.candidate.engine}{', one image at a time' if self.lean else ''}"


class Session:
    """Reads items. Not for several threads.

    An item that takes more memory than the device allows ends its child. It is then read leaner (one image at a time),
    and by the smaller variants of the plan, the largest first; `fell_back` in its outcome tells of what was stopped.
    The next item is read as before: one huge photograph says nothing of the others. Only where that happens to
    GIVE_UP_AFTER items in a row, the smaller one stays.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: DeviceProfile,
        plan: Plan,
        threads: int | None,
        time_limit_s: float = TIME_LIMIT_S,
        notice: Callable[[str], None] | None = None,
        lean: bool = False,
    ) -> None:
        self.bundle, self.device, self.plan, self.threads = bundle, device, plan, threads
        self.time_limit_s = time_limit_s
        self.candidate: Candidate
        self.refused: list[str] = []
        self._child: Child | None = None
        self._usual: Way
        self._way: Way  # of the child
        self._version = ""
        self._device_digest = sha256(json.dumps(asdict(device), sort_keys=True).encode()).hexdigest()
        self._held = hold(bundle.path)  # the store keeps what a session may have to read again
        self._notice = notice or (lambda words: None)
        self._in_a_row = 0
        self._told, self._lean = False, lean
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
                self._usual = Way(one, self._lean or not is_roomy(one.cost.ram_bytes, self.device))
                self._start(self._usual)
                return
            except (EngineError, BudgetError) as error:
                self.refused.append(f"{one.variant} on {one.engine}: {error.message}")
                last = error
        if isinstance(last, BudgetError):
            raise last
        raise EngineError(f"{self.bundle.path}: {'; '.join(self.refused)}", hint="edge-runtime doctor") from last

    def _start(self, way: Way) -> None:
        """A child that reads this way, where there is none yet."""
        if self._child and self._child.alive and self._way == way:
            return
        self._end_child()  # first: the device has no memory for two
        one = way.candidate
        self._threads = self.threads or one.threads or self._usual_threads(one)
        spec = {
            "bundle": str(self.bundle.path.resolve()),
            "digest": self.bundle.digest,
            "variant": one.variant,
            "engine": one.engine,
            "threads": self._threads,
            "predicted_bytes": one.cost.ram_bytes,
            "roomy": not way.lean,
        }
        child = Child(_SERVE, spec, Limits(self.device.budget.ram_bytes, self.time_limit_s))
        try:
            self._version = child.ready()["engine_version"]
        except BaseException:
            child.close()
            raise
        self._child, self._way, self.candidate = child, way, one

    def _smaller(self) -> list[Way]:
        """What is left to try for an item that the usual way is too large for, the largest first."""
        usual = self._usual
        less = [one for one in self.plan.fitting if one.cost.ram_bytes <= _SMALLER * usual.candidate.cost.ram_bytes]
        less.sort(key=lambda one: -one.cost.ram_bytes)
        return [*([] if usual.lean else [Way(usual.candidate, True)]), *(Way(one, True) for one in less)]

    def _usual_threads(self, one: Candidate) -> int:
        return usual_threads(self.bundle.variant(one.variant).file.read_bytes, self.device)

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

    @property
    def resident_ram_bytes(self) -> int:
        """Resident memory of the child now."""
        return self._child.resident_bytes if self._child else 0

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
        stopped: list[dict[str, Any]] = []
        meta = {"name": item.name, "paths": [str(path.absolute()) for path in item.paths], "details": details}
        try:
            reply = self._ask(meta, progress, stopped)
            prediction = Prediction(reply["kind"], reply["summary"], reply["fields"])
            latency, digest = reply["latency_ms"], reply["item_digest"]
        except _NotStarted as caught:
            raise caught.error from caught
        except EdgeError as caught:
            error = caught
            with contextlib.suppress(InputError):
                digest = item.digest()
        peak = self.peak_ram_bytes or None
        if isinstance(error, BudgetError):
            peak = error.measured_bytes
        when = datetime.now(UTC).isoformat(timespec="seconds")
        extra: dict[str, Any] = self._passed_over()
        if prediction and stopped:
            extra["fell_back"] = stopped
            self._keep_smaller(item.name, stopped[0])
        else:
            self._in_a_row = 0
            # what went over the limit last is the error, where nothing smaller died of something else after it
            before = stopped[:-1] if isinstance(error, BudgetError) else stopped
            if before:
                extra["fell_back"] = before
        return Outcome(item.name, digest, when, self.origin, prediction, error, latency, peak, extra=extra)

    def _ask(self, meta: dict[str, Any], progress: Progress | None, stopped: list[dict[str, Any]]) -> dict[str, Any]:
        """The child's answer, read the usual way or a smaller one; each that went over the limit is added to `stopped`.

        Raises what the last that was asked said, _NotStarted where none could be."""
        last: EdgeError | None = None
        refused: EdgeError | None = None
        for way in (self._usual, *self._smaller()):
            try:
                self._start(way)
            except BudgetError as error:
                stopped.append(_stopped(way, error))
                refused = refused or error
                continue
            except EdgeError as error:
                if stopped and isinstance(error, EngineError):  # the engine of a smaller variant is not there
                    continue
                raise _NotStarted(error) from error
            try:
                return self._running().call("predict", meta, progress=progress)[0]
            except BudgetError as error:
                stopped.append(_stopped(way, error))
                last = error
        if last is not None:
            raise last
        raise _NotStarted(refused or EngineError(f"{self.bundle.path}: nothing in it starts"))

    def _keep_smaller(self, item: str, first: dict[str, Any]) -> None:
        """An item was read a smaller way: say so once, and stay with it where that happens again and again."""
        self._in_a_row += 1
        took = f"{format_bytes(first['measured_bytes'] or 0)}, allowed {format_bytes(first['allowed_bytes'] or 0)}"
        if not self._told:
            self._told = True
            self._notice(f"{item}: too large for {self._usual} ({took}); read by {self._way}, the next one as before")
        if self._in_a_row >= GIVE_UP_AFTER:
            said = f"{self._in_a_row} items in a row were too large for {self._usual} ({took})"
            self._notice(f"{said}; from now on {self._way}")
            self._usual, self._in_a_row = self._way, 0

    def _passed_over(self) -> dict[str, list[str]]:
        return {"passed_over": list(self.refused)} if self.refused else {}

    def _running(self) -> Child:
        if self._child is None:
            raise EngineError("the session is closed: open another")
        return self._child

    def _end_child(self) -> None:
        if self._child:
            self._child.close()
            self._child = None

    def close(self) -> None:
        self._end_child()
        if self._held >= 0:
            os.close(self._held)
            self._held = -1

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _NotStarted(Exception):
    """No child could be asked; `error` says why."""

    def __init__(self, error: EdgeError) -> None:
        super().__init__(error.message)
        self.error = error


def _stopped(way: Way, error: BudgetError) -> dict[str, Any]:
    """As it stands in an outcome."""
    figures = {key: getattr(error, key) for key in ("predicted_bytes", "allowed_bytes", "measured_bytes")}
    return {"variant": way.candidate.variant, "engine": way.candidate.engine, "lean": way.lean, **figures}


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
    lean: bool = False,
) -> Session:
    """Choose what fits (see `plan`), start it under the device's memory limit, and return it ready.

    `measure`: where several candidates fit, race them on this machine for some seconds and take the fastest (see
    choice.py); what was learned is remembered. Left out: unless the environment has EDGE_RUNTIME_MEASURE=0. `notice` is
    told when that takes time, and when an item is read a smaller way. `lean`: without batches and decoding ahead, even
    where there is memory for them. `time_limit_s`: an item whose next image takes longer is given up, with the
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
    return Session(bundle, device, found, threads, time_limit_s, notice, lean)
