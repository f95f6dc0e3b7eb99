"""Networks on sound: the mel encoder, whose architecture ExpNet and PoseVAE share, and ExpNet.

A mel window is float32 (80 bands, 16 columns), 0.2 s around one video frame (mel.py).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipsync_server.engines.sadtalker.layout import Layout

# stride, padding and whether the block adds its input, of the encoder's blocks in order: 80 x 16 -> 1 x 1
_BLOCKS: tuple[tuple[int | tuple[int, int], int, bool], ...] = (
    (1, 1, False), (1, 1, True), (1, 1, True),
    ((3, 1), 1, False), (1, 1, True), (1, 1, True),
    (3, 1, False), (1, 1, True), (1, 1, True),
    ((3, 2), 1, False), (1, 1, True),
    (1, 0, False),
    (1, 0, False),
)  # fmt: skip


class AudioBlock(nn.Module):
    """Convolution, batch norm, the input added where residual, ReLU."""

    def __init__(self, layout: Layout, stride: int | tuple[int, int], padding: int, residual: bool) -> None:
        super().__init__()
        conv = layout.conv("conv_block.0", stride=stride, padding=padding)
        self.conv_block = nn.Sequential(conv, layout.norm2d("conv_block.1"))
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> (B, C', H', W')."""
        y: Tensor = self.conv_block(x)
        return F.relu(y + x if self.residual else y)


class AudioEncoder(nn.Sequential):
    """(B, 1, 80, 16) mel windows -> (B, 512, 1, 1)."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(*(AudioBlock(layout / str(i), *block) for i, block in enumerate(_BLOCKS)))


class ExpNet(nn.Module):
    """A mel window, the source's expression and a blink value -> the frame's 64 expression coefficients."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.audio_encoder = AudioEncoder(layout / "audio_encoder")
        self.mapping1 = layout.linear("mapping1")

    def forward(self, windows: Tensor, expression: Tensor, blink: Tensor) -> Tensor:
        """windows: (B, 1, 80, 16); expression: (B, 64); blink: (B, 1) -> (B, 64)."""
        audio = self.audio_encoder(windows).flatten(1)
        result: Tensor = self.mapping1(torch.cat([audio, expression, blink], dim=1))
        return result
