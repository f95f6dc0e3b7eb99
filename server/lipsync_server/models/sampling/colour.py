"""Colour correction: give every frame the colour statistics of the picture, in CIE Lab, on the device.

A long video is made window after window, and each window begins with the last frames of the previous one. A small
colour error of one window is therefore in the next one too, and grows. So every frame is corrected to the picture's
statistics (Reinhard and others, Color Transfer between Images, 2001). For each of Lab's channels (lightness and two
colour axes):

    out = (frame - mean(frame)) * deviation(picture) / deviation(frame) + mean(picture)

From RGB to Lab: undo sRGB's curve, multiply by a 3 x 3 matrix to get XYZ, divide by the white point, and take the cube
root. InfiniteTalk's reference corrects every frame with scikit-image on the CPU. FlashTalk's and FlashHead's have their
own arithmetic with other constants and clamps. Both are here as a ColourSpace, in torch. A GPU corrects all frames of a
call at once, and the host never waits for it, so it can start the next frames. A CPU corrects them in small pieces.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

Matrix = tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class ColourSpace:
    """The constants of sRGB <-> CIE Lab (D65, 2 degree observer) in one reference.

    to_xyz, to_rgb: rows of the matrices; to_rgb None is the inverse of to_xyz. slope: Lab's f(q) = slope * q + 16/116
    below the break at 0.008856. clamps_source: whether RGB is clamped to [0, 1] before it is measured. clamps_xyz:
    whether XYZ over white is clamped to [1e-8, 1]. flat_below: a channel whose deviation is at most this has no
    variation to scale; flat_scale then replaces reference deviation / own deviation (None: the own deviation counts
    as 1).
    """

    to_xyz: Matrix
    to_rgb: Matrix | None
    slope: float
    clamps_source: bool
    clamps_xyz: bool
    flat_below: float
    flat_scale: float | None


SCIKIT_IMAGE = ColourSpace(
    to_xyz=((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227)),
    to_rgb=None, slope=7.787, clamps_source=True, clamps_xyz=False, flat_below=0.0, flat_scale=0.0,
)  # fmt: skip
"""InfiniteTalk's."""
FLASH = ColourSpace(
    to_xyz=((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041)),
    to_rgb=(
        (3.2404542, -1.5371385, -0.4985314), (-0.9692660, 1.8760108, 0.0415560), (0.0556434, -0.2040259, 1.0572252),
    ),
    slope=903.3 / 116, clamps_source=False, clamps_xyz=True, flat_below=1e-8, flat_scale=None,
)  # fmt: skip
"""FlashTalk's and FlashHead's."""
_WHITE = (0.95047, 1.0, 1.08883)
_BREAK = 0.008856
_OFFSET = 16.0 / 116.0
_PIXELS_AT_ONCE = 2**19
"""On a CPU, more pixels at once leave its caches: a frame of 1216 x 320 takes 41 ms alone, and 97 ms beside three."""


class ColourMatch:
    """Moves the mean and deviation of frames in Lab colours to the values of one picture, which is measured once."""

    def __init__(self, reference: Tensor, strength: float = 1.0, space: ColourSpace = SCIKIT_IMAGE) -> None:
        """reference: (3, H, W) in [-1, 1], on the device of the later frames.

        strength: 0 does not change the frames, 1 moves them fully.
        """
        self.strength, self._space = strength, space
        # Constants are copied to the device here. A copy at each call would make the host wait for the device.
        to_xyz = torch.tensor(space.to_xyz, dtype=torch.float64)
        to_rgb = torch.linalg.inv(to_xyz) if space.to_rgb is None else torch.tensor(space.to_rgb, dtype=torch.float64)
        self._to_xyz = to_xyz.to(reference.device, torch.float32)
        self._to_rgb = to_rgb.to(reference.device, torch.float32)
        self._white = torch.tensor(_WHITE, device=reference.device).view(3, 1, 1, 1)
        self._std, self._mean = _statistics(self._lab(self._unit(reference)[:, None]))

    def __call__(self, frames: Tensor) -> Tensor:
        """frames: float (3, T, H, W) in [-1, 1]. Returns float32 of the same shape in [-1, 1]."""
        if self.strength == 0:
            return frames.float()
        if frames.device.type != "cpu":
            return self._matched(frames)
        height, width = frames.shape[2:]
        pieces = frames.split(max(1, _PIXELS_AT_ONCE // (height * width)), dim=1)
        return torch.cat([self._matched(piece) for piece in pieces], dim=1)

    def _matched(self, frames: Tensor) -> Tensor:
        """The corrected frames (3, T, H, W), float32 in [-1, 1]."""
        source = self._unit(frames)
        lab = self._lab(source)
        std, mean = _statistics(lab)
        space = self._space
        replaced = self._std if space.flat_scale is None else torch.full_like(std, space.flat_scale)
        scale = torch.where(std <= space.flat_below, replaced, self._std / std)
        matched = self._rgb((lab - mean) * scale + self._mean).clamp(0, 1)
        return ((1 - self.strength) * source + self.strength * matched) * 2 - 1

    def _unit(self, values: Tensor) -> Tensor:
        """[-1, 1] -> [0, 1] in float32, with each channel contiguous in memory."""
        unit = (values.float().contiguous() + 1) / 2
        return unit.clamp(0, 1) if self._space.clamps_source else unit

    def _lab(self, rgb: Tensor) -> Tensor:
        """(3, T, H, W) RGB, nominally 0 to 1, to CIE Lab."""
        linear = torch.where(rgb > 0.04045, ((rgb.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4, rgb / 12.92)
        xyz = _mixed(self._to_xyz, linear) / self._white
        if self._space.clamps_xyz:
            xyz = xyz.clamp(1e-8, 1)
        f = torch.where(xyz > _BREAK, xyz.clamp(min=_BREAK) ** (1 / 3), self._space.slope * xyz + _OFFSET)
        x, y, z = f
        return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])

    def _rgb(self, lab: Tensor) -> Tensor:
        """(3, T, H, W) CIE Lab to RGB, not clipped above 1."""
        lightness, a, b = lab
        y = (lightness + 16) / 116
        z = y - b / 200
        if self._space.clamps_xyz:
            # One reference compares the cube with the break, the other compares f. The two breaks differ in the fifth
            # digit.
            f = torch.stack([a / 500 + y, y, z])
            xyz = torch.where(f**3 > _BREAK, f**3, (f - _OFFSET) / self._space.slope) * self._white
        else:
            f = torch.stack([a / 500 + y, y, z.clamp(min=0)])
            xyz = torch.where(f > 0.2068966, f**3, (f - _OFFSET) / self._space.slope) * self._white
        linear = _mixed(self._to_rgb, xyz)
        return torch.where(linear > 0.0031308, 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055, linear * 12.92)


def _statistics(lab: Tensor) -> tuple[Tensor, Tensor]:
    """Deviation and mean (3, T, 1, 1) of each channel of each frame of lab (3, T, H, W)."""
    return torch.std_mean(lab, (2, 3), correction=0, keepdim=True)


def _mixed(matrix: Tensor, channels: Tensor) -> Tensor:
    """The matrix (3, 3) times the three channels (3, T, H, W) of every pixel: the same shape."""
    return (matrix @ channels.flatten(1)).view_as(channels)
