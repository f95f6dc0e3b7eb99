"""Whether speech can be recognised here, and with which model of Whisper. Loads no model."""

import importlib.util
from pathlib import Path
from typing import Final

from lipsync_server.errors import InvalidInput
from lipsync_server.extras import way_to_install
from lipsync_server.weights.places import folder_named

FOLDERS: Final = ("faster-whisper-small", "faster-whisper-base")
"""The folders of Whisper's models, the best first."""
_FILES: Final = ("model.bin", "config.json", "tokenizer.json")
_PULL: Final = "lipsync weights pull whisper-base"


def recogniser_home(weights_dir: Path) -> Path:
    """The folder of the best model on this machine.

    Raises InvalidInput with the command that installs missing parts.
    """
    homes = [folder_named(weights_dir, name) for name in FOLDERS]
    complete = [home for home in homes if all((home / name).is_file() for name in _FILES)]
    pull = "" if complete else _PULL
    installed = importlib.util.find_spec("faster_whisper") is not None
    if pull or not installed:
        way = f"Run on the server: {pull}" if installed else way_to_install("speech", then=pull)
        raise InvalidInput(
            f"Captions without a script need speech recognition. {way}. Or send the spoken words as script, or leave "
            "captions out.",
            field="captions",
        )
    return complete[0]
