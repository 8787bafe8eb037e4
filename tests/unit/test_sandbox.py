"""The model's process has no network: what the kernel answers there, what the filter says, and how it degrades."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import edge_runtime as edge
from edge_runtime import sandbox
from edge_runtime.guard import Child
from edge_runtime.sandbox import CLONE3, MACHINES, NAMESPACE, NONE, SECCOMP, examine, program, userland
from tests.conftest import ROOT, picture, small_device

PTRACE = {"x86_64": 101, "aarch64": 117, "armv7l": 26}
here = examine()
needs_seccomp = pytest.mark.skipif(here["network"] != SECCOMP, reason=f"this system: {here['text']}")


@needs_seccomp
def test_a_model_can_open_no_socket_and_start_no_process_by_any_way():
    child = Child("tests.unit.sandbox_handlers:escape", {})
    try:
        child.ready()
        meta = {"ptrace": PTRACE[userland()], "x32": userland() == "x86_64"}
        found, _ = child.call("escape", meta)
    finally:
        child.close()
    assert found.pop("thread") == "ran"
    assert set(found.values()) == {"Operation not permitted"}, found
    assert {"AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK", "child", "fork", "exec", "io_uring", "ptrace"} <= set(found)


@needs_seccomp
def test_every_sessions_child_is_under_the_filter_before_it_has_a_model(means: Path, tmp_path: Path):
    with edge.open_session(means, small_device()) as session:
        assert session.predict(picture(tmp_path / "a.png", (255, 0, 0)))
        assert session._child
        status = Path(f"/proc/{session._child._process.pid}/status").read_text()
    assert re.search(r"^Seccomp:\t2$", status, re.M)
    assert re.search(r"^NoNewPrivs:\t1$", status, re.M)
    source = (ROOT / "edge_runtime" / "child.py").read_text()
    assert source.index("    shut_network()\n") < source.index("read_frame(requests.read)")


def run(code: str) -> str:
    words = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def test_the_process_that_starts_it_keeps_its_own():
    assert run("from edge_runtime import sandbox; sandbox.examine(); import socket; socket.socket(); print(1)") == "1"


def test_without_seccomp_it_is_a_network_of_its_own_or_it_is_said():
    code = (
        "from edge_runtime import sandbox\nsandbox.MACHINES.clear()\n"
        "how = sandbox.shut_network()\nprint(how, sandbox.reached())"
    )
    how, out = run(code).split()
    assert (how, out) == (NAMESPACE, "False") or how == NONE


def test_where_nothing_works_it_is_said_and_the_model_runs_all_the_same(monkeypatch: pytest.MonkeyPatch):
    code = (
        "import ctypes\nfrom edge_runtime import sandbox\n"
        "class Refusing:\n"
        "    def __getattr__(self, name): return lambda *words: -1\n"
        "ctypes.CDLL = lambda *words, **more: Refusing()\n"
        "print(sandbox.shut_network())"
    )
    assert run(code) == NONE
    monkeypatch.setattr(sys, "platform", "darwin")
    assert sandbox.shut_network() == NONE


def test_a_kernel_that_says_yes_and_does_nothing_is_found_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sandbox, "_TRY", "print('seccomp', True)")
    assert examine()["network"] == NONE
    monkeypatch.setattr(sandbox, "_TRY", "raise SystemExit(1)")
    assert str(examine()["text"]).startswith("NOT shut off")


# ---------------------------------------------------------------- the filter, by hand


def verdict(code: bytes, audit: int, number: int, flags: int = 0) -> str:
    """What the kernel would say of a system call: the five instructions that the filter is made of."""
    lines = list(struct.iter_unpack("<HBBI", code))
    at, held = 0, 0
    for _ in range(len(lines)):
        kind, true, false, value = lines[at]
        at += 1
        if kind == 0x20:
            held = {0: number, 4: audit, 16: flags}[value]
        elif kind == 0x15:
            at += true if held == value else false
        elif kind == 0x35:
            at += true if held >= value else false
        elif kind == 0x45:
            at += true if held & value else false
        elif kind == 0x06:
            return {0x7FFF0000: "allow", 0x00050001: "refuse", 0x00050026: "no such call"}[value]
    raise AssertionError("the program does not end")


@pytest.mark.parametrize("name", MACHINES)
@given(number=st.integers(0, 2**32 - 1))
@example(number=0)
@example(number=0x3FFFFFFF)
@example(number=0x40000000)
@example(number=CLONE3)
@example(number=0xF0005)  # set_tls of 32-bit ARM, which every thread needs
def test_the_filter_refuses_what_is_listed_and_nothing_else(name: str, number: int):
    machine = MACHINES[name]
    code = program(machine)
    refused = number in (*machine.calls, machine.clone) or number >= 0x40000000
    said = "no such call" if number == CLONE3 else "refuse" if refused else "allow"
    assert verdict(code, machine.audit, number) == said
    assert verdict(code, machine.audit, machine.clone, 0x3D0F00) == "allow", "glibc's flags of a thread"
    assert verdict(code, machine.audit, machine.clone, 0x1200011) == "refuse", "glibc's flags of fork"
    assert all(verdict(code, machine.audit, one) == "refuse" for one in machine.calls)
    others = [one.audit for one in MACHINES.values() if one is not machine]
    assert all(verdict(code, audit, number) == "refuse" for audit in [*others, 0x40000003, 0])


HEADERS = {
    "x86_64": [Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), Path("/usr/include/asm/unistd_64.h")],
    "aarch64": [Path("/usr/include/asm-generic/unistd.h")],
    "armv7l": [Path("/usr/arm-linux-gnueabihf/include/asm/unistd-eabi.h")],
}
NAMES = ("socket", "ptrace", "process_vm_writev", "execve", "execveat", "io_uring_setup", "pidfd_getfd")


@pytest.mark.parametrize("name", MACHINES)
def test_the_numbers_are_those_of_the_kernels_headers(name: str):
    header = next((one for one in HEADERS[name] if one.exists()), None)
    if header is None:
        pytest.skip(f"no kernel headers for {name} here")
    text = header.read_text()
    found = {
        match[1]: int(match[2])
        for match in re.finditer(r"^#define __NR_(\w+)\s+\(?(?:__NR_SYSCALL_BASE\s*\+\s*)?(\d+)\)?\s*$", text, re.M)
    }
    older = [found[one] for one in ("fork", "vfork") if one in found]
    assert (*(found[one] for one in NAMES), *older) == MACHINES[name].calls
    assert (found["clone"], found["clone3"]) == (MACHINES[name].clone, CLONE3)
    assert found["seccomp"] == MACHINES[name].seccomp
