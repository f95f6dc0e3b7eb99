"""Settings that cannot run on the device are refused before model files are read."""

from pathlib import Path
from typing import Any

import pytest
from lipsync_server.engines.infinitetalk.engine import create
from lipsync_server.errors import EngineUnavailable
from lipsync_server.settings import Settings


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"attention": "cudnn"}, r"'cudnn' cannot be used here: it needs an NVIDIA GPU"),
        ({"attention": "int8_both"}, r"'int8_both' cannot be used here: it needs an NVIDIA GPU"),
        ({"attention_density": 0.5}, r"density 0\.5 needs attention int8 or fp8"),
    ],
)
def test_an_attention_that_cannot_run_here_is_refused_before_any_file_is_opened(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    """The weights folder is empty: the refusal speaks of the setting, because no file was looked for yet."""
    settings = Settings(_env_file=None, weights_dir=tmp_path, data_dir=tmp_path, device="cpu", **options)
    with pytest.raises(EngineUnavailable, match=words):
        create(settings).load()
