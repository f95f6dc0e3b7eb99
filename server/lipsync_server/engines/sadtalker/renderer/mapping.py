"""From 3DMM coefficients of 27 frames to the keypoints of the middle frame: MappingNet and the head's rotation.

A 3DMM (3-D morphable model, see face/reconstruction.py) describes a face by coefficients. The renderer is driven by K
keypoints instead, in a pose space that it has learned (face-vid2vid, https://arxiv.org/abs/2011.15126):

    keypoints = canonical @ R(yaw, pitch, roll)^T + shift + deltas

canonical (K, 3) belong to the source picture. The angles are expectations over 66 bins of 3 degrees each. Tensors are
float32.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipsync_server.engines.sadtalker.layout import Layout

BIN_DEGREES, FIRST_BIN_DEGREES = 3.0, -99.0
RADIANS_PER_DEGREE = 3.14 / 180  # the reference's pi


class HeadPose(NamedTuple):
    """MappingNet's output for a batch: yaw, pitch, roll (B,) in degrees, shift (B, 3), deltas (B, K, 3)."""

    yaw: Tensor
    pitch: Tensor
    roll: Tensor
    shift: Tensor
    deltas: Tensor


class MappingNet(nn.Module):
    """(B, C, 27) coefficients -> bins and vectors, through 1-D convolutions over time."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.n_coefficients = layout.shape("first.0.weight", 3)[1]
        self.n_keypoints = layout.shape("fc_exp.weight", 2)[0] // 3
        self.n_layers = layout.count("encoder{}")
        self.first = nn.Sequential(layout.conv1d("first.0"))
        for i in range(self.n_layers):
            self.add_module(f"encoder{i}", nn.Sequential(nn.LeakyReLU(0.1), layout.conv1d(f"encoder{i}.1", dilation=3)))
        for name in ("yaw", "pitch", "roll", "t", "exp"):
            self.add_module(f"fc_{name}", layout.linear(f"fc_{name}"))

    def heads(self, semantics: Tensor) -> dict[str, Tensor]:
        """The raw outputs yaw, pitch, roll (B, 66), t (B, 3), exp (B, 3 K)."""
        x: Tensor = self.first(semantics)
        for i in range(self.n_layers):
            x = self.get_submodule(f"encoder{i}")(x) + x[:, :, 3:-3]
        mean = x.mean(2)
        return {name: self.get_submodule(f"fc_{name}")(mean) for name in ("yaw", "pitch", "roll", "t", "exp")}

    def forward(self, semantics: Tensor) -> HeadPose:
        """semantics: (B, C, 27), C = 70 or 73 coefficients of 27 frames -> the middle frame's pose."""
        heads = self.heads(semantics)
        return HeadPose(
            yaw=bins_to_degrees(heads["yaw"]),
            pitch=bins_to_degrees(heads["pitch"]),
            roll=bins_to_degrees(heads["roll"]),
            shift=heads["t"],
            deltas=heads["exp"].reshape(len(semantics), -1, 3),
        )


def bins_to_degrees(bins: Tensor) -> Tensor:
    """Expected angle of a distribution over bins: (B, n) logits -> (B,) degrees."""
    index = torch.arange(bins.shape[1], dtype=bins.dtype, device=bins.device)
    return F.softmax(bins, dim=1) @ index * BIN_DEGREES + FIRST_BIN_DEGREES


def rotation(yaw: Tensor, pitch: Tensor, roll: Tensor) -> Tensor:
    """Rx(pitch) Ry(yaw) Rz(roll) of angles in degrees: three (B,) -> (B, 3, 3)."""
    yaw, pitch, roll = (angle * RADIANS_PER_DEGREE for angle in (yaw, pitch, roll))
    one, zero = torch.ones_like(yaw), torch.zeros_like(yaw)

    def matrix(*rows: Tensor) -> Tensor:
        return torch.stack(rows, dim=1).reshape(-1, 3, 3)

    around_x = matrix(one, zero, zero, zero, pitch.cos(), -pitch.sin(), zero, pitch.sin(), pitch.cos())
    around_y = matrix(yaw.cos(), zero, yaw.sin(), zero, one, zero, -yaw.sin(), zero, yaw.cos())
    around_z = matrix(roll.cos(), -roll.sin(), zero, roll.sin(), roll.cos(), zero, zero, zero, one)
    return around_x @ around_y @ around_z


def posed_keypoints(canonical: Tensor, pose: HeadPose) -> Tensor:
    """Canonical keypoints (B or 1, K, 3) rotated, shifted vertically and deformed: (B, K, 3).

    Only the vertical part of the shift is used: the reference zeroes x and z.
    """
    rotated = torch.einsum("bmp,bkp->bkm", rotation(pose.yaw, pose.pitch, pose.roll), canonical.expand_as(pose.deltas))
    vertical = pose.shift * pose.shift.new_tensor([0.0, 1.0, 0.0])
    return rotated + vertical[:, None, :] + pose.deltas
