"""Colour correction: give every frame the colour statistics of the picture, in CIE Lab, on the device.

Long videos are made window after window, and colours drift a little in each. The reference corrects every frame with
scikit-image on the CPU; the same arithmetic in torch (sRGB, D65, 2 degree observer) runs on all frames at once. The
host never waits for the device here, so that it can go on to the next frames.
"""

import torch
from torch import Tensor

# scikit-image's constants: sRGB primaries, the D65 white point, and the CIE break points.
_RGB_TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE = (0.95047, 1.0, 1.08883)


class ColourMatch:
    """Moves frames' Lab mean and deviation to those of one picture, which are measured once."""

    def __init__(self, reference: Tensor, strength: float = 1.0) -> None:
        """reference: (3, H, W) in [-1, 1], on the device of the frames to come.

        strength: 0 leaves the frames as they are, 1 moves them fully.
        """
        self.strength = strength
        # Constants go to the device here: at each call they would make the host wait for it.
        to_xyz = torch.tensor(_RGB_TO_XYZ, dtype=torch.float64)
        self._to_xyz = to_xyz.to(reference.device, torch.float32)
        self._to_rgb = torch.linalg.inv(to_xyz).to(reference.device, torch.float32)
        self._white = torch.tensor(_WHITE, device=reference.device).view(3, 1, 1, 1)
        self._std, self._mean = _statistics(self._lab(_unit(reference)[:, None]))

    def __call__(self, frames: Tensor) -> Tensor:
        """frames: (3, T, H, W) in [-1, 1]. Float32 result of the same shape in [-1, 1]."""
        if self.strength == 0:
            return frames.float()
        source = _unit(frames)
        lab = self._lab(source)
        std, mean = _statistics(lab)
        # A channel without any variation takes the reference's mean: nothing can be scaled up from zero.
        scale = torch.where(std == 0, torch.zeros_like(std), self._std / std)
        matched = self._rgb((lab - mean) * scale + self._mean).clamp(0, 1)
        return ((1 - self.strength) * source + self.strength * matched) * 2 - 1

    def _lab(self, rgb: Tensor) -> Tensor:
        """(3, T, H, W) RGB, nominally 0 to 1, to CIE Lab."""
        linear = torch.where(rgb > 0.04045, ((rgb.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4, rgb / 12.92)
        xyz = _mixed(self._to_xyz, linear) / self._white
        f = torch.where(xyz > 0.008856, xyz.clamp(min=0.008856) ** (1 / 3), 7.787 * xyz + 16.0 / 116.0)
        x, y, z = f
        return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])

    def _rgb(self, lab: Tensor) -> Tensor:
        """(3, T, H, W) CIE Lab to RGB, not clipped above 1."""
        lightness, a, b = lab
        y = (lightness + 16) / 116
        f = torch.stack([a / 500 + y, y, (y - b / 200).clamp(min=0)])
        xyz = torch.where(f > 0.2068966, f**3, (f - 16.0 / 116.0) / 7.787) * self._white
        linear = _mixed(self._to_rgb, xyz)
        return torch.where(linear > 0.0031308, 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055, linear * 12.92)


def match_colours(frames: Tensor, reference: Tensor, strength: float = 1.0) -> Tensor:
    """ColourMatch of one picture for one call. frames: (3, T, H, W); reference: (3, H', W')."""
    return ColourMatch(reference, strength)(frames)


def _unit(values: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1] in float32, each channel's pixels side by side."""
    return ((values.float().contiguous() + 1) / 2).clamp(0, 1)


def _statistics(lab: Tensor) -> tuple[Tensor, Tensor]:
    """Deviation and mean (3, T, 1, 1) of each channel of each frame of lab (3, T, H, W)."""
    return torch.std_mean(lab, (2, 3), correction=0, keepdim=True)


def _mixed(matrix: Tensor, channels: Tensor) -> Tensor:
    return (matrix @ channels.flatten(1)).view_as(channels)
