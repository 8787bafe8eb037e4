"""The table of all cases, after the tests."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.hostile.judge import BAD, GOOD, Tally, table

TALLIES: list[Tally] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if TALLIES:
        terminalreporter.section("hostile files")
        terminalreporter.write_line(table(TALLIES))
        if out := os.environ.get("EDGE_RUNTIME_HOSTILE_OUT"):
            rows = [
                {"kind": one.kind, "cases": one.cases, **{end: one.ends[end] for end in (*GOOD, *BAD)}}
                for one in TALLIES
            ]
            Path(out).write_text("".join(json.dumps(row) + "\n" for row in rows))
