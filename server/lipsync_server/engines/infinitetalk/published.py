"""Finds the published model files: the files that a job needs, and those of them that are missing. Imports no torch.

Folder names are the published ones, all below settings.weights_dir. With a quantised transformer file the base's DiT
shards are not needed and never asked for. Knows names and sizes only; the loaders check the contents.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lipsync_server.engines.hardware import Gpu
from lipsync_server.errors import WeightsError
from lipsync_server.models.encoders.text_files import TextFiles
from lipsync_server.quantization import EightBit, Quantization
from lipsync_server.settings import EngineSettings

People = Literal["single", "multi"]
_BASE = "Wan2.1-I2V-14B-480P"
_WAV2VEC = "chinese-wav2vec2-base"
_INFINITETALK = "InfiniteTalk"
FLASHTALK_FOLDER = "SoulX-FlashTalk-14B"
_T5 = "models_t5_umt5-xxl-enc-bf16.pth"
_CLIP = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
_VAE = "Wan2.1_VAE.pth"
_SHARD = re.compile(r"diffusion_pytorch_model-(\d{5})-of-(\d{5})\.safetensors")
# ComfyUI's folders for transformers, and for files that change one; the names of the files that this model needs.
_COMFY_FOLDERS = ("diffusion_models", "unet", "model_patches")
_BASE_NAME = re.compile(r"wan2?[._]1[-_](?=.*i2v)(?=.*14b)(?=.*480p)", re.IGNORECASE)
_PATCH_NAME = re.compile(r"infinitetalk[-_](single|multi)", re.IGNORECASE)
_ONE_FILE = "diffusion_pytorch_model.safetensors"
CONVERTED = "flashtalk_{kind}.safetensors"
"""FlashTalk's transformer in 8 bits, written by `lipsync weights convert flashtalk`."""
# bf16 weights take 38 GB; with room to compute they want a card of this size.
_BF16_CARD_BYTES = 60 * 10**9


@dataclass(frozen=True)
class TransformerFiles:
    """The transformer's files: `source` is a quantised file, or the base folder, which `adapter` then completes.

    distilled: a fast LoRA is merged into the file. config: the base's config.json with the sizes, None where the shapes
    in the files give them. flashtalk: these are FlashTalk's weights, whose folder needs no adapter. rounded_at_load:
    single files of other programs in fewer than 16 bits; `quantization` is what they are rounded to unless the settings
    say otherwise.
    """

    quantization: Quantization
    people: People
    distilled: bool
    source: Path
    adapter: Path | None
    config: Path | None
    flashtalk: bool = False
    rounded_at_load: bool = False

    @property
    def number_format(self) -> str:
        """The number format of the weights, for messages: "bf16", "fp8", "int8" or "GGUF"."""
        if self.source.suffix == ".gguf":
            return "GGUF"
        return "bf16" if self.quantization == "none" else self.quantization

    @property
    def n_bytes(self) -> int:
        """Size of the files on disk."""
        if self.source.is_file():
            n_bytes = self.source.stat().st_size
        else:
            n_bytes = sum(path.stat().st_size for path in _weight_files(self.source))
        return n_bytes + (self.adapter.stat().st_size if self.adapter is not None else 0)


@dataclass(frozen=True)
class EncoderFiles:
    """The model files of the encoders and of the VAE."""

    text: TextFiles
    clip: Path
    vae: Path
    wav2vec: Path


def find_encoders(settings: EngineSettings) -> EncoderFiles:
    """The encoders' and the VAE's files; raises WeightsError that lists what is missing."""
    quant = _quant_folder(settings)
    tokenizer = _wan_file(settings, "google/umt5-xxl/tokenizer.json").parent
    text = TextFiles(_wan_file(settings, _T5), tokenizer)
    if not text.weights.is_file():
        for kind in ("fp8", "int8"):
            weights, quant_map = quant / f"t5_{kind}.safetensors", quant / f"t5_map_{kind}.json"
            if weights.is_file() and quant_map.is_file():
                text = TextFiles(weights, tokenizer, quant_map)
                break
    wav2vec = settings.weights_dir / _WAV2VEC
    found = EncoderFiles(text, _wan_file(settings, _CLIP), _wan_file(settings, _VAE), wav2vec)
    sound = wav2vec / "model.safetensors"
    if not sound.is_file() and (wav2vec / "pytorch_model.bin").is_file():
        sound = wav2vec / "pytorch_model.bin"
    _require(
        settings, text.weights, tokenizer / "tokenizer.json", found.clip, found.vae, wav2vec / "config.json", sound
    )
    return found


