"""Finds the published model files: the files that a job needs, and those of them that are missing. Imports no torch.

Files are found in the published folders below settings.weights_dir (or in a Hugging Face cache), and everywhere below
it by their contents, so that ComfyUI's `models/` folder serves as it is. With a quantised transformer file the base's
DiT shards are not needed and never asked for. Knows names, headers and sizes; the loaders check the contents.
"""

import functools
import re
from dataclasses import dataclass
from pathlib import Path

from lipsync_server.engines.hardware import Gpu
from lipsync_server.engines.infinitetalk.files.recognise import Kind, ModelFile, is_step_distilled, recognise
from lipsync_server.engines.infinitetalk.files.recognise import People as People
from lipsync_server.errors import WeightsError
from lipsync_server.models.encoders.text_files import TextFiles
from lipsync_server.models.encoders.tokenizer import has_tokenizer
from lipsync_server.quantization import EightBit, Quantization
from lipsync_server.settings import EngineSettings
from lipsync_server.weights.places import SUFFIXES, folder_named, model_files

_BASE = "Wan2.1-I2V-14B-480P"
_WAV2VEC = "chinese-wav2vec2-base"
_INFINITETALK = "InfiniteTalk"
FLASHTALK_FOLDER = "SoulX-FlashTalk-14B"
_T5 = "models_t5_umt5-xxl-enc-bf16.pth"
_CLIP = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
_VAE = "Wan2.1_VAE.pth"
_SHARD = re.compile(r"diffusion_pytorch_model-(\d{5})-of-(\d{5})\.safetensors")
# Width of the 14B model.
_WIDTH = 5120
# Among several base files, the one whose name says that it is the 480p model comes first.
_BASE_NAME = re.compile(r"480p", re.IGNORECASE)
_EXACTNESS = ("fp32", "bf16", "fp16", "fp8", "int8", "Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0")
# Where the Wan wrapper, a set of ComfyUI nodes, has UMT5's tokenizer: beside ComfyUI's models/.
_WRAPPERS_TOKENIZER = "custom_nodes/ComfyUI-WanVideoWrapper/configs/T5_tokenizer"
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
    """The encoders' and the VAE's files; raises WeightsError that lists what is missing.

    The published files come first; where one is missing, the most exact file of that kind below the weights folder.
    """
    found, needed = _look_for_encoders(settings)
    _require(settings, *(path for _, path in needed))
    return found


def missing_encoders(settings: EngineSettings) -> list[str]:
    """The parts beside the transformer that are not here: "text", "tokenizer", "clip", "vae", "sound"."""
    _, needed = _look_for_encoders(settings)
    return list(dict.fromkeys(part for part, path in needed if not path.is_file()))


def step_distilled_loras(settings: EngineSettings) -> list[Path]:
    """LoRA files below the weights folder whose names say that they let the model take few steps, and that fit it."""
    files = usable_files(settings.weights_dir)
    widths = {file.width for file in files if file.kind in ("base", "whole")} or {_WIDTH}
    return [
        file.path
        for file in files
        if file.kind == "lora" and file.width in widths and is_step_distilled(file.path.name)
    ]


def _look_for_encoders(settings: EngineSettings) -> tuple[EncoderFiles, list[tuple[str, Path]]]:
    """The files as they would be, and every file that has to be there, with the part that it belongs to."""
    others = _Others(settings.weights_dir)
    text = _text_files(settings, others)
    clip = others.or_published("clip", _wan_file(settings, _CLIP))
    vae = others.or_published("vae", _wan_file(settings, _VAE))
    needed = [("text", text.weights), ("tokenizer", text.tokenizer), ("clip", clip), ("vae", vae)]
    wav2vec = folder_named(settings.weights_dir, _WAV2VEC)
    sound = wav2vec / "model.safetensors"
    if not sound.is_file() and (wav2vec / "pytorch_model.bin").is_file():
        sound = wav2vec / "pytorch_model.bin"
    if not sound.is_file() and (single := others.best("sound")):
        return EncoderFiles(text, clip, vae, single), needed
    needed += [("sound", wav2vec / "config.json"), ("sound", sound)]
    return EncoderFiles(text, clip, vae, wav2vec), needed


