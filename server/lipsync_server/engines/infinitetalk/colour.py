"""Colour correction: give every frame the colour statistics of the picture, in CIE Lab, on the device.

Long videos are made window after window, and colours drift a little in each. The reference corrects every frame with
scikit-image on the CPU; the same arithmetic in torch (sRGB, D65, 2 degree observer) runs on all frames at once.
"""

import torch
from torch import Tensor

# scikit-image's constants: sRGB primaries, the D65 white point, and the CIE break points.
_RGB_TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE = (0.95047, 1.0, 1.08883)


def match_colours(frames: Tensor, reference: Tensor, strength: float = 1.0) -> Tensor:
    """Move each frame's Lab mean and deviation to the reference's.

    frames: (3, T, H, W) in [-1, 1]; reference: (3, H', W'), the same range. strength: 0 leaves the frames as they are,
    1 moves them fully. Float32 result of the frames' shape in [-1, 1].
    """
    if strength == 0:
        return frames.float()
    source = ((frames.float() + 1) / 2).clamp(0, 1)
    lab = _to_lab(source.movedim(0, -1))
    goal = _to_lab(((reference.float() + 1) / 2).clamp(0, 1).movedim(0, -1))
    goal_mean, goal_std = goal.mean((0, 1)), goal.std((0, 1), correction=0)
    mean = lab.mean((1, 2), keepdim=True)
    std = lab.std((1, 2), correction=0, keepdim=True)
    # A channel without any variation takes the reference's mean: nothing can be scaled up from zero.
    scale = torch.where(std == 0, torch.zeros_like(std), goal_std / std)
    matched = _to_rgb((lab - mean) * scale + goal_mean).clamp(0, 1).movedim(-1, 0)
    return ((1 - strength) * source + strength * matched) * 2 - 1


def _matrix(rows: tuple[tuple[float, ...], ...], like: Tensor) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64).to(like.device, like.dtype)


def _to_lab(rgb: Tensor) -> Tensor:
    """(..., 3) RGB, nominally 0 to 1, to CIE Lab."""
    linear = torch.where(rgb > 0.04045, ((rgb.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = linear @ _matrix(_RGB_TO_XYZ, rgb).T / torch.tensor(_WHITE, device=rgb.device, dtype=rgb.dtype)
    f = torch.where(xyz > 0.008856, xyz.clamp(min=0.008856) ** (1 / 3), 7.787 * xyz + 16.0 / 116.0)
    x, y, z = f.unbind(-1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def _to_rgb(lab: Tensor) -> Tensor:
    """(..., 3) CIE Lab to RGB, not clipped above 1."""
    lightness, a, b = lab.unbind(-1)
    y = (lightness + 16) / 116
    f = torch.stack([a / 500 + y, y, (y - b / 200).clamp(min=0)], -1)
    xyz = torch.where(f > 0.2068966, f**3, (f - 16.0 / 116.0) / 7.787)
    xyz = xyz * torch.tensor(_WHITE, device=lab.device, dtype=lab.dtype)
    to_rgb = torch.linalg.inv(torch.tensor(_RGB_TO_XYZ, dtype=torch.float64)).to(lab.device, lab.dtype)
    linear = xyz @ to_rgb.T
    return torch.where(linear > 0.0031308, 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055, linear * 12.92)
