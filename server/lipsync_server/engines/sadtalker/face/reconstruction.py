"""The 3-D face network: an aligned 224 x 224 picture -> 257 coefficients of a 3-D face model (ResNet-50, seven heads).

A 3-D morphable model (3DMM) is a mean face and directions in which faces differ. With S the vertices (n, 3),

    S = S_mean + B_identity @ identity + B_expression @ expression

turned by three angles and moved by a translation. So 257 numbers describe a picture: identity 80, expression 64,
texture 80, angles 3 (pitch, yaw, roll in radians), light 27, translation 3. The network and this order are those of
https://arxiv.org/abs/1903.08527. SadTalker (https://arxiv.org/abs/2211.12194) drives the expression, the angles and the
translation, and never builds S. Knows nothing of alignment (geometry.py).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipsync_server.engines.sadtalker.layout import Layout

EXPRESSION, ANGLE, TRANSLATION = slice(80, 144), slice(224, 227), slice(254, 257)


class Bottleneck(nn.Module):
    """ResNet v1.5: the stride sits on the 3x3 convolution."""

    def __init__(self, layout: Layout, stride: int) -> None:
        super().__init__()
        self.conv1 = layout.conv("conv1", bias=False)
        self.bn1 = layout.norm2d("bn1")
        self.conv2 = layout.conv("conv2", stride=stride, padding=1, bias=False)
        self.bn2 = layout.norm2d("bn2")
        self.conv3 = layout.conv("conv3", bias=False)
        self.bn3 = layout.norm2d("bn3")
        self.downsample: nn.Sequential | None = None
        if layout.has("downsample"):
            shortcut = layout.conv("downsample.0", stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, layout.norm2d("downsample.1"))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> (B, C', H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class _ResNet(nn.Module):
    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.conv1 = layout.conv("conv1", stride=2, padding=3, bias=False)
        self.bn1 = layout.norm2d("bn1")
        for i in range(1, 5):
            n_blocks = layout.count(f"layer{i}.{{}}")
            strides = [1 if i == 1 or j else 2 for j in range(n_blocks)]
            blocks = (Bottleneck(layout / f"layer{i}.{j}", stride) for j, stride in enumerate(strides))
            self.add_module(f"layer{i}", nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        for i in range(1, 5):
            x = self.get_submodule(f"layer{i}")(x)
        return x.mean((2, 3), keepdim=True)


class FaceReconstruction(nn.Module):
    """The whole network: ResNet-50's features, then one linear head for each group of coefficients."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.backbone = _ResNet(layout / "backbone")
        n_heads = layout.count("final_layers.{}")
        self.final_layers = nn.ModuleList(layout.conv(f"final_layers.{i}") for i in range(n_heads))

    def forward(self, picture: Tensor) -> Tensor:
        """(B, 3, 224, 224) float32 RGB in [0, 1] -> (B, 257)."""
        feature = self.backbone(picture)
        return torch.cat([head(feature) for head in self.final_layers], dim=1).flatten(1)


def motion_coefficients(coefficients: Tensor) -> Tensor:
    """(B, 257) -> (B, 70) of the same dtype: expression 64, angles 3, translation 3."""
    return torch.cat([coefficients[:, part] for part in (EXPRESSION, ANGLE, TRANSLATION)], dim=1)
