"""Run model code in a child process under the operating system's own limits.

A model file is somebody else's program: it may want more memory than was predicted, never come back, or take the
process down with SIGILL or SIGSEGV. So it runs in a fresh interpreter (a fork would inherit the parent's peak), and
the parent, which loads neither numpy nor an engine, keeps the journal and tells what happened.

Two nets hold the memory limit, because each has a hole. Where a control group can be made (cgroup.py), the kernel kills
what takes more. Elsewhere RLIMIT_DATA makes it refuse allocations, but counts address space that is reserved and never
touched, so it is tightened to what is left once the model is loaded. In both cases the watchdog in the parent looks at
resident memory while it waits, and kills.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime import cgroup, errors
from edge_runtime.answers import MOST_ARRAY_BYTES, MOST_TEXT_BYTES, NONSENSE, Steps, checked, signal_name
from edge_runtime.child import MEMORY_WORDS, Progress, Shared, frame_bytes, read_frame, resident_bytes
from edge_runtime.errors import BudgetError, EdgeError, EngineError, UsageError
from edge_runtime.units import format_bytes

if TYPE_CHECKING:
    from edge_runtime.tensors import Array

POLL_S = 0.05
# For an answer, or a slide's next image: a slow board that still works must not be stopped.
TIME_LIMIT_S = 300.0
# Of a child that has closed its answers: to be gone by itself, and to say its last words.
_LAST_S = 1.0
_LAST_BYTES = 1 << 20
_PAGES_BYTES = 4 << 20  # the kernel may hold a file in memory by huge pages
# One thread unless asked: idle pools of numpy's BLAS cost memory that the budget would pay for. And what is freed goes
# back to the system: glibc otherwise learns from the first large blocks to keep all later ones, and then a ResNet-18
# has 230 MiB resident where it needs 147, with a peak of 247 for 212 (measured). Smaller blocks are kept, so that
# inputs and outputs up to a megabyte cost no page faults.
_ENVIRONMENT = {
    **dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(2 << 20),
    "ORT_DISABLE_TELEMETRY": "1",
}
_CHILD = (
    "import sys; sys.path.append({root!r}); from edge_runtime.child import child_main; "
    "child_main({target!r}, {lifeline}, {into}, {out}, {parent})"
)


def check_time_limit(seconds: float) -> None:
    """Raises UsageError for a limit that stops everything or nothing."""
    if not 0.01 <= seconds <= 86_400:
        raise UsageError(f"time limit: found {seconds:g} s, wanted 10 ms to 24 h")


@dataclass(frozen=True)
class Limits:
    """`ram_bytes`: resident memory allowed to the child. `silence_s`: longest wait for a sign of life: an answer, or
    progress that advances, and not what an engine prints. `loads_later`: the Handler loads models when it is
    asked to, so addresses that are only reserved stay allowed."""

    ram_bytes: int | None = None
    silence_s: float = TIME_LIMIT_S
    loads_later: bool = False


class Child:
    """A guarded child that serves one Handler.

    `target` is "module:callable"; it is called in the child with `spec` and returns the Handler. Construction
    returns at once, `ready` waits. After a breach or a death the child is gone: make another.
    """

    def __init__(self, target: str, spec: dict[str, Any], limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.predicted_bytes: int | None = spec.get("predicted_bytes")
        self.peak_bytes = 0
        self.started_s = time.perf_counter()
        # (seconds since the start, resident bytes), noted as often as the watchdog looks; None: not kept
        self.trace: list[tuple[float, int]] | None = None
        self._stderr: deque[bytes] = deque(maxlen=64)
        self._killed = False  # by the kernel, over the group's limit
        self._selector: selectors.BaseSelector | None = None
        self._ahead = bytearray()  # read from the child and not used yet
        self._looked_s = self._signed_s = self.started_s
        self._lifeline = -1
        self._into: Shared | None = None
        self._out: Shared | None = None
        self._group: cgroup.Group | None = None
        self._started = False
        try:
            self._begin(target, spec)
        except OSError as error:
            self.close()
            raise EngineError(f"the model's process cannot be started: {error.strerror or error}") from error
        except BaseException:
            self.close()
            raise

    def _begin(self, target: str, spec: dict[str, Any]) -> None:
        allowed = self.limits.ram_bytes
        # found before the child is made: this process may have to be alone in its group
        place = None if allowed is None else cgroup.find_place().parent
        self._into, self._out = Shared.make(), Shared.make()
        into, out = (one.fd if one else -1 for one in (self._into, self._out))
        # the kernel's signal at a parent's end is at the end of its thread, and only the main one lasts
        parent = os.getpid() if threading.current_thread() is threading.main_thread() else 0
        root = str(Path(__file__).resolve().parents[1])
        # Nothing is ever written to it: when this process is gone, however it went, the kernel tells the child.
        theirs, self._lifeline = os.pipe()
        code = _CHILD.format(root=root, target=target, lifeline=theirs, into=into, out=out, parent=parent)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=os.environ | _ENVIRONMENT,
                pass_fds=[fd for fd in (theirs, into, out) if fd >= 0],
                start_new_session=True,
            )
        finally:
            os.close(theirs)
        self._started = True
        if self._process.stdin and hasattr(os, "set_blocking"):
            os.set_blocking(self._process.stdin.fileno(), False)
        self._group = None if allowed is None else cgroup.confine(self._process.pid, allowed, place)
        # the child sets its own limits where no group holds it; until it is told to start it loads nothing
        own = {"ram_bytes": None} if self._group else {}
        self._send({"op": "start", "spec": spec, **asdict(self.limits), **own})

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
        return self._receive(progress, {"op": op, "meta": meta}, arrays)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def resident_bytes(self) -> int:
        """What the child has in memory now; 0 when it is gone."""
        return resident_bytes(self._process.pid) if self.alive else 0

    def close(self) -> None:
        """End the child; it holds nothing that must be saved."""
        if self._started:
            self._kill()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        if self._selector:
            self._selector.close()
            self._selector = None
        for shared in (self._into, self._out):
            if shared:
                shared.close()
        if self._started:
            for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
                if stream:
                    with contextlib.suppress(OSError):
                        stream.close()
            self._process.wait()
        if self._group:
            self._killed = self._group.oom_kills() > 0
            self.peak_bytes = max(self.peak_bytes, self._group.peak_bytes() if self._killed else 0)
            self._group.close()
            self._group = None

    def _kill(self) -> None:
        """The child, and what it may have started. Once it was waited for, its number may be another's."""
        if self._process.returncode is not None:
            return
        with contextlib.suppress(OSError, AttributeError):  # Windows has no groups
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()

    def _send(self, plain: dict[str, Any], arrays: Mapping[str, Array] | None = None) -> None:
        if self._process.stdin is None or self._process.stdin.closed:
            raise EngineError("the model's process has ended: open the session again")
        # a child that died already is reported by the read that follows
        try:
            content = frame_bytes(plain, arrays, self._into)
        except (OSError, OverflowError, MemoryError) as error:
            raise EngineError(f"no memory to hand over what the model is given: {error}") from error
        with contextlib.suppress(BrokenPipeError):
            self._write(self._process.stdin.fileno(), content)

    def _write(self, fd: int, content: bytes) -> None:
        """While the child does not take it, watch as when waiting for an answer."""
        left = memoryview(content)
        with contextlib.ExitStack() as stack:
            waiting: selectors.BaseSelector | None = None
            while left:
                with contextlib.suppress(BlockingIOError):
                    left = left[os.write(fd, left) :]
                    continue
                if waiting is None:
                    waiting = stack.enter_context(selectors.DefaultSelector())
                    waiting.register(fd, selectors.EVENT_WRITE)
                waiting.select(POLL_S)
                self._drain()
                self._watch()

    def _receive(
        self,
        progress: Progress | None,
        question: dict[str, Any] | None = None,
        arrays: Mapping[str, Array] | None = None,
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        """The answer to `question`, or to what was asked last."""
        plain: dict[str, Any] = {"progress": None}
        found: dict[str, Array] = {}
        steps = Steps()
        self._signed_s = time.monotonic()
        try:
            if question is not None:
                self._send(question, arrays)
            while "progress" in plain:
                frame = self._read_frame()
                if frame is None:
                    raise self._obituary()
                plain, found = frame
                self.peak_bytes = max(self.peak_bytes, plain["peak_bytes"])
                if "progress" in plain and steps.advance(*plain["progress"]):
                    if progress:
                        progress(*plain["progress"])
                    self._signed_s = time.monotonic()
        finally:
            # Left without the whole answer (Ctrl-C anywhere in here, an exception out of `progress`): whoever asks next
            # would be given this answer for theirs. Such a child is never asked again.
            if "progress" in plain:
                self.close()
        if "error" in plain:
            raise self._rebuilt(plain["error"])
        # what is shared is overwritten by the next answer
        try:
            return plain["meta"], {name: array.copy() for name, array in found.items()}
        except MemoryError as error:
            self.close()
            raise EngineError("the model's process gave arrays that are too large for this one") from error

    def _read_frame(self) -> tuple[dict[str, Any], dict[str, Array]] | None:
        """None where the child has died, perhaps in the middle of its answer. Raises EngineError for one that lives and
        answers nonsense: its memory cannot be trusted any more."""
        try:
            # an honest child has had its arrays in its own memory
            most = self.limits.ram_bytes or MOST_ARRAY_BYTES
            frame = read_frame(self._read_exactly, self._out, MOST_TEXT_BYTES, most)
            return frame and (checked(frame[0]), frame[1])
        except NONSENSE as error:
            try:
                self._process.wait(POLL_S)
            except subprocess.TimeoutExpired:
                self.close()
                raise EngineError("the model's process gave an answer that cannot be read, and was stopped") from error
            return None

    def _read_exactly(self, count: int) -> bytes:
        """Bytes of the child's answer; while none come, watch its memory, its words and the clock."""
        if len(self._ahead) < count:
            self._fill(count)
        taken = bytes(self._ahead[:count])
        del self._ahead[:count]
        return taken

    def _fill(self, count: int) -> None:
        """Read until `count` bytes lie ahead, or the child has closed its end."""
        stdout, stderr = self._process.stdout, self._process.stderr
        if stdout is None or stderr is None or stdout.closed:
            raise EngineError("the model's process has ended: open the session again")
        if self._selector is None:
            self._selector = selectors.DefaultSelector()
            self._selector.register(stdout, selectors.EVENT_READ)
            self._selector.register(stderr, selectors.EVENT_READ)
        while len(self._ahead) < count:
            for key, _ in self._selector.select(POLL_S):
                got = os.read(key.fd, 1 << 20 if key.fileobj is stdout else 65536)
                if key.fileobj is stderr:
                    self._stderr.append(got[-4096:])
                    if not got:
                        self._selector.unregister(stderr)
                elif not got:
                    return
                else:
                    self._ahead += got
            self._watch()

    def _watch(self) -> None:
        now = time.monotonic()
        if now - self._looked_s < POLL_S:
            return
        self._looked_s = now
        allowed = self.limits.ram_bytes
        given = max(0, self._into.held_bytes() - self._into.put_bytes - _PAGES_BYTES) if self._into else 0
        given += self._out.held_bytes() if self._out else 0
        resident = resident_bytes(self._process.pid, given)
        self.peak_bytes = max(self.peak_bytes, resident)
        if self.trace is not None:
            self.trace.append((time.perf_counter() - self.started_s, resident))
        if allowed is not None and self.peak_bytes > allowed:
            self.close()
            raise self._breach()
        silent_s = now - self._signed_s
        if silent_s > self.limits.silence_s:
            self.close()
            raise EngineError(
                f"the model gave no sign of life for {silent_s:.0f} s, the time limit, and was stopped",
                hint="--time-limit (time_limit_s in Python), if it is only slow",
            )

    def _breach(self) -> BudgetError:
        allowed, measured, predicted = self.limits.ram_bytes or 0, self.peak_bytes, self.predicted_bytes
        said = "unknown" if predicted is None else format_bytes(predicted)
        how = f"the model was stopped at {format_bytes(measured)} resident"
        if self._killed:
            how = f"the model was stopped by the kernel at {format_bytes(measured)}"
        elif measured <= allowed:
            how = f"the model, at {format_bytes(measured)} resident, asked for more than the rest and was refused"
        return BudgetError(
            f"memory: {how}; allowed {format_bytes(allowed)}, predicted {said}",
            hint="edge-runtime fit BUNDLE --device NAME; photographs that are smaller, or JPEG, need less",
            predicted_bytes=predicted,
            allowed_bytes=allowed,
            measured_bytes=measured,
        )

    def _rebuilt(self, plain: dict[str, Any]) -> EdgeError:
        if plain["type"] == "memory":
            self.close()
            return self._breach()
        kind = getattr(errors, str(plain["type"]), None)
        if not (isinstance(kind, type) and issubclass(kind, EdgeError)):
            kind = EngineError
        return kind(str(plain["message"]), hint=plain["hint"])

    def _drain(self) -> None:
        """What the child has said and nobody has read yet, without waiting for more: others may hold its end open."""
        stderr = self._process.stderr
        if stderr is None or stderr.closed or not hasattr(os, "set_blocking"):
            return
        os.set_blocking(stderr.fileno(), False)
        taken = 0
        with contextlib.suppress(BlockingIOError):
            while taken < _LAST_BYTES and (got := os.read(stderr.fileno(), 65536)):
                self._stderr.append(got[-4096:])
                taken += len(got)

    def _obituary(self) -> EdgeError:
        """The child is gone: of memory, or of a signal or exit code that is named."""
        end = time.monotonic() + _LAST_S
        while self._process.poll() is None and time.monotonic() < end:
            self._drain()
            time.sleep(POLL_S / 10)
        lingers = self._process.returncode is None
        self._kill()
        self._drain()
        self.close()
        if lingers:
            return EngineError("the model's process closed its answers without one, and was stopped")
        code = self._process.returncode
        words = b"".join(self._stderr).decode(errors="replace").strip()
        allowed = self.limits.ram_bytes
        # An engine whose allocation is refused often aborts instead of raising.
        starved = allowed is not None and self.peak_bytes > 0.8 * allowed
        refused = any(word in words.lower() for word in MEMORY_WORDS)
        if self._killed or refused or (starved and code < 0):
            return self._breach()
        how = f"died of {signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        last = words.splitlines()[-1] if words else "it printed nothing"
        hint = None
        if signal_name(-code) == "SIGKILL":  # not ours: it is how a system ends what takes its last memory
            peak = f", at {format_bytes(self.peak_bytes)} resident when last seen" if self.peak_bytes else ""
            last += f"; a system without memory kills so{peak}"
            hint = "give a device (--device NAME, device= in Python): then it is held to that one's memory"
        return EngineError(f"the model's process {how}: {last}", hint=hint)
