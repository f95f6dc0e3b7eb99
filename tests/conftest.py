"""Distributes the whole test suite over processes, and reports its result.

Tests of one file stay in one process of pytest-xdist (`--dist=loadfile`), because they share servers and models. At the
end every skipped test is counted and named with its reason: a promise that was not tested is part of the result.
"""

from collections import defaultdict
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# The folders whose files take longest come first, so that the processes end at about the same time. The tests of Ray
# mostly wait for Ray: one file of theirs starts first, beside tests that compute.
FIRST = ("reliability/test_ray_machines.py", "e2e", "reliability", "engines", "http", "render")
NAMES_SHOWN = 4


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first."""
    items.sort(key=lambda item: _rank(item.path.relative_to(TESTS).as_posix()))


def _rank(path: str) -> int:
    return next((place for place, start in enumerate(FIRST) if path.startswith(start)), len(FIRST))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List what was not tested, by reason."""
    names: defaultdict[str, list[str]] = defaultdict(list)
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        names[reason.removeprefix("Skipped: ")].append(report.nodeid.removeprefix("tests/"))
    if not names:
        return
    n_skipped = sum(len(found) for found in names.values())
    terminalreporter.section(f"not tested here: {n_skipped} in all, by reason")
    for reason, found in sorted(names.items(), key=lambda pair: -len(pair[1])):
        more = f" and {len(found) - NAMES_SHOWN} more" if len(found) > NAMES_SHOWN else ""
        terminalreporter.write_line(f"{len(found):4}  {reason}: {', '.join(found[:NAMES_SHOWN])}{more}")
