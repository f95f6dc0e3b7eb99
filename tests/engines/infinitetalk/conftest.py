"""The tiny model files, written once for all tests of a worker, and the engine on them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from infinitetalk_golden import TABLE
from lipsync_server.engines.infinitetalk.engine import create
from lipsync_server.engines.infinitetalk.model.teacache import COEFFICIENTS
from lipsync_server.engines.infinitetalk.video.images import BUCKETS
from lipsync_server.random_models import infinitetalk as random_models
from lipsync_server.settings import Settings


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    random_models.write(folder)
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


@pytest.fixture(scope="module")
def small_pictures() -> Iterator[None]:
    """A table with one small size: a thirtieth of the work. Real sizes run in tests/e2e/test_infinitetalk_http.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BUCKETS, "480p", {0.33: (64, 192)})
        # A random time embedding changes so much with every step that the published polynomial would skip nothing.
        patch.setitem(COEFFICIENTS, "480p", (0.0, 0.0, 0.0, 0.0, 0.3))
        yield


@pytest.fixture(scope="module")
def engine(small_pictures: None, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory):
    settings = Settings(
        _env_file=None, weights_dir=tiny_weights, data_dir=tmp_path_factory.mktemp("data"), device="cpu", preset="fast"
    )
    made = create(settings)
    made.load()
    yield made
    made.close()
