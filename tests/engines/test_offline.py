"""On-device means on-device: the whole run under a kernel filter that kills whatever asks for a socket."""

from __future__ import annotations

import ctypes
import platform
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import picture

# The number of the system call socket(2), and the kernel's word for the architecture, by machine.
SOCKET = {"x86_64": (41, 0xC000003E), "aarch64": (198, 0xC00000B7)}
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
KILL, ALLOW = 0x80000000, 0x7FFF0000


def forbid_sockets() -> None:
    """Runs between fork and exec: a four-line BPF program, kept by every process started from here on."""
    number, _ = SOCKET[platform.machine()]
    lines = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, KILL), (0x06, 0, 0, ALLOW)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *line) for line in lines))
    program = ctypes.create_string_buffer(struct.pack("<H6xQ", len(lines), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


def offline(*command: str) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, *command]
    return subprocess.run(arguments, preexec_fn=forbid_sockets, capture_output=True, text=True, timeout=120)


needs_seccomp = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in SOCKET or struct.calcsize("P") != 8,
    reason="the filter is written for 64-bit Linux on x86 and ARM",
)


@needs_seccomp
def test_the_filter_bites():
    assert offline("-c", "import socket; socket.socket()").returncode == -31  # SIGSYS
    assert offline("-c", "print(1)").stdout == "1\n"


@needs_seccomp
@pytest.mark.parametrize("variant", ["fp32", "fp32-lite", "int8-lite"])
def test_a_whole_run_works_with_sockets_forbidden(means: Path, tmp_path: Path, variant: str):
    picture(tmp_path / "a.png", (255, 0, 0))
    done = offline("-m", "edge_runtime", "run", str(means), str(tmp_path / "a.png"), "--variant", variant)
    assert (done.returncode, "red 1.000" in done.stdout) == (0, True), done.stderr
