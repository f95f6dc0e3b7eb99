"""Distributes the whole test suite over processes, and reports its result.

Tests of one file stay in one process of pytest-xdist (`--dist=loadfile`), because they share servers and models. At the
end every skipped test is counted and named with its reason: a promise that was not tested is part of the result.
"""

import gc
from collections import defaultdict
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# The slowest files come first, so that the processes end at about the same time. The tests of Ray and those
# that kill a server mostly wait, so they start beside tests that compute.
FIRST = (
    "reliability/test_ray_machines.py",
    "e2e/test_infinitetalk_http.py",
    "engines/sadtalker/test_networks.py",
    "e2e/test_flashhead_http.py",
    "reliability/test_ray_cluster.py",
    "e2e/test_lora_http.py",
    "engines/infinitetalk/test_bench.py",
    "e2e/test_flashtalk_http.py",
    "engines/infinitetalk/test_parallel.py",
    "e2e/test_late_text_encoder.py",
    "engines/infinitetalk/test_bench_cards.py",
    "engines/flashhead/test_bench.py",
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

# Python's garbage collector walks through all objects again and again while modules are imported and tests collected:
# a fifth of the time that this takes. pytest_collection_finish starts it again.
gc.disable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the slowest files first."""
    items.sort(key=lambda item: _rank(item.path.relative_to(TESTS).as_posix()))


def pytest_collection_finish() -> None:
    """Start the garbage collector, without the modules and tests that live as long as the process."""
    gc.freeze()
    gc.enable()


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
