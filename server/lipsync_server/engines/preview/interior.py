"""The inside of the mouth, painted between open lips: cavity, teeth and tongue, in the portrait's light and style.

Upper teeth are fixed to the skull. Lower teeth and tongue move with the jaw. A portrait with parted lips keeps its own
teeth where they are visible. Otherwise teeth are drawn with the portrait's light, and as sharp, as even and as worn as
the rest of the face (teeth.py). Each layer is painted once for a portrait as a small picture. A frame only samples and
shades the layers. Knows no movement of the lips.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsync_server.engines.base import Frames
from lipsync_server.engines.landmarks import Points
from lipsync_server.engines.preview.fields import Field, resample, smooth_step
from lipsync_server.engines.preview.mouth import Mouth
from lipsync_server.engines.preview.teeth import Light, Style

# Tooth edges across the face from the middle outwards, in face heights (a central incisor is about 8.5 mm of 185).
_UPPER_EDGES = np.array([0.0, 0.045, 0.079, 0.109, 0.132, 0.152])
_LOWER_EDGES = np.array([0.0, 0.029, 0.06, 0.091, 0.116, 0.138])
_TIP_HIDES = 0.03
"""The depth of the lowered tip below the lower teeth's edge, in face heights."""
_OWN_TEETH = np.array([0.87, 0.84, 0.78], np.float32)


