"""Run model code in a child process under the operating system's own limits.

A model file is somebody else's program: it may want more memory than was predicted, never come back, or take the
process down with SIGILL or SIGSEGV. So it runs in a fresh interpreter (a fork would inherit the parent's peak), and
the parent, which loads neither numpy nor an engine, keeps the journal and tells what happened.

Two nets hold the memory limit, because each has a hole. RLIMIT_DATA makes the kernel refuse allocations, but counts
address space that is reserved and never touched, so it is tightened to what is left once the model is loaded. The
watchdog in the parent looks at resident memory while it waits, and kills.

A frame either way: 4 bytes length, that many bytes of JSON, then the bytes of the arrays that the JSON describes.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from edge_runtime import errors
from edge_runtime.errors import BudgetError, EdgeError, EngineError
from edge_runtime.units import format_bytes

if TYPE_CHECKING:
    from edge_runtime.tensors import Array

Progress = Callable[[int, int | None], None]
POLL_S = 0.02
# Reserved and never touched, counted by RLIMIT_DATA while engines load: thread stacks and allocator arenas.
LOADING_SLACK_BYTES = 256 << 20
_MEMORY_WORDS = ("bad_alloc", "failed to allocate", "cannot allocate memory", "out of memory", "failed to grow")
_CHILD = "import sys; sys.path.append({root!r}); from edge_runtime.guard import child_main; child_main({target!r})"


@dataclass(frozen=True)
class Limits:
    """`ram_bytes`: resident memory allowed to the child. `silence_s`: longest wait for a sign of life."""

    ram_bytes: int | None = None
    silence_s: float = 300.0


class Handler(Protocol):
    """What runs in the child: made once from the spec, then asked; `arrays` are numpy arrays by name."""

    def handle(self, op: str, meta: dict[str, Any], arrays: dict[str, Array], progress: Progress) -> Reply: ...


Reply = tuple[dict[str, Any], Mapping[str, "Array"]]


def memory_status(pid: int | str = "self") -> dict[str, int]:
    """VmRSS, VmHWM and VmData of a process, in bytes, where the system tells; psutil's figures elsewhere."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return _psutil_status(pid)
    fields = (line.split() for line in lines if line.startswith(("VmRSS", "VmHWM", "VmData")))
    return {field[0][:-1]: int(field[1]) * 1024 for field in fields}


def _psutil_status(pid: int | str) -> dict[str, int]:
    import psutil

    try:
        info = psutil.Process(None if pid == "self" else int(pid)).memory_info()
    except psutil.Error:
        return {}
    return {"VmRSS": info.rss, "VmHWM": getattr(info, "peak_wset", info.rss)}


# ---------------------------------------------------------------- frames


def _write_frame(stream: IO[bytes], plain: dict[str, Any], arrays: Mapping[str, Array] | None = None) -> None:
    blobs: list[bytes] = []
    described = []
    for name, array in (arrays or {}).items():
        # strings travel as JSON: their object arrays hold pointers
        strings = array.tolist() if array.dtype == object else None
        blob = b"" if strings is not None else array.tobytes()
        described.append(
            {"name": name, "dtype": str(array.dtype), "shape": array.shape, "n": len(blob), "strings": strings}
        )
        blobs.append(blob)
    text = json.dumps(plain | {"arrays": described}).encode()
    stream.write(len(text).to_bytes(4, "big") + text)
    for blob in blobs:
        stream.write(blob)
    stream.flush()


def _read_frame(read: Callable[[int], bytes]) -> tuple[dict[str, Any], dict[str, Array]] | None:
    length = read(4)
    if len(length) < 4:
        return None
    text = read(int.from_bytes(length, "big"))
    plain: dict[str, Any] = json.loads(text)
    arrays: dict[str, Array] = {}
    for one in plain.pop("arrays"):
        import numpy as np

        if one["strings"] is not None:
            arrays[one["name"]] = np.array(one["strings"], object).reshape(one["shape"])
        else:
            arrays[one["name"]] = np.frombuffer(read(one["n"]), one["dtype"]).reshape(one["shape"])
    return plain, arrays


