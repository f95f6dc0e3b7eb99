"""The window loop: denoise, decode, correct colours, pass the last frames to the next window.

Each window makes 33 frames. The first window keeps all of them. A later window begins with the last frames of the
previous one, so it keeps 28 (pro) or 24 (lite). Latents and pixels are float32. Knows the transformer, the VAE and the
sampler. Does not know model files, the engine interface or the picture around the square.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lipsync_server.engines.flashhead.model.transformer import FlashHeadTransformer
from lipsync_server.models.sampling.colour import FLASH, ColourMatch
from lipsync_server.models.sampling.renoising import denoise_renoising, distilled_timesteps, rounded_to_bfloat16
from lipsync_server.models.sampling.sampler import to_device

OnStep = Callable[[int], None]
"""Called before each step of the sampler with its number, from 0; may raise to stop."""


Draw = Callable[[tuple[int, ...]], Tensor]
"""Returns normal noise of a shape, float32, made on the CPU, so that a seed gives equal noise on every device."""


class VideoVae(Protocol):
    """Wan's VAE or LTX-Video's: pixels (3, F, H, W) in [-1, 1] to latents (z, T, h, w) and back."""

    device: torch.device

    def encode(self, video: Tensor) -> Tensor:
        """video (3, F, H, W) -> latents (z, T, h, w), normalised, float32."""

    def decode(self, latents: Tensor) -> Iterator[Tensor]:
        """latents (z, T, h, w) -> pixels (3, n, H, W), float32, a few frames at a time."""


@dataclass(frozen=True)
class LoopSettings:
    """The numbers of the loop. steps: of the sampler. shift: values above 1 use more steps on strong noise.

    colour_correction: 0 is off, 1 full strength. rounds_time: noise levels are rounded to bfloat16, as in the published
    run.
    """

    steps: int = 4
    shift: float = 5.0
    colour_correction: float = 1.0
    rounds_time: bool = True


def encode_picture(vae: VideoVae, picture: Tensor, n_frames: int) -> Tensor:
    """The conditioning y (z, T, h, w): the picture (3, H, W) in [-1, 1] repeated over a window.

    All frames have to be encoded, because the causal VAE's output becomes constant only after many equal frames.
    """
    return vae.encode(picture[:, None].expand(-1, n_frames, -1, -1).to(vae.device))


class WindowLoop:
    """The loop of one video. Make one per job; windows must be run in order."""

    def __init__(
        self,
        transformer: FlashHeadTransformer,
        vae: VideoVae,
        settings: LoopSettings,
        *,
        picture: Tensor,
        condition: Tensor,
        draw: Draw,
    ) -> None:
        """picture: (3, H, W) in [-1, 1]; every frame is corrected to its colours. condition: `encode_picture` of it.

        draw: see Draw.
        """
        self._transformer, self._vae, self._condition = transformer, vae, condition
        self._draw = draw
        self._match_colours = ColourMatch(picture.to(vae.device), settings.colour_correction, FLASH)
        levels = distilled_timesteps(settings.steps, settings.shift)
        timesteps, sigmas = rounded_to_bfloat16(levels) if settings.rounds_time else (levels, levels / 1000)
        self._levels, self._sigmas = timesteps.to(vae.device), sigmas.to(vae.device)

    @property
    def first_known(self) -> Tensor:
        """The latents that the first window begins with: the picture's own, (z, 1, h, w)."""
        return self._condition[:, :1]

    @torch.inference_mode()
    def denoise(self, audio: Tensor, known: Tensor | None, on_step: OnStep = lambda step: None) -> Tensor:
        """Clean latents (z, T, h, w) of one window.

        audio: (F, 5, layers, channels), windowed. known: latents that the window before handed on; None in the first.
        """
        condition = self._condition
        sound = self._transformer.hear(audio)
        known = self.first_known if known is None else known.to(condition)

        def draw() -> Tensor:
            return to_device(self._draw(tuple(condition.shape)), condition.device)

        def velocity(latent: Tensor, t: Tensor, step: int) -> Tensor:
            on_step(step)
            predicted: Tensor = self._transformer(latent, condition, t, sound)
            return predicted

        return denoise_renoising(velocity, draw, known, self._levels, sigmas=self._sigmas)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Iterator[Tensor]:
        """Frames (3, n, H, W) of clean latents, nominally in [-1, 1], colours corrected, a few at a time."""
        for frames in self._vae.decode(latents):
            yield self._match_colours(frames)

    @torch.inference_mode()
    def take_over(self, tail: Tensor) -> Tensor:
        """Latents (z, 2, h, w) of the last frames of a window, (3, motion_frames, H, W), for the next one."""
        return self._vae.encode(tail)
