"""Random weights at a scale that keeps activations near their size from layer to layer.

A matrix with n inputs gets a standard deviation of n ** -0.5, so a sum of n products has the variance of one input.
Knows no network and imports only torch, so that a process that needs one transformer starts without the libraries of
the encoders.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn


def randomise(model: nn.Module, *, device: torch.device, dtype: torch.dtype, seed: int = 0) -> None:
    """Give a model that was built on the meta device random weights on `device`. The same seed gives the same weights.

    Matrices and convolutions with n inputs get normal numbers with standard deviation n ** -0.5. Biases get 0. Weights
    of norms, and every tensor named `gamma`, get 1.
    """
    model.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(seed)
    for name, parameter in model.state_dict().items():
        if not parameter.is_floating_point():
            continue
        if parameter.dim() < 2 or "gamma" in name:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            parameter.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
    # This is nn.Module's own `to`. The method of diffusers' models warns about modules that stay float32.
    nn.Module.to(model, dtype=dtype)
    model.requires_grad_(False).eval()


def random_tensors(
    shapes: Mapping[str, tuple[int, ...]],
    *,
    seed: int,
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
    begins_at_one: Callable[[str], bool] = lambda name: "norm" in name and name.endswith("weight"),
) -> Iterator[tuple[str, Tensor]]:
    """Yield random tensors as (name, tensor), so that a model larger than the memory can be streamed to disk.

    begins_at_one: returns whether a vector is the weight of a norm, whose numbers are around 1. The numbers of every
    other vector are around 0.
    """
    generator = torch.Generator(device).manual_seed(seed)
    for name, shape in shapes.items():
        value = torch.empty(shape, device=device, dtype=dtype).normal_(generator=generator)
        if len(shape) > 1:
            value *= torch.Size(shape[1:]).numel() ** -0.5
        else:
            value *= 0.1
            value += 1.0 if begins_at_one(name) else 0.0
        yield name, value
