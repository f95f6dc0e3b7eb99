"""The tiny checkpoint, written once for all tests of a worker."""

from pathlib import Path

import pytest
from lipsync_server.engines.infinitetalk import tiny_checkpoint


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    tiny_checkpoint.write(folder)
    return folder
