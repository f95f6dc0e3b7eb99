"""A worker's input (RenderTask) and output (RenderOutcome): frozen data that crosses a pipe or a Ray cluster.

Knows no job and no HTTP: jobs/running/queue.py makes a RenderTask from a job and stores the RenderOutcome.
"""

from dataclasses import dataclass, field
from pathlib import Path

from lipsync_server.check.quality import Quality
from lipsync_server.engines.ask import Ask
from lipsync_server.engines.base import FPS


@dataclass(frozen=True)
class RenderTask:
    """One render of files on disk.

    image, audio: the uploads, already checked by media/; with ask.text the worker speaks the text into the file
    `audio`. output: the path of the MP4, which appears by a rename when it is complete. scratch: a folder of this job
    that survives a crash; it has video segments and resume points. ask: the prompt and options as the caller sent them;
    the worker converts them to the engine's options. progressive: also write the finished part as a growing file into
    `scratch`, for live viewing (progressive.py). sheet: path of the contact sheet of a checked video, None for no
    sheet. limit_s: time limit of this run in seconds, None for no limit.
    n_crashes: number of workers that died while they rendered this task.
    """

    task_id: str
    engine: str
    image: Path
    audio: Path
    output: Path
    scratch: Path
    ask: Ask = field(default_factory=Ask)
    second_audio: Path | None = None
    fps: int = FPS
    progressive: bool = False
    sheet: Path | None = None
    limit_s: float | None = None
    n_crashes: int = 0


@dataclass(frozen=True)
class ProgressEvent:
    """Progress of a running task: `done` of `total` steps of `stage`. fraction: progress of the whole task, 0 to 1."""

    stage: str
    done: float
    total: float
    fraction: float
    note: str = ""


@dataclass(frozen=True)
class Attempt:
    """One of several renders of the same task. score: of the check; None if the check has no score for it."""

    seed: int
    score: float | None


@dataclass(frozen=True)
class RenderOutcome:
    """Figures of a finished render. Seconds are wall clock; stage_s has load, preprocess, generate, encode, check.

    caption_language: the language of the captions, whose files .srt and .vtt are beside the video; "" without captions.
    quality: the result of the check, None for a video that was not checked; unchecked then says why. attempts: all
    attempts of a task that was rendered more than once or might have been; seed is the seed of the kept one. voice:
    who spoke the text of a task without a recording, "" with a recording.
    """

    width: int
    height: int
    fps: float
    n_frames: int
    duration_s: float
    size_bytes: int
    sha256: str
    seed: int
    render_s: float
    stage_s: dict[str, float]
    warnings: tuple[str, ...] = ()
    peak_rss_bytes: int = 0
    peak_gpu_bytes: int = 0
    caption_language: str = ""
    quality: Quality | None = None
    unchecked: str = ""
    attempts: tuple[Attempt, ...] = ()
    voice: str = ""
