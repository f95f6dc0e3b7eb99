"""The people of a video: for each the recording, the time at which it starts, and the box in the picture.

One person alone needs no box. With two recordings there are two people; with one recording and a box (or a face's
number) there is one speaker among several, and the second "person" is everyone else, with silence as sound. Knows the
request and the options; no model.
"""

from dataclasses import dataclass

import numpy as np

from lipsync_server.engines.base import Box, Frames, RenderRequest, Speech
from lipsync_server.engines.infinitetalk.options import Options
from lipsync_server.engines.infinitetalk.video.images import silent_neighbour
from lipsync_server.engines.landmarks import choose_face, landmarker
from lipsync_server.errors import InvalidInput

# From a face's box to the region of the person: shares of the face's width and height added on each side.
_BESIDE, _ABOVE, _BELOW = 0.6, 0.4, 1.8
_SILENCE: Speech = np.zeros(0, np.float32)


@dataclass(frozen=True)
class Voice:
    """One recording and the sample at which it starts."""

    speech: Speech
    offset: int = 0


@dataclass(frozen=True)
class Cast:
    """The voices of the video and the boxes of two people; boxes None with two voices means left and right half.

    among_several: one speaker was picked out of a group, which weights for one person cannot do.
    """

    voices: tuple[Voice, ...]
    boxes: tuple[Box, Box] | None = None
    among_several: bool = False

    @property
    def alone(self) -> "Cast":
        """The first voice as the only person."""
        return Cast(self.voices[:1])


def cast_of(request: RenderRequest, options: Options) -> Cast:
    """The people of this video. Raises InvalidInput for a box outside the picture, NoFace for a missing face."""
    picture = request.picture
    if request.second_speech is not None:
        later = len(request.speech) if options.audio_mode == "one_after_other" else 0
        boxes = None
        if options.people is not None:
            boxes = _checked(options.people[0], picture, "people"), _checked(options.people[1], picture, "people")
        return Cast((Voice(request.speech), Voice(request.second_speech, later)), boxes)
    speaker: Box | None = None
    other: Box | None = None
    if options.people is not None:
        speaker, other = (_checked(box, picture, "people") for box in options.people)
    elif options.face_box is not None:
        speaker = _around(_checked(options.face_box, picture, "face_box"), picture)
    elif options.face_index is not None:
        speaker = _around(choose_face(landmarker().detect(picture), face_index=options.face_index).box, picture)
    if speaker is None:
        return Cast((Voice(request.speech),))
    other = other or silent_neighbour((picture.shape[0], picture.shape[1]), speaker)
    return Cast((Voice(request.speech), Voice(_SILENCE)), (speaker, other), among_several=True)


def _checked(box: Box, picture: Frames, field: str) -> Box:
    """The box cut to the picture. Raises InvalidInput that names the option `field` if nothing of it is left."""
    height, width = picture.shape[:2]
    left, top, right, bottom = max(0.0, box[0]), max(0.0, box[1]), min(float(width), box[2]), min(float(height), box[3])
    if right - left < 1 or bottom - top < 1:
        raise InvalidInput(
            f"{field}: the box {list(box)} lies outside the picture or is empty. Give left, top, right, bottom in "
            f"pixels of the upright picture, which is {width} x {height}.",
            field=field,
        )
    return left, top, right, bottom


def _around(face: Box, picture: Frames) -> Box:
    """The region of the person whose face is at `face`."""
    height, width = picture.shape[:2]
    face_w, face_h = face[2] - face[0], face[3] - face[1]
    return (
        max(0.0, face[0] - _BESIDE * face_w),
        max(0.0, face[1] - _ABOVE * face_h),
        min(float(width), face[2] + _BESIDE * face_w),
        min(float(height), face[3] + _BELOW * face_h),
    )
