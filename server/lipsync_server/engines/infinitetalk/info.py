"""Whether InfiniteTalk can run here, and its options: from file names and the card's memory. Imports no torch."""

from lipsync_server.engines.base import EngineInfo
from lipsync_server.engines.devices import Device, choose_device, why_no_card
from lipsync_server.engines.hardware import Gpu
from lipsync_server.engines.host_memory import host_memory
from lipsync_server.engines.infinitetalk.files.encoders import find_encoders
from lipsync_server.engines.infinitetalk.files.transformers import (
    TransformerFiles,
    choose_transformer,
    find_transformers,
)
from lipsync_server.engines.infinitetalk.flashtalk import wants_flashtalk
from lipsync_server.engines.infinitetalk.lora_choice import server_loras
from lipsync_server.engines.infinitetalk.options import Options
from lipsync_server.errors import LipsyncError
from lipsync_server.extras import extra_is_missing, missing_packages
from lipsync_server.settings import EngineSettings

_PACKAGES = ("torch", "transformers", "diffusers", "safetensors", "ftfy", "pyloudnorm")
_GIB = 2**30
_LEAST_GPU_BYTES = 11 * _GIB
# Below this no form of the model fits beside CUDA and the encoders; the exact need is planned before loading
# (loading/planner.py).
_LEAST_HOST_BYTES = 5 * _GIB
# Smaller model files belong to a test's tiny model, which runs on any device.
_TINY_BYTES = _GIB


def describe(settings: EngineSettings) -> EngineInfo:
    """The entry of GET /v1/engines. `available` means: packages, model files and a GPU are there."""
    device = chosen_device(settings)
    reason = _why_not(settings, device)
    people = 2 if any(files.people == "multi" for files in find_transformers(settings)) else 1
    return EngineInfo(
        name="infinitetalk",
        title="InfiniteTalk: body and hands move; 24 GB of GPU memory; 2 to 10 s of work a second on an H100",
        available=reason is None,
        reason=reason or _weights_in_use(settings, device.gpu),
        device=device.name,
        presets=("quality", "balanced", "fast"),
        resolutions=("480p", "720p"),
        options_schema=Options.model_json_schema(),
        max_people=people,
    )


def chosen_device(settings: EngineSettings) -> Device:
    """The device that this engine runs on."""
    return choose_device(settings.device, least_bytes=_LEAST_GPU_BYTES)


def _why_not(settings: EngineSettings, device: Device) -> str | None:
    """The reason why the engine cannot run here, as a sentence; None if it can.

    Checks packages, model files, the card and host memory.
    """
    if missing := missing_packages(_PACKAGES):
        return extra_is_missing("InfiniteTalk", missing, "gpu")
    try:
        find_encoders(settings)
        files, _ = _files(settings, device.gpu)
    except LipsyncError as error:
        return error.detail
    if files.n_bytes < _TINY_BYTES or settings.device == "cpu":
        return None
    no_card = why_no_card(
        device, title="InfiniteTalk", least_bytes=_LEAST_GPU_BYTES, needs="24 GB (12 GB with a long wait)",
        instead="sadtalker or preview",
    )  # fmt: skip
    if no_card is not None:
        return no_card
    host = host_memory()
    if settings.check_host_memory and host is not None and host.total_bytes < _LEAST_HOST_BYTES:
        return (
            f"InfiniteTalk needs at least {_LEAST_HOST_BYTES // _GIB} GiB of host memory, and {host.place} has "
            f"{host.total_bytes / _GIB:.1f}. Give it more, or use engine sadtalker."
        )
    return None


def _weights_in_use(settings: EngineSettings, gpu: Gpu | None) -> str:
    """The weights' number format and the device, for example "int8 weights on NVIDIA GeForce RTX 4090"."""
    files, _ = _files(settings, gpu)
    where = gpu.name if gpu is not None else "the CPU"
    name = "FlashTalk's " if files.flashtalk else ""
    return f"{name}{files.number_format} weights on {where}"


def _files(settings: EngineSettings, gpu: Gpu | None) -> tuple[TransformerFiles, tuple[str, ...]]:
    """The transformer of a usual job: FlashTalk's where the preset takes few steps and its files are here."""
    usual = Options(preset=settings.preset)
    return choose_transformer(
        settings, gpu, people="single", distilled=usual.sampling.distilled,
        flashtalk=wants_flashtalk(settings, usual, people="single", still=True),
        has_lora=any(lora.distilled for lora in server_loras(settings)),
    )  # fmt: skip
