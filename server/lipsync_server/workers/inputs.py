"""A task's files and plain values as the request that an engine understands.

Knows media/ and the engine's options model. The size and length limits of uploads were checked before the task was
made; only the picture's pixels are bounded here again.
"""

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from lipsync_server.engines.base import EngineOptions, Frames, RenderRequest
from lipsync_server.errors import InvalidInput, UnsupportedMedia
from lipsync_server.media.audio import load_speech
from lipsync_server.media.image import first_frame, load_image
from lipsync_server.workers.task import RenderTask


def parse_options(model: type[EngineOptions], values: Mapping[str, object], engine: str) -> EngineOptions:
    """`values` as the engine's options; raises InvalidInput that names the field and what is wrong with it."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"]) or "options"
        if first["type"] == "extra_forbidden":
            detail = f"Engine {engine} has no option {name!r}; it has: {', '.join(model.model_fields)}."
        else:
            detail = f"Option {name} of engine {engine}: {first['msg']}."
        raise InvalidInput(detail, field=name) from error


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
            return first_frame(path), path
        except UnsupportedMedia:
            raise not_a_picture from None
