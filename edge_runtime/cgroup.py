"""The kernel's own limit on a child's memory: a control group (cgroup v2) with `memory.max`, where one may be made.

One may be made by root, in a group that was delegated (a systemd unit with Delegate=yes, `systemd-run --user --scope`),
and inside a user's own systemd session. Elsewhere, and on systems whose memory controller is with cgroup v1, the guard
holds the limit with rlimits and its watchdog, and `doctor` says why.

What the kernel counts for a group is not what it calls resident: memory that the child had before it was moved in, and
library files that others have read before, are not counted; page tables are. So the watchdog stays beside it, and
`memory.max` is the wall behind the watchdog, which a model that takes memory faster than one can look runs into.

EDGE_RUNTIME_CGROUP names the group in which groups are made (one that an administrator has delegated); "off": none.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import NamedTuple

VARIABLE = "EDGE_RUNTIME_CGROUP"
_PREFIX = "edge-runtime-"
_GONE_S = 2.0


class Place(NamedTuple):
    """Where groups can be made: `parent`, or None and the reason."""

    parent: Path | None
    reason: str


def describe(place: Place) -> str:
    """How the guard holds a memory limit here, for a person."""
    if place.parent is not None:
        return f"a control group for each model ({place.reason}), and a watchdog"
    # ways into a group where one may be made, on systems that have them
    hint = "; systemd-run --user --scope -p Delegate=yes COMMAND may give one" if _systemd(place.reason) else ""
    return f"rlimits and a watchdog; no control group: {place.reason}{hint}"


def _systemd(reason: str) -> bool:
    return os.path.isdir("/run/systemd/system") and "cgroup v1" not in reason and VARIABLE not in reason


class Group:
    """A group for one child; `close` it when the child is gone."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def oom_kills(self) -> int:
        """How often the kernel killed in it for want of memory."""
        for line in _read(self.path / "memory.events").splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill" and count.isdigit():
                return int(count)
        return 0

    def peak_bytes(self) -> int:
        """The most that the kernel counted; 0 where it does not tell (before Linux 5.19)."""
        text = _read(self.path / "memory.peak").strip()
        return int(text) if text.isdigit() else 0

    def close(self) -> None:
        """End what is still in it, and remove it."""
        with contextlib.suppress(OSError):
            _write(self.path / "cgroup.kill", "1")
        _remove(self.path)


def confine(pid: int, ram_bytes: int, parent: Path | None) -> Group | None:
    """Put a process that has not taken much yet under a limit, in a new group in `parent` (of find_place). None where
    that cannot be: then nothing has changed."""
    if parent is None:
        return None
    path = parent / f"{_PREFIX}{os.getpid()}-{os.urandom(4).hex()}"
    try:
        _make(path)
        _write(path / "memory.max", str(ram_bytes))
        for name, value in (("memory.swap.max", "0"), ("memory.oom.group", "1")):
            with contextlib.suppress(OSError):  # a kernel without swap, or before 4.19
                _write(path / name, value)
        _write(path / "cgroup.procs", str(pid))
    except OSError:
        _remove(path)
        return None
    return Group(path)


def find_place(root: Path = Path("/")) -> Place:
    """Where this process may make groups, tried by making one. `root`: another file system, for tests."""
    asked = os.environ.get(VARIABLE)
    if asked == "off":
        return Place(None, f"switched off by {VARIABLE}")
    if asked:
        reason = _try(Path(asked))
        return Place(None if reason else Path(asked), reason or f"memory.max in {asked}")
    mount, own = _mount(root), _own(root)
    if mount is None or own is None:
        return Place(None, "this system has no cgroup v2")
    if "memory" not in _read(mount / "cgroup.controllers").split():
        return Place(None, "its memory controller is not with cgroup v2 (cgroup v1, or switched off at boot)")
    here = mount / own
    reasons = []
    left = here.name.startswith(f"{_PREFIX}{os.getpid()}-")  # by _enable, before
    for parent in [here] if here == mount else [here.parent] if left else [here, here.parent]:
        reason = _enable(parent, here) or _try(parent)
        if not reason:
            _sweep(parent)
            return Place(parent, f"memory.max in {parent}")
        reasons.append(reason)
    return Place(None, reasons[-1])


def _mount(root: Path) -> Path | None:
    """Where cgroup v2 is mounted."""
    for line in _read(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 ") and len(before.split()) > 4:
            return root / before.split()[4].lstrip("/")
    return None


def _own(root: Path) -> str | None:
    """This process's group, relative to the mount."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        if line.startswith("0::") and "/.." not in line:  # ..: outside of this container's view
            return line[3:].strip().lstrip("/")
    return None


def _enable(parent: Path, here: Path) -> str:
    """Empty when groups in `parent` have a memory controller, else why not.

    It is switched on only at the root, or where this process is alone in its own group, which it then leaves for one
    inside: a group with processes of its own cannot hand controllers down."""
    if "memory" in _read(parent / "cgroup.subtree_control").split():
        return ""
    if parent != here:
        return f"{parent} gives its groups no memory controller"
    try:
        _write(parent / "cgroup.subtree_control", "+memory")
        return ""
    except OSError as error:
        reason = f"{parent}: {error.strerror}"
    if _read(parent / "cgroup.procs").split() != [str(os.getpid())]:
        return reason
    leaf = parent / f"{_PREFIX}{os.getpid()}-parent"
    try:
        _make(leaf)
        _write(leaf / "cgroup.procs", str(os.getpid()))
        _write(parent / "cgroup.subtree_control", "+memory")
        return ""
    except OSError as error:
        with contextlib.suppress(OSError):
            _write(parent / "cgroup.procs", str(os.getpid()))
        _remove(leaf)
        return f"{parent}: {error.strerror}"


def _try(parent: Path) -> str:
    """Empty when a limited group can be made in it, else why not."""
    path = parent / f"{_PREFIX}{os.getpid()}-{os.urandom(4).hex()}"
    try:
        _make(path)
        _write(path / "memory.max", "max")
        return ""
    except OSError as error:
        return f"{parent}: {error.strerror}"
    finally:
        _remove(path)


def _sweep(parent: Path) -> None:
    """Remove what processes that were killed have left; groups with processes in them stay."""
    with contextlib.suppress(OSError):
        for path in parent.glob(f"{_PREFIX}*"):
            pid = path.name.removeprefix(_PREFIX).partition("-")[0]
            if pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
                with contextlib.suppress(OSError):
                    path.rmdir()


def _make(path: Path) -> None:
    path.mkdir()


def _remove(path: Path) -> None:
    """Processes leave a group some moments after they are gone."""
    end = time.monotonic() + _GONE_S
    while True:
        try:
            path.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > end:
                return
            time.sleep(0.01)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""


def _write(path: Path, text: str) -> None:
    # the kernel's files are there already: none must be made in a folder that is no control group
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
