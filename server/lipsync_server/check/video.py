"""Check one video file: decode its frames and its sound in processes with limits, measure them, and judge the figures.

A file that cannot be decoded raises the decoder's error. Every other fault of a video is a finding, not an error.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from lipsync_server.check.agreement import Expected, expect
from lipsync_server.check.judge import NoScore, judge
from lipsync_server.check.listen import Heard, listen
from lipsync_server.check.origin import marked_engine, moves_by_prediction
from lipsync_server.check.quality import Quality
from lipsync_server.check.sheet import write_sheet
from lipsync_server.check.watch import FPS, MAX_SIDE_PX, watch
from lipsync_server.errors import InvalidAudio, InvalidInput, UnsupportedMedia
from lipsync_server.media.sandbox.pool import DecoderPool
from lipsync_server.media.sandbox.tasks import DecodeSpeech
from lipsync_server.media.sandbox.video_frames import read_video_frames, video_duration_s
from lipsync_server.media.sound.speech import map_speech
from lipsync_server.media_types import Frames

N_PICTURES = 12


def _show_nothing(share: float) -> None:
    """Ignore the progress."""


def check_video(
    video: Path,
    scratch: Path,
    decoders: DecoderPool,
    *,
    sheet: Path | None = None,
    duration_s: float | None = None,
    expects_face: bool = False,
    no_score: NoScore | None = None,
    on_progress: Callable[[float], None] = _show_nothing,
    stop_if_cancelled: Callable[[], None] = lambda: None,
) -> Quality:
    """Check `video`.

    sheet: path of the contact sheet. duration_s: the length of the video, if known. expects_face, no_score: as in
    judge(). scratch: a folder for the decoded sound, which is removed at the end. on_progress: called with the share
    that is done.
    """
    begin = time.monotonic()
    duration_s = duration_s or video_duration_s(video)
    n_frames = max(1, round(duration_s * FPS))
    with closing(read_video_frames(video, range(n_frames), fps=FPS, max_side=MAX_SIDE_PX)) as frames:
        seen = watch(_counted(frames, n_frames, on_progress), n_frames, N_PICTURES, stop_if_cancelled)
    heard, expected = _sound(video, scratch, decoders, duration_s)
    quality = judge(seen, heard, expected, expects_face=expects_face, no_score=no_score)
    if sheet is not None:
        write_sheet(sheet, seen, expected.opening if expected else None, quality)
    return replace(quality, cost_s=round(time.monotonic() - begin, 3))


def check_file(video: Path, sheet: Path | None = None) -> Quality:
    """Check a video file, with new decoder processes. Raises LipsyncError if the file is no video."""
    if not video.is_file():
        raise InvalidInput(f"There is no file {video}.")
    if sheet is not None and sheet.suffix.lower() not in (".jpg", ".jpeg"):
        raise InvalidInput(f"The contact sheet is a JPEG: name it {sheet.with_suffix('.jpg')}.")
    decoders = DecoderPool(n_warm=1)
    try:
        with tempfile.TemporaryDirectory(prefix="lipsync-") as scratch:
            no_score: NoScore | None = "by_prediction" if moves_by_prediction(marked_engine(video)) else None
            return check_video(video, Path(scratch), decoders, sheet=sheet, no_score=no_score)
    finally:
        decoders.close()


def _counted(frames: Iterator[Frames], n_frames: int, on_progress: Callable[[float], None]) -> Iterator[Frames]:
    """The same frames. `on_progress` is called once for each second of video."""
    for i, frame in enumerate(frames):
        if i % round(FPS) == 0:
            on_progress(min(1.0, i / n_frames))
        yield frame


def _sound(
    video: Path, scratch: Path, decoders: DecoderPool, duration_s: float
) -> tuple[Heard | None, Expected | None]:
    """Figures of the sound and the expected lips; None without sound."""
    try:
        file = decoders.run(DecodeSpeech(video, scratch, max(60.0, 4 * duration_s)))
    except (InvalidAudio, UnsupportedMedia, InvalidInput):
        return None, None
    try:
        speech = map_speech(file)
        return listen(speech), expect(speech)
    finally:
        file.path.unlink(missing_ok=True)
