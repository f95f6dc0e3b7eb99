"""The paths of InfiniteTalk's model files: the published folders, and every other file whose header shows that it fits.

Files are found in the published folders below settings.weights_dir (or in a Hugging Face cache), and everywhere below
it by their contents, so that ComfyUI's `models/` folder serves as it is. Imports no torch.
"""

from pathlib import Path

from lipsync_server.engines.infinitetalk.files.recognise import ModelFile, is_step_distilled, recognise
from lipsync_server.settings import EngineSettings
from lipsync_server.weights.places import folder_named, model_files

BASE = "Wan2.1-I2V-14B-480P"
WAV2VEC = "chinese-wav2vec2-base"
INFINITETALK = "InfiniteTalk"
FLASHTALK_FOLDER = "SoulX-FlashTalk-14B"
# Width of the 14B model.
_WIDTH = 5120
_EXACTNESS = ("fp32", "bf16", "fp16", "fp8", "int8", "Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0")
CONVERTED = "flashtalk_{kind}.safetensors"
"""FlashTalk's transformer in 8 bits, written by `lipsync weights convert flashtalk`."""


def usable_files(weights_dir: Path) -> list[ModelFile]:
    """Every file below the weights folder that the engine can take, outside of FlashTalk's folder."""
    flashtalk = folder_named(weights_dir, FLASHTALK_FOLDER)
    paths = (path for path in model_files(weights_dir) if flashtalk not in path.parents)
    return [file for file in map(recognise, paths) if file.is_usable]


def step_distilled_loras(settings: EngineSettings) -> list[Path]:
    """LoRA files below the weights folder whose names say that they let the model take few steps, and that fit it."""
    files = usable_files(settings.weights_dir)
    widths = {file.width for file in files if file.kind in ("base", "whole")} or {_WIDTH}
    return [
        file.path
        for file in files
        if file.kind == "lora" and file.width in widths and is_step_distilled(file.path.name)
    ]


def exactness(file: ModelFile) -> tuple[int, str]:
    """The sort key that puts the file with the most exact number format first; equal formats by name."""
    known = _EXACTNESS.index(file.numbers) if file.numbers in _EXACTNESS else len(_EXACTNESS)
    return known, file.path.name


def quant_folder(settings: EngineSettings) -> Path:
    """The published folder of InfiniteTalk's 8-bit files, whether it exists or not."""
    return folder_named(settings.weights_dir, INFINITETALK) / "quant_models"


def wan_file(settings: EngineSettings, name: str) -> Path:
    """The path of a Wan file in InfiniteTalk's base or in FlashTalk's folder; in the base if neither has it."""
    places = [folder_named(settings.weights_dir, folder) / name for folder in (BASE, FLASHTALK_FOLDER)]
    return next((path for path in places if path.is_file()), places[0])


def below(settings: EngineSettings, path: Path) -> Path:
    """`path` relative to the weights folder, for messages; unchanged if it lies elsewhere."""
    return path.relative_to(settings.weights_dir) if path.is_relative_to(settings.weights_dir) else path
