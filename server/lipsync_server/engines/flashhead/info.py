"""Whether FlashHead can run here, and its options: from file names and the card's memory. Imports no torch."""

import contextlib

from lipsync_server.engines.base import EngineInfo
from lipsync_server.engines.devices import Device, choose_device, why_no_card
from lipsync_server.engines.flashhead.options import Options
from lipsync_server.engines.flashhead.published import choose_files
from lipsync_server.errors import LipsyncError
from lipsync_server.extras import extra_is_missing, missing_packages
from lipsync_server.settings import EngineSettings

_PACKAGES = ("torch", "transformers", "diffusers", "safetensors", "pyloudnorm")
_GIB = 2**30
# The usable memory of a card that is sold with 8 GB; the driver keeps the rest.
_LEAST_GPU_BYTES = int(7.4 * _GIB)
# Smaller model files belong to a test's tiny model, which runs on any device.
_TINY_BYTES = _GIB // 4


def describe(settings: EngineSettings) -> EngineInfo:
    """The entry of FlashHead in /v1/engines. `available` means: packages, weights and a card are there."""
    device = chosen_device(settings)
    reason, variant = _why_not(settings, device), ""
    with contextlib.suppress(LipsyncError):
        variant = choose_files(settings, None).variant
    return EngineInfo(
        name="flashhead",
        title="FlashHead: a talking head in the whole picture; 8 GB of GPU memory; 0.5 s of work a second on an H100",
        available=reason is None,
        reason=reason or f"variant {variant} on {device.gpu.name if device.gpu is not None else 'the CPU'}",
        device=device.name,
        presets=("quality", "balanced", "fast"),
        options_schema=Options.model_json_schema(),
        # Lite's VAE has a licence that a person must have read.
        by_auto=variant != "lite",
    )


def chosen_device(settings: EngineSettings) -> Device:
    """The device that this engine runs on."""
    return choose_device(settings.device, least_bytes=_LEAST_GPU_BYTES)


def _why_not(settings: EngineSettings, device: Device) -> str | None:
    """The reason why the engine cannot run here, as a sentence; None if it can. Checks packages, files and the card."""
    if missing := missing_packages(_PACKAGES):
        return extra_is_missing("FlashHead", missing, "gpu")
    try:
        files = choose_files(settings, None)
    except LipsyncError as error:
        return error.detail
    if files.n_bytes < _TINY_BYTES or settings.device == "cpu":
        return None
    return why_no_card(
        device, title="FlashHead", least_bytes=_LEAST_GPU_BYTES, needs="8 GB", instead="sadtalker or preview"
    )
