"""Prints the golden table after the tests: every case, its limit, and the error that was seen."""

import pytest
from sadtalker_golden import TABLE


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not TABLE:
        return
    terminalreporter.section("SadTalker golden table")
    for case, limit, seen in TABLE:
        terminalreporter.write_line(f"{case:<58} limit {limit:8.1e}   seen {seen:8.1e}")