class _Others:
    """The files of other programs below the weights folder, by kind."""

    def __init__(self, weights_dir: Path) -> None:
        self._weights_dir = weights_dir

    @functools.cached_property
    def _files(self) -> list[ModelFile]:
        return usable_files(self._weights_dir)

    def best(self, kind: Kind) -> Path | None:
        """The most exact file of a kind, or None."""
        found = min((file for file in self._files if file.kind == kind), key=_exactness, default=None)
        return None if found is None else found.path

    def or_published(self, kind: Kind, published: Path) -> Path:
        """The published file where it is, else another of the same kind, else the published file's place."""
        return published if published.is_file() else self.best(kind) or published


def _text_files(settings: EngineSettings, others: "_Others") -> TextFiles:
    """The text encoder and its tokenizer, which other programs keep in the same file."""
    quant = _quant_folder(settings)
    tokenizer = _wan_file(settings, "google/umt5-xxl/tokenizer.json")
    if not tokenizer.is_file() and (spiece := tokenizer.with_name("spiece.model")).is_file():
        tokenizer = spiece
    weights, quant_map = _wan_file(settings, _T5), None
    if not weights.is_file():
        for kind in ("fp8", "int8"):
            eight, beside = quant / f"t5_{kind}.safetensors", quant / f"t5_map_{kind}.json"
            if eight.is_file() and beside.is_file():
                weights, quant_map = eight, beside
                break
        else:
            weights = others.best("text") or weights
    if not tokenizer.is_file():
        wrappers = (place / _WRAPPERS_TOKENIZER for place in (settings.weights_dir, settings.weights_dir.parent))
        beside_nodes = next((path for place in wrappers if (path := place / "tokenizer.json").is_file()), None)
        if weights.is_file() and weights.suffix in SUFFIXES and quant_map is None and has_tokenizer(weights):
            tokenizer = weights
        else:
            tokenizer = beside_nodes or tokenizer
    return TextFiles(weights, tokenizer, quant_map)


def usable_files(weights_dir: Path) -> list[ModelFile]:
    """Every file below the weights folder that the engine can take, outside of FlashTalk's folder."""
    flashtalk = folder_named(weights_dir, FLASHTALK_FOLDER)
    paths = (path for path in model_files(weights_dir) if flashtalk not in path.parents)
    return [file for file in map(recognise, paths) if file.is_usable]


def _exactness(file: ModelFile) -> tuple[int, str]:
    known = _EXACTNESS.index(file.numbers) if file.numbers in _EXACTNESS else len(_EXACTNESS)
    return known, file.path.name


def find_transformers(settings: EngineSettings) -> list[TransformerFiles]:
    """Every complete transformer below the weights folder, in no particular order."""
    base, folder = folder_named(settings.weights_dir, _BASE), folder_named(settings.weights_dir, _INFINITETALK)
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
    """Base files with an InfiniteTalk file, and files that hold both, anywhere below `weights_dir`, by name.

    A base takes the InfiniteTalk file in its own format first.
    """
    files = usable_files(weights_dir)
    bases = [file for file in files if file.kind == "base"]
    named = [file for file in bases if _BASE_NAME.search(file.path.name)]
    found: list[TransformerFiles] = []
    for file in files:
        if file.kind == "whole" and file.people is not None:
            held = _held(file)
            found.append(
                TransformerFiles(held, file.people, False, file.path, None, config, rounded_at_load=held != "none")
            )
    people: People
    for people in ("single", "multi"):
        patches = [file for file in files if file.kind == "patch" and file.people == people]
        for base in (named or bases) if patches else []:
            patch = min(patches, key=lambda file: (_held(file) != _held(base), _exactness(file)))
            kind = _held(base)
            found.append(
                TransformerFiles(kind, people, False, base.path, patch.path, config, rounded_at_load=kind != "none")
            )
    return found