def find_transformers(settings: EngineSettings) -> list[TransformerFiles]:
    """Every complete transformer below the weights folder, in no particular order."""
    base, folder = settings.weights_dir / _BASE, settings.weights_dir / _INFINITETALK
    config = base / "config.json"
    found = find_single_files(settings.weights_dir, config if config.is_file() else None)
    if not config.is_file():
        return found
    people: People
    kind: EightBit
    for people in ("single", "multi"):
        for kind in ("fp8", "int8"):
            for distilled in (False, True):
                name = f"infinitetalk_{people}_{kind}{'_lora' if distilled else ''}"
                path = _quant_folder(settings) / f"{name}.safetensors"
                if path.is_file() and path.with_suffix(".json").is_file():
                    found.append(TransformerFiles(kind, people, distilled, path, None, config))
        adapter = folder / people / "infinitetalk.safetensors"
        if adapter.is_file() and _shards_complete(base):
            found.append(TransformerFiles("none", people, False, base, adapter, config))
    return found


def find_single_files(weights_dir: Path, config: Path | None) -> list[TransformerFiles]:
    """Base files with an InfiniteTalk file, in ComfyUI's folders below `weights_dir` (or its `models/`), by name.

    Names as published: `Wan2_1-I2V-14B-480p_fp8_e4m3fn_scaled_KJ.safetensors`, `wan2.1-i2v-14b-480p-Q8_0.gguf` with
    `Wan2_1-InfiniteTalk_Single_Q8.gguf`, `wan2.1_infiniteTalk_single_fp16.safetensors`. A base takes the InfiniteTalk
    file in its own format first.
    """
    folders = [root / name for root in (weights_dir, weights_dir / "models") for name in _COMFY_FOLDERS]
    files = sorted(
        path
        for folder in folders
        if folder.is_dir()
        for path in folder.rglob("*")
        if path.suffix in (".safetensors", ".gguf") and "quanto" not in path.name and path.is_file()
    )
    bases = [path for path in files if _BASE_NAME.search(path.name)]
    found: list[TransformerFiles] = []
    people: People
    for people in ("single", "multi"):
        patches = [path for path in files if (match := _PATCH_NAME.search(path.name)) and match[1].lower() == people]
        for base in bases if patches else []:
            patch = min(patches, key=lambda path: _held(path) != _held(base))
            kind = _held(base)
            found.append(TransformerFiles(kind, people, False, base, patch, config, rounded_at_load=kind != "none"))
    return found


def _held(path: Path) -> Quantization:
    """The number format in which the model holds the weights of a single file."""
    if path.suffix == ".gguf":
        return "int8"
    return "fp8" if "fp8" in path.name.lower() else "none"


def find_flashtalk(settings: EngineSettings) -> list[TransformerFiles]:
    """FlashTalk's transformers: the published folder when all its shards are there, and the 8-bit files made of it."""
    folder = settings.weights_dir / FLASHTALK_FOLDER
    config = folder / "config.json"
    if not config.is_file():
        return []
    found: list[TransformerFiles] = []
    kind: EightBit
    for kind in ("fp8", "int8"):
        path = folder / CONVERTED.format(kind=kind)
        if path.is_file() and path.with_suffix(".json").is_file():
            found.append(TransformerFiles(kind, "single", True, path, None, config, flashtalk=True))
    if _shards_complete(folder) or (folder / _ONE_FILE).is_file():
        found.append(TransformerFiles("none", "single", True, folder, None, config, flashtalk=True))
    return found


