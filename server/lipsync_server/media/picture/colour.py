"""Colours of a decoded picture: any Pillow mode, bit depth, colour profile and transparency to 8-bit sRGB.

The order matters. The profile describes the stored colours, so the colours are converted to sRGB first. The transparent
part is blended with the backdrop afterwards, because the backdrop is in sRGB.
"""

import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from lipsync_server.media.picture.hdr import tone_map_still
from lipsync_server.media.picture.still_coding import HdrCoding
from lipsync_server.media_types import Frames

BACKDROP = 208
"""Grey level behind a transparent picture. Light grey hides the dark and the white fringes of a cut-out; pure white or
black would show one of them."""

_SRGB_GAMMA = 2.2
_UNNOTICED_GAMMA = 0.05
_ALPHA_MODES = ("LA", "PA", "La", "RGBA", "RGBa")
_GREY_MODES = ("1", "L", "LA", "La", "I", "F")


def to_rgb(image: Image.Image, hdr: HdrCoding | None = None) -> Frames:
    """uint8 RGB (H, W, 3) in sRGB, transparency blended with BACKDROP. hdr: the levels are HDR; overrules a profile."""
    profile = image.info.get("icc_profile")
    is_grey = image.mode in _GREY_MODES or image.mode.startswith("I;16")
    alpha: Image.Image | None = None
    if image.mode.startswith("I;16"):
        colours = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        colours = Image.fromarray(_to_8_bits(np.asarray(image, dtype=np.float32)))
    elif image.mode in _ALPHA_MODES or "transparency" in image.info:
        with_alpha = image.convert("RGBA")
        alpha, colours = with_alpha.getchannel("A"), with_alpha.convert("RGB")
    else:
        colours = image
    if hdr is not None:
        colours = Image.fromarray(tone_map_still(np.asarray(colours.convert("RGB")), hdr))
    elif profile:
        colours = _to_srgb(colours, profile, is_grey=is_grey)
    elif (gamma := _other_gamma(image)) is not None:
        colours = colours.convert("RGB").point(_srgb_levels(gamma) * 3)
    colours = colours.convert("RGB")
    if alpha is not None:
        colours = Image.composite(colours, Image.new("RGB", image.size, (BACKDROP,) * 3), alpha)
    return np.ascontiguousarray(np.asarray(colours))


def _to_8_bits(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """32-bit greys (h, w) as 8 bits. Most hold 16-bit values (from PNG); the largest value shows which range it is."""
    top = float(np.nanmax(values, initial=0.0))
    scale = 255.0 if top <= 1.0 else 1.0 if top <= 255.0 else 255.0 / 65535.0
    eight_bits: NDArray[np.uint8] = np.nan_to_num(values * scale).clip(0, 255).round().astype(np.uint8)
    return eight_bits


def _to_srgb(colours: Image.Image, profile: bytes, *, is_grey: bool) -> Image.Image:
    """Apply an embedded colour profile (phones write Display P3, print shops CMYK, scanners grey).

    A broken profile, or one for another colour model than the picture's, is ignored: the picture is still usable.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        # Pillow decodes 16-bit grey with transparency to RGBA, so the mode alone does not show a grey picture.
        if space == "GRAY" and (is_grey or _is_grey_in_colours(colours)):
            colours = colours.convert("L")
        elif space == "RGB" and colours.mode != "CMYK":
            colours = colours.convert("RGB")
        elif not (space == "CMYK" and colours.mode == "CMYK"):
            return colours
        converted = ImageCms.profileToProfile(colours, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return colours
    return converted or colours


def _is_grey_in_colours(colours: Image.Image) -> bool:
    """Whether every pixel of an RGB picture is a grey."""
    if colours.mode != "RGB":
        return False
    red, green, blue = colours.split()
    return red.tobytes() == green.tobytes() == blue.tobytes()


def _other_gamma(image: Image.Image) -> float | None:
    """The exponent in a PNG's chunk gAMA, if no chunk sRGB overrules it and it is not about sRGB's own 1 / 2.2."""
    gamma = image.info.get("gamma")
    if "srgb" in image.info or not isinstance(gamma, float) or not math.isfinite(gamma) or gamma <= 0:
        return None
    return gamma if abs(gamma * _SRGB_GAMMA - 1) > _UNNOTICED_GAMMA else None


def _srgb_levels(gamma: float) -> list[int]:
    """The sRGB level, 0 to 255, of each 8-bit level that was stored with the exponent `gamma`."""
    light = np.linspace(0, 1, 256) ** (1 / gamma)
    levels = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return [int(level) for level in (levels * 255).round()]
