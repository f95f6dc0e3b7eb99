"""The wanted shape of one render: its picture cut around the head before generation, its frames fitted after it."""

from collections.abc import Callable
from dataclasses import replace

from lipsync_server.engines.ask import Ask
from lipsync_server.engines.base import EngineOptions, RenderRequest
from lipsync_server.engines.landmarks import Face, choose_face, landmarker
from lipsync_server.errors import NoFace
from lipsync_server.media.framing.shape import ASPECTS, Box, Framed, border_colour, cut_around, head_box, video_size
from lipsync_server.media_types import Frames

Part = tuple[int, int, int, int]
"""Left, top, right, bottom of a part of a picture in whole pixels."""


class VideoFraming:
    """Brings one video into the shape that `ask` wants. warn: called with a sentence for the person who asked."""

    def __init__(self, ask: Ask, warn: Callable[[str], None]) -> None:
        self._ask, self._warn = ask, warn
        self._framed: Framed | None = None
        self._colour = (0, 0, 0)

    def cut(self, request: RenderRequest) -> RenderRequest:
        """The request with its picture cut to the wanted ratio, where a whole head fits into that; else as it is.

        A video in place of a picture is not cut, because its face may move; nor is a picture with boxes of two people.
        """
        if self._ask.reshapes:
            # The colour is taken from the picture and not from each frame, so that a plain background does not flicker.
            self._colour = border_colour(request.picture)
        aspect = ASPECTS.get(self._ask.format)
        if aspect is None or request.picture_video is not None or getattr(request.options, "people", None) is not None:
            return request
        height, width = request.picture.shape[:2]
        faces = landmarker().detect(request.picture, face_box=self._ask.face_box)
        try:
            chosen = choose_face(faces, face_index=self._ask.face_index, face_box=self._ask.face_box)
        except NoFace:
            return request  # the engine decides whether it can use a picture without a face
        everybody = _around([head_box(face.box) for face in faces])
        part = cut_around((width, height), everybody, aspect)
        if part is None and request.second_speech is None:
            part = cut_around((width, height), head_box(chosen.box), aspect)
        if part is None:
            return request
        left, top, right, bottom = part
        picture = request.picture[top:bottom, left:right]
        return replace(request, picture=picture, options=moved_options(request.options, faces, chosen, part))

    def fit(self, frames: Frames) -> Frames:
        """Frames of the engine -> frames of the video's size: uint8 RGB (n, H, W, 3)."""
        if not self._ask.reshapes:
            return frames
        if self._framed is None:
            height, width = frames.shape[1:3]
            size = video_size((width, height), self._ask.format, self._ask.height)
            if size[1] > 1.25 * height and size[0] > 1.25 * width:
                self._warn(
                    f"The engine made {width} x {height} pixels, and the video was enlarged to {size[0]} x {size[1]}."
                )
            self._framed = Framed(size, self._ask.fill, self._colour)
        return self._framed.fit(frames)


def moved_options(options: EngineOptions, faces: list[Face], chosen: Face, part: Part) -> EngineOptions:
    """The options for the cut picture: boxes move with it, and a number among faces that are gone becomes a box."""
    left, top, right, bottom = part
    inside = [
        face
        for face in faces
        if left <= (face.box[0] + face.box[2]) / 2 < right and top <= (face.box[1] + face.box[3]) / 2 < bottom
    ]
    if options.face_box is None and (len(inside) == len(faces) or options.face_index is None):
        return options
    if options.face_box is None and len(inside) == 1:
        return options.model_copy(update={"face_index": None})
    box = options.face_box or chosen.box
    moved = (box[0] - left, box[1] - top, box[2] - left, box[3] - top)
    return options.model_copy(update={"face_box": moved, "face_index": None})


def _around(boxes: list[Box]) -> Box:
    """The smallest box that holds all of `boxes`."""
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)
