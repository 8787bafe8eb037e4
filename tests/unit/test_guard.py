"""What a child that means harm can do to the process that started it: nothing but end with an error of ours."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.child import Progress, Reply
from edge_runtime.errors import BudgetError, EngineError
from edge_runtime.guard import Child, Limits
from tests.conftest import ROOT
from tests.hostile.test_found import answer_pipe

MIB = 1 << 20


def write_all(content: bytes) -> None:
    fd, left = answer_pipe(), memoryview(content)
    while left:
        left = left[os.write(fd, left) :]


def frame(plain: Any) -> None:
    text = json.dumps(plain).encode()
    write_all(len(text).to_bytes(4, "big") + text)


def shared_memory() -> int:
    """The descriptor of the memory for answers."""
    links = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in map(int, os.listdir("/proc/self/fd")) if is_open(fd)}
    return max(fd for fd, link in links.items() if "memfd:edge-runtime" in link)


def is_open(fd: int) -> bool:
    return os.path.exists(f"/proc/self/fd/{fd}") or os.path.islink(f"/proc/self/fd/{fd}")


class Hostile:
    """Writes frames of its own, and closes what it was given."""

    def handle(self, op: str, meta: dict[str, Any], arrays: dict[str, Any], progress: Progress) -> Reply:
        getattr(self, op)(meta)
        return {}, {}

    def same_step(self, meta: dict[str, Any]) -> None:
        while True:
            frame({"progress": meta["step"], "arrays": []})
            time.sleep(0.05)

    def steps(self, meta: dict[str, Any]) -> None:
        for done in range(1, 8):
            frame({"progress": [done, 7], "arrays": []})
            time.sleep(0.3)

    def close_all_but_stderr(self, meta: dict[str, Any]) -> None:
        os.closerange(3, 64)
        time.sleep(60)

    def deaf(self, meta: dict[str, Any]) -> None:
        frame({"meta": {}, "arrays": []})
        time.sleep(60)

    def frame(self, meta: dict[str, Any]) -> None:
        frame(meta["plain"])
        time.sleep(60)

    def announce(self, meta: dict[str, Any]) -> None:
        write_all(meta["bytes"].to_bytes(4, "big"))
        while True:
            write_all(b" " * MIB)

    def cut(self, meta: dict[str, Any]) -> None:
        """Let the parent look at 64 MiB, and take them away while it does."""
        fd, size = shared_memory(), 64 * MIB
        os.ftruncate(fd, size)
        frame({"meta": {}, "arrays": [{"name": "a", "dtype": "uint8", "shape": [size], "at": 0, "n": size}]})
        while True:
            with contextlib.suppress(PermissionError):
                os.ftruncate(fd, 0)
            os.ftruncate(fd, size)

    def fill(self, meta: dict[str, Any]) -> None:
        fd, content = shared_memory(), bytes(MIB)
        for place in range(400):
            os.pwrite(fd, content, place * MIB)
            time.sleep(0.005)

    def signal(self, meta: dict[str, Any]) -> None:
        os.kill(os.getpid(), meta["number"])


def hostile(spec: dict[str, Any]) -> Hostile:
    return Hostile()


@pytest.fixture
def child() -> Iterator[Child]:
    made = Child("tests.unit.test_guard:hostile", {}, Limits())
    try:
        made.ready()
        made.limits = replace(made.limits, silence_s=1)
        yield made
    finally:
        made.close()


# ---------------------------------------------------------------- the time limit


@pytest.mark.parametrize("step", [[1, 2], [3, 2], [-1, None], [1 << 40, None]])
def test_a_step_that_was_told_before_is_no_sign_of_life(child: Child, step: list[int | None]):
    with pytest.raises(EngineError, match="the time limit"):
        child.call("same_step", {"step": step})
    assert not child.alive


def test_steps_that_advance_are(child: Child):
    seen: list[int] = []
    assert child.call("steps", {}, progress=lambda done, total: seen.append(done)) == ({}, {})
    assert seen == [1, 2, 3, 4, 5, 6, 7]


def test_a_child_that_closes_its_answers_and_lives_is_stopped(child: Child):
    with pytest.raises(EngineError, match="closed its answers"):
        child.call("close_all_but_stderr", {})
    assert not child.alive


def test_a_child_that_reads_no_questions_is_stopped(child: Child):
    child.call("deaf", {})
    with pytest.raises(EngineError, match="the time limit"):
        child.call("echo", {"text": "x" * MIB})
    assert not child.alive


def gone(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    try:
        return "State:\tZ" in status.read_text()
    except OSError:
        return True


def within(seconds: float, what: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not what() and time.monotonic() < end:
        time.sleep(0.05)
    return what()


def test_a_child_that_closed_everything_does_not_outlive_a_parent_that_is_killed():
    code = (
        "from edge_runtime.guard import Child\n"
        "child = Child('tests.unit.test_guard:hostile', {})\nchild.ready()\n"
        "child._send({'op': 'close_all_but_stderr', 'meta': {}})\nprint(child._process.pid, flush=True)\n"
        "import time; time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        assert within(10, lambda: not any(Path(f"/proc/{pid}/fd").glob("[3-9]")))
        assert not gone(pid)
        parent.kill()
    assert within(10, lambda: gone(pid))


# ---------------------------------------------------------------- answers that an honest child does not give


ARRAY = {"name": "a", "dtype": "uint8", "shape": [8], "n": 8}


@pytest.mark.parametrize(
    "plain",
    [
        {"arrays": []},
        {"meta": [1], "arrays": []},
        {"meta": {}, "peak_bytes": "x", "arrays": []},
        {"meta": {}, "peak_bytes": 1 << 80, "arrays": []},
        {"progress": 5, "arrays": []},
        {"progress": ["a", 2], "arrays": []},
        {"error": {"type": "EngineError"}, "arrays": []},
        {"error": 1, "arrays": []},
        {"meta": {}, "arrays": [{**ARRAY, "n": -8}]},
        {"meta": {}, "arrays": [{**ARRAY, "n": 1 << 40}]},
        {"meta": {}, "arrays": [{**ARRAY, "at": 1 << 61}]},
        {"meta": {}, "arrays": [{**ARRAY, "at": -8}]},
        {"meta": {}, "arrays": [{**ARRAY, "n": 1 << 36, "at": 0}]},
        {"meta": {}, "arrays": [{**ARRAY, "dtype": "object", "at": 0}]},
        {"meta": {}, "arrays": 1},
    ],
)
def test_nonsense_is_an_error_of_ours(child: Child, plain: dict[str, Any]):
    with pytest.raises(EngineError, match="cannot be read"):
        child.call("frame", {"plain": plain})
    assert not child.alive


@pytest.mark.parametrize("kind", ["annotations", "_escaped", "Exception", "__name__", 3, None])
def test_an_error_of_a_kind_that_is_none_is_the_engines(child: Child, kind: object):
    with pytest.raises(EngineError, match="words"):
        child.call("frame", {"plain": {"error": {"type": kind, "message": "words", "hint": None}, "arrays": []}})


def test_an_answer_without_what_was_asked_for_is_an_error_of_ours(child: Child):
    found = child.call("frame", {"plain": {"meta": {"a": 1}, "arrays": []}})[0]
    assert found["a"] == 1
    with pytest.raises(EngineError, match="without 'kind'"):
        found["kind"]


def test_a_death_by_a_signal_without_a_name(child: Child):
    with pytest.raises(EngineError, match="died of signal 40"):
        child.call("signal", {"number": 40})


def test_a_frame_larger_than_any_answer_is_not_read(child: Child):
    with pytest.raises(EngineError, match="cannot be read"):
        child.call("announce", {"bytes": 17 * MIB})
    assert len(child._ahead) < 2 * MIB


# ---------------------------------------------------------------- a child that cannot be started


def test_a_child_that_cannot_be_started_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(EngineError, match="cannot be started: No such file"):
            Child("x:y", {}, Limits(100 * MIB))
    assert sorted(os.listdir("/proc/self/fd")) == before


# ---------------------------------------------------------------- memory that both see


def test_what_is_shared_cannot_be_cut_off_while_it_is_read(child: Child):
    found = child.call("cut", {})[1]["a"]
    assert found.nbytes == 64 * MIB
    assert not found.any()


def test_what_is_written_into_shared_memory_counts():
    child = Child("tests.unit.test_guard:hostile", {}, Limits(120 * MIB))
    try:
        child.ready()
        with pytest.raises(BudgetError, match="allowed 120 MiB"):
            child.call("fill", {})
        assert not child.alive
    finally:
        child.close()
