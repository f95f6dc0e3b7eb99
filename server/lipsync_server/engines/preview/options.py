"""Options of the preview engine."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from lipsync_server.engines.base import EngineOptions


class Options(EngineOptions):
    """The options of the preview engine; the defaults suit most portraits."""

    quality_note = (
        "This is preview quality: a picture warped on the CPU, good for judging timing. For a video that looks real, "
        "use a machine with an NVIDIA GPU and engine sadtalker (6 GB) or infinitetalk (24 GB); `lipsync engines` says "
        "what each one still needs here."
    )

    seed_moves_mouth = False
    moves_mouth_by_prediction = True
    effects: ClassVar[Mapping[str, str]] = {
        **EngineOptions.effects,
        "head_motion": "none on speed; a low value looks still, a high value shows the distortion of the picture",
        "mouth_opening": "none on speed",
        "blinks": "none on speed",
    }

    head_motion: float = Field(
        default=1.0, ge=0, le=2, description="Strength of the head's motion; 0 keeps the head still."
    )
    mouth_opening: float = Field(default=1.0, ge=0.3, le=1.6, description="Strength of the mouth's opening.")
    blinks: bool = Field(
        default=True, description="Whether the eyes blink. Eyes that cannot be shut convincingly stay open."
    )
