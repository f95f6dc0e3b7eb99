"""Distributes the whole test suite over processes, and reports its result.

Tests of one file stay in one process of pytest-xdist, because they share servers and models. At the end every skipped
test is counted and named with its reason: a promise that was not tested is part of the result.
"""

from collections import defaultdict
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# Tests in these folders start servers, kill them and wait for others. Two at a time would compete for the cores.
ONE_AT_A_TIME = ("reliability", "e2e")
NAMES_SHOWN = 4


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test its group for `--dist loadgroup`: a mark of its own, or else its folder or file."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            path = item.path.relative_to(TESTS)
            group = "processes" if path.parts[0] in ONE_AT_A_TIME else str(path.with_suffix(""))
            item.add_marker(pytest.mark.xdist_group(group))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List what was not tested, by reason."""
    names: defaultdict[str, list[str]] = defaultdict(list)
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        names[reason.removeprefix("Skipped: ")].append(report.nodeid.partition("@")[0].removeprefix("tests/"))
    if not names:
        return
    n_skipped = sum(len(found) for found in names.values())
    terminalreporter.section(f"not tested here: {n_skipped} in all, by reason")
    for reason, found in sorted(names.items(), key=lambda pair: -len(pair[1])):
        more = f" and {len(found) - NAMES_SHOWN} more" if len(found) > NAMES_SHOWN else ""
        terminalreporter.write_line(f"{len(found):4}  {reason}: {', '.join(found[:NAMES_SHOWN])}{more}")
