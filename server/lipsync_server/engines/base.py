"""The engine interface: an engine's input (RenderRequest), its output (batches of frames) and its reports.

Knows numpy and pydantic. Does not know HTTP, jobs, the formats of files (media/ decodes them before an engine gets
arrays), or the worker that runs it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Protocol

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from lipsync_server.engines import ask
from lipsync_server.engines.ask import MAX_FACE_INDEX, MAX_SEED
from lipsync_server.engines.ask import Preset as Preset

# These names are parts of the interface, so an engine can import all of them from this module.
from lipsync_server.media_types import FPS as FPS
from lipsync_server.media_types import SPEECH_RATE_HZ as SPEECH_RATE_HZ
from lipsync_server.media_types import Frames as Frames
from lipsync_server.media_types import Speech as Speech
from lipsync_server.resume_state import State as State
from lipsync_server.settings import EngineSettings


def _spans_an_area(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """Refuse a box without an area."""
    left, top, right, bottom = box
    if right <= left or bottom <= top:
        raise ValueError("it is left, top, right, bottom: right must be more than left, and bottom more than top")
    return box


Box = Annotated[ask.Box, AfterValidator(_spans_an_area)]
"""left, top, right, bottom in pixels of the upright picture; a box without an area is refused."""


class EngineOptions(BaseModel):
    """Options that every engine understands. An engine's own options model extends this one.

    Boxes are (left, top, right, bottom) in pixels of the upright picture, after its EXIF orientation. reads_prompt:
    whether the engine uses a prompt. quality_note: a warning for every video of this engine, "" for none.
    seed_moves_mouth: whether another seed gives another movement of the mouth. If not, a second attempt after a bad
    check would be no better. moves_mouth_by_prediction: whether the mouth follows the same prediction with which the
    check compares it; such a video gets no score. effects: the effect of each option on speed and quality, for
    docs/options.md.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    reads_prompt: ClassVar[bool] = False
    quality_note: ClassVar[str] = ""
    seed_moves_mouth: ClassVar[bool] = True
    moves_mouth_by_prediction: ClassVar[bool] = False
    effects: ClassVar[Mapping[str, str]] = {
        "seed": "another take, at the same speed",
        "face_index": "none",
        "face_box": "none",
    }

    seed: int = Field(default=42, ge=0, le=MAX_SEED, description="Same seed, same inputs: same video.")
    face_index: int | None = Field(
        default=None,
        ge=0,
        le=MAX_FACE_INDEX,
        description="Number of the face, counted from the left, starting at 0. Unset: the largest face.",
    )
    face_box: Box | None = Field(default=None, description="The face to animate: left, top, right, bottom in pixels.")

    def check_here(self, settings: EngineSettings) -> None:
        """Raise InvalidInput for a value that needs a file which this server does not have.

        Called when a job is accepted and again before it is rendered. Reads names and headers; loads nothing.
        """

    def preset_values(self) -> Mapping[str, float]:
        """By option, the number that the preset gives to an option without a value, for docs/options.md."""
        return {}


@dataclass(frozen=True)
class RenderRequest:
    """One render: decoded inputs and validated options.

    picture: uint8 RGB (H, W, 3), upright, alpha already blended. If the caller gave a video, its first frame.
    speech: float32 (n_samples,), mono in [-1, 1] at 16 kHz, for the model only. May be a read-only memory map of half
        an hour, so read it in windows. The caller's own sound never passes through an engine.
    duration_s: exact length of the caller's sound in seconds. The video has `n_frames` frames, never fewer.
    picture_video: path of the video file if the caller gave a video as picture (dubbing), already checked by media/.
    second_speech: the second person's speech, in the same form, if the caller gave two recordings.
    """

    picture: Frames
    speech: Speech
    duration_s: float
    options: EngineOptions
    prompt: str = ""
    fps: int = FPS
    picture_video: Path | None = None
    second_speech: Speech | None = None

    @property
    def n_frames(self) -> int:
        """Frames of the finished video: the sound's length rounded up, so that the picture never ends first."""
        return n_frames_for(self.duration_s, self.fps)


def n_frames_for(duration_s: float, fps: int = FPS) -> int:
    """Number of frames that cover `duration_s`, at least one. A rounding error of a millionth of a frame is ignored."""
    return max(1, int(np.ceil(duration_s * fps - 1e-6)))


@dataclass(frozen=True)
class ResumePoint:
    """A place from which an interrupted render can continue.

    n_frames: count of frames that are final and stored. state: the engine's state after them.
    """

    n_frames: int
    state: State


class RenderContext(Protocol):
    """The worker's side of a render: an engine reports progress, asks for cancellation and saves state through it."""

    scratch: Path
    """A folder of this job alone; it survives a crash of the worker and is removed with the job."""
    resume_point: ResumePoint | None
    """The last resume point of an earlier, interrupted run of this job, or None.

    The first `resume_point.n_frames` frames are already stored, so the engine yields only the frames after them.
    """

    def progress(self, stage: str, done: float, total: float, note: str = "") -> None:
        """Report `done` of `total` within `stage` ("load", "preprocess", "generate", "encode").

        A report is fast, so call it often. note: a short text for people, for example "window 3 of 12, step 5 of 8".
        """

    def cancelled(self) -> bool:
        """Whether the job must stop.

        An engine asks at least once in each denoising step, and raises errors.Cancelled.
        """

    def warn(self, message: str) -> None:
        """Attach a sentence for the caller to the result (a face seen from the side, a shortened option)."""

    def save(self, state: State) -> None:
        """Make all frames yielded so far durable, together with `state`, which is copied.

        Call it between two yields. Returns at once, because the encoder's thread does the work. Only if the previous
        save is not durable yet, it waits for that save. After a crash the engine gets the newest durable state back in
        `resume_point`, with the count of frames that belong to it.
        """


Report = Callable[[str, float, float], None]
"""Shows progress: stage, done, total."""


def no_report(stage: str, done: float, total: float) -> None:
    """A Report that shows nothing."""


class Engine(Protocol):
    """A loaded model that renders one request at a time."""

    name: str

    def load(self, report: Report = ...) -> None:
        """Load all models, which may take minutes. A second call does nothing. report: shows progress."""

    def generate(self, request: RenderRequest, context: RenderContext) -> Iterator[Frames]:
        """Yield uint8 RGB batches (n, height, width, 3) at request.fps, in order, as soon as they are final.

        A yielded batch belongs to the caller. The engine must not write to it again, because an encoder reads it.
        Height and width are even and the same in every batch. The batches have request.n_frames frames in all, minus
        the frames of the resume point. Memory does not grow with the number of frames.
        """

    def close(self) -> None:
        """Free memory and devices. The engine may be loaded again."""


@dataclass(frozen=True)
class EngineInfo:
    """The description of an engine for GET /v1/engines, made without loading the engine or importing torch.

    available: False if weights or hardware are missing. reason: then the problem and the remedy. by_auto: whether
    `auto` may choose this engine; False if a person must choose it by name, for example because of a licence.
    """

    name: str
    title: str
    available: bool
    reason: str
    device: str = "cpu"
    presets: tuple[str, ...] = ()
    resolutions: tuple[str, ...] = ()
    options_schema: dict[str, object] = field(default_factory=dict)
    max_people: int = 1
    by_auto: bool = True
