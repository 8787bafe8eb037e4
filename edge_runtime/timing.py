"""Timing a model in the guarded child: its first answer, its warm-up, windows of inferences, a whole item of its task.

The inferences are the program's own, as a session makes them; the inputs are made up (`made_up`), because what a
network computes does not depend on what it sees. Times are taken with the monotonic clock, one inference each.

Between short runs of inferences the child times a fixed piece of arithmetic, its *pace*. A machine that is shared or
hot runs everything slower for seconds at a time, and what was measured at its full pace can be told apart afterwards.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edge_runtime.child import memory_status
from edge_runtime.errors import InputError, UsageError
from edge_runtime.items import Item
from edge_runtime.server import BundleServer, serve_bundle
from edge_runtime.server_file import serve_file
from edge_runtime.stats import median

if TYPE_CHECKING:
    from edge_runtime.child import Progress, Reply
    from edge_runtime.engine import Program
    from edge_runtime.tensors import Array, TensorSpec

CHUNK_S = 0.004
# Of one window: what a child keeps in memory and sends is bounded, however fast the model.
MAX_LATENCIES = 200_000
_PACE_STEPS = 1000
_SETTLED = 0.05  # relative change between two groups of inferences below which a model counts as warm
_WARM_GROUP_S, _WARM_LEAST, _WARM_MOST_S = 0.02, 3, 10.0
_SLOW_MS = 500.0


class Chunk(NamedTuple):
    """Some milliseconds of inferences: the median of one in ms, the machine's pace beside it in ms, and how many."""

    p50_ms: float
    pace_ms: float
    n: int