class Interior:
    """Cavity, teeth and tongue of one portrait's mouth."""

    def __init__(self, picture: Frames, points: Points, mouth: Mouth) -> None:
        self._mouth = mouth
        frame = mouth.frame
        self.grid = mouth.lips
        at = frame.local(self.grid.places().astype(np.float64))
        self._picture = picture
        own = self._own_teeth(at) if mouth.parted else None
        inside = None if own is None else resample(picture, self.grid.places(), cv2.INTER_LINEAR)[own > 0.5]
        self._light = Light(picture, points, inside)
        self._style = Style.of(picture, points, frame)
        # Wear is not added to the colour of teeth that the portrait itself shows.
        self._teeth = self._light.teeth if self._light.from_picture else self._style.worn(self._light.teeth)
        # A turned head shows teeth narrower, by the cosine of the yaw, like all widths across the face.
        across = (at[..., 0] - mouth.centre) / max(0.5, float(np.cos(frame.yaw)))
        below = at[..., 1] - mouth.contact(at[..., 0])
        self._upper = self._style.soften(self._upper_teeth(across, below))
        self._lower = self._style.soften(self._lower_teeth_and_tongue(across, below))
        self._tip = self._style.soften(self._tongue_tip(across, below))
        self._own = own if own is not None and self._light.shows_teeth else None

    @property
    def dark(self) -> Field:
        """The colour of the shadow between lips: float32 (3,), RGB 0 to 255."""
        return self._light.cavity

    def paint(
        self, places: Field, below_upper: Field, below_lower: Field, jaw_px: float, narrow: float, tongue: float = 0.0
    ) -> Field:
        """Colours of the mouth's inside at places of the still portrait: float32 RGB (h, w, 3), 0 to 255.

        places: float32 (h, w, 2), pixel coordinates with the head's movement undone. below_upper, below_lower: float32
        (h, w), distance below the edge of the upper and of the lower lip in pixels, negative above the edge. jaw_px:
        drop of the jaw in pixels. narrow: roundness of the lips, 0 to 1. tongue: 1 with its tip at the upper teeth.
        """
        height = self._mouth.frame.height
        down = self._mouth.frame.down
        depth = np.minimum(below_upper, -below_lower) * np.float32(1 / (0.03 * height))
        colour = self._light.cavity * (1.7 - 1.0 * np.clip(depth, 0, 1)[..., None])
        lower = self.grid.sample(self._lower, places - (jaw_px * down).astype(np.float32))
        colour += (lower[..., :3] - colour) * lower[..., 3:]
        if tongue > 0:
            # From behind the lower teeth the tip rises to the upper teeth, which are painted over it.
            tip = self.grid.sample(
                self._tip, places - ((1 - tongue) * (jaw_px + _TIP_HIDES * height) * down).astype(np.float32)
            )
            colour += (tip[..., :3] - colour) * (tip[..., 3:] * np.float32(min(1.0, 2 * tongue)))
        if self._own is None:
            upper = self.grid.sample(self._upper, places)
            colour += (upper[..., :3] - colour) * upper[..., 3:]
        else:
            # In a smile the teeth are in the light; in a talking mouth they lie deeper and are darker.
            own = resample(self._picture, places, cv2.INTER_CUBIC) * _OWN_TEETH
            colour += (own - colour) * self.grid.sample(self._own, places)[..., None]
        # The upper lip casts a soft shadow, the lower lip a smaller one.
        shade = 0.55 + 0.45 * np.clip(below_upper * np.float32(1 / (0.02 * height)), 0, 1)
        shade *= 0.75 + 0.25 * np.clip(-below_lower * np.float32(1 / (0.012 * height)), 0, 1)
        # Rounded lips stand in front of the teeth and shade them.
        shade *= np.float32(1 - 0.45 * narrow)
        dark = 0.5 * self._light.cavity
        colour = dark + (colour - dark) * shade[..., None]
        return np.asarray(colour, np.float32)

    def _upper_teeth(self, across: NDArray[np.float64], below: NDArray[np.float64]) -> Field:
        """The upper teeth as a layer: float32 (rows, columns, 4), RGB and cover.

        across, below: float64 (rows, columns), place from the middle of the shut lips in face heights.
        """
        edge = 0.018 - 0.6 * across**2
        size = np.abs(across)
        longer, lighter = self._style.each_tooth(across, _UPPER_EDGES)
        edge = edge + longer
        notch = self._style.contrast * _notches(size, _UPPER_EDGES)
        alpha = 1 - smooth_step(below - edge + 0.005 * notch, -0.0022, 0.0022)
        # Teeth get darker towards the cheeks, where they face away from the light, and at the gums in the lip's shadow.
        shade = (1 - 0.8 * np.clip(size / 0.155, 0, 1) ** 2) * (0.72 + 0.28 * smooth_step(below, -0.05, 0.005))
        shade *= (1 - 0.2 * notch) * lighter
        alpha *= 1 - smooth_step(size, 0.12, 0.155)
        return _layer(self._teeth, shade, alpha)

    def _lower_teeth_and_tongue(self, across: NDArray[np.float64], below: NDArray[np.float64]) -> Field:
        """The lower teeth and the tongue behind them as one layer, as `_upper_teeth`."""
        size = np.abs(across)
        longer, lighter = self._style.each_tooth(across, _LOWER_EDGES)
        notch = self._style.contrast * _notches(size, _LOWER_EDGES)
        edge = -0.002 + 0.5 * across**2 - longer
        teeth = smooth_step(below - edge - 0.003 * notch, -0.0022, 0.0022) * (1 - smooth_step(size, 0.09, 0.125))
        shade = 0.68 * (1 - 0.85 * np.clip(size / 0.13, 0, 1) ** 1.5) * (1 - 0.22 * notch) * lighter
        front = _layer(self._teeth, shade, teeth)
        # The tongue lies behind the lower teeth; in an open vowel its back is seen above them, with a groove.
        round_off = (across / 0.1) ** 2 + ((below - 0.004) / 0.044) ** 2
        groove = 0.16 * np.exp(-((across / 0.012) ** 2)) * smooth_step(-below, -0.02, 0.03)
        tongue = _layer(
            self._light.tongue, 1.2 - 0.62 * np.clip(round_off, 0, 1) - groove, 1 - smooth_step(round_off, 0.3, 1.0)
        )
        alpha = front[..., 3:] + tongue[..., 3:] * (1 - front[..., 3:])
        colour = front[..., :3] * front[..., 3:] + tongue[..., :3] * tongue[..., 3:] * (1 - front[..., 3:])
        return np.concatenate([colour / np.maximum(alpha, 1e-6), alpha], axis=-1).astype(np.float32)

    def _tongue_tip(self, across: NDArray[np.float64], below: NDArray[np.float64]) -> Field:
        """The raised tip of the tongue, as `_upper_teeth`: round at the top, with the underside's shade below."""
        top = 0.006 + 4.0 * across**2
        alpha = smooth_step(below - top, -0.004, 0.004) * (1 - smooth_step(np.abs(across), 0.075, 0.1))
        shade = 1.3 - 0.5 * smooth_step(below - top, 0.0, 0.045) - 0.5 * (across / 0.09) ** 2
        return _layer(self._light.tongue, shade, alpha)

    def _own_teeth(self, at: NDArray[np.float64]) -> Field:
        """The share of the portrait's own mouth at each node, float32 (rows, columns): 1 between its parted lips."""
        mouth = self._mouth
        inset = 0.004
        upper = at[..., 1] - mouth.upper_line(at[..., 0])
        lower = mouth.lower_line(at[..., 0]) - at[..., 1]
        # Only the lower edge needs a wide soft border: at the upper edge the upper lip covers the portrait's own lip.
        return np.asarray(smooth_step(lower, inset / 2, 2 * inset) * smooth_step(upper, -inset, 0.0), np.float32)


def _notches(size: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 on the line between two teeth, 0 on a tooth."""
    nearest = np.min(np.abs(size[..., None] - edges), axis=-1)
    return np.asarray(np.exp(-((nearest / 0.0032) ** 2)))


def _layer(colour: NDArray[np.float64], shade: NDArray[np.float64], alpha: NDArray[np.float64]) -> Field:
    """A layer in one colour (3,): float32 (rows, columns, 4), shade * colour and alpha."""
    return np.concatenate([shade[..., None] * colour, alpha[..., None]], axis=-1).astype(np.float32)
