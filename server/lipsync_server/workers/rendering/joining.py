"""Join the encoded segments with the sound, and mark the video as generated (media/mp4/marking.py)."""

from collections.abc import Callable

from lipsync_server.errors import LipsyncError
from lipsync_server.media.info import Mark, VideoInfo
from lipsync_server.media.sandbox.pool import DecoderPool
from lipsync_server.media.sandbox.tasks import JoinVideo, MarkVideo
from lipsync_server.paths import signing_folder
from lipsync_server.settings import RenderSettings


def join_and_mark(
    join: JoinVideo, engine: str, settings: RenderSettings, decoders: DecoderPool, warn: Callable[[str], None]
) -> VideoInfo:
    """Write the video of `join`, marked as generated unless LIPSYNC_MARK is off.

    A video that cannot be marked is joined again and delivered without the mark, with a warning.
    """
    video = decoders.run(join)
    mark = _mark(engine, settings, warn)
    if mark is None:
        return video
    try:
        return decoders.run(MarkVideo(join.output, mark))
    except LipsyncError as error:
        warn(f"The video could not be marked as generated: {error.detail}")
        return decoders.run(join)


def _mark(engine: str, settings: RenderSettings, warn: Callable[[str], None]) -> Mark | None:
    """The machine-readable mark of the video; None if LIPSYNC_MARK is off."""
    if not settings.mark:
        return None
    # Imported here: the import takes 50 ms, and only a finished video needs it.
    from lipsync_server.media.mp4.certificate import identity_in

    try:
        signing_file = settings.signing_file or identity_in(signing_folder(settings.data_dir))
    except OSError as error:
        warn(f"The video could not be signed as generated ({error}); its metadata still says so.")
        return Mark(engine)
    return Mark(engine, signing_file)
