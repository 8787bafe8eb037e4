"""The child's side of the guard: frames, limits, and serving one Handler.

Apart from guard.py because every module that it loads is memory that the model's budget pays for.

A frame either way: 4 bytes length, that many bytes of JSON, then the bytes of the arrays that the JSON describes, the
large ones in memory that both sides share.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import IO, TYPE_CHECKING, Any, Protocol

from edge_runtime.errors import EdgeError
from edge_runtime.sandbox import shut_network

if TYPE_CHECKING:
    import mmap

    from edge_runtime.tensors import Array

Progress = Callable[[int, int | None], None]
Reply = tuple[dict[str, Any], Mapping[str, "Array"]]
# Reserved and never touched, counted by RLIMIT_DATA while engines load: thread stacks and allocator arenas.
LOADING_SLACK_BYTES = 256 << 20
MEMORY_WORDS = (
    *("bad_alloc", "failed to allocate", "cannot allocate memory", "out of memory", "failed to grow"),
    *("memoryerror", "memory allocation", "unable to allocate"),
)


class Handler(Protocol):
    """What runs in the child: made once from the spec, then asked; `arrays` are numpy arrays by name."""

    def handle(self, op: str, meta: dict[str, Any], arrays: dict[str, Array], progress: Progress) -> Reply: ...


def memory_status(pid: int | str = "self") -> dict[str, int]:
    """VmRSS, VmHWM and VmData of a process, in bytes, where the system tells; psutil's figures elsewhere."""
    try:
        with open(f"/proc/{pid}/status") as stream:
            lines = stream.read().splitlines()
    except OSError:
        return _psutil_status(pid)
    fields = (line.split() for line in lines if line.startswith(("VmRSS", "VmHWM", "VmData")))
    return {field[0][:-1]: int(field[1]) * 1024 for field in fields}


def resident_bytes(pid: int, given_bytes: int = 0) -> int:
    """Resident memory of a process now, 0 when it is gone: a tenth of the work of memory_status, for the watchdog.

    `given_bytes`: of files in memory that it can write to without mapping them; of its mapped pages at the most as many
    are of these."""
    try:
        with open(f"/proc/{pid}/statm", "rb", buffering=0) as stream:
            resident, shared = (int(one) for one in stream.read().split()[1:3])
            page = os.sysconf("SC_PAGE_SIZE")
            return resident * page + max(0, given_bytes - shared * page)
    except (OSError, ValueError):
        return _psutil_status(pid).get("VmRSS", 0) if not os.path.isdir("/proc/self") else 0


def _psutil_status(pid: int | str) -> dict[str, int]:
    import psutil

    try:
        info = psutil.Process(None if pid == "self" else int(pid)).memory_info()
    except psutil.Error:
        return {}
    return {"VmRSS": info.rss, "VmHWM": getattr(info, "peak_wset", info.rss)}


# ---------------------------------------------------------------- frames


