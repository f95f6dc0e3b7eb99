"""The tiny checkpoint, written once for all tests of a worker."""

import os
from pathlib import Path

import pytest
from it_golden import TABLE
from lipsync_server.engines.infinitetalk import random_checkpoint


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    random_checkpoint.write(folder)
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the golden table: LIPSYNC_GOLDEN_TABLE=1 python -m pytest tests/engines/infinitetalk."""
    if os.environ.get("LIPSYNC_GOLDEN_TABLE"):
        terminalreporter.write_line("| case | tolerance | error |\n|---|---|---|")
        for case, tolerance, found in TABLE:
            terminalreporter.write_line(f"| {case} | {tolerance:g} | {found:.1e} |")
