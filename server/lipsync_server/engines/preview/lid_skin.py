"""The skin of a closed eyelid, estimated from the skin around an open eye.

A picture of an open eye shows almost nothing of the upper lid, which is folded behind the lashes. So the lid's colour
comes from the skin around the eye. A curved surface of second degree is fitted to that skin for each colour channel.
Pixels far from the surface (hair, the rim of glasses, lashes, a glint) count little. Near the border the skin's own
colour replaces the surface. The fine texture of the cheek (pores, grain, brush strokes) is added. Knows arrays, not
faces.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsync_server.engines.preview.fields import Field

Mask = NDArray[np.bool_]
_N_FITS = 6
# Grey levels, of 255: skin varies by at least this much.
_LEAST_SPREAD = 5.0
_PRIOR = 0.01


@dataclass(frozen=True)
class Skin:
    """The estimated skin of one patch.

    colour: float32 RGB (h, w, 3). likeness: float32 (h, w), 1 where the picture shows this skin, and near 0 where it
    shows something else. spread: usual distance of the picture's skin from `colour`, in grey levels.
    """

    colour: Field
    likeness: Field
    spread: float


def estimate(pixels: Field, around: Mask, reach_px: float) -> Skin:
    """Estimate the skin where `around` is false from the pixels where it is true.

    pixels: float32 RGB (h, w, 3), 0 to 255. around: (h, w), true on the skin around the eye. reach_px: distance from
    known skin within which its own colour replaces the fitted surface.
    """
    surface = _fit(pixels, around)
    distance = np.abs(pixels - surface).max(axis=-1)
    spread = max(_LEAST_SPREAD, 1.5 * float(np.median(distance[around])))
    likeness = 1 / (1 + (distance / (2 * spread)) ** 4)
    weight = np.where(around, likeness, 0).astype(np.float32)

    def soft(values: Field) -> Field:
        return np.asarray(cv2.GaussianBlur(values, (0, 0), reach_px, borderType=cv2.BORDER_REFLECT), np.float32)

    total = soft(weight)[..., None] + np.float32(_PRIOR)
    colour = surface + soft(weight[..., None] * (pixels - surface)) / total
    near = np.abs(pixels - colour).max(axis=-1)
    likeness = 1 / (1 + (near / (2.5 * spread)) ** 4)
    return Skin(np.clip(colour, 0, 255).astype(np.float32), likeness.astype(np.float32), spread)


def _fit(pixels: Field, around: Mask) -> Field:
    """A surface of second degree through the pixels of `around`, float32 (h, w, 3).

    Weighted least squares, repeated with Cauchy's weights 1 / (1 + (distance / usual distance)^2).
    """
    rows, columns = around.shape
    y, x = np.mgrid[:rows, :columns]
    y, x = 2.0 * y / rows - 1, 2.0 * x / columns - 1
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)
    known, seen = terms[around], pixels[around].astype(np.float64)
    # The darkest pixels are hair and lashes more often than skin, so the first fit uses mainly the brighter half.
    light = seen.mean(axis=-1)
    weights = (light >= np.median(light)) * 0.9 + 0.1
    for _ in range(_N_FITS):
        scaled = known * weights[:, None]
        # A small ridge keeps the surface flat where too little skin is seen.
        system = scaled.T @ known + 1e-2 * len(known) * np.diag([0, 1, 1, 3, 3, 3])
        factors = np.linalg.solve(system, scaled.T @ seen)
        away = np.abs(seen - known @ factors).max(axis=-1)
        weights = 1 / (1 + (away / max(_LEAST_SPREAD, 1.5 * float(np.median(away)))) ** 2)
    low, high = np.quantile(seen, [0.1, 0.97], axis=0)
    return np.asarray(np.clip(terms @ factors, low, high), np.float32)


def texture(pixels: Field, sigma_px: float) -> Field:
    """The fine texture of skin: `pixels` minus their blur, with the largest values clipped. float32 (h, w, 3)."""
    fine = pixels - cv2.GaussianBlur(pixels, (0, 0), sigma_px, borderType=cv2.BORDER_REFLECT)
    limit = 3.0 * float(np.median(np.abs(fine))) + 0.5
    return np.asarray(np.clip(fine, -limit, limit), np.float32)
