"""The first LTX-Video VAE (0.9.0), through diffusers, with latents normalised as in FlashHead Lite's training.

A latent value of 128 channels stands for eight frames of 32 x 32 pixels, so there are a twentieth of the tokens of
Wan's VAE. The encoder is causal (a latent frame depends on earlier frames only). The decoder is not, so a window is
decoded as a whole. Knows no sampler and no window.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import AutoencoderKLLTXVideo
from torch import Tensor

from lipsync_server.errors import WeightsError
from lipsync_server.models.tensor_files import into_modules

_FILE = "diffusion_pytorch_model.safetensors"


def build(config: dict[str, object]) -> AutoencoderKLLTXVideo:
    """The architecture of a config.json on the meta device; fields that diffusers does not know are ignored."""
    with torch.device("meta"):
        return AutoencoderKLLTXVideo.from_config(config)


class LtxVae:
    """The VAE on one device.

    Latents are float32 (z, T, h, w), normalised; pixels are (3, F, H, W), nominally in [-1, 1] and not clamped."""

    def __init__(self, model: AutoencoderKLLTXVideo, mean: Tensor, std: Tensor, dtype: torch.dtype) -> None:
        """mean, std: (z,) float32, of the latents that the encoder makes."""
        self._model, self._dtype = model, dtype
        self.device = mean.device
        self._mean, self._std = mean.view(-1, 1, 1, 1), std.view(-1, 1, 1, 1)

    @property
    def latent_channels(self) -> int:
        """Channels of a latent: z in the shapes here."""
        return int(self._mean.shape[0])

    @classmethod
    def load(cls, folder: Path, *, device: torch.device, dtype: torch.dtype = torch.float32) -> "LtxVae":
        """Read a published folder: config.json and diffusion_pytorch_model.safetensors, in diffusers' form.

        Raises WeightsError for a file that is missing, damaged or another model's.
        """
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise WeightsError(f"{folder / 'config.json'} cannot be read ({error}). Download it again.") from error
        model = build(config)
        tensors = into_modules.read_tensors(folder / _FILE)
        into_modules.fill(
            model, tensors, lambda name: name, source=f"{folder.name}/{_FILE}", device=device, dtype=dtype
        )
        mean, std = (tensors[name].to(device, torch.float32) for name in ("latents_mean", "latents_std"))
        return cls(model, mean, std, dtype)

    @torch.inference_mode()
    def encode(self, video: Tensor, noise: Tensor | None = None) -> Tensor:
        """Encode a video, float32 (3, F, H, W), F = 8n + 1: to the mean, or with `noise` (z, T, h, w) to a sample.

        The public reference samples with random numbers that its seed does not control. With the mean, one seed gives
        one video.
        """
        posterior = self._model.encode(video[None].to(self.device, self._dtype)).latent_dist
        latent: Tensor = posterior.mean[0].float()
        if noise is not None:
            latent = latent + posterior.std[0].float() * noise.to(latent)
        return (latent - self._mean) / self._std

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Iterator[Tensor]:
        """Pixels of all latent frames at once: (3, F, H, W) float32."""
        z = (latents.to(self.device) * self._std + self._mean)[None].to(self._dtype)
        pixels: Tensor = self._model.decode(z).sample[0].float()
        yield pixels
