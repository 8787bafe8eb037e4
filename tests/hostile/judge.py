"""What became of each case, counted; and the checks around it: time, memory, and files where none belong."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_runtime.child import memory_status
from edge_runtime.errors import EdgeError

# Of the processor and not of the clock: how busy the machine is must not decide.
CPU_LIMIT_S = 20
# And for what waits without working, as on a pipe that nobody writes to.
WAIT_LIMIT_S = 45
# The most that reading a file of this suite may add to the process that reads it.
MEMORY_LIMIT_BYTES = 256 << 20
GOOD = ("refused", "accepted", "child ended", "time limit", "memory limit")
BAD = ("crashed", "hung", "over budget", "escaped")


@dataclass
class Tally:
    """Of one kind of file: how many cases came to which end, and what went wrong, in words."""

    kind: str
    ends: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    @property
    def cases(self) -> int:
        return sum(self.ends.values())

    def add(self, name: str, end: str, words: str = "") -> None:
        self.ends[end] += 1
        if end in BAD:
            self.wrong.append(f"{self.kind}/{name}: {end}: {words}"[:600])


class Hung(BaseException):
    """Not an Exception: nothing on the way may take it for an engine's own."""


@contextlib.contextmanager
def cpu_limit(seconds: float = CPU_LIMIT_S) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hung

    timers = {signal.SIGVTALRM: (signal.ITIMER_VIRTUAL, seconds), signal.SIGALRM: (signal.ITIMER_REAL, WAIT_LIMIT_S)}
    before = {one: signal.signal(one, stop) for one in timers}
    for timer, limit in timers.values():
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for timer, _ in timers.values():
            signal.setitimer(timer, 0)
        for one, handler in before.items():
            signal.signal(one, handler)


def end_of(error: EdgeError) -> str:
    """How a refusal is counted, by what the guard says in it."""
    said = error.message
    if "the time limit" in said:
        return "time limit"
    if said.startswith("memory:") and "estimated" not in said:
        return "memory limit"
    return "child ended" if "process died of" in said or "ended with exit code" in said else "refused"


def judge(tally: Tally, name: str, work: Callable[[], Any]) -> str:
    """Do it in this process. Our own error is the only one that may come out, and it says something."""
    _forget_peak()
    before = memory_status().get("VmRSS", 0)
    end, words = "accepted", ""
    try:
        with cpu_limit():
            work()
    except EdgeError as error:
        end, words = end_of(error), error.message
        if not error.message.strip() or not error.message.replace("\n", "").isprintable():
            end, words = "crashed", f"an error without words: {error.message!r}"
    except Hung:
        end = "hung"
    except BaseException as error:  # a crash is what must not be: all of them
        if isinstance(error, KeyboardInterrupt):
            raise
        end, words = "crashed", f"{type(error).__name__}: {error}"
    grown = memory_status().get("VmHWM", 0) - before
    if grown > MEMORY_LIMIT_BYTES and end in GOOD:
        end, words = "over budget", f"{grown >> 20} MiB more"
    tally.add(name, end, words)
    return end


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def listing(folder: Path) -> set[tuple[str, int]]:
    """Every file below, with its size."""
    return {
        (str(Path(top, name).relative_to(folder)), os.lstat(Path(top, name)).st_size)
        for top, folders, names in os.walk(folder)
        for name in (*folders, *names)
        if not Path(top, name).is_dir()
    }


def table(tallies: Iterable[Tally]) -> str:
    """Markdown: a row a kind."""
    heads = ("kind", "cases", *GOOD, *BAD)
    lines = [f"| {' | '.join(heads)} |", f"| --- |{' ---: |' * (len(heads) - 1)}"]
    whole = Tally("all")
    for one in tallies:
        lines.append(_row(one))
        whole.ends += one.ends
    return "\n".join([*lines, _row(whole)])


def _row(tally: Tally) -> str:
    return f"| {tally.kind} | {tally.cases} | {' | '.join(str(tally.ends[end]) for end in (*GOOD, *BAD))} |"