class TimingServer:
    """Handler: made once with the model loaded; each question is one measurement."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        start = time.perf_counter()
        self._whole: BundleServer | None = None
        if "bundle" in spec:
            self._whole = serve_bundle(dict(spec))
            self._program: Program = self._whole.program
            version = self._whole.about["engine_version"]
        else:
            alone = serve_file(dict(spec))
            self._program, version = alone.program, alone.about["engine_version"]
        self._sizes: dict[str, list[int]] = spec.get("shapes") or {}
        unknown = sorted(set(self._sizes) - {one.name for one in self._program.inputs})
        if unknown:
            names = ", ".join(one.name for one in self._program.inputs)
            raise InputError(
                f"shape: found sizes for {', '.join(unknown)}, wanted them for inputs of the model: {names}"
            )
        self._feeds: dict[int, dict[str, Array]] = {}
        self.about = {
            "engine_version": version,
            "load_ms": (time.perf_counter() - start) * 1e3,
            "loaded_bytes": memory_status().get("VmRSS", 0),
            "inputs": [one.to_json() for one in self._program.inputs],
            "batched": bool(self._program.inputs) and all(one.shape[:1] == (None,) for one in self._program.inputs),
        }

    def handle(self, op: str, meta: dict[str, Any], arrays: dict[str, Array], progress: Progress) -> Reply:
        if op == "first":
            return {"ms": self._timed(1)}, {}
        if op == "warm_up":
            return self._warm_up(), {}
        if op == "window":
            return self._window(meta["seconds"], meta.get("batch", 1))
        if op == "memory":
            status = memory_status()
            return {"peak_bytes": status.get("VmHWM"), "resident_bytes": status.get("VmRSS"), "pss_bytes": pss()}, {}
        if op == "task":
            return self._task(meta, progress), {}
        raise UsageError(f"timing: found question {op!r}")

    def _timed(self, batch: int) -> float:
        if batch not in self._feeds:
            self._feeds[batch] = {one.name: made_up(one, batch, self._sizes) for one in self._program.inputs}
        feeds = self._feeds[batch]
        start = time.perf_counter()
        self._program.run(feeds)
        return (time.perf_counter() - start) * 1e3

    def _warm_up(self) -> dict[str, Any]:
        """Groups of inferences until two in a row are alike: caches, clocks and lazy set-up have settled."""
        start = time.perf_counter()
        count, last = 0, None
        while time.perf_counter() - start < _WARM_MOST_S:
            group: list[float] = []
            since = time.perf_counter()
            while not group or time.perf_counter() - since < _WARM_GROUP_S or len(group) < _WARM_LEAST:
                group.append(self._timed(1))
                if group[-1] > _SLOW_MS:  # nothing that warms takes so long
                    break
            count += len(group)
            found = median(group)
            if last is not None and abs(found - last) <= _SETTLED * last:
                return {"n": count, "settled": True}
            last = found
        return {"n": count, "settled": False}

    def _window(self, seconds: float, batch: int) -> Reply:
        import numpy as np

        # After another process the caches are its own: that is not what a warm model takes.
        lead_in_s = time.perf_counter() + min(CHUNK_S / 2, seconds / 4)
        while self._timed(batch) < 1e3 * CHUNK_S / 2 and time.perf_counter() < lead_in_s:
            pass
        chunks: list[Chunk] = []
        kept = np.empty(0, np.float32)
        start = time.perf_counter()
        before = pace()
        while not chunks or time.perf_counter() - start < seconds:
            latencies: list[float] = []
            since = time.perf_counter()
            while not latencies or time.perf_counter() - since < CHUNK_S:
                latencies.append(self._timed(batch))
            after = pace()
            chunks.append(Chunk(median(latencies), (before + after) / 2, len(latencies)))
            before = after
            if len(kept) < MAX_LATENCIES:
                kept = np.append(kept, np.asarray(latencies, np.float32))
        taken = time.perf_counter() - start
        return {"chunks": chunks, "seconds": taken, "n": sum(one.n for one in chunks)}, {"ms": kept}

    def _task(self, meta: dict[str, Any], progress: Progress) -> dict[str, Any]:
        if self._whole is None:
            raise UsageError("timing: found a bare model file, wanted a bundle: only that has a task")
        item = Item(meta["name"], tuple(Path(path) for path in meta["paths"]))
        reply, _ = self._whole.handle(
            "predict", {"name": item.name, "paths": item.paths, "details": False}, {}, progress
        )
        keys = ("latency_ms", "parts_ms", "feeds", "summary")
        return {key: reply[key] for key in keys} | {"peak_bytes": memory_status().get("VmHWM")}


def serve_timing(spec: dict[str, Any]) -> TimingServer:
    """Made in the child. `spec` as for a session ("bundle") or a program ("model"); "shapes" gives free sizes."""
    return TimingServer(spec)


def pace() -> float:
    """Milliseconds that this machine takes, now, for a fixed piece of arithmetic (about 50 us on a desk machine)."""
    start = time.perf_counter()
    total = 0
    for number in range(_PACE_STEPS):
        total += number * number
    return (time.perf_counter() - start) * 1e3


def pss() -> int | None:
    """Bytes of this process, what it shares counted by its share; None where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/self/smaps_rollup") as stream:
        return next(int(line.split()[1]) * 1024 for line in stream if line.startswith("Pss:"))
    return None


def made_up(spec: TensorSpec, batch: int, sizes: Mapping[str, list[int]]) -> Array:
    """An array for an input: uniform numbers from 0 to 1 (quantized where the tensor is), small whole numbers where it
    has no scale (a token must be in the vocabulary), empty strings. Free sizes are `sizes[name]`, else the batch first
    and 1 elsewhere. Raises InputError where `sizes` does not fit the tensor."""
    import numpy as np

    from edge_runtime.tensors import quantize

    shape = [
        batch if size is None and not place else 1 if size is None else size for place, size in enumerate(spec.shape)
    ]
    if spec.name in sizes:
        wanted = sizes[spec.name]
        fits = len(wanted) == len(shape) and all(a is None or a == b for a, b in zip(spec.shape, wanted, strict=True))
        if not fits:
            raise InputError(f"input {spec.name!r}: found shape {wanted}, wanted {spec}")
        shape = list(wanted) if batch == 1 else [batch, *wanted[1:]]
    random = np.random.default_rng(0)
    if spec.dtype == "string":
        return np.full(shape, "", object)
    if spec.dtype in ("bfloat16", "complex64"):
        raise InputError(f"input {spec.name!r}: {spec.dtype} inputs cannot be made up")
    real = random.random(shape)
    if spec.scale is not None:
        return quantize(real, spec)
    if np.dtype(spec.dtype).kind == "f":
        return real.astype(spec.dtype)
    return random.integers(0, 2, shape).astype(spec.dtype)
