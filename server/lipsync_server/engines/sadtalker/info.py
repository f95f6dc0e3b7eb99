"""What the sadtalker engine is and whether it can run here, told without loading it or importing torch."""

from importlib.util import find_spec
from pathlib import Path

from lipsync_server.engines.base import EngineInfo
from lipsync_server.engines.hardware import gpus
from lipsync_server.engines.sadtalker.loading.official import COMBINED, MAPPING_70, MAPPING_73, SIZES
from lipsync_server.engines.sadtalker.options import Options
from lipsync_server.settings import Settings

FOLDER = "sadtalker"
_GPU_BYTES = int(5.5 * 2**30)  # what a card sold with 6 GB really has, less what its driver keeps


def weights_folder(settings: Settings) -> Path:
    return settings.weights_dir / FOLDER


def sizes_present(folder: Path) -> list[int]:
    """Sizes whose own file is there, smallest first."""
    return [size for size in SIZES if (folder / COMBINED.format(size=size)).is_file()]


def describe(settings: Settings) -> EngineInfo:
    """Available with its packages and weights, on a 6 GB GPU or a patient CPU."""
    device = device_name(settings)
    reason = _what_is_missing(settings)
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


def device_name(settings: Settings) -> str:
    """cpu, or the CUDA device that the settings mean; a GPU that is too small is passed over by `auto`."""
    if settings.device != "auto":
        return settings.device
    return next((f"cuda:{gpu.index}" for gpu in gpus() if gpu.total_bytes >= _GPU_BYTES), "cpu")


def _what_is_missing(settings: Settings) -> str:
    packages = [name for name in ("torch", "safetensors", "scipy") if find_spec(name) is None]
    if packages:
        return f"The Python package {packages[0]} is not installed: pip install 'lipsync-server[models]'."
    folder = weights_folder(settings)
    missing = [name for name in (MAPPING_70, MAPPING_73) if not (folder / name).is_file()]
    if not sizes_present(folder):
        missing.insert(0, COMBINED.format(size=256))
    if missing:
        return (
            f"Its weights are not in {folder} ({', '.join(missing)}); run `lipsync weights pull sadtalker-256` (1 GB)."
        )
    return ""
