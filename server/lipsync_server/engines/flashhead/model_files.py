"""`lipsync weights convert` for FlashHead: each variant's transformer in bfloat16.

Imports torch only while a model is converted.
"""

from functools import partial
from pathlib import Path

from lipsync_server.engines.flashhead.published import FOLDER, MODEL_FOLDERS
from lipsync_server.engines.model_files import Conversion


def _convert(model_folder: str, weights_dir: Path, number_format: str) -> Path:
    from lipsync_server.engines.flashhead.loading.convert import convert

    return convert(weights_dir / FOLDER / model_folder)


CONVERSIONS = tuple(
    Conversion(f"flashhead-{variant}", ("bf16",), partial(_convert, model_folder))
    for variant, model_folder in MODEL_FOLDERS.items()
)
