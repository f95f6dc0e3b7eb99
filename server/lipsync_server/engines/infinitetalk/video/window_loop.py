"""The arithmetic of a window: denoise its latents, decode them, correct colours, encode the frames for the next window.

The order of computation and the random numbers are the public reference's, so that a seed makes the same video. One
denoising step has four parts: pin the known latents, predict the velocity (once for each guidance pass), combine the
predictions (guidance.py), and move the latent along the velocity (models/sampling/sampler.py). Knows
the transformer, the VAE and the sampler. Does not know where models come from, nor the order of the parts of a window
(run_window.py), nor errors (job.py).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lipsync_server.engines.infinitetalk.model.teacache import TeaCache
from lipsync_server.engines.infinitetalk.model.transformer import (
    Embedded,
    EmbeddedCondition,
    InfiniteTalkTransformer,
)
from lipsync_server.engines.infinitetalk.video.conditions import WindowCondition
from lipsync_server.engines.infinitetalk.video.guidance import Guidance, GuidanceScales, Pass, ProjectedGuidance
from lipsync_server.models.encoders.speech import silence
from lipsync_server.models.sampling.colour import FLASH, SCIKIT_IMAGE, ColourMatch
from lipsync_server.models.sampling.early_noise import EarlyNoise
from lipsync_server.models.sampling.renoising import denoise_renoising, distilled_timesteps
from lipsync_server.models.sampling.sampler import euler_step, pin, skip_unused_draws, timesteps, to_device
from lipsync_server.models.sampling.windows import Window
from lipsync_server.models.wan_vae.vae import LATENT_CHANNELS, WanVae

OnStep = Callable[[int], None]
"""Called before each pass with the step it belongs to; may raise to stop."""
_Kind = Literal["prompt", "negative prompt", "image"]


@dataclass(frozen=True)
class LoopSettings:
    """The numbers of the loop, the preset's filled in.

    apg: (momentum, norm threshold), or None for plain guidance. flashtalk: use the sampler that adds fresh noise
    between steps, and FlashTalk's constants for colours.
    """

    steps: int
    shift: float
    scales: GuidanceScales
    colour_correction: float = 1.0
    motion_frames: int = 9
    apg: tuple[float, float] | None = None
    flashtalk: bool = False


@dataclass(frozen=True)
class Prompts:
    """Embeddings of the prompt and of the negative prompt, each (n tokens, width)."""

    positive: Tensor
    negative: Tensor


class WindowLoop:
    """The loop of one video: make one for each job and run its windows in order, each after `restart`.

    generator: the job's random numbers, on the CPU. cache: TeaCache, or None to compute every forward.
    """

    def __init__(
        self,
        transformer: InfiniteTalkTransformer,
        vae: WanVae,
        prompts: Prompts,
        settings: LoopSettings,
        *,
        colours: Tensor,
        generator: torch.Generator,
        cache: TeaCache | None = None,
    ) -> None:
        self.transformer, self.vae = transformer, vae
        self._prompts, self.settings = prompts, settings
        self.generator, self.cache = generator, cache
        self._match_colours = ColourMatch(
            colours, settings.colour_correction, FLASH if settings.flashtalk else SCIKIT_IMAGE
        )
        self._pacer = _Pacer(vae.device)
        self._noise = EarlyNoise(generator)
        # The prompts and the picture with their keys and values for each block: the source, and the result.
        self._embeddings: dict[_Kind, tuple[Tensor, Embedded]] = {}

    def restart(self, transformer: InfiniteTalkTransformer, random: Tensor) -> None:
        """Begin a window, perhaps again after a failed attempt. random: `generator.get_state()`, uint8 (n,)."""
        if transformer is not self.transformer:
            self.forget()
        self.transformer = transformer
        self.generator.set_state(random)
        if self.cache is not None:
            self.cache.restart()

    def forget(self) -> None:
        """Release the kept keys and values of prompts and picture. The next window makes them again."""
        self._embeddings.clear()

    @torch.inference_mode()
    def denoise(self, window: Window, condition: WindowCondition, known: Tensor | None, on_step: OnStep) -> Tensor:
        """Clean latents of one window, float32 (16, T, h, w).

        known: latents of the frames taken over from the window before, (16, k, h, w); None in the first window, whose
        first latent is then the picture's own.
        """
        settings = self.settings
        if settings.flashtalk:
            return self._denoise_renoising(window, condition, known, on_step)
        shape = (LATENT_CHANNELS, window.n_latents, *condition.y.shape[2:])
        noise = self._noise.draw(shape)
        if known is None:
            # The VAE is causal, so the first latent of "picture, then grey" is the picture's own.
            known = condition.y[-LATENT_CHANNELS:, :1]
        else:
            skip_unused_draws(tuple(known.shape), settings.steps, self.generator)
            known = known[:, : window.n_latents]
        latent = to_device(noise, condition.y.device)
        known = known.to(latent)
        embedded = self._embedded(condition)
        apg = None
        if settings.apg is not None:
            apg = ProjectedGuidance(*settings.apg), ProjectedGuidance(*settings.apg)
        guidance = Guidance(settings.scales, apg=apg)
        levels = timesteps(settings.steps, settings.shift).to(latent.device)
        for step in range(settings.steps):
            model_input = torch.cat([pin(latent, known), condition.y.to(latent)])
            predictions: dict[Pass, Tensor] = {}
            for which in settings.scales.passes_at(step, settings.steps):
                on_step(step)
                predictions[which] = self.transformer(
                    model_input, levels[step : step + 1], embedded[which], cache=self.cache
                )
            latent = euler_step(latent, guidance.velocity(predictions), levels[step], levels[step + 1])
            self._pacer.step_done()
        self._noise.draw_ahead(shape)
        return pin(latent, known)

    def _denoise_renoising(
        self, window: Window, condition: WindowCondition, known: Tensor | None, on_step: OnStep
    ) -> Tensor:
        """`denoise` as FlashTalk was distilled: one forward a step, fresh noise between steps."""
        y, settings = condition.y, self.settings
        known = y[-LATENT_CHANNELS:, :1] if known is None else known
        embedded = self._embedded(condition)["cond"]

        shape = (LATENT_CHANNELS, window.n_latents, *y.shape[2:])

        def draw() -> Tensor:
            return to_device(self._noise.draw(shape), y.device)

        def velocity(latent: Tensor, t: Tensor, step: int) -> Tensor:
            on_step(step)
            predicted: Tensor = self.transformer(torch.cat([latent, y.to(latent)]), t, embedded)
            self._pacer.step_done()
            return predicted

        levels = distilled_timesteps(settings.steps, settings.shift).to(y.device)
        clean = denoise_renoising(velocity, draw, known.to(y.device, torch.float32), levels)
        self._noise.draw_ahead(shape)
        return clean

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Iterator[Tensor]:
        """Frames of clean latents, float32 (3, n, H, W) in [-1, 1], colours corrected, one latent frame at a time."""
        for frames in self.vae.decode(latents):
            yield self._match_colours(frames)

    @torch.inference_mode()
    def take_over(self, tail: Tensor) -> Tensor:
        """Latents (16, k, h, w) of a window's last frames, float32 (3, motion_frames, H, W), for the next window."""
        return self.vae.encode(tail)

    def _embedded(self, condition: WindowCondition) -> Mapping[Pass, EmbeddedCondition]:
        """The embedded condition of each pass. A pass without audio hears zeros and has one person."""
        embed, passes = self.transformer.embed_condition, self.settings.scales.passes
        image = self._kept("image", condition.tokens, self.transformer.embed_image)
        quiet = silence(condition.audio.shape[1], condition.audio) if len(passes) > 1 else None
        embedded: dict[Pass, EmbeddedCondition] = {}
        for which in passes:
            kind: _Kind = "prompt" if which in ("cond", "drop_audio") else "negative prompt"
            source = self._prompts.positive if kind == "prompt" else self._prompts.negative
            text = self._kept(kind, source, self.transformer.embed_text)
            if which in ("cond", "drop_text"):
                embedded[which] = embed(text=text, image_tokens=image, audio=condition.audio, masks=condition.masks)
            else:
                assert quiet is not None
                embedded[which] = embed(text=text, image_tokens=image, audio=quiet, masks=None)
        return embedded

    def _kept(self, kind: _Kind, source: Tensor, embed: Callable[[Tensor], Embedded]) -> Embedded:
        """The embedded prompt or picture: kept from an earlier window with the same one, or made now and kept."""
        before = self._embeddings.get(kind)
        if before is not None and before[0] is source:
            return before[1]
        made = embed(source)
        self._embeddings[kind] = source, made
        return made


class _Pacer:
    """Keeps the CPU at most one denoising step ahead of the GPU, so that progress is true and cancelling is prompt."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._last: torch.cuda.Event | None = None

    def step_done(self) -> None:
        """Call this when a step's work is queued; waits until the GPU has finished the step before it."""
        if not self._cuda:
            return
        before, self._last = self._last, torch.cuda.Event()
        self._last.record()
        if before is not None:
            before.synchronize()
