"""Finds the model files of the encoders and of the VAE, and names the files that are missing. Imports no torch.

Knows names and headers; the loaders check the contents.
"""

import contextlib
import functools
from dataclasses import dataclass
from pathlib import Path

from lipsync_server.engines.infinitetalk.files.places import (
    WAV2VEC,
    below,
    exactness,
    quant_folder,
    usable_files,
    wan_file,
)
from lipsync_server.engines.infinitetalk.files.recognise import Kind, ModelFile, recognise
from lipsync_server.errors import WeightsError
from lipsync_server.models.encoders.text_files import TextFiles, prompts_file
from lipsync_server.models.encoders.tokenizer import has_tokenizer
from lipsync_server.paths import bundled
from lipsync_server.settings import EngineSettings
from lipsync_server.weights.arriving import arriving
from lipsync_server.weights.places import SUFFIXES, folder_named, model_files

_T5 = "models_t5_umt5-xxl-enc-bf16.pth"
_CLIP = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
_VAE = "Wan2.1_VAE.pth"
# Where the Wan wrapper, a set of ComfyUI nodes, has UMT5's tokenizer: beside ComfyUI's models/.
_WRAPPERS_TOKENIZER = "custom_nodes/ComfyUI-WanVideoWrapper/configs/T5_tokenizer"


@dataclass(frozen=True)
class EncoderFiles:
    """The model files of the encoders and of the VAE.

    text_is_coming: this machine's server still downloads the text encoder (weights/arriving.py), so `text` names
    files that are not complete yet.
    """

    text: TextFiles
    clip: Path
    vae: Path
    wav2vec: Path
    text_is_coming: bool = False


def find_encoders(settings: EngineSettings) -> EncoderFiles:
    """The encoders' and the VAE's files; raises WeightsError that lists what is missing.

    A published file has priority. If it is missing, the most exact file of that kind below the weights folder is used.
    """
    found, needed = _look_for_encoders(settings)
    _require(settings, *(path for _, path in needed))
    return found


def known_prompts(settings: EngineSettings, encoder: Path) -> list[Path]:
    """The files with embeddings of prompts that the text encoder at `encoder` made elsewhere, the nearest first."""
    name = prompts_file(encoder)
    found = [settings.weights_dir / name]
    with contextlib.suppress(FileNotFoundError):
        found.append(bundled(name))
    return [path for path in found if path.is_file()]


def missing_encoders(settings: EngineSettings) -> list[str]:
    """The parts beside the transformer that are not here: "text", "tokenizer", "clip", "vae", "sound"."""
    _, needed = _look_for_encoders(settings)
    return list(dict.fromkeys(part for part, path in needed if not path.is_file()))


def _look_for_encoders(settings: EngineSettings) -> tuple[EncoderFiles, list[tuple[str, Path]]]:
    """The files to use, and every file that must exist, with the part that it belongs to."""
    others = _Others(settings.weights_dir)
    coming = frozenset(path for path in arriving(settings.weights_dir) if "t5" in path.name.lower())
    text = _text_files(settings, others, coming)
    clip = others.or_published("clip", wan_file(settings, _CLIP))
    vae = others.or_published("vae", wan_file(settings, _VAE))
    is_coming = text.weights in coming
    needed = [("clip", clip), ("vae", vae)]
    if not is_coming:
        needed = [("text", text.weights), ("tokenizer", text.tokenizer), *needed]
    wav2vec = folder_named(settings.weights_dir, WAV2VEC)
    sound = wav2vec / "model.safetensors"
    if not sound.is_file() and (wav2vec / "pytorch_model.bin").is_file():
        sound = wav2vec / "pytorch_model.bin"
    if not sound.is_file() and (single := others.best("sound")):
        return EncoderFiles(text, clip, vae, single, is_coming), needed
    needed += [("sound", wav2vec / "config.json"), ("sound", sound)]
    return EncoderFiles(text, clip, vae, wav2vec, is_coming), needed


class _Others:
    """The files of other programs below the weights folder, by kind."""

    def __init__(self, weights_dir: Path) -> None:
        self._weights_dir = weights_dir

    @functools.cached_property
    def _files(self) -> list[ModelFile]:
        return usable_files(self._weights_dir)

    def best(self, kind: Kind, without: frozenset[Path] = frozenset()) -> Path | None:
        """The most exact file of a kind, or None. without: files that are not complete yet."""
        files = [file for file in self._files if file.kind == kind and file.path not in without]
        found = min(files, key=exactness, default=None)
        return None if found is None else found.path

    def or_published(self, kind: Kind, published: Path) -> Path:
        """The published file if it exists, else another file of the kind, else the published file's path."""
        return published if published.is_file() else self.best(kind) or published


def _text_files(settings: EngineSettings, others: "_Others", coming: frozenset[Path]) -> TextFiles:
    """The text encoder and its tokenizer, which other programs keep in the same file.

    coming: text encoders that are still being downloaded. One of them is named when no other encoder is here.
    """
    quant = quant_folder(settings)
    tokenizer = wan_file(settings, "google/umt5-xxl/tokenizer.json")
    if not tokenizer.is_file() and (spiece := tokenizer.with_name("spiece.model")).is_file():
        tokenizer = spiece
    weights, quant_map = wan_file(settings, _T5), None
    if not weights.is_file() or weights in coming:
        eights = {quant / f"t5_{kind}.safetensors": quant / f"t5_map_{kind}.json" for kind in ("fp8", "int8")}
        for eight, beside in eights.items():
            if eight.is_file() and beside.is_file() and eight not in coming:
                weights, quant_map = eight, beside
                break
        else:
            weights = others.best("text", coming) or next(iter(coming), weights)
            quant_map = eights.get(weights) if weights in coming else None
    if not tokenizer.is_file():
        wrappers = (place / _WRAPPERS_TOKENIZER for place in (settings.weights_dir, settings.weights_dir.parent))
        beside_nodes = next((path for place in wrappers if (path := place / "tokenizer.json").is_file()), None)
        if weights.is_file() and weights.suffix in SUFFIXES and quant_map is None and has_tokenizer(weights):
            tokenizer = weights
        else:
            tokenizer = beside_nodes or tokenizer
    return TextFiles(weights, tokenizer, quant_map)


def _require(settings: EngineSettings, *paths: Path) -> None:
    """Raise WeightsError that names every missing file, the files that serve in its place, and the download."""
    missing = [path for path in paths if not path.is_file()]
    if missing:
        # Files of other programs serve as well.
        quant = quant_folder(settings)
        others = {
            _T5: f"{below(settings, quant)}/t5_fp8.safetensors and its map, or ComfyUI's "
            "umt5_xxl_fp8_e4m3fn_scaled.safetensors",
            _CLIP: "ComfyUI's clip_vision_h.safetensors",
            _VAE: "ComfyUI's wan_2.1_vae.safetensors",
            "model.safetensors": "wav2vec2-chinese-base_fp16.safetensors of the Wan wrapper",
        }
        names = ", ".join(
            f"{below(settings, path)}{f' (or {others[path.name]})' if path.name in others else ''}" for path in missing
        )
        every = map(recognise, model_files(settings.weights_dir))
        damaged = "".join(
            f" Not used, because it is damaged: {file.remark}" for file in every if file.kind == "damaged"
        )
        raise WeightsError(
            f"InfiniteTalk's weights in {settings.weights_dir} are not complete; missing: {names}.{damaged} Download "
            "them with: lipsync weights pull infinitetalk-int8-fast; `lipsync weights scan` shows what is here."
        )
