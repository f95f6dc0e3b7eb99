"""Finds the transformers that are here, and chooses the best one for a job. Imports no torch.

With a quantised transformer file the base's DiT shards are not needed and never asked for. Knows names, headers and
sizes; the loaders check the contents.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from lipsync_server.engines.hardware import Gpu
from lipsync_server.engines.infinitetalk.files.places import (
    BASE,
    CONVERTED,
    FLASHTALK_FOLDER,
    INFINITETALK,
    exactness,
    quant_folder,
    usable_files,
)
from lipsync_server.engines.infinitetalk.files.recognise import ModelFile, is_step_distilled
from lipsync_server.engines.infinitetalk.files.recognise import People as People
from lipsync_server.errors import WeightsError
from lipsync_server.quantization import EightBit, Quantization
from lipsync_server.settings import EngineSettings
from lipsync_server.weights.places import folder_named

_SHARD = re.compile(r"diffusion_pytorch_model-(\d{5})-of-(\d{5})\.safetensors")
# Among several base files, the one whose name says that it is the 480p model comes first.
_BASE_NAME = re.compile(r"480p", re.IGNORECASE)
_ONE_FILE = "diffusion_pytorch_model.safetensors"
# bf16 weights take 38 GB. With memory for the computation they need a card of this size.
_BF16_CARD_BYTES = 60 * 10**9


@dataclass(frozen=True)
class TransformerFiles:
    """The transformer's files: `source` is a quantised file, or the base folder, which `adapter` then completes.

    distilled: the weights were made for few steps, or a LoRA for few steps is merged into them. config: the base's
    config.json with the sizes, None where the shapes in the files give them. flashtalk: these are FlashTalk's weights,
    whose folder needs no adapter. rounded_at_load: single files of other programs in fewer than 16 bits; `quantization`
    is what they are rounded to unless the settings say otherwise.
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


def find_transformers(settings: EngineSettings) -> list[TransformerFiles]:
    """Every complete transformer below the weights folder, in no particular order."""
    base, folder = folder_named(settings.weights_dir, BASE), folder_named(settings.weights_dir, INFINITETALK)
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
                path = quant_folder(settings) / f"{name}.safetensors"
                if path.is_file() and path.with_suffix(".json").is_file():
                    found.append(TransformerFiles(kind, people, distilled, path, None, config))
        adapter = folder / people / "infinitetalk.safetensors"
        if adapter.is_file() and _shards_complete(base):
            found.append(TransformerFiles("none", people, False, base, adapter, config))
    return found


def find_single_files(weights_dir: Path, config: Path | None) -> list[TransformerFiles]:
    """Base files with an InfiniteTalk file, and files that hold both, anywhere below `weights_dir`, by name.

    A base takes the InfiniteTalk file in its own format first. A base whose name says so (lightx2v_4step) was made for
    few steps.
    """
    files = usable_files(weights_dir)
    bases = [file for file in files if file.kind == "base"]
    named = [file for file in bases if _BASE_NAME.search(file.path.name)]
    found: list[TransformerFiles] = []
    for file in files:
        if file.kind == "whole" and file.people is not None:
            held = _held(file)
            found.append(
                TransformerFiles(
                    held, file.people, is_step_distilled(file.path.name), file.path, None, config,
                    rounded_at_load=held != "none",
                )
            )  # fmt: skip
    people: People
    for people in ("single", "multi"):
        patches = [file for file in files if file.kind == "patch" and file.people == people]
        for base in (named or bases) if patches else []:
            patch = min(patches, key=lambda file: (_held(file) != _held(base), exactness(file)))
            kind = _held(base)
            found.append(
                TransformerFiles(
                    kind, people, is_step_distilled(base.path.name), base.path, patch.path, config,
                    rounded_at_load=kind != "none",
                )
            )  # fmt: skip
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
    faster: EightBit | None = None,
) -> tuple[TransformerFiles, tuple[str, ...]]:
    """Choose the best files for a job. Returns them, and a warning for each option that they do not fulfil.

    people: "multi" when two regions of the picture are driven; a file for one person cannot stand in for it.
    distilled: the preset takes few steps, so a file with a step-distilled LoRA merged is wanted, or such a LoRA.
    has_lora: a step-distilled LoRA will be merged.
    flashtalk: the job runs on FlashTalk's weights (flashtalk.wants_flashtalk).
    faster: the 8-bit format that this card multiplies faster; None before it was measured, as in the server process.
    """
    if flashtalk and (ours := find_flashtalk(settings)):
        preferred = _preferred(settings, gpu, faster)
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
    order = _preferred(settings, gpu, faster)

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


def _preferred(settings: EngineSettings, gpu: Gpu | None, faster: EightBit | None) -> list[Quantization]:
    """Number formats from the best for this card downwards; a format that the settings name comes first."""
    eight_bit: list[Quantization] = ["int8", "fp8"]
    if (faster or _usual_8bit(gpu)) == "fp8":
        eight_bit.reverse()
    order: list[Quantization] = [*eight_bit, "none"]
    if gpu is None or gpu.total_bytes >= _BF16_CARD_BYTES:
        order = ["none", *eight_bit]
    named = {one for one in order if ("bf16" if one == "none" else one) in settings.profile}
    if settings.quant in ("int8", "fp8"):
        # Rounding at load makes the same numbers from twice as many bytes.
        named.add(settings.quant)
    return sorted(order, key=lambda one: one not in named)


def _usual_8bit(gpu: Gpu | None) -> EightBit:
    """The 8-bit format before a measurement. A GeForce card multiplies int8 twice as fast as fp8 with float32 sums."""
    if gpu is None:
        return "fp8"
    has_fp8 = gpu.compute_capability >= (8, 9)
    return "fp8" if has_fp8 and "geforce" not in gpu.name.lower() else "int8"


def _weight_files(folder: Path) -> list[Path]:
    """The transformer's published files in a folder: shards, or the one file."""
    return [path for path in folder.iterdir() if _SHARD.fullmatch(path.name) or path.name == _ONE_FILE]


def _shards_complete(base: Path) -> bool:
    shards = [match for path in base.iterdir() if (match := _SHARD.fullmatch(path.name))]
    return bool(shards) and len(shards) == int(shards[0][2])


def _nothing_found(settings: EngineSettings) -> str:
    base = folder_named(settings.weights_dir, BASE)
    if not (base / "config.json").is_file():
        return (
            f"InfiniteTalk's weights are not in {settings.weights_dir}; missing: {BASE}/config.json. Download them "
            "with: lipsync weights pull infinitetalk-int8-fast."
        )
    return (
        f"No complete InfiniteTalk transformer is in {settings.weights_dir}. It needs either a file "
        f"{INFINITETALK}/quant_models/infinitetalk_single_int8.safetensors (or fp8) with its .json, or all shards of "
        f"{BASE} and {INFINITETALK}/single/infinitetalk.safetensors. Download one with: "
        "lipsync weights pull infinitetalk-int8-fast."
    )