def choose_transformer(
    settings: EngineSettings, gpu: Gpu | None, *, people: People, distilled: bool, flashtalk: bool = False
) -> tuple[TransformerFiles, tuple[str, ...]]:
    """The best files for a job, and a warning for each wish that these files do not meet.

    people: "multi" when two regions of the picture are driven; a file for one person cannot stand in for it.
    distilled: the preset takes few steps, so a file with a fast LoRA merged is wanted (or LoRA files in the settings).
    flashtalk: the job runs on FlashTalk's weights (flashtalk.wants_flashtalk).
    """
    if flashtalk and (ours := find_flashtalk(settings)):
        preferred = _preferred(settings, gpu)
        return min(ours, key=lambda files: preferred.index(files.quantization)), ()
    found = find_transformers(settings)
    if not found:
        raise WeightsError(_nothing_found(settings))
    fitting = [files for files in found if files.people == people]
    if not fitting and people == "multi":
        raise WeightsError(
            "Two people need InfiniteTalk's multi weights, and only those for one person are in "
            f"{settings.weights_dir}. Download them, for example: lipsync weights pull infinitetalk-multi-int8-fast."
        )
    warnings: list[str] = []
    if not fitting:
        fitting = found
        warnings.append("Only the two-person weights are here; they drive one person less faithfully.")
    order = _preferred(settings, gpu)
    has_lora = bool(settings.lora)

    def rank(files: TransformerFiles) -> tuple[bool, int, bool]:
        merged = files.distilled or (has_lora and distilled)
        return merged != distilled, order.index(files.quantization), files.rounded_at_load

    best = min(fitting, key=rank)
    if distilled and not best.distilled and not has_lora:
        warnings.append(
            "The video will be rough: this preset takes few steps, and the model files here were made for many. Either "
            f"download the files for few steps (lipsync weights pull {_fast_profile(best)}), or use preset quality."
        )
    if distilled and best.distilled and has_lora:
        warnings.append(
            f"The files of LIPSYNC_LORA were not used: {best.source.name} has such a file merged already, and no model "
            "file without one is here."
        )
    if best.distilled and not distilled:
        warnings.append(
            "Preset quality was rendered with model files that were made for few steps: no others are here."
        )
    return best, tuple(warnings)


def _fast_profile(files: TransformerFiles) -> str:
    """The profile with model files for few steps beside `files`; one person's fp8 files were made for many steps."""
    kind = "int8" if files.quantization == "none" or files.people == "single" else files.quantization
    return f"infinitetalk-{'multi-' if files.people == 'multi' else ''}{kind}-fast"


def _preferred(settings: EngineSettings, gpu: Gpu | None) -> list[Quantization]:
    """Quantizations from the best for this card downwards; the one that the settings' profile names comes first."""
    order: list[Quantization] = ["int8", "fp8", "none"]
    if gpu is None or gpu.total_bytes >= _BF16_CARD_BYTES:
        order = ["none", "fp8", "int8"]
    elif gpu.compute_capability >= (8, 9):
        order = ["fp8", "int8", "none"]
    return sorted(order, key=lambda one: ("bf16" if one == "none" else one) not in settings.profile)


def _quant_folder(settings: EngineSettings) -> Path:
    return settings.weights_dir / _INFINITETALK / "quant_models"


def _wan_file(settings: EngineSettings, name: str) -> Path:
    """A file of Wan's that InfiniteTalk's base and FlashTalk's folder both carry: where it is, else in the base."""
    places = [settings.weights_dir / folder / name for folder in (_BASE, FLASHTALK_FOLDER)]
    return next((path for path in places if path.is_file()), places[0])


def _weight_files(folder: Path) -> list[Path]:
    """The transformer's published files in a folder: shards, or the one file."""
    return [path for path in folder.iterdir() if _SHARD.fullmatch(path.name) or path.name == _ONE_FILE]


def _shards_complete(base: Path) -> bool:
    shards = [match for path in base.iterdir() if (match := _SHARD.fullmatch(path.name))]
    return bool(shards) and len(shards) == int(shards[0][2])


def _require(settings: EngineSettings, *paths: Path) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        # The text encoder comes in two forms, and the small download has the other one.
        others = {
            _T5: f" (or {_quant_folder(settings).relative_to(settings.weights_dir)}/t5_fp8.safetensors and its map)"
        }
        names = ", ".join(f"{path.relative_to(settings.weights_dir)}{others.get(path.name, '')}" for path in missing)
        raise WeightsError(
            f"InfiniteTalk's weights in {settings.weights_dir} are not complete; missing: {names}. Download them with: "
            "lipsync weights pull infinitetalk-int8-fast."
        )


def _nothing_found(settings: EngineSettings) -> str:
    base = settings.weights_dir / _BASE
    if not (base / "config.json").is_file():
        return (
            f"InfiniteTalk's weights are not in {settings.weights_dir}; missing: {_BASE}/config.json. Download them "
            "with: lipsync weights pull infinitetalk-int8-fast."
        )
    return (
        f"No complete InfiniteTalk transformer is in {settings.weights_dir}. It needs either a file "
        f"{_INFINITETALK}/quant_models/infinitetalk_single_int8.safetensors (or fp8) with its .json, or all shards of "
        f"{_BASE} and {_INFINITETALK}/single/infinitetalk.safetensors. Download one with: "
        "lipsync weights pull infinitetalk-int8-fast."
    )
