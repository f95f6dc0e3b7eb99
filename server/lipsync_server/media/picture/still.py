"""Reads pictures: from untrusted bytes to upright 8-bit RGB.

Runs only a closed list of Pillow's decoders, and checks the size in the header before any pixel is decoded. colour.py
converts the decoded pixels to RGB. Does not know faces or engines.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pillow_heif
from PIL import Image, ImageOps, UnidentifiedImageError

from lipsync_server.errors import InvalidImage, UnsupportedMedia
from lipsync_server.media.formats.container import STRAY_BYTES, picture_brand, sniff
from lipsync_server.media.formats.parts import Part, open_part
from lipsync_server.media.formats.recognise import N8N_ADVICE, describe, is_text
from lipsync_server.media.formats.untouched import before_decoding
from lipsync_server.media.picture.colour import to_rgb
from lipsync_server.media.picture.jpeg_scans import count_scans
from lipsync_server.media.picture.still_coding import hdr_coding
from lipsync_server.media_types import Frames

pillow_heif.register_heif_opener(thumbnails=False, decode_threads=1)


MAX_JPEG_SCANS = 100
_SEARCHED_BYTES = 4096
MIN_SIDE = 32
"""Pixels; in a smaller picture no face can be distinguished from noise."""
FORMATS = ["JPEG", "PNG", "WEBP", "AVIF", "HEIF", "GIF", "BMP"]

# Pillow's own limit warns at 89 million pixels. It is off: _check_size applies the server's limit to the header.
Image.MAX_IMAGE_PIXELS = None

_KINDS = "JPEG, PNG, WebP, AVIF, HEIC, GIF or BMP"
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
    with _decoded(path, max_pixels) as image:
        width, height = _upright(image).size
        return ImageInfo(width, height, "JPEG" if image.format == "MPO" else image.format or "")


def load_image(path: Path, *, max_pixels: int) -> Frames:
    """The picture as uint8 RGB (H, W, 3): upright, 8 bits, alpha blended onto light grey, in sRGB.

    An animation gives its first frame. Raises UnsupportedMedia for a file that is no picture, InvalidImage for a
    picture that is damaged, cut off, smaller than MIN_SIDE or larger than `max_pixels` (checked before any decoding).
    """
    with _decoded(path, max_pixels) as image:
        with _opened(path) as file:
            coding = hdr_coding(file)
        return to_rgb(_upright(image), coding)


@contextmanager
def _decoded(path: Path, max_pixels: int) -> Iterator[Image.Image]:
    """The decoded picture, its size checked first. Every exception of Pillow becomes a sentence."""
    with ExitStack() as closing:
        file = closing.enter_context(_opened(path))
        with before_decoding():
            _check_scans(file)
        file.seek(0)
        try:
            image = closing.enter_context(Image.open(file, formats=FORMATS))
        except UnidentifiedImageError:
            raise _unreadable(path) from None
        except MemoryError:
            raise
        except Exception as problem:  # Pillow's parsers raise exceptions of any class, even RuntimeError
            raise _damaged(problem) from None
        _check_size(image.width, image.height, max_pixels)
        try:
            image.load()
        except MemoryError:
            raise
        except Exception as problem:  # for the same reason
            raise _damaged(problem) from None
        yield image


def _upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF orientation says."""
    try:
        return ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, LookupError, TypeError):
        return image  # broken EXIF is no reason to refuse a good picture


def _opened(path: Path) -> BinaryIO:
    """The file, without the stray bytes that a script may have put before a picture."""
    with path.open("rb") as file:
        head = file.read(_SEARCHED_BYTES)
    picture = head.lstrip(STRAY_BYTES)
    stray = len(head) - len(picture)
    # The first bytes of HEIC and AVIF are zeros that belong to the picture.
    if not stray or not picture.startswith((*_SIGNATURES, b"RIFF")):
        return path.open("rb")
    return open_part(path, Part(stray, path.stat().st_size))


def _check_scans(file: BinaryIO) -> None:
    """Refuse a JPEG with more scans than any encoder makes."""
    if file.read(3) != b"\xff\xd8\xff":
        return
    file.seek(0)
    if count_scans(file.read(), MAX_JPEG_SCANS + 1) > MAX_JPEG_SCANS:
        raise InvalidImage(
            f"The picture is a JPEG of more than {MAX_JPEG_SCANS} scans, which no usual program writes. Export it again"
            " as JPEG or PNG."
        )


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
    """The refusal of a file that Pillow does not recognise, with the kind of the file."""
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        return InvalidImage("The picture is an empty file. Send it again.")
    for signature, name in _SIGNATURES.items():
        if head.startswith(signature):
            return InvalidImage(f"The picture is a {name} that is damaged or cut off. Send the whole file again.")
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return InvalidImage("The picture is a WebP that is damaged or cut off. Send the whole file again.")
    if (brand := picture_brand(head)) in ("AVIF", "HEIC", "HEIF"):
        return InvalidImage(f"The picture is of the kind {brand}, damaged or cut off. Send the whole file again.")
    kind = None if brand else sniff(path)
    found = f"a {kind} file" if kind else describe(path)
    advice = f"{N8N_ADVICE} " if is_text(path) else ""
    return UnsupportedMedia(f"The picture cannot be read: the file is {found}. {advice}Send {_KINDS}.")


def _damaged(problem: Exception) -> InvalidImage:
    """The refusal of a picture in whose decoding Pillow raised `problem`."""
    reason = str(problem).strip().rstrip(".")
    cut = any(
        word in reason.lower() for word in ("truncated", "unexpected end", "not enough", "end of file", "read past")
    )
    state = "cut off" if cut else "damaged or cut off"
    return InvalidImage(f"The picture is {state} ({reason or type(problem).__name__}). Send the whole file again.")
