"""Decides whether a portrait's eyes blink, by a test with shut lids before the first frame.

People notice a blink that looks wrong at once, and hardly notice a face that never blinks. So the lids of both eyes are
drawn shut once, and the drawing is checked. The eyes stay open if no eye is open in the portrait, if the picture shows
no skin with which to paint a lid, if a part of the eye would show beside the lid, or if the landmark model still sees
an open eye. An eye that is turned away is not drawn, and only the other eye is checked.
"""

import cv2
import numpy as np

from lipsync_server.engines.landmarks import Face, FaceLandmarker
from lipsync_server.engines.preview import head
from lipsync_server.engines.preview.lid_skin import Mask
from lipsync_server.engines.preview.lids import Lid
from lipsync_server.engines.preview.mesh import FaceFrame, Floats, lid_gap
from lipsync_server.engines.preview.mouth import MouthPose
from lipsync_server.engines.preview.puppet import Pose, Puppet

# The least opening in face heights and in pixels of the picture. A smaller opening is a shut eye, or too small to draw.
_LEAST_GAP, _LEAST_GAP_PX = 0.018, 1.5
# The most variation of skin in grey levels. In a drawing with hard lines the "skin" around the eye varies by more.
_MOST_SPREAD = 60.0
# The eye has to differ from the skin by this many times the skin's own variation.
_LEAST_CONTRAST = 1.0
_LEAST_SKIN = 0.7
# Grey levels: a strand of hair is darker than the skin beside it by at least this much.
_LEAST_STRAND = 8.0
# The share of the eye's area that may show beside the shut lid. Shadows in deep sockets count as well.
_MOST_LEFT = 0.8
# Grey levels between the brightest and the darkest part of a lid.
_MOST_BANDS = 130.0
# The gap that the landmark model sees between shut lids, as a share of the open gap.
_MOST_OPEN = 0.5
_GREY = np.array([0.299, 0.587, 0.114])


def why_not(puppet: Puppet, landmarker: FaceLandmarker, face: Face) -> str | None:
    """The reason why the eyes of this portrait must stay open; None if they can blink."""
    for lid in puppet.lids.values():
        if reason := _why_not_lid(lid):
            return reason
    canvas = puppet.picture.copy()
    shut = MouthPose(open=0.0, close=1.0, spread=0.0, narrow=0.0, press=0.0)
    puppet.draw(Pose(shut, np.zeros(len(head.BASES), np.float32), (1.0, 1.0)), canvas)
    after = landmarker.refine(canvas, face.points).points
    left_open = [lid_gap(after, FaceFrame.of(after), eye) / lid.gap for eye, lid in puppet.lids.items()]
    if max(left_open) > _MOST_OPEN:
        return "the landmark model still sees an open eye behind the lid"
    return None


def _why_not_lid(lid: Lid) -> str | None:
    """The reason why this eye cannot be shut; None if it can."""
    if lid.gap < _LEAST_GAP or lid.gap_px < _LEAST_GAP_PX:
        return "the eyes are shut, or too small"
    skin = lid.skin
    if skin.spread > _MOST_SPREAD or float((skin.likeness[lid.around] > 0.5).mean()) < _LEAST_SKIN:
        return "no even skin is seen around the eye"
    away = np.abs(lid.pixels - skin.colour).max(axis=-1)
    contrast = float(np.median(away[lid.opening]))
    if contrast < _LEAST_CONTRAST * skin.spread:
        return "the eye does not differ from the skin around it"
    if _crossed(lid):
        return "hair or the rim of glasses lies in front of the eye"
    bands = np.percentile((lid.bare @ _GREY)[lid.opening], [2, 98])
    if float(np.ptp(bands)) > _MOST_BANDS:
        return "the lid would be striped"
    if _left_showing(lid, away, max(0.6 * contrast, 2 * skin.spread)) > _MOST_LEFT:
        return "a part of the eye would show beside the lid"
    return None


def _crossed(lid: Lid) -> bool:
    """Whether a dark strand crosses both the skin above the lashes and the skin below the eye.

    Folds of the skin run along the eye, and lashes end near it. So neither of them crosses the skin from top to bottom.
    """
    edges, scale = lid.edges, lid.scale
    grey = cv2.GaussianBlur((lid.pixels @ _GREY).astype(np.float32), (0, 0), 0.003 * scale)
    bar = cv2.getStructuringElement(cv2.MORPH_RECT, (2 * int(0.022 * scale) + 1, 1))
    darker = cv2.morphologyEx(grey, cv2.MORPH_BLACKHAT, bar)
    found = (darker > max(_LEAST_STRAND, 0.1 * float(np.median(grey)))).astype(np.uint8)
    # Grain breaks a thin strand into pieces.
    bridge = np.ones((2 * int(0.005 * scale) + 1, 1), np.uint8)
    strand = cv2.morphologyEx(found, cv2.MORPH_CLOSE, bridge) > 0
    brow = edges.brow + 0.008 * scale
    above = brow, np.maximum(edges.upper - 0.036 * scale, brow + 0.008 * scale)
    below = edges.lower + 0.028 * scale, edges.lower + 0.062 * scale
    return _crosses(strand, *below, edges.inside) and _crosses(strand, *above, edges.inside)


def _crosses(strand: Mask, top: Floats, bottom: Floats, inside: Floats) -> bool:
    """Whether one piece of `strand` (h, w) reaches from row `top` to row `bottom` (both (w,)) where `inside` is 1."""
    row = np.arange(len(strand))[:, None]
    _, labels = cv2.connectedComponents((strand & (row >= top) & (row <= bottom) & (inside > 0.5)).astype(np.uint8))
    high, low = labels[row <= top + 0.2 * (bottom - top)], labels[row >= bottom - 0.2 * (bottom - top)]
    return bool(len(np.setdiff1d(np.intersect1d(high, low), [0])))


def _left_showing(lid: Lid, away: Floats, threshold: float) -> float:
    """The area of the eye that still shows beside the shut lid, as a share of the opening.

    away: the distance of each pixel of the patch from skin, (h, w). A pixel counts as eye if it is further away than
    `threshold` and joined to the opening by such pixels.
    """
    _, labels = cv2.connectedComponents((away > threshold).astype(np.uint8))
    of_eye = np.isin(labels, np.setdiff1d(labels[lid.opening], [0]))
    layer = lid.layer(1.0)
    shut = lid.pixels * (1 - layer[..., 3:]) + layer[..., :3]
    still = of_eye & (np.abs(shut - lid.skin.colour).max(axis=-1) > threshold)
    edges, scale, row = lid.edges, lid.scale, np.arange(len(away))[:, None]
    near = (row > edges.upper - 0.012 * scale) & (row < edges.lower + 0.03 * scale) & (edges.inside > 0.5)
    lashes = (row > edges.shut - 0.010 * scale) & (row < edges.shut + 0.008 * scale)
    return float((still & near & ~lashes).sum() / max(1, int(lid.opening.sum())))
