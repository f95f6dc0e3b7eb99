"""Distributes the whole test suite over processes, and reports its result.

Tests of one file stay in one process of pytest-xdist (`--dist=loadfile`), because they share servers and models. At the
end every skipped test is counted and named with its reason: a promise that was not tested is part of the result.
"""

import gc
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# The slowest files come first, so that the processes end at about the same time. Ray's tests mostly wait, so they start
# beside tests that compute.
FIRST = (
    "reliability/test_ray_machines.py",
    "engines/sadtalker/test_networks.py",
    "e2e/test_flashhead_http.py",
    "reliability/test_ray_cluster.py",
    "e2e/test_infinitetalk_http.py",
    "engines/infinitetalk/test_bench.py",
    "e2e/test_flashtalk_http.py",
    "engines/infinitetalk/test_parallel.py",
    "engines/infinitetalk/test_bench_cards.py",
    "engines/flashhead/test_bench.py",
    "engines/test_ahead_of_time.py",
    "http/test_openapi.py",
    "engines/sadtalker/test_pipeline.py",
    "http/test_hostile_requests.py",
    "e2e",
    "reliability",
    "engines",
    "http",
    "render",
)
NAMES_SHOWN = 4


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect the tests without Python's garbage collector.

    The collector walks through all objects again and again while modules are imported: a fifth of the time. Afterwards
    it leaves out the objects that are there, because modules and tests live as long as the process.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the slowest files first."""
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
