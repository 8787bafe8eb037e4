"""The table of all cases, after the tests."""

from __future__ import annotations

import pytest

from tests.hostile.judge import Tally, table

TALLIES: list[Tally] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if TALLIES:
        terminalreporter.section("hostile files")
        terminalreporter.write_line(table(TALLIES))
