"""A task's files as the request that an engine understands.

Knows media/. The size and length limits of uploads were checked before the task was
made; only the picture's pixels are bounded here again.
"""

from pathlib import Path

from lipsync_server.engines.base import EngineOptions, Frames, RenderRequest
from lipsync_server.errors import UnsupportedMedia
from lipsync_server.media.audio import load_speech
from lipsync_server.media.image import first_frame, load_image
from lipsync_server.workers.task import RenderTask


def decode_request(task: RenderTask, options: EngineOptions, *, max_image_pixels: int) -> RenderRequest:
    """Decode the task's files; speech goes to memory maps in the task's scratch folder.

    Raises what media/ raises for files that cannot be used.
    """
    picture, picture_video = _load_picture(task.image, max_image_pixels)
    speech, duration_s = load_speech(task.audio, task.scratch)
    second_speech = None
    if task.second_audio is not None:
        second_speech, _ = load_speech(task.second_audio, task.scratch)
    return RenderRequest(
        picture=picture,
        speech=speech,
        duration_s=duration_s,
        options=options,
        prompt=task.prompt,
        fps=task.fps,
        picture_video=picture_video,
        second_speech=second_speech,
    )


def _load_picture(path: Path, max_pixels: int) -> tuple[Frames, Path | None]:
    """The picture, and its path again when it is a video, of which the first frame is the picture."""
    try:
        return load_image(path, max_pixels=max_pixels), None
    except UnsupportedMedia as not_a_picture:
        try:
            return first_frame(path, max_pixels=max_pixels), path
        except UnsupportedMedia:
            raise not_a_picture from None
