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
    """Print the golden table: LIPSYNC_GOLDEN_TABLE=1 python -m pytest tests/engines/infinitetalk.

    With a path in place of 1 the table is written there, below the file's own text.
    """
    wanted = os.environ.get("LIPSYNC_GOLDEN_TABLE")
    if not wanted:
        return
    rows = [f"| {case} | {tolerance:g} | {found:.1e} |" for case, tolerance, found in sorted(TABLE)]
    table = "\n".join(["| case | tolerance | error |", "|---|---|---|", *rows])
    page = Path(wanted)
    if page.suffix == ".md":
        text = page.read_text(encoding="utf-8").partition("| case |")[0]
        page.write_text(f"{text}{table}\n", encoding="utf-8")
    else:
        terminalreporter.write_line(table)
