"""Options of the stand-in engine."""

from typing import Literal

from lipsync_server.engines.base import EngineOptions
from pydantic import Field


class Options(EngineOptions):
    reads_prompt = True

    width: int = Field(default=64, ge=2, le=512)
    height: int = Field(default=48, ge=2, le=512)
    batch: int = Field(default=5, ge=1)
    save_every: int = Field(default=0, ge=0, description="A resume point after this many frames.")
    seconds_per_frame: float = 0.0
    extra_frames: int = Field(default=0, description="Makes so many frames too many, or too few.")
    grow_at: int = Field(default=0, description="Larger frames from this frame on.")
    fail_at: int = Field(default=0, description="Raises RuntimeError before this frame, on the first try only.")
    die_at: int = Field(default=0, description="Kills its own process before this frame, on the first try only.")
    every_try: bool = Field(default=False, description="Fails or dies on every try.")
    deaf: bool = Field(default=False, description="Never asks whether the job was cancelled.")
    channel: Literal["", "garbage", "no message", "closed"] = Field(
        default="", description="Spoils the connection to the server before the first frame, on the first try only."
    )
