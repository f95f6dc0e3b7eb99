"""Pictures: untrusted bytes to upright 8-bit RGB.

Knows Pillow's decoders, of which it lets a closed list run, and checks a picture's size in its header before a pixel
is decoded. Knows nothing of faces or engines.
"""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from lipsync_server.errors import InvalidImage, UnsupportedMedia
from lipsync_server.media.container import describe_unknown, sniff
from lipsync_server.media.picture_video import PictureVideoInfo, first_frame, probe_picture_video, read_video_frames
from lipsync_server.media_types import Frames

try:
    import pillow_heif
except ImportError:
    HAS_HEIF = False
else:
    pillow_heif.register_heif_opener()
    HAS_HEIF = True

__all__ = [
    "FORMATS", "MIN_SIDE", "ImageInfo", "PictureVideoInfo", "first_frame", "load_image", "probe_image",
    "probe_picture_video", "read_video_frames",
]  # fmt: skip


MIN_SIDE = 32
"""Pixels; below this no face can be told from noise."""
BACKDROP = 208
"""Grey level behind a transparent picture: a studio's light grey hides both the dark and the white fringes of a
cut-out, where pure white or black shows one of them."""
FORMATS = ["JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", *(["HEIF"] if HAS_HEIF else [])]

# Pillow's own limit warns at 89 million pixels and knows nothing of ours, which is checked from the header below.
Image.MAX_IMAGE_PIXELS = None
# Uploads arrive many at a time; two pictures of the largest size in memory at once are enough.
_decoding = threading.BoundedSemaphore(2)

_KINDS = "JPEG, PNG, WebP, AVIF" + (", HEIC" if HAS_HEIF else "") + ", GIF or BMP"
_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"GIF8": "GIF", b"BM": "BMP",
}  # fmt: skip


@dataclass(frozen=True)
class ImageInfo:
    """A picture as it will be shown: size after its EXIF orientation, and its format's name ("JPEG")."""

    width: int
    height: int
    format: str


def probe_image(path: Path, *, max_pixels: int) -> ImageInfo:
    """Check that `path` is a picture this server reads, decoding it once. Raises as load_image does."""
    with _decoding, _decoded(path, max_pixels) as image:
        width, height = _upright(image).size
        return ImageInfo(width, height, "JPEG" if image.format == "MPO" else image.format or "")


def load_image(path: Path, *, max_pixels: int) -> Frames:
    """The picture as uint8 RGB (H, W, 3): upright, 8 bits, alpha blended onto light grey, in sRGB.

    Of an animation the first frame. Raises UnsupportedMedia for what is no picture, InvalidImage for one that is
    damaged, cut off, smaller than MIN_SIDE or larger than `max_pixels` (checked before anything is decoded).
    """
    with _decoding, _decoded(path, max_pixels) as image:
        return _to_rgb(_upright(image))


@contextmanager
def _decoded(path: Path, max_pixels: int) -> Iterator[Image.Image]:
    """The decoded picture, its size checked first; words for whatever Pillow raises."""
    try:
        image = Image.open(path, formats=FORMATS)
    except UnidentifiedImageError:
        raise _unreadable(path) from None
    except (OSError, ValueError, SyntaxError, EOFError) as problem:
        raise _damaged(problem) from None
    with image:
        _check_size(image.width, image.height, max_pixels)
        try:
            image.load()
        except MemoryError:
            raise InvalidImage("The picture needs more memory than this server has. Send a smaller one.") from None
        # Pillow's parsers raise whatever they stumble over; each of these means a damaged picture.
        except (OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, ArithmeticError) as problem:
            raise _damaged(problem) from None
        yield image


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, LookupError, TypeError):
        return image  # broken EXIF is no reason to refuse a good picture


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise InvalidImage(
            f"The picture is {width} x {height} pixels ({width * height / 1e6:.1f} million); at most"
            f" {max_pixels / 1e6:.1f} million are accepted. Scale it down and send it again."
        )
    if min(width, height) < MIN_SIDE:
        raise InvalidImage(
            f"The picture is only {width} x {height} pixels; both sides must be at least {MIN_SIDE}, and a face needs"
            " about 200 to look good. Send a larger one."
        )


def _unreadable(path: Path) -> Exception:
    with path.open("rb") as file:
        head = file.read(32)
    if not head:
        return InvalidImage("The picture is an empty file. Send it again.")
    for signature, name in _SIGNATURES.items():
        if head.startswith(signature):
            return InvalidImage(f"The picture is a {name} that is damaged or cut off. Send the whole file again.")
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return InvalidImage("The picture is a WebP that is damaged or cut off. Send the whole file again.")
    if head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"):
        return InvalidImage("The picture is an AVIF that is damaged or cut off. Send the whole file again.")
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"msf1", b"hevc"):
        return UnsupportedMedia(f"HEIC pictures are not read on this server. Send {_KINDS}.")
    kind = sniff(path)
    what = f"a {kind} file" if kind else describe_unknown(path)
    return UnsupportedMedia(f"The picture cannot be read: the file is {what}. Send {_KINDS}.")


def _damaged(problem: Exception) -> InvalidImage:
    said = str(problem).strip().rstrip(".")
    cut = any(
        word in said.lower() for word in ("truncated", "unexpected end", "not enough", "end of file", "read past")
    )
    state = "cut off" if cut else "damaged or cut off"
    return InvalidImage(f"The picture is {state} ({said or type(problem).__name__}). Send the whole file again.")


def _to_rgb(image: Image.Image) -> Frames:
    if image.mode.startswith("I;16"):
        return _grey_to_rgb((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        # 32-bit greys hold 16-bit values in practice (PNG); the range that is used tells which.
        values = np.asarray(image, dtype=np.float32)
        top = float(np.nanmax(values, initial=0.0))
        scale = 255.0 if top <= 1.0 else 1.0 if top <= 255.0 else 255.0 / 65535.0
        return _grey_to_rgb(np.nan_to_num(values * scale).clip(0, 255).round().astype(np.uint8))
    if image.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        return _blend(image.convert("RGBA"))
    return np.ascontiguousarray(np.asarray(_to_srgb(image).convert("RGB")))


def _grey_to_rgb(grey: NDArray[np.uint8]) -> Frames:
    return np.repeat(grey[:, :, None], 3, axis=2)


def _blend(image: Image.Image) -> Frames:
    backdrop = Image.new("RGBA", image.size, (BACKDROP, BACKDROP, BACKDROP, 255))
    backdrop.alpha_composite(image)
    return np.ascontiguousarray(np.asarray(backdrop.convert("RGB")))


def _to_srgb(image: Image.Image) -> Image.Image:
    """Apply an embedded colour profile (phones write Display P3, print shops CMYK); without one, as it is."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "CMYK"):
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image  # a broken profile is no reason to refuse a good picture
    return converted or image
