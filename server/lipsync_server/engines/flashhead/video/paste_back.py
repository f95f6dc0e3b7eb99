"""Sets the generated square back into the whole picture, without a visible seam.

Five differences would be visible at the border of the square, and each is removed here:
  content   shoulders and hair move while the picture around stands still: near the border the square is bent so that
            its content meets the still picture's (the flow from the still square to the generated one, at full strength
            in the soft border and fading out inwards);
  limits    a head that leaves the square is bent back by at most LARGEST_BEND; frames that would need more are counted
            (`n_beyond`) for a warning to the caller;
  light     slow differences in colour along the border are spread into the square and subtracted;
  grain     the generated square is smooth, a photograph is not: grain of the picture's own strength is added. The
            grain does not move, because the picture around it does not move either;
  edge      the rest fades over a soft border. Sides that lie on the picture's own border do not fade.
Each frame depends on its own square alone, so a resumed job makes the same frames. Knows no model. Squares are float32
(n, 3, S, S) in [0, 1]; u and v are coordinates in the square, 0 to 1 from its left and upper side.
"""

import math

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lipsync_server.engines.base import Frames
from lipsync_server.engines.flashhead.video.face_crop import FaceCrop
from lipsync_server.models.pictures import fit_video

LARGEST_BEND = 0.08
"""The largest movement of content at the border, as a share of the square's side."""
# Width in pixels of the picture for the optical flow, and of the grid on which light is compared.
_FLOW_PX, _LIGHT_PX = 96, 64
# The reach of the bend and of the light's correction from the border inwards, as shares of the side.
_BEND_REACH, _LIGHT_REACH = 0.26, 0.3
# Differences in light above this are content, not light.
_LARGEST_LIGHT = 0.1
_GRAIN_SEED = 7


