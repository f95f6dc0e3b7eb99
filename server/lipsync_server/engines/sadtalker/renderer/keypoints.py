"""The keypoint detector: one picture -> K canonical keypoints in the unit cube. Runs once per source picture.

Tensors are float32. Does not know poses: mapping.py turns canonical keypoints into the keypoints of a frame.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipsync_server.engines.sadtalker.layout import Layout
from lipsync_server.engines.sadtalker.renderer.blocks import Down2d, Up3d, coordinate_grid

REDUCTION = 4  # the detector works on a quarter of the picture's size
SOFTMAX_TEMPERATURE = 0.1


class _AntiAlias(nn.Module):
    """Gaussian blur (stored in the model file) and every 4th pixel."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        shape = layout.shape("weight", 4)
        self.register_buffer("weight", torch.zeros(shape))
        self.padding = shape[-1] // 2

    def forward(self, picture: Tensor) -> Tensor:
        weight: Tensor = self.get_buffer("weight")
        blurred = F.conv2d(picture, weight, padding=self.padding, groups=weight.shape[0])
        return blurred[:, :, ::REDUCTION, ::REDUCTION]


class KeypointHourglass(nn.Module):
    """2-D encoder, a 1x1 convolution whose channels fold into depth, 3-D decoder: (B, 3, H, W) -> (B, C, D, H, W)."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        n_levels = layout.count("down_blocks.down{}")
        self.down_blocks = nn.Sequential()
        self.up_blocks = nn.Sequential()
        for i in range(n_levels):
            self.down_blocks.add_module(f"down{i}", Down2d(layout / f"down_blocks.down{i}"))
            self.up_blocks.add_module(f"up{i}", Up3d(layout / f"up_blocks.up{i}"))
        self.conv = layout.conv("conv")
        self.n_channels_3d = layout.shape("up_blocks.up0.conv.weight", 5)[1]

    def forward(self, x: Tensor) -> Tensor:
        """x (B, 3, H, W) -> (B, C, D, H, W), with H and W of the detector's quarter-size picture."""
        x = self.conv(self.down_blocks(x))
        B, _, H, W = x.shape
        x = self.up_blocks(x.reshape(B, self.n_channels_3d, -1, H, W))
        assert isinstance(x, Tensor)
        return x


class KeypointDetector(nn.Module):
    """The network: one heat map over the volume for each keypoint, whose expected place is the keypoint.

    keypoint = sum over cells p of softmax(logits / 0.1)(p) * p          (a "soft argmax")
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.down = _AntiAlias(layout / "down")
        self.predictor = KeypointHourglass(layout / "predictor")
        self.kp = layout.conv3d("kp", padding=1)

    def logits(self, picture: Tensor) -> Tensor:
        """(B, 3, S, S) in [0, 1] -> (B, K, D, S/4, S/4)."""
        logits: Tensor = self.kp(self.predictor(self.down(picture)))
        return logits

    def forward(self, picture: Tensor) -> Tensor:
        """(B, 3, S, S) float32 RGB in [0, 1] -> (B, K, 3) keypoints (x, y, z)."""
        logits = self.logits(picture).float()
        heatmap = torch.softmax(logits.flatten(2) / SOFTMAX_TEMPERATURE, dim=2)
        grid = coordinate_grid(*logits.shape[2:], device=logits.device)
        return heatmap @ grid.reshape(-1, 3)
