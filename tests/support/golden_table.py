"""A table of comparisons with golden data: case, tolerance and error of every comparison of a run.

`LIPSYNC_GOLDEN_TABLE=1 python -m pytest tests/engines/infinitetalk` prints the table at the end. With the path of a
Markdown page in place of 1, the table of that page is replaced, together with the line above the table, which names the
machine and the version of torch. The text above that line is not changed. Another table has another variable.
"""

import os
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pytest
from lipsync_server.engines.hardware import cpu_name

_HEADS = "| case | tolerance | error |"
_MEASURED = "Measured on "


class GoldenTable:
    """The comparisons of one engine. wanted: a Markdown page for the table, another text to print it, None for none."""

    def __init__(self, wanted: str | None = os.environ.get("LIPSYNC_GOLDEN_TABLE")) -> None:
        self._wanted = wanted
        self.rows: list[tuple[str, float, float]] = []

    def note(self, case: str, tolerance: float, found: float) -> None:
        """Enter the error `found` and assert that it is at most `tolerance`; nan is not."""
        self.rows.append((case, tolerance, found))
        assert found <= tolerance, f"{case}: {found} is above {tolerance}"

    def show(self, reporter: pytest.TerminalReporter) -> None:
        """Print or write the table if it is wanted."""
        wanted = self._wanted
        if not wanted or not self.rows:
            return
        rows = [f"| {case} | {tolerance:g} | {found:.1e} |" for case, tolerance, found in sorted(self.rows)]
        table = "\n".join([_HEADS, "|---|---|---|", *rows])
        page = Path(wanted)
        if page.suffix == ".md":
            text = page.read_text(encoding="utf-8").partition(_HEADS)[0].partition(_MEASURED)[0]
            measured = f"{_MEASURED}the CPU {cpu_name()} with PyTorch {version('torch')}, {datetime.now(UTC):%Y-%m-%d}."
            page.write_text(f"{text}{measured}\n\n{table}\n", encoding="utf-8")
        else:
            reporter.write_line(table)
