"""No network and no other processes for the model's process: shut by the kernel, in the child, before an engine or a
model is there.

A seccomp filter answers with EPERM what makes a socket (and what would get around that: io_uring has system calls of
its own, and ptrace, process_vm_writev or pidfd_getfd reach into another process, which has a network), and what starts
a process or a program: a limit on memory that no control group holds is one process's own. Threads may be made. It
cannot be taken off, and costs a few comparisons a system call. It needs a Linux with CONFIG_SECCOMP_FILTER, as
distributions and Android have, and no rights. Where there is none, the child moves into an
empty network namespace, which needs root or a system that allows user namespaces. Where that fails too, it says so:
`doctor` tells which of the three holds on a device. Files are not shut off: the child reads images and the bundle, as
the user that started it, and a model has no means to ask for others (see outside.py).
"""

from __future__ import annotations

import errno
import os
import struct
import sys
from typing import NamedTuple

SECCOMP, NAMESPACE, NONE = "seccomp", "namespace", "none"


class Machine(NamedTuple):
    """`audit`: the kernel's word for the architecture of a system call; `seccomp`: the number of seccomp(2); `clone`:
    that of clone(2), refused where it makes no thread; `calls`: those that are refused."""

    audit: int
    seccomp: int
    clone: int
    calls: tuple[int, ...]


# socket, ptrace, process_vm_writev, execve, execveat; io_uring_setup, pidfd_getfd, whose numbers are the same
# everywhere; then fork, vfork, which newer machines do not have
_EVERYWHERE = (425, 438)
MACHINES = {
    "x86_64": Machine(0xC000003E, 317, 56, (41, 101, 311, 59, 322, *_EVERYWHERE, 57, 58)),
    "aarch64": Machine(0xC00000B7, 277, 220, (198, 117, 271, 221, 281, *_EVERYWHERE)),
    "armv7l": Machine(0x40000028, 383, 120, (281, 26, 377, 11, 387, *_EVERYWHERE, 2, 190)),
}
# Its flags are in memory, where a filter cannot look. "No such call": then libraries take clone.
CLONE3 = 435
_CLONE_THREAD = 0x10000
_X32 = 0x40000000  # x86-64 takes the same calls under a second set of numbers
_LOAD, _EQUAL, _ABOVE, _ANY_OF, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER_AT, _ARCH_AT, _FLAGS_AT = 0, 4, 16  # in struct seccomp_data; the lower half of the first argument
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2
# Kernels before 5.16 slow a filtered process down (speculative store bypass), for code that it does not trust: there is
# none here, a model is data. Since 4.17 it can be asked not to.
_SET_MODE_FILTER, _SPEC_ALLOW = 1, 4
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000


def userland() -> str:
    """The machine that this Python was built for, whatever the kernel is: a 32-bit one is told aarch64 by uname."""
    machine = os.uname().machine.lower()
    if struct.calcsize("P") == 4:
        return "armv7l" if machine.startswith(("arm", "aarch")) else f"{machine}, 32 bit"
    return {"arm64": "aarch64", "amd64": "x86_64"}.get(machine, machine)


def program(machine: Machine) -> bytes:
    """The filter: (code, jump if true, jump if false, value), eight bytes each."""
    refuse = len(machine.calls) + 6  # from the line after the number is loaded
    lines = [
        (_LOAD, 0, 0, _ARCH_AT),
        (_EQUAL, 1, 0, machine.audit),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),  # another architecture's calls, which have other numbers
        (_LOAD, 0, 0, _NUMBER_AT),
        (_ABOVE, refuse, 0, _X32),
        *((_EQUAL, refuse - 1 - place, 0, number) for place, number in enumerate(machine.calls)),
        (_EQUAL, 0, 1, CLONE3),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
        (_EQUAL, 0, 2, machine.clone),
        (_LOAD, 0, 0, _FLAGS_AT),
        (_ANY_OF, 0, 1, _CLONE_THREAD),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
    ]
    return b"".join(struct.pack("<HBBI", *line) for line in lines)


def shut_network() -> str:
    """Take the network from this process and all that it starts, for good; with SECCOMP it starts no process any more.
    Returns what did it: SECCOMP, NAMESPACE or NONE. To be called while there is one thread: others would keep what they
    have."""
    if sys.platform not in ("linux", "android"):
        return NONE
    try:
        import ctypes  # numpy loads it as well
    except ImportError:
        return NONE
    libc = ctypes.CDLL(None, use_errno=True)
    machine = MACHINES.get(userland())
    if machine is not None:
        code = ctypes.create_string_buffer(program(machine))
        # struct sock_fprog {unsigned short len; struct sock_filter *filter;}
        about = struct.pack("@HP", len(code) // 8, ctypes.addressof(code))
        held = ctypes.create_string_buffer(about, len(about))
        long, none = ctypes.c_ulong, ctypes.c_ulong(0)
        if not libc.prctl(_PR_SET_NO_NEW_PRIVS, long(1), none, none, none) and (
            not libc.syscall(ctypes.c_long(machine.seccomp), long(_SET_MODE_FILTER), long(_SPEC_ALLOW), held)
            or not libc.prctl(_PR_SET_SECCOMP, long(_MODE_FILTER), held, none, none)
        ):
            return SECCOMP
    for flags in (_CLONE_NEWNET, _CLONE_NEWNET | _CLONE_NEWUSER):
        if hasattr(libc, "unshare") and not libc.unshare(flags):
            return NAMESPACE
    return NONE


# ---------------------------------------------------------------- what holds here, for doctor


_TRY = (
    "import sys; sys.path.append({root!r}); from edge_runtime.sandbox import shut_network, reached; "
    "print(shut_network(), reached())"
)
_SAYS = {
    SECCOMP: "the model's process can open no socket (seccomp)",
    NAMESPACE: "the model's process is in a network of its own, with nobody in it (network namespace)",
    NONE: "NOT shut off from the model's process: this system has neither seccomp nor network namespaces for it",
}


def reached() -> bool:
    """Whether this process can have a socket that leads anywhere: connecting one sends nothing for UDP, and finds a
    route or none."""
    import socket

    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.connect(("192.0.2.1", 9))  # an address that is kept for documentation
            return True
    except OSError:
        return False


def examine() -> dict[str, object]:
    """What a child of this machine gets: `network` is SECCOMP, NAMESPACE or NONE; `text` says it for a person."""
    import subprocess

    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _TRY.format(root=root)], capture_output=True, text=True, timeout=60
        )
        how, out = done.stdout.split()
    except (OSError, ValueError, subprocess.SubprocessError):
        how, out = NONE, "True"
    if how != NONE and out == "True":  # the kernel said yes and did not: an emulator may
        how = NONE
    return {"network": how, "text": _SAYS[how]}
