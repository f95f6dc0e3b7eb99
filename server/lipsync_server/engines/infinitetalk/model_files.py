"""`lipsync weights scan` and `convert` for InfiniteTalk: a folder's model files, and FlashTalk in 8 bits.

Imports torch only while a model is converted.
"""

from pathlib import Path
from typing import cast

from lipsync_server.engines.infinitetalk.files.places import CONVERTED, FLASHTALK_FOLDER
from lipsync_server.engines.infinitetalk.files.scan import scan as scan
from lipsync_server.engines.model_files import Conversion
from lipsync_server.quantization import EightBit
from lipsync_server.settings import EngineSettings


def _convert_flashtalk(weights_dir: Path, number_format: str) -> Path:
    from lipsync_server.engines.infinitetalk.loading.convert import convert

    folder = weights_dir / FLASHTALK_FOLDER
    return convert(folder, folder / CONVERTED.format(kind=number_format), cast("EightBit", number_format))


def embed_prompts(settings: EngineSettings) -> Path:
    """Write the embeddings of the default prompts into one file; returns its path. Raises WeightsError."""
    from lipsync_server.engines.infinitetalk.loading.embed import embed_default_prompts

    return embed_default_prompts(settings)


CONVERSIONS = (Conversion("flashtalk", ("int8", "fp8"), _convert_flashtalk),)
