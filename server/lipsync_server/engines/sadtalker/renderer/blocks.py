"""Convolution blocks that the keypoint detector, the dense motion network and the generator share, and the grids.

B batch, C channels, D H W depth, height, width of a feature volume, K keypoints. Coordinates are (x, y, z) in [-1, 1],
-1 and 1 being the centres of the outermost cells. Tensors are float32 unless the renderer chooses 16 bits.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipsync_server.engines.sadtalker.layout import Layout

KEYPOINT_VARIANCE = 0.01


class ConvNorm2d(nn.Module):
    """3x3 convolution, batch norm, ReLU (or leaky ReLU): (B, C, H, W) -> (B, C', H, W)."""

    def __init__(self, layout: Layout, *, leaky: bool = False) -> None:
        super().__init__()
        self.conv = layout.conv("conv", padding=1)
        self.norm: nn.Module = layout.norm2d("norm")
        self.leaky = leaky

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> (B, C', H, W)."""
        x = self.norm(self.conv(x))
        return F.leaky_relu(x, 0.01) if self.leaky else F.relu(x)


class Down2d(ConvNorm2d):
    """ConvNorm2d, then average pooling by 2; an odd last row or column is dropped."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> (B, C', H // 2, W // 2)."""
        return F.avg_pool2d(super().forward(x), 2)


class ConvNorm3d(nn.Module):
    """3x3x3 convolution, batch norm, ReLU: (B, C, D, H, W) -> (B, C', D, H, W)."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.conv = layout.conv3d("conv", padding=1)
        self.norm: nn.Module = layout.norm3d("norm")

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, D, H, W) -> (B, C', D, H, W)."""
        return F.relu(self.norm(self.conv(x)))


class Down3d(ConvNorm3d):
    """ConvNorm3d, then average pooling by 2 in height and width; depth stays."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, D, H, W) -> (B, C', D, H // 2, W // 2)."""
        x = super().forward(x)
        # Slice by slice: avg_pool3d has no half precision on the CPU, and with channels innermost this copies nothing.
        slices = x.transpose(1, 2).flatten(0, 1)
        pooled: Tensor = F.avg_pool2d(slices, 2)
        return pooled.reshape(len(x), -1, *pooled.shape[1:]).transpose(1, 2)


class Up3d(ConvNorm3d):
    """Nearest-neighbour doubling of height and width, then ConvNorm3d."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, D, H, W) -> (B, C', D, 2 H, 2 W)."""
        return super().forward(F.interpolate(x, scale_factor=(1, 2, 2)))


class ResidualBlock3d(nn.Module):
    """Pre-activation residual block: norm, ReLU, convolution, twice."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.conv1 = layout.conv3d("conv1", padding=1)
        self.conv2 = layout.conv3d("conv2", padding=1)
        self.norm1 = layout.norm3d("norm1")
        self.norm2: nn.Module = layout.norm3d("norm2")

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, D, H, W) -> the same shape."""
        y = self.conv1(F.relu(self.norm1(x)))
        result: Tensor = x + self.conv2(F.relu(self.norm2(y)))
        return result


class _Encoder(nn.Module):
    def __init__(self, layout: Layout) -> None:
        super().__init__()
        n_levels = layout.count("down_blocks.{}")
        self.down_blocks = nn.ModuleList(Down3d(layout / f"down_blocks.{i}") for i in range(n_levels))

    def forward(self, x: Tensor) -> list[Tensor]:
        """The input and the result of every level."""
        levels = [x]
        for down in self.down_blocks:
            levels.append(down(levels[-1]))
        return levels


class _Decoder(ConvNorm3d):
    """Doubles height and width level by level, each time joined by the encoder's; then one more convolution."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        n_levels = layout.count("up_blocks.{}")
        self.up_blocks = nn.ModuleList(Up3d(layout / f"up_blocks.{i}") for i in range(n_levels))

    def join(self, levels: list[Tensor]) -> Tensor:
        """The encoder's levels, largest first -> the decoded volume (B, C', D, H, W)."""
        x = levels[-1]
        for up, skip in zip(self.up_blocks, levels[-2::-1], strict=True):
            x = torch.cat([up(x), skip], dim=1)
        return super().forward(x)


class Hourglass3d(nn.Module):
    """Encoder and decoder over height and width with a skip at every level, the last one being the input itself."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.encoder = _Encoder(layout / "encoder")
        self.decoder = _Decoder(layout / "decoder")

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, D, H, W) -> (B, C', D, H, W)."""
        return self.decoder.join(self.encoder(x))


def coordinate_grid(depth: int, height: int, width: int, *, device: torch.device | None = None) -> Tensor:
    """(D, H, W, 3) float32 grid of (x, y, z), each from -1 to 1 inclusive."""
    axes = [2 * (torch.arange(n, dtype=torch.float32, device=device) / (n - 1)) - 1 for n in (depth, height, width)]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([x, y, z], dim=-1)


def keypoint_heatmaps(keypoints: Tensor, grid: Tensor, variance: float = KEYPOINT_VARIANCE) -> Tensor:
    """A Gaussian bump for each keypoint: (B, K, 3) -> (B, K, D, H, W), exp(-|p - keypoint|^2 / (2 variance))."""
    offsets = grid - keypoints[:, :, None, None, None, :]
    return torch.exp(-0.5 * offsets.square().sum(-1) / variance)


def warp(volume: Tensor, flow: Tensor) -> Tensor:
    """Sample (B, C, D, H, W) at flow (B, D, H, W, 3), trilinear, zeros outside.

    The flow's grid reaches exactly -1 and 1 although sampling takes those as the outer edges of the cells: half a cell
    of inconsistency that the published weights were trained with.
    """
    return F.grid_sample(volume, flow, mode="bilinear", padding_mode="zeros", align_corners=False)


def fold_batch_norms(root: nn.Module) -> None:
    """Fold each batch norm that directly follows a convolution into the convolution's weights.

    In evaluation a batch norm is y * scale + offset with constants, so the result is the same up to rounding.
    """
    for module in root.modules():
        if isinstance(module, ConvNorm2d | ConvNorm3d):
            conv_name, norm_name = "conv", "norm"
        elif isinstance(module, ResidualBlock3d):
            conv_name, norm_name = "conv1", "norm2"
        else:
            continue
        conv, norm = getattr(module, conv_name), getattr(module, norm_name)
        if isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d):
            setattr(module, conv_name, nn.utils.fuse_conv_bn_eval(conv, norm))
            setattr(module, norm_name, nn.Identity())
