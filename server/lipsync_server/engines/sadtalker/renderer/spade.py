"""The SPADE decoder: a feature map (B, C, H, W) -> a picture, every normalisation modulated by that same feature map.

SPADE (https://arxiv.org/abs/1903.07291) normalises each channel of x over the picture. That removes part of the
layout, which is restored with a scale and an offset that differ from place to place:

    h   = relu(conv(feature, resized to x))
    out = (x - mean) / std * (1 + conv_gamma(h)) + conv_beta(h)

Two forms compute the same. As loaded, every modulation is its own chain of convolutions. After `fuse` the chains'
first convolutions run as one per resolution, on a nearest-upsampled map by its distinct sub-pixel phases (25 taps
instead of 144 at four times the size), and scale and offset come from one convolution. Tensors have the dtype of the
feature map.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipsync_server.engines.sadtalker.layout import Layout

N_MIDDLE = 6


class SpadeNorm(nn.Module):
    """Instance norm whose scale and offset are convolved from `hidden`, itself convolved from the feature map."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.mlp_shared = nn.Sequential(layout.conv("mlp_shared.0", padding=1))
        self.mlp_gamma: nn.Conv2d | None = layout.conv("mlp_gamma", padding=1)
        self.mlp_beta: nn.Conv2d | None = layout.conv("mlp_beta", padding=1)
        self.modulation: nn.Conv2d | None = None

    def hidden(self, feature: Tensor, size: tuple[int, int]) -> Tensor:
        """feature (B, C, h, w) -> hidden map (B, C', *size). size: (H, W) of the map to be normalised."""
        hidden: Tensor = F.relu(self.mlp_shared(F.interpolate(feature, size=size, mode="nearest")))
        return hidden

    def forward(self, normalized: Tensor, hidden: Tensor) -> Tensor:
        """normalized (B, C, H, W), hidden (B, C', H, W) -> (B, C, H, W)."""
        if self.modulation is not None:
            scale, offset = self.modulation(hidden).chunk(2, dim=1)
        else:
            assert self.mlp_gamma is not None and self.mlp_beta is not None
            scale, offset = 1 + self.mlp_gamma(hidden), self.mlp_beta(hidden)
        return torch.addcmul(offset, normalized, scale)

    def fuse(self) -> None:
        """Join the convolutions of scale and offset into one, with the formula's 1 added to its bias."""
        gamma, beta = self.mlp_gamma, self.mlp_beta
        assert gamma is not None and beta is not None and gamma.bias is not None and beta.bias is not None
        weight = torch.cat([gamma.weight, beta.weight])
        self.modulation = _conv(weight, torch.cat([gamma.bias + 1, beta.bias]), padding=1)
        self.mlp_gamma = self.mlp_beta = None


class SpadeBlock(nn.Module):
    """norm, leaky ReLU, convolution, twice, and a shortcut that is learned where the widths differ."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.conv_0 = layout.conv("conv_0", padding=1)
        self.conv_1 = layout.conv("conv_1", padding=1)
        self.norm_0 = SpadeNorm(layout / "norm_0")
        self.norm_1 = SpadeNorm(layout / "norm_1")
        self.conv_s: nn.Conv2d | None = None
        self.norm_s: SpadeNorm | None = None
        if layout.has("conv_s"):
            self.conv_s = layout.conv("conv_s", bias=False)
            self.norm_s = SpadeNorm(layout / "norm_s")

    def norms(self) -> list[SpadeNorm]:
        """The block's norms, in the order in which `forward` takes their hidden maps."""
        return [norm for norm in (self.norm_0, self.norm_1, self.norm_s) if norm is not None]

    def forward(self, x: Tensor, hidden: list[Tensor]) -> Tensor:
        """x (B, C, H, W) -> (B, C', H, W). hidden: one map (B, C', H, W) for each norm, in the order of `norms`."""
        normalized = instance_norm(x)
        y = self.conv_0(F.leaky_relu(self.norm_0(normalized, hidden[0]), 0.2))
        y = self.conv_1(F.leaky_relu(self.norm_1(instance_norm(y), hidden[1]), 0.2))
        if self.conv_s is not None and self.norm_s is not None:
            x = self.conv_s(self.norm_s(normalized, hidden[2]))
        result: Tensor = x + y
        return result


class SpadeDecoder(nn.Module):
    """(B, 256, S/4, S/4) -> (B, 3, S, S) in [0, 1]."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.fc = layout.conv("fc", padding=1)
        for i in range(N_MIDDLE):
            self.add_module(f"G_middle_{i}", SpadeBlock(layout / f"G_middle_{i}"))
        self.up_0 = SpadeBlock(layout / "up_0")
        self.up_1 = SpadeBlock(layout / "up_1")
        self.conv_img = layout.conv("conv_img", padding=1)
        self.stages: nn.ModuleList | None = None

    def middle(self) -> list[SpadeBlock]:
        """The blocks at the feature map's own size, in order."""
        blocks = [self.get_submodule(f"G_middle_{i}") for i in range(N_MIDDLE)]
        return [block for block in blocks if isinstance(block, SpadeBlock)]

    def fuse(self) -> None:
        """Merge the convolutions of hidden maps, scales and offsets; the state dict then has other names."""
        stages = []
        for blocks, factor in ((self.middle(), 1), ([self.up_0], 2), ([self.up_1], 4)):
            norms = [norm for block in blocks for norm in block.norms()]
            stages.append(MergedHidden(norms, factor))
            for norm in norms:
                norm.fuse()
                norm.mlp_shared = nn.Sequential()
        self.stages = nn.ModuleList(stages)

    def forward(self, feature: Tensor) -> Tensor:
        """feature (B, 256, S/4, S/4) -> (B, 3, S, S) in [0, 1]."""
        x = self.fc(feature)
        hidden = self._hidden(feature, self.middle(), 0)
        for block in self.middle():
            x = block(x, hidden[:2])
            hidden = hidden[2:]
        x = self.up_0(F.interpolate(x, scale_factor=2), self._hidden(feature, [self.up_0], 1))
        x = self.up_1(F.interpolate(x, scale_factor=2), self._hidden(feature, [self.up_1], 2))
        return torch.sigmoid(self.conv_img(F.leaky_relu(x, 0.2)))

    def _hidden(self, feature: Tensor, blocks: list[SpadeBlock], stage: int) -> list[Tensor]:
        if self.stages is not None:
            return list(self.stages[stage](feature))
        size = (feature.shape[-2] << stage, feature.shape[-1] << stage)
        return [norm.hidden(feature, size) for block in blocks for norm in block.norms()]


