"""An HDR clip or still in the picture's place looks like an ordinary one of the same scene (ITU-R BT.2408)."""

import io
import struct
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pillow_heif
import pytest
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from lipsync_server.media.picture.still import load_image
from lipsync_server.media.picture.video import first_frame
from PIL import Image

PQ, HLG = ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67


def clip(path: Path, level: float, transfer: ColorTrc) -> Path:
    """A grey clip of 10 bits whose stored level is `level`, 0 to 1."""
    with av.open(str(path), "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=Fraction(25), options={"crf": "4"})
        stream.width, stream.height, stream.pix_fmt = 64, 96, "yuv420p10le"
        context = stream.codec_context
        context.color_trc, context.color_primaries = transfer, ColorPrimaries.BT2020
        context.colorspace, context.color_range = Colorspace.BT2020, ColorRange.MPEG
        planes = np.full((144, 64), 512, np.uint16)
        planes[:96] = round(64 + 876 * level)
        frame = av.VideoFrame.from_ndarray(planes, format="yuv420p10le")
        for _ in range(3):
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("transfer", "level", "darkest", "brightest"),
    [
        (HLG, 0.38, 92, 110),  # a grey card of 18 %, 26 cd/m2
        (PQ, 0.38, 92, 110),
        (HLG, 0.75, 235, 248),  # diffuse white, 203 cd/m2
        (PQ, 0.58, 235, 248),
        (HLG, 0.0, 0, 2),
        (PQ, 0.0, 0, 2),
        (HLG, 1.0, 250, 255),
        (PQ, 0.9, 250, 255),
    ],
)
def test_an_hdr_clip_has_the_brightness_of_an_ordinary_one(
    tmp_path: Path, transfer: ColorTrc, level: float, darkest: int, brightest: int
) -> None:
    pixels = first_frame(clip(tmp_path / "a.mp4", level, transfer))
    assert pixels.shape == (96, 64, 3)
    assert darkest <= pixels.mean() <= brightest
    assert np.ptp(pixels.reshape(-1, 3).mean(axis=0)) < 2


def test_an_ordinary_clip_of_ten_bits_keeps_its_brightness(tmp_path: Path) -> None:
    assert first_frame(clip(tmp_path / "a.mp4", 0.5, ColorTrc.BT709)).mean() == pytest.approx(127.5, abs=2)


def _png_with_code_points(pixels: Image.Image, primaries: int, transfer: int) -> bytes:
    file = io.BytesIO()
    pixels.save(file, "PNG")
    whole = file.getvalue()
    chunk = b"cICP" + bytes([primaries, transfer, 0, 1])
    return whole[:33] + struct.pack(">I", 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + whole[33:]


def _heic(pixels: Image.Image, primaries: int, transfer: int) -> bytes:
    file = io.BytesIO()
    pillow_heif.from_pillow(pixels).save(
        file, quality=95, save_nclx_profile=True, color_primaries=primaries, transfer_characteristics=transfer,
        matrix_coefficients=1,
    )  # fmt: skip
    return file.getvalue()


def _avif(pixels: Image.Image, primaries: int, transfer: int) -> bytes:
    file = io.BytesIO()
    pixels.save(file, "AVIF", quality=95)
    whole = file.getvalue()
    at = whole.index(b"colrnclx") + 8
    return whole[:at] + struct.pack(">HH", primaries, transfer) + whole[at + 4 :]


@pytest.mark.parametrize("write", [_png_with_code_points, _heic, _avif])
@pytest.mark.parametrize(
    ("transfer", "level", "darkest", "brightest"),
    [(18, 0.38, 90, 112), (16, 0.38, 90, 112), (18, 0.75, 233, 249), (16, 0.58, 233, 249), (16, 0.0, 0, 3)],
)
def test_an_hdr_still_has_the_brightness_of_an_ordinary_one(
    tmp_path: Path,
    write: Callable[[Image.Image, int, int], bytes],
    transfer: int,
    level: float,
    darkest: int,
    brightest: int,
) -> None:
    path = tmp_path / "still"
    path.write_bytes(write(Image.new("RGB", (64, 96), (round(255 * level),) * 3), 9, transfer))
    pixels = load_image(path, max_pixels=10**6)
    assert pixels.shape == (96, 64, 3)
    assert darkest <= pixels.mean() <= brightest


@pytest.mark.parametrize("write", [_png_with_code_points, _heic, _avif])
def test_an_ordinary_still_with_code_points_keeps_its_brightness(
    tmp_path: Path, write: Callable[[Image.Image, int, int], bytes]
) -> None:
    path = tmp_path / "still"
    path.write_bytes(write(Image.new("RGB", (64, 96), (128, 128, 128)), 1, 13))
    assert load_image(path, max_pixels=10**6).mean() == pytest.approx(128, abs=2)


def test_p3_primaries_keep_a_grey_grey_and_a_red_red(tmp_path: Path) -> None:
    path = tmp_path / "p3.png"
    path.write_bytes(_png_with_code_points(Image.new("RGB", (64, 96), (120, 60, 60)), 12, 16))
    red, green, blue = load_image(path, max_pixels=10**6).reshape(-1, 3).mean(axis=0)
    assert red > 1.5 * green
    assert abs(green - blue) < 20
