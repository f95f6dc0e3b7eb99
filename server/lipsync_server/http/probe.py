"""Looks at taken-in files before a job is made of them, so that a bad one is refused at once.

Knows media/, imported on first use so that the server starts without it. Every function blocks: call it in a thread.
"""

from pathlib import Path

from lipsync_server.errors import LipsyncError, UnsupportedMedia
from lipsync_server.http.sink import Taken
from lipsync_server.settings import Settings


def probe_inputs(files: dict[str, Taken], settings: Settings) -> float:
    """Check all files; returns the seconds of video they make. Raises media's errors with the field's name."""
    durations = []
    for name, taken in files.items():
        try:
            if taken.n_bytes == 0:
                raise UnsupportedMedia(f"The file in {name} is empty.")
            if name == "image":
                _probe_picture(taken.path, settings)
            else:
                durations.append(_probe_audio(taken.path, settings))
        except LipsyncError as error:
            error.field = error.field or name
            raise
    return max(durations)


def _probe_audio(path: Path, settings: Settings) -> float:
    from lipsync_server.media.audio import probe_audio

    return probe_audio(path, min_s=settings.min_audio_s, max_s=settings.max_audio_s).duration_s


def _probe_picture(path: Path, settings: Settings) -> None:
    """A picture, or a short video whose face is to be dubbed."""
    from lipsync_server.media.image import probe_image, probe_picture_video

    try:
        probe_image(path, max_pixels=settings.max_image_pixels)
    except UnsupportedMedia as not_a_picture:
        try:
            probe_picture_video(path)
        except UnsupportedMedia:
            raise not_a_picture from None
