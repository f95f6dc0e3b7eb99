"""Which of InfiniteTalk's parts a folder holds, which presets they serve, and the one download that completes them.

`lipsync weights scan PATH` prints this. Knows headers and names of files. Loads nothing; no torch here.
"""

from pathlib import Path

from lipsync_server.engines.infinitetalk.files.encoders import find_encoders, missing_encoders
from lipsync_server.engines.infinitetalk.files.places import step_distilled_loras
from lipsync_server.engines.infinitetalk.files.recognise import ModelFile, recognise
from lipsync_server.engines.infinitetalk.files.transformers import find_flashtalk, find_transformers
from lipsync_server.engines.model_files import FolderScan, ScannedFile
from lipsync_server.errors import WeightsError
from lipsync_server.settings import EngineSettings
from lipsync_server.weights.places import model_files

_PART_WORDS: dict[str, str] = {
    "base": "Wan2.1 image-to-video transformer", "patch": "InfiniteTalk's audio layers",
    "whole": "transformer with InfiniteTalk's layers", "text": "text encoder UMT5-XXL", "clip": "CLIP vision tower",
    "vae": "Wan2.1 VAE", "sound": "chinese-wav2vec2-base", "lora": "LoRA", "other": "not used", "damaged": "damaged",
}  # fmt: skip
# Each part that may be missing -> the file of the manifest that brings it.
_DOWNLOADS = {
    "text": "comfy-umt5-fp8", "tokenizer": "umt5-tokenizer", "clip": "comfy-clip", "vae": "comfy-vae",
    "sound": "kijai-sound", "base": "comfy-base-fp8", "patch": "kijai-single-fp8", "lora": "lightx2v-lora",
}  # fmt: skip
_MISSING_WORDS = {**_PART_WORDS, "tokenizer": "UMT5's tokenizer", "lora": "a step-distilled LoRA, for few steps"}
_PROFILE = "infinitetalk-scaled-fp8"


def scan(folder: Path) -> FolderScan:
    """Look through `folder`. Raises WeightsError for a folder that is not there or cannot be searched."""
    if not folder.is_dir():
        raise WeightsError(f"{folder} is no folder. Name ComfyUI's models/ folder or a Hugging Face cache.")
    settings = EngineSettings(weights_dir=folder)
    files = tuple(map(recognise, model_files(folder)))
    transformers, flashtalk = find_transformers(settings), find_flashtalk(settings)
    parts: list[str] = list(missing_encoders(settings))
    if "text" in parts and "tokenizer" in parts:
        # The text encoder that is downloaded carries one.
        parts.remove("tokenizer")
    usable = {file.kind for file in files if file.is_usable}
    if not transformers and not flashtalk:
        parts += [kind for kind in ("base", "patch") if kind not in usable]
    few_steps = bool(flashtalk) or any(one.distilled for one in transformers) or bool(step_distilled_loras(settings))
    wanted = [] if few_steps else ["lora"]
    presets: tuple[str, ...] = ()
    if not parts:
        find_encoders(settings)
        many = ("quality",) if any(not one.distilled for one in transformers) else ()
        presets = (*many, *(("balanced", "fast") if few_steps else ()))
    return FolderScan(
        _PROFILE,
        tuple(map(_scanned, files)),
        tuple(
            f"{one.source.name}{f' with {one.adapter.name}' if one.adapter else ''} ({one.number_format}, {one.people})"
            for one in (*transformers, *flashtalk)
        ),
        presets,
        tuple(_MISSING_WORDS[part] for part in parts),
        tuple(_MISSING_WORDS[part] for part in wanted),
        tuple(_DOWNLOADS[part] for part in (*parts, *wanted)),
    )


def _scanned(file: ModelFile) -> ScannedFile:
    """The file's line in the listing, with its part in words."""
    return ScannedFile(
        path=file.path, kind=file.kind, part=_PART_WORDS[file.kind], numbers=file.numbers, size_bytes=file.n_bytes,
        people=file.people, used=file.is_usable, remark=file.remark,
    )  # fmt: skip
