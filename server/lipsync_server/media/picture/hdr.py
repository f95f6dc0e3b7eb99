"""Converts HDR (high dynamic range) frames and stills to ordinary sRGB pictures. Phones film in HLG, cameras in PQ.

Read without conversion, such frames look grey and pale. Levels follow ITU-R BT.2408: diffuse white (a sheet of paper)
is at 203 candela per square metre and becomes almost white here; brighter highlights are compressed into the remaining
range. FFmpeg's own conversion takes 10 s to set up.
"""

from functools import cache

import av
import numpy as np
from av.video.reformatter import ColorRange, ColorTrc, VideoReformatter
from numpy.typing import NDArray

from lipsync_server.media.picture.still_coding import HdrCoding
from lipsync_server.media_types import Frames

Floats = NDArray[np.float32]

_WHITE_CD_M2 = 203.0
_HLG_PEAK_CD_M2 = 1000.0
_HLG_GAMMA = 1.2
# Levels above this share of white are compressed.
_KNEE = 0.7
_BAND_ROWS = 128
_N_LEVELS = 4096
_TRANSFERS = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)
# ITU-R BT.2087: linear BT.2020 to linear BT.709, which has the primaries of sRGB.
_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], dtype=np.float32
)
# Linear Display P3 to linear BT.709, both with the white point D65.
_P3_TO_BT709 = np.array([[1.2249, -0.2247, 0.0], [-0.0420, 1.0419, 0.0], [-0.0196, -0.0786, 1.0979]], dtype=np.float32)
_TO_BT709_FROM = {1: np.eye(3, dtype=np.float32), 11: _P3_TO_BT709, 12: _P3_TO_BT709}
_LUMA_BT2020 = np.array([0.2627, 0.6780, 0.0593], dtype=np.float32)


def is_hdr(frame: "av.VideoFrame") -> bool:
    """Whether the frame's levels follow PQ or HLG."""
    return frame.color_trc in _TRANSFERS


def tone_map(frame: "av.VideoFrame") -> Frames:
    """An HDR frame as uint8 sRGB (H, W, 3). Works in bands of rows, so that memory stays small."""
    converted = VideoReformatter().reformat(frame, format="rgb48le", dst_color_range=ColorRange.JPEG)
    stored = np.asarray(converted.to_ndarray(), dtype=np.uint16)
    is_hlg = frame.color_trc == ColorTrc.ARIB_STD_B67
    picture = np.empty(stored.shape, np.uint8)
    for top in range(0, len(stored), _BAND_ROWS):
        levels = np.right_shift(stored[top : top + _BAND_ROWS], 4, dtype=np.uint16)
        linear = _hlg_light(levels) if is_hlg else _pq_table()[levels]
        picture[top : top + _BAND_ROWS] = _to_srgb(linear)
    return picture


def tone_map_still(picture: Frames, coding: HdrCoding) -> Frames:
    """A decoded still, uint8 (H, W, 3) with HDR levels, as uint8 sRGB (H, W, 3)."""
    to_bt709 = _TO_BT709_FROM.get(coding.primaries, _TO_BT709)
    mapped = np.empty_like(picture)
    for top in range(0, len(picture), _BAND_ROWS):
        levels = ((picture[top : top + _BAND_ROWS].astype(np.uint32) * (_N_LEVELS - 1) + 127) // 255).astype(np.uint16)
        linear = _hlg_light(levels) if coding.curve == "hlg" else _pq_table()[levels]
        mapped[top : top + _BAND_ROWS] = _to_srgb(linear, to_bt709)
    return mapped


@cache
def _pq_table() -> Floats:
    """SMPTE ST 2084 (PQ): light for each of _N_LEVELS stored levels, (_N_LEVELS,); 1 is diffuse white."""
    m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
    root = np.linspace(0, 1, _N_LEVELS) ** (1 / m2)
    light = (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1) * 10_000
    return (light / _WHITE_CD_M2).astype(np.float32)


@cache
def _hlg_table() -> Floats:
    """ITU-R BT.2100 (HLG): scene light, 0 to 1, for each of _N_LEVELS stored levels, (_N_LEVELS,)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    level = np.linspace(0, 1, _N_LEVELS)
    return np.where(level <= 0.5, level**2 / 3, (np.exp((level - c) / a) + b) / 12).astype(np.float32)


def _hlg_light(levels: NDArray[np.uint16]) -> Floats:
    """Stored HLG levels (h, w, 3) to light, 1 is diffuse white.

    BT.2100's display model: light = peak * luma^(gamma - 1) * scene, with luma that of the scene's BT.2020 colours.
    """
    scene = _hlg_table()[levels]
    luma = np.maximum(scene @ _LUMA_BT2020, 1e-6)
    light: Floats = scene * (luma ** (_HLG_GAMMA - 1) * (_HLG_PEAK_CD_M2 / _WHITE_CD_M2))[..., None]
    return light


@cache
def _srgb_table() -> NDArray[np.uint8]:
    """sRGB's curve: the 8-bit level of each of _N_LEVELS steps of light from 0 to 1, (_N_LEVELS,)."""
    light = np.linspace(0, 1, _N_LEVELS)
    curve = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return (curve * 255).round().astype(np.uint8)


def _to_srgb(light: Floats, to_bt709: Floats = _TO_BT709) -> Frames:
    """Linear light (h, w, 3), 1 is diffuse white, to uint8 sRGB (h, w, 3). to_bt709: from the light's primaries.

    The strongest channel m is compressed above the knee k, and the others are scaled with it, so the hue stays:

        m -> k + (1 - k) (1 - exp(-(m - k) / (1 - k)))
    """
    linear = np.maximum(light @ to_bt709.T, 0)
    strongest = np.maximum(linear.max(axis=-1, keepdims=True), 1e-6)
    pressed = _KNEE + (1 - _KNEE) * (1 - np.exp(-(np.maximum(strongest, _KNEE) - _KNEE) / (1 - _KNEE)))
    linear *= np.where(strongest > _KNEE, pressed / strongest, 1)
    srgb: Frames = _srgb_table()[(linear * (_N_LEVELS - 1)).astype(np.uint16)]
    return srgb
