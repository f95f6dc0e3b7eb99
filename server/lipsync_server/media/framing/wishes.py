"""The caller's options about the form of the finished video. Part of engines/ask.py; imports pydantic only."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

VideoFormat = Literal["original", "9:16", "1:1", "16:9", "4:5"]
Fill = Literal["blur", "plain"]
Still = Literal["poster.jpg", "preview.webp", "preview.gif"]
"""A picture made from a finished video, by the last part of its address."""
STILL_TYPES: dict[Still, str] = {
    "poster.jpg": "image/jpeg",
    "preview.webp": "image/webp",
    "preview.gif": "image/gif",
}
MIN_HEIGHT, MAX_HEIGHT = 144, 2160
MAX_LEAD_SILENCE_S = 10.0


class FormatWishes(BaseModel):
    """The options about the form. None: not given; the video then has the engine's shape and the caller's own sound."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    format: VideoFormat = Field(
        default="original",
        description="Shape of the video, width to height. The picture is cut around the head where the head fits, and "
        "otherwise widened at its sides; nothing is squeezed. original: the engine's shape.",
    )
    height: int | None = Field(
        default=None,
        ge=MIN_HEIGHT,
        le=MAX_HEIGHT,
        description="Height of the video in pixels, an even number. Unset: the engine's height.",
    )
    fill: Fill = Field(
        default="blur",
        description="Contents of the stripes beside a picture that had to be widened. blur: the picture itself, large "
        "and blurred. plain: one colour, that of the picture's border.",
    )
    lead_silence_s: float = Field(
        default=0.0,
        ge=0,
        le=MAX_LEAD_SILENCE_S,
        description="Seconds of silence before the speech, in which the person only breathes and blinks.",
    )
    loudness_lufs: float | None = Field(
        default=None,
        ge=-31,
        le=-9,
        description="Loudness of the video's sound by ITU-R BS.1770; -14 is that of YouTube, Spotify and TikTok. "
        "Unset: the recording is not changed.",
    )

    @field_validator("height")
    @classmethod
    def _is_even(cls, height: int | None) -> int | None:
        if height is not None and height % 2:
            raise ValueError(f"has to be even, because H.264 stores pixels in pairs; {height + 1} would do")
        return height

    @property
    def reshapes(self) -> bool:
        """Whether the engine's frames have another size than the video."""
        return self.format != "original" or self.height is not None
