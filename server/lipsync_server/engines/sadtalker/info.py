"""The description of the sadtalker engine and whether it can run here, without loading it or importing torch."""

from pathlib import Path

from lipsync_server.engines.base import EngineInfo
from lipsync_server.engines.devices import choose_device
from lipsync_server.engines.sadtalker.loading.official import COMBINED, MAPPING_70, MAPPING_73, SIZES
from lipsync_server.engines.sadtalker.options import Options
from lipsync_server.extras import extra_is_missing, missing_packages
from lipsync_server.settings import EngineSettings

FOLDER = "sadtalker"
_GPU_BYTES = int(5.5 * 2**30)  # usable memory of a card sold with 6 GB; the driver keeps the rest


def weights_folder(settings: EngineSettings) -> Path:
    """The folder of SadTalker's model files, whether it exists or not."""
    return settings.weights_dir / FOLDER


def sizes_present(folder: Path) -> list[int]:
    """Sizes whose own file is there, smallest first."""
    return [size for size in SIZES if (folder / COMBINED.format(size=size)).is_file()]


def describe(settings: EngineSettings) -> EngineInfo:
    """The entry of GET /v1/engines. `available` means: packages and model files are there; a GPU is not needed."""
    device = device_name(settings)
    reason = _why_not(settings)
    sizes = sizes_present(weights_folder(settings))
    return EngineInfo(
        name="sadtalker",
        title="SadTalker: one face moved by speech; 6 GB of GPU memory, or a patient CPU",
        available=not reason,
        reason=reason,
        device=device,
        resolutions=tuple(str(size) for size in sizes),
        options_schema=Options.model_json_schema(),
    )


def device_name(settings: EngineSettings) -> str:
    """The device that this engine runs on, "cpu" or "cuda:N"; the setting `auto` skips a GPU that is too small."""
    return choose_device(settings.device, least_bytes=_GPU_BYTES).name


def _why_not(settings: EngineSettings) -> str:
    """The reason why the engine cannot run here, as a sentence; "" if it can. Checks packages and model files."""
    if packages := missing_packages(("torch", "safetensors", "scipy")):
        return extra_is_missing("SadTalker", packages, "models")
    folder = weights_folder(settings)
    missing = [name for name in (MAPPING_70, MAPPING_73) if not (folder / name).is_file()]
    if not sizes_present(folder):
        missing.insert(0, COMBINED.format(size=256))
    if missing:
        return (
            f"Its weights are not in {folder} ({', '.join(missing)}); run `lipsync weights pull sadtalker-256` (1 GB)."
        )
    return ""
