"""The tiny FlashHead files, written once for all tests of a worker, and the engine on them at 64 x 64."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from flash_golden import TABLE
from lipsync_server.engines.flashhead import job
from lipsync_server.engines.flashhead.engine import FlashHeadEngine, create
from lipsync_server.random_models import flashhead as random_flashhead
from lipsync_server.settings import EngineSettings


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    TABLE.show(terminalreporter)


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