class MergedHidden(nn.Module):
    """The hidden maps of several norms at `factor` times the feature's size, as one convolution.

    On a nearest-upsampled map a 3x3 window meets at most two cells per axis, so an output pixel's place within its
    cell (first, inner, last, per axis) decides which weights add up; inner pixels of a cell are all equal.
    """

    def __init__(self, norms: list[SpadeNorm], factor: int) -> None:
        super().__init__()
        self.n_norms, self.factor = len(norms), factor
        convs = [conv for norm in norms for conv in norm.mlp_shared if isinstance(conv, nn.Conv2d)]
        weight = torch.cat([conv.weight for conv in convs])
        bias = torch.cat([conv.bias for conv in convs if conv.bias is not None])
        if factor == 1:
            self.plain = _conv(weight, bias, padding=1)
            return
        first = torch.tensor([[1.0, 0, 0], [0, 1, 1]])  # taps on the previous cell, on this one
        last = torch.tensor([[1.0, 1, 0], [0, 0, 1]])  # on this one, on the next
        inner = torch.tensor([[1.0, 1, 1]])
        ends = (first, last)
        corners = [_phase(weight, rows, columns) for rows in ends for columns in ends]
        self.corners = _conv(torch.cat(corners), bias.repeat(4))
        if factor > 2:
            self.sides = _conv(torch.cat([_phase(weight, rows, inner) for rows in ends]), bias.repeat(2))
            self.tops = _conv(torch.cat([_phase(weight, inner, columns) for columns in ends]), bias.repeat(2))
            self.centre = _conv(_phase(weight, inner, inner), bias)

    def forward(self, feature: Tensor) -> tuple[Tensor, ...]:
        """feature (B, C, h, w) -> a hidden map (B, C', h * factor, w * factor) for each norm."""
        hidden = self.plain(feature) if self.factor == 1 else self._phases(feature)
        return F.relu(hidden).chunk(self.n_norms, dim=1)

    def _phases(self, feature: Tensor) -> Tensor:
        H, W = feature.shape[-2:]
        corners = self.corners(F.pad(feature, (1, 1, 1, 1))).chunk(4, dim=1)
        # A "first" phase of cell i is output i of the padded convolution, a "last" phase output i + 1.
        rows = [[corners[2 * r + c][:, :, r : r + H, c : c + W] for c in (0, 1)] for r in (0, 1)]
        if self.factor > 2:
            sides = self.sides(F.pad(feature, (0, 0, 1, 1))).chunk(2, dim=1)
            tops = self.tops(F.pad(feature, (1, 1, 0, 0))).chunk(2, dim=1)
            for r in (0, 1):
                rows[r][1:1] = [sides[r][:, :, r : r + H]] * (self.factor - 2)
            middle = [tops[0][:, :, :, :W], *[self.centre(feature)] * (self.factor - 2), tops[1][:, :, :, 1:]]
            rows[1:1] = [middle] * (self.factor - 2)
        # Put together with channels innermost: in channels-last memory every copy is then of whole runs of channels.
        lines = [torch.stack([cell.permute(0, 2, 3, 1) for cell in row], dim=3).flatten(2, 3) for row in rows]
        return torch.stack(lines, dim=2).flatten(1, 2).permute(0, 3, 1, 2)


def instance_norm(x: Tensor) -> Tensor:
    """Bring every channel of every picture to mean 0 and variance 1: (B, C, H, W) -> the same shape and dtype.

    On a CPU this is computed as a group norm with one channel in each group. Group norm keeps channels innermost, and
    instance norm does not: with the convolution behind it, it takes a fifth of the time. Its statistics are float32,
    also for bfloat16.
    """
    return F.group_norm(x, x.shape[1]) if x.device.type == "cpu" else F.instance_norm(x)


def _phase(weight: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Sum the taps of (O, I, 3, 3) that meet the same cell: rows (a, 3), columns (b, 3) -> (O, I, a, b)."""
    return torch.einsum("oiyx,ay,bx->oiab", weight, rows.to(weight), columns.to(weight))


def _conv(weight: Tensor, bias: Tensor, padding: int = 0) -> nn.Conv2d:
    out, inputs, height, width = weight.shape
    conv = nn.Conv2d(inputs, out, (height, width), padding=padding, device="meta")
    conv.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    conv.bias = nn.Parameter(bias.contiguous(), requires_grad=False)
    return conv
