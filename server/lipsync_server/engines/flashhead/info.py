"""Whether FlashHead can run here, and what it offers: from file names and the card's memory. No torch here."""

import contextlib
import importlib.util

from lipsync_server.engines.base import EngineInfo
from lipsync_server.engines.flashhead.options import Options
from lipsync_server.engines.flashhead.published import choose_files
from lipsync_server.engines.hardware import Gpu, gpus
from lipsync_server.errors import LipsyncError
from lipsync_server.settings import EngineSettings

_PACKAGES = ("torch", "transformers", "diffusers", "safetensors", "pyloudnorm")
_GIB = 2**30
# A card that is sold with 8 GB, less what its driver keeps.
_LEAST_GPU_BYTES = int(7.4 * _GIB)
# Model files below this are a test's, not the 1.5 B model: they run anywhere.
_TINY_BYTES = _GIB // 4


def describe(settings: EngineSettings) -> EngineInfo:
    """What /v1/engines says. `available` means: packages, weights and a card are there."""
    gpu = chosen_gpu(settings)
    reason, variant = _why_not(settings, gpu), ""
    with contextlib.suppress(LipsyncError):
        variant = choose_files(settings, None).variant
    return EngineInfo(
        name="flashhead",
        title="FlashHead: a talking head, set back into the whole picture; 8 GB of GPU memory",
        available=reason is None,
        reason=reason or f"variant {variant} on {gpu.name if gpu is not None else 'the CPU'}",
        device=device_name(settings, gpu),
        presets=("quality", "balanced", "fast"),
        options_schema=Options.model_json_schema(),
        # Lite's VAE has a licence that a person must have seen.
        by_auto=variant != "lite",
    )


def chosen_gpu(settings: EngineSettings) -> Gpu | None:
    """The GPU that the settings mean; None on the CPU or without one."""
    if settings.device == "cpu":
        return None
    index = int(settings.device.partition(":")[2] or 0)
    return next((gpu for gpu in gpus() if gpu.index == index), None)


def device_name(settings: EngineSettings, gpu: Gpu | None) -> str:
    """torch's name of the device."""
    return f"cuda:{gpu.index}" if gpu is not None else "cpu" if settings.device == "auto" else settings.device


def _why_not(settings: EngineSettings, gpu: Gpu | None) -> str | None:
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        return f"FlashHead needs {', '.join(missing)}: pip install 'lipsync-server[gpu]'."
    try:
        files = choose_files(settings, None)
    except LipsyncError as error:
        return error.detail
    if files.n_bytes < _TINY_BYTES or settings.device == "cpu":
        return None
    if gpu is None:
        return "FlashHead needs an NVIDIA GPU with 8 GB, and none was found. Use engine sadtalker or preview."
    if gpu.total_bytes < _LEAST_GPU_BYTES:
        return (
            f"FlashHead needs a GPU with 8 GB, and {gpu.name} has {gpu.total_bytes / _GIB:.0f} GiB. Use engine "
            "sadtalker."
        )
    return None
