"""The sampler of the distilled models: predict the clean latent, add new noise, and repeat, usually four times.

FlashTalk and FlashHead were distilled: one forward of the model predicts the clean latent x0 from any noise level u.
Between two steps x0 is mixed with new noise e to the next, lower level u':

    x0 = x_u - u v            v: the predicted velocity, noise - clean
    x_(u') = (1 - u') x0 + u' e

A window of n steps therefore draws noise n + 1 times. The last draw has no effect (its level is 0), but it keeps the
random numbers equal to the public reference's. Tensors in, tensors out: the model is a function here.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lipsync_server.models.sampling.sampler import N_TRAIN_TIMESTEPS, pin

# The noise levels of the models' distillation. Another number of steps is spaced evenly.
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
    """Round noise levels as a run in bfloat16 does: t for the model, sigma = t / 1000 for the update; float32.

    FlashHead's published run passes 832 to its transformer in place of 833.333. This difference changes the lips more
    than the rounding of all its weights.
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
    """Compute the clean latent (C, T, h, w) of one window, float32.

    velocity: one forward of the model. draw: returns new normal noise of the latent's shape, on the latent's device.
    known: clean latents (C, k, h, w) of the given frames, which replace the first latents before every forward. levels:
    noise levels from `distilled_timesteps`. sigmas: levels / 1000, if they were rounded separately.
    """
    sigmas = levels / N_TRAIN_TIMESTEPS if sigmas is None else sigmas
    latent = draw()
    for step in range(len(levels) - 1):
        v = velocity(pin(latent, known), levels[step : step + 1], step)
        clean = latent - v * sigmas[step]
        # The noise is added last, so that the result is exact if the next level is 0.
        latent = (1 - sigmas[step + 1]) * clean + sigmas[step + 1] * draw()
    return pin(latent, known)
