"""Flow matching: how noise becomes a clean latent in a few steps along a straight line.

Rectified flow (https://arxiv.org/abs/2209.03003) mixes a clean latent x0 with normal noise e at a level u from 0 to 1:

    x_u = (1 - u) x0 + u e

The derivative of x_u by u is the velocity v = e - x0. It is the same at every u, so x_u moves on a straight line. The
model is trained to predict v from x_u. From pure noise (u = 1), each Euler step moves along the predicted velocity:

    x_(u') = x_u - (u - u') v          u > u', down to u' = 0, the clean latent

The levels are bent by a `shift` s, u -> s u / (1 + (s - 1) u), so that more steps fall on strong noise, which decides
the layout of a large picture (https://arxiv.org/abs/2403.03206, section 5.3.2). The model counts levels as t = 1000 u.

Tensors in, tensors out. Knows no model: window_loop.py calls the transformer, guidance.py combines its predictions.
"""

import numpy as np
import torch
from torch import Tensor

N_TRAIN_TIMESTEPS = 1000.0


def timesteps(n_steps: int, shift: float) -> Tensor:
    """The noise levels from 1000 (noise) down to 0 (clean), float32 (n_steps + 1,).

    Evenly spaced from 1000 to 1, bent by `shift` (above 1 spends more steps on strong noise), then 0. numpy's
    linspace and not torch's: they differ in the last bit, and the reference uses numpy's.
    """
    even = torch.from_numpy(np.linspace(N_TRAIN_TIMESTEPS, 1, n_steps, dtype=np.float32))
    u = torch.cat([even, torch.zeros(1)]) / N_TRAIN_TIMESTEPS
    return shift * u / (1 + (shift - 1) * u) * N_TRAIN_TIMESTEPS


def euler_step(latent: Tensor, velocity: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    """Move `latent` from noise level `t` to the lower `t_next` along `velocity` = noise - clean.

    latent, velocity: (C, T, h, w) float32. t, t_next: 0 to 1000, float32 scalars on the same device.
    """
    return latent - velocity * ((t - t_next) / N_TRAIN_TIMESTEPS)


def pin(latent: Tensor, known: Tensor) -> Tensor:
    """Replace the first latents by the known clean ones, in place: latent (16, T, h, w), known (16, k, h, w), k <= T.

    The first frames of a window are given: the picture, or the end of the previous window. The model gets their clean
    latents at every noise level, and the decoder gets the same latents.
    """
    latent[:, : known.shape[1]] = known
    return latent


def draw_noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard normal noise of `shape`, float32 on the CPU, so that a seed gives the same noise on every device."""
    return torch.randn(shape, generator=generator, dtype=torch.float32)


def to_device(noise: Tensor, device: torch.device) -> Tensor:
    """`noise` on `device`. On a GPU the copy is queued behind earlier work, and the host does not wait for it."""
    if device.type == "cuda":
        try:
            noise = noise.pin_memory()
        except RuntimeError:
            # A limit of the machine or of its container. From plain memory the copy is right, and the host waits.
            return noise.to(device)
    return noise.to(device, non_blocking=True)


def skip_unused_draws(known_shape: tuple[int, ...], n_steps: int, generator: torch.Generator) -> None:
    """Advance `generator` by the draws that the reference makes in a later window and never uses.

    The reference adds noise to the known latents once before the loop and once after every step, then overwrites the
    result with the clean latents. Only the random generator's state changes. With the same draws here, a seed gives the
    reference's noise in every window.
    """
    for _ in range(n_steps + 1):
        torch.randn(known_shape, generator=generator, dtype=torch.float32)