class PasteBack:
    """Sets squares of one picture and crop into it. `size` is the video's (width, height), both even."""

    def __init__(
        self,
        picture: Frames,
        crop: FaceCrop,
        square: Frames,
        device: torch.device,
        *,
        feather: float = 0.08,
        follow_border: bool = True,
        grain: bool = True,
    ) -> None:
        """picture: uint8 RGB (H, W, 3). square: the still crop as the model saw it, uint8 (S, S, 3).

        feather: width of the soft border as a share of the square's side.
        """
        video, scale = fit_video(picture)
        self._picture, self._device = video, device
        self.size = (video.shape[1], video.shape[0])
        self.n_beyond = 0
        self._follows = follow_border
        left, top, right, bottom = crop.box
        self._rows = slice(max(0, math.floor(top * scale[1])), min(video.shape[0], math.ceil(bottom * scale[1])))
        self._columns = slice(max(0, math.floor(left * scale[0])), min(video.shape[1], math.ceil(right * scale[0])))
        # The square's own size in the video, at which it is resampled once before it is placed.
        self._own = tuple(max(2, round(crop.side * s)) for s in (scale[1], scale[0]))
        uv = self._coordinates(crop, scale)
        u, v = (torch.from_numpy(np.ascontiguousarray(axis)).to(device) for axis in uv)
        fading = _fading_sides(crop, picture)
        self._alpha = _smooth((_depth(u, v, fading) / feather).clamp(0, 1))
        self._grid = torch.stack([u, v], dim=-1) * 2 - 1
        self._behind = _planes(video[self._rows, self._columns], device)
        self._still = _planes(square, device)
        self._still_small = _small_grey(square)
        axis = (torch.arange(_LIGHT_PX, device=device) + 0.5) / _LIGHT_PX
        depth = _depth(axis[None].expand(_LIGHT_PX, -1), axis[:, None].expand(-1, _LIGHT_PX), fading)
        self._ring = (depth < feather).float()
        self._inner_light = _smooth((1 - (depth - feather).clamp(min=0) / _LIGHT_REACH).clamp(0, 1))
        axis = (torch.arange(_FLOW_PX, device=device) + 0.5) / _FLOW_PX
        depth = _depth(axis[None].expand(_FLOW_PX, -1), axis[:, None].expand(-1, _FLOW_PX), fading)
        self._inner_bend = _smooth((1 - (depth - feather).clamp(min=0) / _BEND_REACH).clamp(0, 1))
        self._at_border = (depth < feather / 2).cpu().numpy()
        self._still_light = F.interpolate(self._still[None], size=(_LIGHT_PX, _LIGHT_PX), mode="area")[0]
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._grain: Tensor | None = _grain_like(self._behind) if grain else None

    def __call__(self, squares: Tensor) -> Frames:
        """Squares (n, 3, S, S) in [0, 1] -> frames uint8 RGB (n, height, width, 3)."""
        frames = np.repeat(self._picture[None], len(squares), axis=0)
        frames[:, self._rows, self._columns] = self._patches(squares.to(self._device, torch.float32)).cpu().numpy()
        return frames

    def _patches(self, squares: Tensor) -> Tensor:
        """The picture's part under the square with each square blended in: uint8 (n, h, w, 3)."""
        bend = self._bends(squares) if self._follows else None
        squares = squares + self._light(squares, bend)
        own = squares
        if self._own != tuple(squares.shape[2:]):
            own = F.interpolate(squares, size=self._own, mode="bicubic", antialias=True)
        grid = self._grid.expand(len(squares), -1, -1, -1)
        if bend is not None:
            grid = grid + 2 * _sample(bend, grid).permute(0, 2, 3, 1)
        patch = _sample(own, grid)
        if self._grain is not None:
            patch = patch + self._grain * (self._missing_grain(patch))
        blended = torch.lerp(self._behind.expand_as(patch), patch.clamp(0, 1), self._alpha)
        return (blended * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def _bends(self, squares: Tensor) -> Tensor:
        """Displacements (n, 2, f, f) in u and v of the content near the border, against the still picture."""
        small = F.interpolate(squares, size=(_FLOW_PX, _FLOW_PX), mode="area").mean(dim=1)
        greys = (small * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
        found = []
        for grey in greys:
            field = self._flow.calc(self._still_small, grey, np.zeros((*grey.shape, 2), np.float32))
            flow = np.asarray(cv2.GaussianBlur(field, (0, 0), _FLOW_PX / 32), np.float32) / _FLOW_PX
            length = np.linalg.norm(flow, axis=2, keepdims=True)
            self.n_beyond += bool(length[..., 0][self._at_border].max(initial=0.0) > LARGEST_BEND)
            found.append(flow * np.minimum(1, LARGEST_BEND / np.maximum(length, 1e-6)))
        flows = torch.from_numpy(np.stack(found)).to(self._device, torch.float32).permute(0, 3, 1, 2)
        return flows * self._inner_bend

    def _light(self, squares: Tensor, bend: Tensor | None) -> Tensor:
        """The correction to add to the squares so that their light at the border is the picture's: (n, 3, S, S)."""
        small = F.interpolate(squares, size=(_LIGHT_PX, _LIGHT_PX), mode="area")
        if bend is not None:
            axis = (torch.arange(_LIGHT_PX, device=self._device) + 0.5) / _LIGHT_PX * 2 - 1
            grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1).expand(len(small), -1, -1, -1)
            small = _sample(small, grid + 2 * _sample(bend, grid).permute(0, 2, 3, 1))
        difference = self._still_light - small
        # Where the content itself differs, the difference in colour is no difference in light.
        weight = self._ring * (difference.abs().amax(dim=1, keepdim=True) < _LARGEST_LIGHT)
        spread = _blur(torch.cat([difference * weight, weight], dim=1), sigma=_LIGHT_PX / 10)
        light = spread[:, :3] / spread[:, 3:].clamp(min=1e-3) * self._inner_light
        return F.interpolate(light, size=squares.shape[2:], mode="bilinear")

    def _missing_grain(self, patch: Tensor) -> Tensor:
        """Deviation (n, 1, 1, 1) of the grain that each patch lacks."""
        own, wanted = _noise_of(patch), _noise_of(self._behind[None])
        return (wanted.square() - own.square()).clamp(min=0).sqrt().view(-1, 1, 1, 1)

    def _coordinates(
        self, crop: FaceCrop, scale: tuple[float, float]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """u and v of each pixel of the video's part under the square."""
        x = (np.arange(self._columns.start, self._columns.stop) + 0.5) / scale[0] - crop.x
        y = (np.arange(self._rows.start, self._rows.stop) + 0.5) / scale[1] - crop.y
        along, down = math.cos(crop.angle), math.sin(crop.angle)
        u = (x[None] * along + y[:, None] * down) / crop.side + 0.5
        v = (-x[None] * down + y[:, None] * along) / crop.side + 0.5
        return u.astype(np.float32), v.astype(np.float32)


def _fading_sides(crop: FaceCrop, picture: Frames) -> tuple[bool, bool, bool, bool]:
    """Whether the left, upper, right and lower side fade: a side fades if the picture goes on beyond it. A turned
    square fades on all sides."""
    left, top, right, bottom = crop.box
    if crop.angle:
        return True, True, True, True
    return left > 0.5, top > 0.5, right < picture.shape[1] - 0.5, bottom < picture.shape[0] - 0.5


def _depth(u: Tensor, v: Tensor, fading: tuple[bool, bool, bool, bool]) -> Tensor:
    """The distance of each point from the nearest side that fades, as a share of the side; 1 where none fades."""
    sides = [side for side, fades in zip((u, v, 1 - u, 1 - v), fading, strict=True) if fades]
    return torch.stack(sides).amin(dim=0) if sides else torch.ones_like(u * v)


def _smooth(x: Tensor) -> Tensor:
    """Smoothstep, 3 x^2 - 2 x^3: x in [0, 1] -> [0, 1], with slope 0 at both ends."""
    return x.square() * (3 - 2 * x)


def _planes(picture: Frames, device: torch.device) -> Tensor:
    """uint8 (h, w, 3) -> float32 (3, h, w) in [0, 1]."""
    return torch.from_numpy(picture.copy()).to(device).permute(2, 0, 1).float() / 255


def _small_grey(square: Frames) -> Frames:
    """uint8 RGB (S, S, 3) -> grey uint8 of the optical flow's size, _FLOW_PX on a side."""
    small = cv2.resize(square, (_FLOW_PX, _FLOW_PX), interpolation=cv2.INTER_AREA)
    return np.asarray(small.astype(np.float32).mean(axis=2).round(), np.uint8)


def _sample(values: Tensor, grid: Tensor) -> Tensor:
    """Bilinear samples of values (n, C, h, w) at grid (n, h', w', 2) in -1 to 1, edges repeated."""
    return F.grid_sample(values, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _blur(values: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (n, C, h, w) with zeros around."""
    reach = math.ceil(2.5 * sigma)
    at = torch.arange(-reach, reach + 1, device=values.device, dtype=values.dtype)
    kernel = torch.exp(-(at**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(values.shape[1], 1, -1)
    rows = F.conv2d(values, kernel[..., None, :], padding=(0, reach), groups=values.shape[1])
    return F.conv2d(rows, kernel[..., :, None], padding=(reach, 0), groups=values.shape[1])


def _noise_of(patch: Tensor) -> Tensor:
    """The deviation of the grain of patches (n, 3, h, w): (n,).

    The median of a high-pass filter that gives 0 on slopes (Immerkaer 1996), so that edges do not count.
    """
    grey = patch.mean(dim=1, keepdim=True)
    kernel = torch.tensor([[1.0, -2, 1], [-2, 4, -2], [1, -2, 1]], device=patch.device).view(1, 1, 3, 3)
    high = F.conv2d(grey, kernel).abs().flatten(1)[:, ::4]
    return high.median(dim=1).values / (0.6745 * 6)


def _grain_like(behind: Tensor) -> Tensor:
    """Still grain (1, h, w) of deviation 1, the same for every job."""
    generator = torch.Generator().manual_seed(_GRAIN_SEED)
    return torch.randn((1, *behind.shape[1:]), generator=generator).to(behind.device)
