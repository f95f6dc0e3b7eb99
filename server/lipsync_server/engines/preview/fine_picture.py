"""A part of the portrait at a multiple of its size, from which frames are sampled.

Moving a picture by parts of a pixel blurs it, unless the interpolation is cubic. Cubic interpolation would be most of
the cost of a frame. So it is done once, at 2 or 4 times the size. A frame interpolates bilinearly between these denser
samples, which is about as sharp at a third of the cost. A pixel that does not move keeps its value exactly. Knows
arrays, not faces.
"""

import cv2
import numpy as np

from lipsync_server.engines.base import Frames
from lipsync_server.engines.preview.fields import Field, resample, scaled

# A part with up to this many pixels is kept at 4 times its size, a larger one at 2 times, which is a little less sharp.
_SMALL = 400_000
_LARGE_FACTOR, _SMALL_FACTOR = 2, 4
# OpenCV's limit on the sides of a picture that remap samples.
_MOST_PX = 32_000


class FinePicture:
    """The rectangle of `picture` (uint8 RGB) that starts at (left, top), enlarged."""

    def __init__(self, picture: Frames, left: int, top: int, right: int, bottom: int) -> None:
        height, width = bottom - top, right - left
        factor = _SMALL_FACTOR if height * width <= _SMALL else _LARGE_FACTOR
        self._factor = np.float32(min(factor, max(1, _MOST_PX // max(height, width))))
        # With a fourth channel, cv2.remap uses vector instructions.
        part = cv2.cvtColor(picture[top:bottom, left:right], cv2.COLOR_RGB2RGBA)
        # Sample i of the enlarged picture lies at i / factor, so that the picture's own pixels stay among the samples.
        shrink = np.array([[1 / self._factor, 0, 0], [0, 1 / self._factor, 0]])
        size = int(self._factor * (width - 1)) + 1, int(self._factor * (height - 1)) + 1
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        fine = cv2.warpAffine(part, shrink, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
        self._pixels = np.asarray(fine, np.uint8)
        self._corner = np.array([left, top], np.float32)

    def sample(self, places: Field) -> Frames:
        """The colours at `places`, float32 (h, w, 2), pixel coordinates (x, y) of the whole picture: uint8 (h, w, 3).

        Beyond the rectangle its outermost pixels repeat.
        """
        at = scaled(places, self._corner, float(self._factor))
        colours = resample(self._pixels, at, cv2.INTER_LINEAR)
        return np.asarray(cv2.cvtColor(colours, cv2.COLOR_RGBA2RGB), np.uint8)
