"""The sampler of the distilled models: predict the clean latent, add fresh noise, four times.

FlashTalk and FlashHead were distilled so that one forward goes from any noise level to the clean latent. Between two
steps the clean prediction is mixed with new noise to the next, lower level, so a window of n steps draws noise n + 1
times. The last draw has no effect (its level is 0), and is made all the same so that a seed means what it means in the
public reference. Tensors in, tensors out: the model is a function here.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lipsync_server.models.sampling.sampler import N_TRAIN_TIMESTEPS, pin

# Noise levels that the models were distilled at; any other number of steps is spread evenly.
_DISTILLED: dict[int, tuple[float, ...]] = {4: (1000, 750, 500, 250), 2: (1000, 500)}

Velocity = Callable[[Tensor, Tensor, int], Tensor]
"""(latent, t (1,) in 0..1000, step from 0) -> velocity (noise - clean), all of the latent's shape but for t."""


def distilled_timesteps(n_steps: int, shift: float = 5.0) -> Tensor:
    """The noise levels from 1000 (noise) down to 0 (clean), float32 (n_steps + 1,), bent by `shift`.

    Four steps are 1000, 937.5, 833.333, 625, 0.
    """
    base = _DISTILLED.get(n_steps)
    even = np.linspace(N_TRAIN_TIMESTEPS, 1, n_steps, dtype=np.float32) if base is None else np.array(base, np.float32)
    u = torch.cat([torch.from_numpy(even), torch.zeros(1)]) / N_TRAIN_TIMESTEPS
    return shift * u / (1 + (shift - 1) * u) * N_TRAIN_TIMESTEPS


def rounded_to_bfloat16(levels: Tensor) -> tuple[Tensor, Tensor]:
    """Noise levels as a run in bfloat16 rounds them: t for the model, sigma = t / 1000 for the update; float32.

    FlashHead's published run feeds its transformer 832 where 833.333 is meant, and this moves the lips more than the
    rounding of all its weights does.
    """
    return levels.bfloat16().float(), (levels / N_TRAIN_TIMESTEPS).bfloat16().float()


def denoise_renoising(
    velocity: Velocity,
    draw: Callable[[], Tensor],
    known: Tensor,
    levels: Tensor,
    *,
    sigmas: Tensor | None = None,
) -> Tensor:
    """The clean latent (C, T, h, w) of one window, float32.

    velocity: one forward of the model. draw: fresh normal noise of the latent's shape, on the latent's device. known:
    clean latents (C, k, h, w) of the frames that are given, pinned in front before every forward. levels: noise levels
    from `distilled_timesteps`. sigmas: the same over 1000, where they were rounded apart.
    """
    sigmas = levels / N_TRAIN_TIMESTEPS if sigmas is None else sigmas
    latent = draw()
    for step in range(len(levels) - 1):
        v = velocity(pin(latent, known), levels[step : step + 1], step)
        clean = latent - v * sigmas[step]
        # Adding the noise last keeps the result exact where the next level is 0.
        latent = (1 - sigmas[step + 1]) * clean + sigmas[step + 1] * draw()
    return pin(latent, known)
