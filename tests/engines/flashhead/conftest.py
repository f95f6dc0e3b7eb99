"""The tiny FlashHead files, written once for all tests of a worker, and the engine on them at 64 x 64."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from flash_golden import TABLE
from lipsync_server.engines.flashhead import job
from lipsync_server.engines.flashhead.engine import FlashHeadEngine, create
from lipsync_server.random_models import flashhead as random_flashhead
from lipsync_server.settings import EngineSettings


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the golden table: LIPSYNC_GOLDEN_TABLE=1 python -m pytest tests/engines/flashhead.

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


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flashhead-weights")
    random_flashhead.write(folder)
    return folder


@pytest.fixture(scope="module")
def engine(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlashHeadEngine]:
    """The real engine on small squares; the real 512 x 512 runs in tests/e2e/test_flashhead_http.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "SIDE", 64)
        settings = EngineSettings(weights_dir=tiny_weights, data_dir=tmp_path_factory.mktemp("data"), device="cpu")
        made = create(settings)
        made.load()
        yield made
        made.close()
