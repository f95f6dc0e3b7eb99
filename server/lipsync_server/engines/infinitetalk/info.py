"""Whether InfiniteTalk can run here, and what it offers: from file names and the card's memory. No torch here."""

import importlib.util

from lipsync_server.engines.base import EngineInfo
from lipsync_server.engines.hardware import Gpu, gpus
from lipsync_server.engines.infinitetalk.options import Options
from lipsync_server.engines.infinitetalk.published import choose_transformer, find_encoders, find_transformers
from lipsync_server.errors import LipsyncError
from lipsync_server.settings import Settings

_PACKAGES = ("torch", "transformers", "diffusers", "safetensors", "ftfy", "pyloudnorm")
_GIB = 2**30
_LEAST_GPU_BYTES = 11 * _GIB
# A checkpoint below this is a test's, not the 14B model: it runs anywhere.
_TINY_BYTES = _GIB


def describe(settings: Settings) -> EngineInfo:
    """What /v1/engines says. `available` means: packages, weights and a card are there."""
    gpu = chosen_gpu(settings)
    reason = _why_not(settings, gpu)
    people = 2 if any(files.people == "multi" for files in find_transformers(settings)) else 1
    return EngineInfo(
        name="infinitetalk",
        title="InfiniteTalk",
        available=reason is None,
        reason=reason or _which(settings, gpu),
        device=device_name(settings, gpu),
        presets=("quality", "balanced", "fast"),
        resolutions=("480p", "720p"),
        options_schema=Options.model_json_schema(),
        max_people=people,
    )


def chosen_gpu(settings: Settings) -> Gpu | None:
    """The card that the settings mean; None on the CPU or without one."""
    if settings.device == "cpu":
        return None
    index = int(settings.device.partition(":")[2] or 0)
    return next((gpu for gpu in gpus() if gpu.index == index), None)


def device_name(settings: Settings, gpu: Gpu | None) -> str:
    """torch's name of the device."""
    return f"cuda:{gpu.index}" if gpu is not None else "cpu" if settings.device == "auto" else settings.device


def _why_not(settings: Settings, gpu: Gpu | None) -> str | None:
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        return f"InfiniteTalk needs {', '.join(missing)}: pip install 'lipsync-server[gpu]'."
    try:
        find_encoders(settings)
        files, _ = choose_transformer(settings, gpu, people="single", distilled=settings.preset != "quality")
    except LipsyncError as error:
        return error.detail
    if files.n_bytes < _TINY_BYTES or settings.device == "cpu":
        return None
    if gpu is None:
        return "InfiniteTalk needs an NVIDIA GPU with 24 GB, and none was found. Use engine sadtalker or preview."
    if gpu.total_bytes < _LEAST_GPU_BYTES:
        return (
            f"InfiniteTalk needs a GPU with 24 GB (12 GB with a long wait), and {gpu.name} has "
            f"{gpu.total_bytes / _GIB:.0f} GiB. Use engine sadtalker."
        )
    return None


def _which(settings: Settings, gpu: Gpu | None) -> str:
    files, _ = choose_transformer(settings, gpu, people="single", distilled=settings.preset != "quality")
    where = gpu.name if gpu is not None else "the CPU"
    return f"{files.kind} weights on {where}"