def _held(file: ModelFile) -> Quantization:
    """The number format in which the model holds the weights of a single file."""
    if file.path.suffix == ".gguf":
        return "int8"
    return "fp8" if file.numbers == "fp8" else "int8" if file.numbers == "int8" else "none"


def find_flashtalk(settings: EngineSettings) -> list[TransformerFiles]:
    """FlashTalk's transformers: the published folder when all its shards are there, and the 8-bit files made of it."""
    folder = folder_named(settings.weights_dir, FLASHTALK_FOLDER)
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
    settings: EngineSettings,
    gpu: Gpu | None,
    *,
    people: People,
    distilled: bool,
    flashtalk: bool = False,
    has_lora: bool = False,
) -> tuple[TransformerFiles, tuple[str, ...]]:
    """The best files for a job, and a warning for each wish that these files do not meet.

    people: "multi" when two regions of the picture are driven; a file for one person cannot stand in for it.
    distilled: the preset takes few steps, so a file with a step-distilled LoRA merged is wanted, or such a LoRA.
    has_lora: a step-distilled LoRA will be merged.
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

    def rank(files: TransformerFiles) -> tuple[bool, int, bool]:
        merged = files.distilled or ((has_lora or bool(settings.lora)) and distilled)
        return merged != distilled, order.index(files.quantization), files.rounded_at_load

    best = min(fitting, key=rank)
    if distilled and not best.distilled and not has_lora:
        warnings.append(
            "The video will be rough: this preset takes few steps, and the model files here were made for many. Either "
            f"download the files for few steps (lipsync weights pull {_fast_profile(best)}), or use preset quality."
        )
    if distilled and best.distilled and settings.lora:
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
    """Quantizations from the best for this card downwards; what the settings name comes first."""
    order: list[Quantization] = ["int8", "fp8", "none"]
    if gpu is None or gpu.total_bytes >= _BF16_CARD_BYTES:
        order = ["none", "fp8", "int8"]
    elif gpu.compute_capability >= (8, 9):
        order = ["fp8", "int8", "none"]
    named = {one for one in order if ("bf16" if one == "none" else one) in settings.profile}
    if settings.quant in ("int8", "fp8"):
        # Rounding at load makes the same numbers from twice as many bytes.
        named.add(settings.quant)
    return sorted(order, key=lambda one: one not in named)


def _quant_folder(settings: EngineSettings) -> Path:
    return folder_named(settings.weights_dir, _INFINITETALK) / "quant_models"


def _wan_file(settings: EngineSettings, name: str) -> Path:
    """A file of Wan's that InfiniteTalk's base and FlashTalk's folder both carry: where it is, else in the base."""
    places = [folder_named(settings.weights_dir, folder) / name for folder in (_BASE, FLASHTALK_FOLDER)]
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
        # Files of other programs serve as well.
        quant = _quant_folder(settings)
        others = {
            _T5: f"{_below(settings, quant)}/t5_fp8.safetensors and its map, or ComfyUI's "
            "umt5_xxl_fp8_e4m3fn_scaled.safetensors",
            _CLIP: "ComfyUI's clip_vision_h.safetensors",
            _VAE: "ComfyUI's wan_2.1_vae.safetensors",
            "model.safetensors": "wav2vec2-chinese-base_fp16.safetensors of the Wan wrapper",
        }
        names = ", ".join(
            f"{_below(settings, path)}{f' (or {others[path.name]})' if path.name in others else ''}" for path in missing
        )
        every = map(recognise, model_files(settings.weights_dir))
        damaged = "".join(
            f" Not used, because it is damaged: {file.remark}" for file in every if file.kind == "damaged"
        )
        raise WeightsError(
            f"InfiniteTalk's weights in {settings.weights_dir} are not complete; missing: {names}.{damaged} Download "
            "them with: lipsync weights pull infinitetalk-int8-fast; `lipsync weights scan` shows what is here."
        )


def _below(settings: EngineSettings, path: Path) -> Path:
    return path.relative_to(settings.weights_dir) if path.is_relative_to(settings.weights_dir) else path


def _nothing_found(settings: EngineSettings) -> str:
    base = folder_named(settings.weights_dir, _BASE)
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