class Shared:
    """Memory that parent and child both see, for arrays going one way: a pipe hands over 64 KiB at a time, and waking
    the other side for each costs more than a small network computes.

    The bytes of a frame are good until the next frame is written, so whoever keeps them copies them.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._map: mmap.mmap | None = None
        self.put_bytes = 0  # the most that this side has written

    @classmethod
    def make(cls) -> Shared | None:
        """None where the system has no such thing: then everything goes through the pipe.

        It can grow and never shrink: whoever reads pages that the other side has cut off is ended by SIGBUS."""
        try:
            import fcntl

            made = cls(os.memfd_create("edge-runtime", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
        except (ImportError, AttributeError, OSError):
            return None
        try:
            fcntl.fcntl(made.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
        except (AttributeError, OSError):
            made.close()
            return None
        return made

    def held_bytes(self) -> int:
        """What the kernel holds for it, mapped or not."""
        return os.fstat(self.fd).st_blocks * 512 if self.fd >= 0 else 0

    def put(self, arrays: list[Array], offsets: list[int], total: int) -> None:
        import numpy as np

        if os.fstat(self.fd).st_size < total:
            os.ftruncate(self.fd, total)
        self.put_bytes = max(self.put_bytes, total)
        region = self._region(total)
        for array, offset in zip(arrays, offsets, strict=True):
            target = np.frombuffer(region, array.dtype, array.size, offset).reshape(array.shape)
            np.copyto(target, array)

    def get(self, dtype: str, shape: list[int], offset: int, size: int) -> Array:
        import numpy as np

        # from the bytes that were asked for: `size` is what the reader was allowed
        found = np.frombuffer(self._region(offset + size), np.uint8, size, offset).view(dtype).reshape(shape)
        found.flags.writeable = False
        return found

    def _region(self, size: int) -> mmap.mmap:
        import mmap

        if self._map is None or len(self._map) < size:
            # What still looks at the old one keeps it. Not all that is there, which is as much as the other side likes.
            self._map = mmap.mmap(self.fd, min(max(2 * size, 1 << 20), max(os.fstat(self.fd).st_size, size)))
        return self._map

    def close(self) -> None:
        self._map = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


# Smaller arrays stay in the pipe: they fit into what it holds.
SHARE_BYTES = 16 << 10
_ALIGN = 64


def frame_bytes(
    plain: dict[str, Any], arrays: Mapping[str, Array] | None = None, shared: Shared | None = None
) -> bytes:
    """A frame; its large arrays are in `shared` when this returns."""
    blobs: list[bytes] = []
    described = []
    placed: list[Array] = []
    offsets: list[int] = []
    end = 0
    for name, array in (arrays or {}).items():
        about: dict[str, Any] = {"name": name, "dtype": str(array.dtype), "shape": array.shape}
        if array.dtype == object:  # strings travel as JSON: their object arrays hold pointers
            about["strings"] = array.tolist()
        elif shared and array.nbytes >= SHARE_BYTES:
            about |= {"n": array.nbytes, "at": end}
            placed.append(array)
            offsets.append(end)
            end += -(-array.nbytes // _ALIGN) * _ALIGN
        else:
            about["n"] = array.nbytes
            blobs.append(array.tobytes())
        described.append(about)
    if shared and placed:
        shared.put(placed, offsets, end)
    text = json.dumps(plain | {"arrays": described}).encode()
    return b"".join([len(text).to_bytes(4, "big"), text, *blobs])


def write_frame(
    stream: IO[bytes],
    plain: dict[str, Any],
    arrays: Mapping[str, Array] | None = None,
    shared: Shared | None = None,
) -> None:
    stream.write(frame_bytes(plain, arrays, shared))
    stream.flush()


def read_frame(
    read: Callable[[int], bytes],
    shared: Shared | None = None,
    most_text_bytes: int | None = None,
    most_array_bytes: int | None = None,
) -> tuple[dict[str, Any], dict[str, Array]] | None:
    """None where the other side is gone. Arrays in `shared` are views into it. Raises ValueError for a frame that is
    larger than what is allowed, before it is read, and various exceptions for nonsense."""
    length = read(4)
    if len(length) < 4:
        return None
    size = int.from_bytes(length, "big")
    if most_text_bytes is not None and size > most_text_bytes:
        raise ValueError(f"found {size} bytes of text, wanted at most {most_text_bytes}")
    plain: dict[str, Any] = json.loads(read(size))
    arrays: dict[str, Array] = {}
    left = most_array_bytes
    for one in plain.pop("arrays"):
        import numpy as np

        if "strings" not in one:
            if type(one["n"]) is not int or one["n"] < 0 or (left is not None and one["n"] > left):
                raise ValueError(f"an array of {one['n']} bytes, wanted at most {left}")
            left = None if left is None else left - one["n"]
        if "strings" in one:
            arrays[one["name"]] = np.array(one["strings"], object).reshape(one["shape"])
        elif "at" in one:
            if shared is None:
                raise ValueError("an array in shared memory, and none is shared")
            arrays[one["name"]] = shared.get(one["dtype"], one["shape"], one["at"], one["n"])
        else:
            arrays[one["name"]] = np.frombuffer(read(one["n"]), one["dtype"]).reshape(one["shape"])
    return plain, arrays


# ---------------------------------------------------------------- serving


def child_main(target: str, lifeline: int = -1, to_child: int = -1, to_parent: int = -1, parent: int = 0) -> None:
    """Serve frames from stdin until it closes. Whatever the engine prints goes to stderr, never into the frames.

    `lifeline`: the reading end of a pipe that the parent holds open. `to_child`, `to_parent`: descriptors of the
    memory that both see, for arrays in each direction; -1 where there is none. `parent`: its number, 0 where the thread
    that made this process may end before it.
    """
    _die_with_parent(lifeline, parent)
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    # Ctrl-C reaches the whole group, and a service manager ends every process: the parent decides, else a slide
    # would be recorded as one that killed its model.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    into, out = (Shared(fd) if fd >= 0 else None for fd in (to_child, to_parent))
    shut_network()
    first = read_frame(requests.read)
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
        _limit_data(allowed, LOADING_SLACK_BYTES if first[0]["loads_later"] else 0)
        return getattr(made, "about", {}), {}

    alive = _serve_one(answers, out, start, {}, {})
    while alive:
        try:
            frame = read_frame(requests.read, into)
        except MemoryError as error:  # arrays larger than what is allowed: the rest of the frame cannot be read
            write_frame(answers, {"error": _described(error)})
            return
        if frame is None:
            return
        plain, arrays = frame
        _serve_one(answers, out, partial(handler[0].handle, plain["op"]), plain["meta"], arrays)


_PR_SET_PDEATHSIG = 1


def _die_with_parent(lifeline: int, parent: int) -> None:
    """SIGIO, which ends a process that does not handle it, comes when the other end closes: a model that hangs must
    not outlive a parent that was killed. Where `parent` is given and the system can, SIGKILL comes as well, whatever
    became of the descriptor."""
    if parent and sys.platform in ("linux", "android"):
        with contextlib.suppress(ImportError, AttributeError):
            import ctypes  # the sandbox loads it as well

            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
            if os.getppid() != parent:  # it went before that
                os._exit(1)
    try:
        import fcntl
    except ImportError:  # Windows
        return
    if lifeline >= 0 and hasattr(os, "O_ASYNC"):
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


# Looking up one's own peak takes as long as a small inference: after a short answer, only so often.
_PEAK_S = 0.05
_last_peak = [0.0, 0]


def _peak_bytes(since: float) -> int:
    now = time.monotonic()
    if now - since > _PEAK_S / 10 or now - _last_peak[0] > _PEAK_S:
        _last_peak[:] = [now, memory_status().get("VmHWM", 0)]
    return int(_last_peak[1])


def _serve_one(
    answers: IO[bytes],
    shared: Shared | None,
    work: Callable[[dict[str, Any], dict[str, Array], Progress], Reply],
    meta: dict[str, Any],
    arrays: dict[str, Array],
) -> bool:
    begin = time.monotonic()
    last = [begin]

    def progress(done: int, total: int | None) -> None:
        if time.monotonic() - last[0] > 0.1:
            last[0] = time.monotonic()
            write_frame(answers, {"progress": [done, total]})

    try:
        reply, out = work(meta, arrays, progress)
        write_frame(answers, {"meta": reply, "peak_bytes": _peak_bytes(begin)}, out, shared)
        return True
    except Exception as error:
        plain = _described(error)
    write_frame(answers, {"error": plain, "peak_bytes": memory_status().get("VmHWM", 0)})
    return False


def _described(error: Exception) -> dict[str, Any]:
    if isinstance(error, MemoryError) or any(word in str(error).lower() for word in MEMORY_WORDS):
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
    limit = status["VmData"] + left
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:  # somebody set a stricter one outside, and only root may raise it
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
