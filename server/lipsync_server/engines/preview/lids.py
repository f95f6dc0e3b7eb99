"""Blinks: an upper lid made of the skin around the eye comes down over the eye.

Only a few pixels of an open eye's lid are visible, and stretching them would turn the lashes into bands. So the lid is
painted. It has the skin from around the eye (lid_skin.py), the shading of a curved surface, and the portrait's own
upper lashes, which turn from upwards to downwards while the lid closes. The eyeball stays in place and is covered.

All work is done in a small upright picture of the eye, the patch, whose rows and columns follow the face's axes. Knows
no time. blink_check.py decides whether the eyes blink at all.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsync_server.engines.base import Frames
from lipsync_server.engines.landmarks import Points
from lipsync_server.engines.preview import lid_skin
from lipsync_server.engines.preview.fields import Field, resample, smooth_step
from lipsync_server.engines.preview.mesh import BROW_LOWER_EDGES, LOWER_LIDS, UPPER_LIDS, FaceFrame, Floats, lid_gap

# Lengths in face heights. The patch shows this much beside, above and below the eye.
_BESIDE, _ABOVE, _BELOW = 0.035, 0.075, 0.075
# The reach of the lashes above the lid's edge, and of their roots and the eye's dark rim below it.
_LASHES, _ROOTS = 0.036, 0.004
_BROW_CLEAR = 0.008
# The painted lid begins this far above the open lid's edge, near the fold.
_FOLD = 0.032
# The lower lid's rim, which the shut lid covers.
_RIM = 0.008
# The lower lid rises by this share of the opening.
_LOWER_RISE = 0.03
_CHEEK_AWAY = 0.1
# A patch has at least this many pixels in a face height, so that the lids of small faces have smooth edges.
_LEAST_PX = 400
_LEAST_WIDTH = 0.04
_N_STEPS = 48
_GREY = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Edges:
    """The eye's outline in one patch, one value for each column, in rows of the patch.

    brow: the brow's lower edge. upper, lower: the edges of the lids. top: where the painted lid begins. shut: the line
    on which the lids meet. inside: 1 between the corners of the eye, 0 beyond them, and a slope between.
    """

    brow: Floats
    upper: Floats
    lower: Floats
    top: Floats
    shut: Floats
    inside: Floats


class Lid:
    """One eye's upper lid.

    eye: 0 for the picture's left eye, 1 for its right one. gap: opening of the eye in face heights. width: of the eye
    in face heights. grid: the pixels of the picture that the lid may cover. scale: pixels of the patch in a face
    height. pixels: the patch, float32 RGB (h, w, 3). around, opening: masks (h, w) of the skin around the eye and of
    the opening between the lids.
    """

    def __init__(
        self, picture: Frames, points: Points, frame: FaceFrame, eye: int, picture_size: tuple[int, int]
    ) -> None:
        local = frame.local(points[:, :2].astype(np.float64))
        upper, lower = local[list(UPPER_LIDS[eye])], local[list(LOWER_LIDS[eye])]
        brow = local[list(BROW_LOWER_EDGES[eye])]
        brow = brow[np.argsort(brow[:, 0])]
        self.gap = lid_gap(points, frame, eye)
        self.gap_px = self.gap * frame.height
        # In a strong profile the hidden eye's points may even lie in the wrong order.
        left, right = float(upper[0, 0]), max(float(upper[-1, 0]), float(upper[0, 0]) + _LEAST_WIDTH)
        self.width = right - left
        low = np.array([left - _BESIDE, min(upper[:, 1].min(), lower[:, 1].min()) - _ABOVE])
        high = np.array([right + _BESIDE, max(upper[:, 1].max(), lower[:, 1].max()) + _BELOW])
        self.grid = frame.rectangle(low, high, picture_size, stride=1)
        self.scale = scale = max(frame.height, float(_LEAST_PX))
        self._size = max(8, int(np.ptp([low[0], high[0]]) * scale)), max(8, int((high[1] - low[1]) * scale))
        self._magnified = scale / frame.height
        # From pixels of the picture to pixels of the patch.
        axes = np.stack([frame.right, frame.down]) * (scale / frame.height)
        self._to_patch = np.column_stack([axes, -axes @ frame.origin - low * scale])
        across = low[0] + np.arange(self._size[0]) / scale
        rows = ((_smooth(across, chain) - low[1]) * scale for chain in (brow, upper, lower))
        inside = smooth_step(across, left - 0.006, left + 0.012)
        inside *= 1 - smooth_step(across, right - 0.012, right + 0.006)
        self.edges = Edges(*self._outline(*rows), inside)
        self.pixels = self._cut(picture, self._to_patch)
        self.around, self.opening = self._regions()
        self.skin = lid_skin.estimate(self.pixels, self.around, 0.02 * scale)
        cheek = self._to_patch - np.array([[0, 0, 0], [0, 0, _CHEEK_AWAY * scale]])
        grain = lid_skin.texture(self._cut(picture, cheek), 0.012 * scale)
        # The lid without lashes: float32 RGB (h, w, 3), valid between the rows `top` and `shut`.
        self.bare = np.asarray(np.clip(self._lit(self.skin.colour) + grain, 0, 255), np.float32)
        self._lashes, self._lash_colour = self._find_lashes()
        self._traces = self._find_traces()
        self._layer = lru_cache(maxsize=_N_STEPS + 1)(self._paint_layer)

    def _outline(self, brow: Floats, upper: Floats, lower: Floats) -> tuple[Floats, Floats, Floats, Floats, Floats]:
        """The rows of the brow, the upper lid, the lower lid, the painted lid's top and the shut line."""
        scale = self.scale
        lower = np.maximum(lower, upper)
        top = np.maximum(upper - _FOLD * scale, brow + _BROW_CLEAR * scale)
        return brow, upper, lower, np.minimum(top, upper - 0.008 * scale), lower - _LOWER_RISE * (lower - upper)

    def _cut(self, picture: Frames, matrix: Floats) -> Field:
        """A patch of `picture`, float32 RGB (h, w, 3). matrix: from pixels of the picture to pixels of the patch."""
        patch = cv2.warpAffine(picture, matrix, self._size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(patch, np.float32)

    def _regions(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """The skin around the eye, and the opening between the lids: two masks of the patch."""
        edges, scale = self.edges, self.scale
        row = np.arange(self._size[1], dtype=np.float64)[:, None]
        opening = (row > edges.upper) & (row < edges.lower) & (edges.inside > 0.5)
        lashes = (row > edges.upper - 0.03 * scale) & (row < edges.lower + 2 * _RIM * scale)
        around = ~lashes & (row > edges.brow + 0.004 * scale)
        return around, opening

    def _lit(self, colour: Field) -> Field:
        """`colour`, as bright as the skin below the eye.

        A shut lid faces the light as the skin below the eye does. The skin above an open eye is darker in its fold.
        """
        row = np.arange(self._size[1], dtype=np.float64)[:, None]
        below = self.around & (row > self.edges.lower) & (self.skin.likeness > 0.5)
        if below.sum() < 20:
            return colour
        light = float(np.median(self.pixels[below] @ _GREY))
        own = colour @ _GREY
        lift = np.clip(0.97 * light / np.maximum(own, 1) - 1, 0, 0.35)
        # The fold above keeps its shade, so that the lid has no border there.
        lift *= smooth_step((row - self.edges.top) / (self.edges.shut - self.edges.top), 0.0, 0.7)
        return np.asarray(colour * (1 + 0.6 * lift)[..., None], np.float32)

    def _find_lashes(self) -> tuple[Field, Field]:
        """The cover and the colour of the upper lashes.

        The cover, float32 (heights, columns), is 0 to 1 at each height above the lid's edge. Its first row is at
        -_ROOTS. The colour is float32 RGB (3,).
        """
        heights = np.arange(-_ROOTS, _LASHES, 1 / self.scale) * self.scale
        columns = np.arange(self._size[0])
        at = np.stack(np.broadcast_arrays(columns[None], self.edges.upper[None] - heights[:, None]), axis=-1)
        at = at.astype(np.float32)
        seen, skin = (resample(values, at, cv2.INTER_LINEAR) for values in (self.pixels, self.skin.colour))
        darker = skin @ _GREY - seen @ _GREY
        wanted = (heights[:, None] >= 0) & (self.edges.inside[None] > 0.5)
        dark = darker[wanted]
        chosen = wanted & (darker >= np.quantile(dark, 0.93))
        colour = seen[chosen].mean(axis=0)
        depth = max(float(darker[chosen].mean()), 12.0)
        cover = np.clip((darker - 2.0) / depth, 0, 1)
        cover *= 1 - smooth_step(heights, 0.4 * heights[-1], heights[-1])[:, None]
        return cover.astype(np.float32), np.asarray(colour, np.float32)

    def _find_traces(self) -> Field:
        """The cover of skin, float32 (h, w), 0 to 1, that hides the open eye's lashes and rim outside the lid."""
        edges, scale = self.edges, self.scale
        row = np.arange(self._size[1], dtype=np.float64)[:, None]
        columns = np.arange(self._size[0], dtype=np.float64)
        darker = (self.skin.colour - self.pixels) @ _GREY
        dark = smooth_step(darker, 0.5 * self.skin.spread, 1.5 * self.skin.spread)
        ends = np.flatnonzero(edges.inside > 0.5)[[0, -1]] / scale
        beside = np.maximum(np.maximum(ends[0] - columns / scale, columns / scale - ends[1]), 0)
        limit = edges.brow + _BROW_CLEAR * scale
        near = smooth_step(row - np.maximum(edges.upper - 0.055 * scale, limit), 0.0, 0.01 * scale)
        near = near * (1 - smooth_step(beside, 0.008, 0.03))
        # Hair that crosses the skin below the brow lies in front of the eye and stays.
        hair = np.where((row > limit) & (row < limit + 0.012 * scale), dark, 0).max(axis=0)
        hair = cv2.GaussianBlur(hair[None], (0, 0), 0.008 * scale)[0]
        return np.asarray(dark * near * (1 - hair), np.float32)

    def layer(self, closed: float) -> Field:
        """The painted lid over the patch: float32 (h, w, 4), RGB multiplied by its cover, and the cover 0 to 1."""
        return self._layer(round(closed * _N_STEPS))

    def _paint_layer(self, step: int) -> Field:
        """The painted lid, closed by step / _N_STEPS."""
        closed, edges, scale = step / _N_STEPS, self.edges, self.scale
        row = np.arange(self._size[1], dtype=np.float64)[:, None]
        edge = edges.upper + closed * (edges.shut - edges.upper)
        # The lid unrolls. The whole shut lid is compressed into the visible height.
        share = (row - edges.top) / (edge - edges.top)
        source = edges.top + share * (edges.shut - edges.top)
        columns = np.broadcast_to(np.arange(self._size[0], dtype=np.float64), source.shape)
        skin = resample(self.bare, np.stack([columns, source], axis=-1).astype(np.float32), cv2.INTER_LINEAR)
        # A lid is round: dim at the fold, bright in the middle, dim towards the lashes.
        round_off = 0.95 + 0.09 * np.sin(np.pi * np.clip(share, 0, 1)) - 0.05 * smooth_step(share, 0.8, 1.0)
        fade = smooth_step(np.full(1, closed), 0.0, 0.15)
        out = edges.inside * fade
        soft = max(0.75 * max(1.0, scale / 600), 0.8 * self._magnified)
        cover = (1 - smooth_step(row - edge, -soft, soft)) * smooth_step(row - edges.top, 0.0, 0.018 * scale)
        # The lower lid's rim disappears under the lashes of the shut eye.
        rim = smooth_step(row - edges.shut, -soft, soft) * (1 - smooth_step(row - edges.lower, 0.0, _RIM * scale))
        cover = np.clip(cover + rim * smooth_step(np.full(1, closed), 0.75, 1.0), 0, 1) * out
        cover = np.maximum(cover, self._traces * fade * (1 - smooth_step(row - edge, -soft, soft)))
        lashes = self._lashes_at(row - edge, closed) * out
        lid_shade = np.exp(-np.clip(row - edge, 0, None) / (0.006 * scale)) * (row > edge)
        lashes = np.maximum(lashes, 0.3 * lid_shade * out)
        colour = skin * (cover * round_off)[..., None]
        colour += (self._lash_colour - colour) * lashes[..., None]
        cover = cover + (1 - cover) * lashes
        colour = np.where(cover[..., None] > 0, colour, 0)
        return np.dstack([colour, cover]).astype(np.float32)

    def _lashes_at(self, below: Floats, closed: float) -> Floats:
        """The lashes' cover at a distance (pixels of the patch, (h, w)) below the lid's edge."""
        turn = 1 - 1.7 * closed
        length = max(abs(turn), 0.25) * (1 if turn > 0 else -1)
        height = -below / length
        columns = np.broadcast_to(np.arange(self._size[0], dtype=np.float64), below.shape)
        at = np.stack([columns, height + _ROOTS * self.scale], axis=-1).astype(np.float32)
        cover = resample(self._lashes, at, cv2.INTER_LINEAR, cv2.BORDER_CONSTANT)
        # Shut lids meet in a dark line, even where no lashes are seen.
        line = 0.6 * np.exp(-((below / max(0.0035 * self.scale, 1.1 * self._magnified)) ** 2))
        line *= smooth_step(np.full(1, closed), 0.3, 1.0)
        return np.maximum(cover, line)

    def paint(self, pixels: Frames, places: Field, closed: float) -> None:
        """Paint the lid, closed by `closed` (0 open, 1 shut), onto `pixels` in place.

        pixels: uint8 RGB (h, w, 3). places: float32 (h, w, 2), the pixel coordinates of `pixels` in the still portrait.
        """
        at = (places @ self._to_patch[:, :2].T + self._to_patch[:, 2]).astype(np.float32)
        layer = resample(self.layer(closed), at, cv2.INTER_LINEAR, cv2.BORDER_CONSTANT)
        pixels[...] = np.rint(np.clip(pixels * (1 - layer[..., 3:]) + layer[..., :3], 0, 255)).astype(np.uint8)


def _smooth(at: Floats, chain: Floats) -> Floats:
    """The vertical place of a chain of mesh points (n, 2) at the horizontal places `at`, with its corners rounded."""
    order = np.maximum.accumulate(chain[:, 0] + np.arange(len(chain)) * 1e-6)
    fine = np.linspace(order[0], order[-1], 65)
    line = np.interp(fine, order, chain[:, 1])
    padded = np.pad(line, 4, mode="reflect", reflect_type="odd")
    kernel = np.hanning(11)[1:-1]
    return np.asarray(np.interp(at, fine, np.convolve(padded, kernel / kernel.sum(), mode="valid")))
