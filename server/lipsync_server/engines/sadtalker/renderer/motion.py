"""Dense motion: from keypoints of the source and of a frame to a flow field and an occlusion map.

The flow gives for every place of the frame's feature volume the place in the source's volume from which its content
comes (face-vid2vid, https://arxiv.org/abs/2011.15126). Each of K keypoints proposes a shift of the whole volume; one
more candidate, the background, proposes none. A network gives each candidate a weight at each place:

    flow(p) = sum over k of mask_k(p) * (p + source_k - driving_k)        (D, H, W, 3)

with source_k and driving_k the keypoint in both pictures, in [-1, 1]; source - driving is 0 for the background. The
mask is a softmax over k, with weights below MASK_FLOOR set to 0. The network sees the source's compressed features,
moved by each candidate, and heat maps of the keypoints. The occlusion map (H, W) in [0, 1] scales features that
the source does not show.

`prepare` computes everything that depends on the source alone, once: compressed features, heat maps, the background
candidate. Grids, softmax and flow are float32 in every precision of the convolutions.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipsync_server.engines.sadtalker.layout import Layout
from lipsync_server.engines.sadtalker.renderer.blocks import Hourglass3d, coordinate_grid, keypoint_heatmaps, warp

MASK_FLOOR = 1e-3


class MotionSource(NamedTuple):
    """Constant for one source: compressed features (1, c, D, H, W), the background candidate, keypoints, heat maps."""

    compressed: Tensor
    background: Tensor
    keypoints: Tensor
    heatmaps: Tensor
    grid: Tensor


class Motion(NamedTuple):
    """flow (B, D, H, W, 3) float32; occlusion (B, 1, H, W); mask (B, K+1, D, H, W) and the hourglass' input."""

    flow: Tensor
    occlusion: Tensor
    mask: Tensor
    hourglass_input: Tensor


class DenseMotion(nn.Module):
    """The network of the flow and the occlusion; see the module for the formula."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.hourglass = Hourglass3d(layout / "hourglass")
        self.mask = layout.conv3d("mask", padding=layout.shape("mask.weight", 5)[-1] // 2)
        self.compress = layout.conv3d("compress")
        self.norm = layout.norm3d("norm")
        self.occlusion = layout.conv("occlusion", padding=layout.shape("occlusion.weight", 4)[-1] // 2)

    def prepare(self, feature: Tensor, keypoints: Tensor) -> MotionSource:
        """feature: (1, C, D, H, W) of the source; keypoints: (1, K, 3) float32."""
        compressed = F.relu(self.norm(self.compress(feature)))
        grid = coordinate_grid(*feature.shape[2:], device=feature.device)
        background = warp(compressed.float(), grid[None].expand(len(feature), -1, -1, -1, -1))
        return MotionSource(compressed, background, keypoints, keypoint_heatmaps(keypoints, grid), grid)

    def forward(self, source: MotionSource, keypoints: Tensor) -> Motion:
        """keypoints: (B, K, 3) of the frames to render."""
        B, K, _ = keypoints.shape
        D, H, W, _ = source.grid.shape
        shifts = (source.keypoints - keypoints)[:, :, None, None, None, :]
        candidates = source.grid + shifts
        volume = source.compressed.float()[:, None].expand(B, K, -1, -1, -1, -1).flatten(0, 1)
        moved = warp(volume, candidates.flatten(0, 1)).reshape(B, K, -1, D, H, W)
        moved = torch.cat([source.background[:, None].expand(B, 1, -1, -1, -1, -1), moved], dim=1)
        heatmaps = keypoint_heatmaps(keypoints, source.grid) - source.heatmaps
        heatmaps = torch.cat([torch.zeros_like(heatmaps[:, :1]), heatmaps], dim=1)
        stacked = torch.cat([heatmaps[:, :, None], moved], dim=2).flatten(1, 2)

        stacked = stacked.to(self.compress.weight.dtype)
        features = self.hourglass(stacked)
        mask = torch.softmax(self.mask(features).float(), dim=1)
        mask = torch.where(mask < MASK_FLOOR, 0.0, mask)  # not renormalised, as the weights were trained
        # The candidates are the grid plus a constant shift each, so their weighted sum needs no (B, K, D, H, W, 3).
        shift_sum = torch.einsum("bkdhw,bkc->bdhwc", mask[:, 1:], source.keypoints - keypoints)
        flow = source.grid * mask.sum(1)[..., None] + shift_sum
        occlusion = torch.sigmoid(self.occlusion(features.flatten(1, 2)))
        return Motion(flow, occlusion, mask, stacked)
