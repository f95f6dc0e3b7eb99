"""Draws a window's first noise before the window begins, while the GPU is busy and the CPU is not.

A large window needs 10 to 20 ms of random numbers from the CPU before the GPU can begin. With `draw_ahead` they are
drawn during the last step of the window before. The numbers and the generator's states are those of plain draws: the
generator itself moves on only when the noise is used. Knows one generator. Does not know windows.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lipsync_server.models.sampling.sampler import draw_noise


class _Ahead(NamedTuple):
    """Noise that was drawn early, and the generator's states before and after it."""

    before: Tensor
    noise: Tensor
    after: Tensor


class EarlyNoise:
    """Normal noise from one generator on the CPU; see draw_noise."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator
        self._ahead: _Ahead | None = None

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        """Standard normal noise of `shape`, float32: that of `draw_ahead` if nothing was drawn or set since."""
        ahead, self._ahead = self._ahead, None
        if ahead is None or ahead.noise.shape != shape or not torch.equal(ahead.before, self._generator.get_state()):
            return draw_noise(shape, self._generator)
        self._generator.set_state(ahead.after)
        return ahead.noise

    def draw_ahead(self, shape: tuple[int, ...]) -> None:
        """Draw now what the next `draw` of this shape will return. The generator keeps its state."""
        copy = torch.Generator()
        before = self._generator.get_state()
        copy.set_state(before)
        self._ahead = _Ahead(before, draw_noise(shape, copy), copy.get_state())
