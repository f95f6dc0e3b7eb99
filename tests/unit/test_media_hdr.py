"""An HDR clip in the picture's place looks like the ordinary clip of the same scene (levels of ITU-R BT.2408)."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from lipsync_server.media.picture_video import first_frame

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


def test_an_ordinary_clip_of_ten_bits_is_left_as_it_is(tmp_path: Path) -> None:
    assert first_frame(clip(tmp_path / "a.mp4", 0.5, ColorTrc.BT709)).mean() == pytest.approx(127.5, abs=2)
