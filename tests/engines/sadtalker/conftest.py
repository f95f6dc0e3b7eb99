"""Shows the table of comparisons with the golden data when it is asked for."""

import pytest
from sadtalker_golden import TABLE


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    TABLE.show(terminalreporter)
