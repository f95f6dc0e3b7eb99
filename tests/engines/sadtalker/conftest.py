"""Shows the golden table after the tests: every case, its tolerance, and the error that was seen.

LIPSYNC_GOLDEN_TABLE=docs/sadtalker-golden.md writes it as a document; with LIPSYNC_SLOW_TESTS=1 nothing is left out.
"""

import os
from pathlib import Path

import pytest
import torch
from sadtalker_golden import TABLE

_DOCUMENT = """# SadTalker against the reference's numbers

Written by `LIPSYNC_SLOW_TESTS=1 LIPSYNC_GOLDEN_TABLE=docs/sadtalker-golden.md python -m pytest tests/engines/sadtalker`
with PyTorch {torch}, float32 on the CPU; cases that lie in `../shared/sadtalker` are left out where that folder is
missing. An error is the largest difference to the reference unless the case says mean, share or relative; crop boxes,
blinks, frame counts and key lists are compared for equality by the same tests.

| case | tolerance | error |
|---|---|---|
"""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not TABLE:
        return
    terminalreporter.section("SadTalker golden table")
    for case, limit, seen in TABLE:
        terminalreporter.write_line(f"{case:<58} limit {limit:8.1e}   seen {seen:8.1e}")
    if path := os.environ.get("LIPSYNC_GOLDEN_TABLE"):
        rows = [f"| {case} | {limit:g} | {seen:.1e} |\n" for case, limit, seen in TABLE]
        text = _DOCUMENT.format(torch=torch.__version__) + "".join(rows)
        (terminalreporter.config.rootpath / Path(path)).write_text(text, encoding="utf-8")