# ---------------------------------------------------------------- the parent's side


class Child:
    """A guarded child that serves one Handler.

    `target` is "module:callable"; it is called in the child with `spec` and returns the Handler. Construction
    returns at once, `ready` waits. After a breach or a death the child is gone: make another.
    """

    def __init__(self, target: str, spec: dict[str, Any], limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.predicted_bytes: int | None = spec.get("predicted_bytes")
        self.peak_bytes = 0
        self._stderr: deque[bytes] = deque(maxlen=64)
        root = str(Path(__file__).resolve().parents[1])
        # One thread unless asked: idle pools of numpy's BLAS cost memory that the budget would pay for.
        environment = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _CHILD.format(root=root, target=target)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | environment | {"ORT_DISABLE_TELEMETRY": "1"},
        )
        self._send({"op": "start", "spec": spec, "ram_bytes": self.limits.ram_bytes})

    def ready(self) -> dict[str, Any]:
        """Wait until the Handler is made; returns what it says of itself."""
        return self._receive(None)[0]

    def call(
        self,
        op: str,
        meta: dict[str, Any],
        arrays: Mapping[str, Array] | None = None,
        progress: Progress | None = None,
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        """Ask the Handler. Raises what it raised (an EdgeError), BudgetError over the limit, EngineError on a death."""
        self._send({"op": op, "meta": meta}, arrays)
        return self._receive(progress)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        """End the child; it holds nothing that must be saved."""
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()
        if self.alive:
            self._process.kill()
        self._process.wait()

    def _send(self, plain: dict[str, Any], arrays: Mapping[str, Array] | None = None) -> None:
        if self._process.stdin is None or self._process.stdin.closed:
            raise EngineError("the model's process has ended: open the session again")
        # a child that died already is reported by the read that follows
        with contextlib.suppress(BrokenPipeError):
            _write_frame(self._process.stdin, plain, arrays)

    def _receive(self, progress: Progress | None) -> tuple[dict[str, Any], dict[str, Array]]:
        while True:
            frame = _read_frame(self._read_exactly)
            if frame is None:
                raise self._obituary()
            plain, arrays = frame
            self.peak_bytes = max(self.peak_bytes, plain.get("peak_bytes", 0))
            if "progress" in plain:
                if progress:
                    progress(*plain["progress"])
            elif "error" in plain:
                raise self._rebuilt(plain["error"])
            else:
                return plain["meta"], arrays

    def _read_exactly(self, count: int) -> bytes:
        """Bytes of the child's answer; while none come, watch its memory, its words and the clock."""
        import selectors

        stdout, stderr = self._process.stdout, self._process.stderr
        if stdout is None or stderr is None or stdout.closed:
            raise EngineError("the model's process has ended: open the session again")
        parts: list[bytes] = []
        last_sign = time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            selector.register(stderr, selectors.EVENT_READ)
            while count:
                for key, _ in selector.select(POLL_S):
                    got = os.read(key.fd, min(count, 1 << 20) if key.fileobj is stdout else 65536)
                    last_sign = time.monotonic()
                    if key.fileobj is stderr:
                        self._stderr.append(got[-4096:])
                        if not got:
                            selector.unregister(stderr)
                    elif not got:
                        return b"".join(parts)
                    else:
                        parts.append(got)
                        count -= len(got)
                self._watch(time.monotonic() - last_sign)
        return b"".join(parts)

    def _watch(self, silent_s: float) -> None:
        allowed = self.limits.ram_bytes
        status = memory_status(self._process.pid)
        self.peak_bytes = max(self.peak_bytes, status.get("VmHWM", 0))
        if allowed is not None and self.peak_bytes > allowed:
            self.close()
            raise self._breach()
        if silent_s > self.limits.silence_s:
            self.close()
            raise EngineError(f"the model gave no sign of life for {silent_s:.0f} s and was stopped")

    def _breach(self) -> BudgetError:
        allowed, measured, predicted = self.limits.ram_bytes or 0, self.peak_bytes, self.predicted_bytes
        said = "unknown" if predicted is None else format_bytes(predicted)
        return BudgetError(
            f"memory: the model was stopped at {format_bytes(measured)} resident; "
            f"allowed {format_bytes(allowed)}, predicted {said}",
            predicted_bytes=predicted,
            allowed_bytes=allowed,
            measured_bytes=measured,
        )

    def _rebuilt(self, plain: dict[str, Any]) -> EdgeError:
        if plain["type"] == "memory":
            self.close()
            return self._breach()
        kind = getattr(errors, plain["type"], EdgeError)
        error: EdgeError = kind(plain["message"], hint=plain["hint"])
        return error

    def _obituary(self) -> EdgeError:
        """The child is gone: of memory, or of a signal or exit code that is named."""
        with contextlib.suppress(OSError, ValueError):
            if self._process.stderr:
                self._stderr.append(self._process.stderr.read()[-4096:])
        self.close()
        code = self._process.returncode
        words = b"".join(self._stderr).decode(errors="replace").strip()
        allowed = self.limits.ram_bytes
        # An engine whose allocation is refused often aborts instead of raising.
        starved = allowed is not None and self.peak_bytes > 0.8 * allowed
        if any(word in words.lower() for word in _MEMORY_WORDS) or (starved and code < 0):
            return self._breach()
        how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        last = words.splitlines()[-1] if words else "it printed nothing"
        return EngineError(f"the model's process {how}: {last}")


# ---------------------------------------------------------------- the child's side


def child_main(target: str) -> None:
    """Serve frames from stdin until it closes. Whatever the engine prints goes to stderr, never into the frames."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    first = _read_frame(requests.read)
    if first is None:
        return
    allowed = first[0]["ram_bytes"]
    _limit_data(allowed, LOADING_SLACK_BYTES)
    handler: list[Handler] = []

    def start(_: dict[str, Any], __: dict[str, Array], ___: Progress) -> Reply:
        import importlib

        module, _dot, name = target.partition(":")
        made = getattr(importlib.import_module(module), name)(first[0]["spec"])
        handler.append(made)
        _limit_data(allowed, 0)
        return getattr(made, "about", {}), {}

    alive = _serve_one(answers, start, {}, {})
    while alive:
        frame = _read_frame(requests.read)
        if frame is None:
            return
        plain, arrays = frame
        _serve_one(answers, partial(handler[0].handle, plain["op"]), plain["meta"], arrays)


def _serve_one(
    answers: IO[bytes],
    work: Callable[[dict[str, Any], dict[str, Array], Progress], Reply],
    meta: dict[str, Any],
    arrays: dict[str, Array],
) -> bool:
    last = [time.monotonic()]

    def progress(done: int, total: int | None) -> None:
        if time.monotonic() - last[0] > 0.1:
            last[0] = time.monotonic()
            _write_frame(answers, {"progress": [done, total]})

    try:
        reply, out = work(meta, arrays, progress)
        _write_frame(answers, {"meta": reply, "peak_bytes": memory_status().get("VmHWM", 0)}, out)
        return True
    except Exception as error:
        plain = _described(error)
    _write_frame(answers, {"error": plain, "peak_bytes": memory_status().get("VmHWM", 0)})
    return False


def _described(error: Exception) -> dict[str, Any]:
    if isinstance(error, MemoryError) or any(word in str(error).lower() for word in _MEMORY_WORDS):
        return {"type": "memory", "message": str(error), "hint": None}
    if isinstance(error, EdgeError):
        return {"type": type(error).__name__, "message": error.message, "hint": error.hint}
    text = str(error).strip().splitlines()
    return {
        "type": "EngineError",
        "message": f"{type(error).__name__}: {text[0] if text else 'no message'}"[:600],
        "hint": None,
    }


def _limit_data(allowed: int | None, slack: int) -> None:
    """Let the kernel refuse allocations beyond what is left of `allowed` bytes, plus `slack`."""
    try:
        import resource
    except ImportError:  # Windows: the watchdog alone
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    status = memory_status()
    if allowed is None or "VmData" not in status:
        return
    left = max(allowed - status["VmRSS"], 0) + slack
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (status["VmData"] + left, hard))
