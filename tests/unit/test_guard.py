"""What a child that means harm can do to the process that started it: nothing but end with an error of ours."""

from __future__ import annotations

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
from edge_runtime.errors import EngineError
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
