"""A task's files as the request that an engine understands.

Knows media/. The size and length limits of uploads were checked before the task was
made; only the picture's pixels are bounded here again.
"""

import mmap
from pathlib import Path

from lipsync_server.engines.base import EngineOptions, Frames, RenderRequest, Speech
from lipsync_server.errors import InvalidInput, UnsupportedMedia
from lipsync_server.media.audio import load_speech
from lipsync_server.media.image import first_frame, load_image
from lipsync_server.media.mix import mix
from lipsync_server.workers.task import RenderTask


def decode_request(task: RenderTask, options: EngineOptions, *, max_image_pixels: int) -> tuple[RenderRequest, Path]:
    """Decode the task's files into its scratch folder; returns the request, and the sound that the video carries.

    Raises what media/ raises for files that cannot be used, and InvalidInput for a second recording that the engine
    has no use for.
    """
    picture, picture_video = _load_picture(task.image, max_image_pixels)
    speech, duration_s = load_speech(task.audio, task.scratch)
    second_speech, sound = None, task.audio
    if task.second_audio is not None:
        # Engines for two people have an option that says how their recordings follow each other.
        audio_mode = getattr(options, "audio_mode", None)
        if audio_mode is None:
            raise InvalidInput(
                f"Engine {task.engine} animates one person: leave second_audio out.", field="second_audio"
            )
        second_speech, _ = load_speech(task.second_audio, task.scratch)
        sound = task.scratch / "voices.wav"
        duration_s = mix(task.audio, task.second_audio, sound, one_after_other=audio_mode == "one_after_other")
    request = RenderRequest(
        picture=picture,
        speech=speech,
        duration_s=duration_s,
        options=options,
        prompt=task.ask.prompt,
        fps=task.fps,
        picture_video=picture_video,
        second_speech=second_speech,
    )
    return request, sound


def release_pages(speech: Speech) -> None:
    """Take the pages of a memory-mapped recording that were read out of this process; they come back when read again.

    Half an hour of speech would otherwise stay resident once it was heard.
    """
    pages: object = speech.base
    if isinstance(pages, mmap.mmap):
        pages.madvise(mmap.MADV_DONTNEED)


def _load_picture(path: Path, max_pixels: int) -> tuple[Frames, Path | None]:
    """The picture, and its path again when it is a video, of which the first frame is the picture."""
    try:
        return load_image(path, max_pixels=max_pixels), None
    except UnsupportedMedia as not_a_picture:
        try:
            return first_frame(path, max_pixels=max_pixels), path
        except UnsupportedMedia:
            raise not_a_picture from None
