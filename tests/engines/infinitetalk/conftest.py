"""The tiny model files, written once for all tests of a worker, and the engine on them."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import model_layouts
import pytest
from infinitetalk_golden import TABLE
from lipsync_server.engines.base import Engine
from lipsync_server.engines.infinitetalk.engine import create
from lipsync_server.engines.infinitetalk.model.teacache import COEFFICIENTS
from lipsync_server.engines.infinitetalk.video.sizes import BUCKETS
from lipsync_server.random_models import infinitetalk as random_models
from lipsync_server.settings import Settings


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    random_models.write(folder)
    return folder


@pytest.fixture
def folder(tiny_weights: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model files that a test may damage."""
    return Path(shutil.copytree(tiny_weights, tmp_path / "weights"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    TABLE.show(terminalreporter)
    model_layouts.TABLE.show(terminalreporter)


@pytest.fixture(scope="module")
def small_pictures() -> Iterator[None]:
    """A table with one small size: a thirtieth of the work. Real sizes run in tests/e2e/test_infinitetalk_http.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BUCKETS, "480p", {0.33: (64, 192)})
        # A random time embedding changes so much with every step that the published polynomial would skip nothing.
        patch.setitem(COEFFICIENTS, "480p", (0.0, 0.0, 0.0, 0.0, 0.3))
        yield


@pytest.fixture(scope="module")
def engine(small_pictures: None, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    settings = Settings(
        _env_file=None, weights_dir=tiny_weights, data_dir=tmp_path_factory.mktemp("data"), device="cpu", preset="fast"
    )
    made = create(settings)
    made.load()
    yield made
    made.close()
