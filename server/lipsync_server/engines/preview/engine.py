"""The preview engine: finds the face, prepares its puppet (puppet.py), and draws one frame after the other.

A frame depends only on the picture, the speech, the options and its own number, so an interrupted render can continue
from any frame. Knows no files and no encoder.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from lipsync_server.engines.base import Frames, RenderContext, RenderRequest, Report, no_report
from lipsync_server.engines.landmarks import Face, FaceLandmarker, choose_face, landmarker
from lipsync_server.engines.preview import blink_check
from lipsync_server.engines.preview.calibration import Calibration, calibrate
from lipsync_server.engines.preview.motion import Amounts, Motion
from lipsync_server.engines.preview.options import Options
from lipsync_server.engines.preview.puppet import Puppet
from lipsync_server.engines.preview.speech import speech_track
from lipsync_server.engines.progress import stop_if_cancelled
from lipsync_server.settings import EngineSettings

_LONG_SIDE, _SHORT_SIDE = 1920, 1080
_BATCH_BYTES = 12 * 2**20
# Frames between two saves. The encoder places a key frame there anyway, so a new segment costs nothing.
_SAVE_EVERY = 100
_STRONG_YAW = 0.6
_SMALL_FACE_PX = 60


class PreviewEngine:
    """The engine `preview`. Renders one request at a time."""

    name = "preview"

    def __init__(self) -> None:
        self._landmarker: FaceLandmarker | None = None

    def load(self, report: Report = no_report) -> None:
        if self._landmarker is None:
            report("load", 0, 1)
            self._landmarker = landmarker()
            report("load", 1, 1)

    def close(self) -> None:
        self._landmarker = None

    def generate(self, request: RenderRequest, context: RenderContext) -> Iterator[Frames]:
        """Yield the frames of `request`, uint8 RGB (n, H, W, 3). Raises NoFace, and Cancelled between batches."""
        self.load()
        assert self._landmarker is not None
        portrait = _prepare(self._landmarker, request, context)
        picture, n_frames = portrait.picture, request.n_frames
        done = context.resume_point.n_frames if context.resume_point else 0
        batch_frames = int(np.clip(_BATCH_BYTES // picture.nbytes, 1, 16))
        saved = done
        while done < n_frames:
            stop_if_cancelled(context)
            batch = np.empty((min(batch_frames, n_frames - done), *picture.shape), np.uint8)
            for i, frame in enumerate(batch):
                portrait.draw(done + i, frame)
            yield batch
            done += len(batch)
            context.progress("generate", done, n_frames)
            if done - saved >= _SAVE_EVERY and done < n_frames:
                context.save({"n_frames": done})
                saved = done


@dataclass(frozen=True)
class _Portrait:
    """A portrait that can be drawn at any frame. picture: uint8 RGB (H, W, 3) in the size of the video."""

    picture: Frames
    puppet: Puppet
    calibration: Calibration
    motion: Motion

    def draw(self, number: int, frame: Frames) -> None:
        """Draw frame `number` of the video into `frame`, uint8 RGB (H, W, 3)."""
        frame[...] = self.picture
        self.puppet.draw(self.calibration.apply(self.motion.pose(number)), frame)


def _prepare(landmarks: FaceLandmarker, request: RenderRequest, context: RenderContext) -> _Portrait:
    """Find the face, measure how far the portrait's mouth moves, and follow the speech. Raises NoFace and Cancelled."""
    options = request.options
    assert isinstance(options, Options)
    context.progress("preprocess", 0, 3, "finding the face")
    picture, scale = fit_picture(request.picture)
    # Faces are searched in the original picture, because a small face may have too few pixels in the video's size.
    faces = landmarks.detect(request.picture, face_box=options.face_box)
    face = choose_face(faces, face_index=options.face_index, face_box=options.face_box).scaled(scale)
    for warning in _warnings_for(face):
        context.warn(warning)
    stop_if_cancelled(context)
    context.progress("preprocess", 1, 3, "preparing the face")
    puppet = Puppet(picture, face)
    calibration = calibrate(puppet, landmarks, face)
    clear_eyes = blink_check.why_not(puppet, landmarks, face) is None
    stop_if_cancelled(context)
    context.progress("preprocess", 2, 3, "listening")
    amounts = Amounts(
        head=options.head_motion,
        mouth=options.mouth_opening,
        blinks=options.blinks and clear_eyes,
        gaze=options.head_motion > 0 and clear_eyes,
    )
    track = speech_track(request.speech, request.n_frames, request.fps)
    motion = Motion(track, request.fps, options.seed, amounts)
    context.progress("preprocess", 3, 3)
    return _Portrait(picture, puppet, calibration, motion)


def _warnings_for(face: Face) -> Iterator[str]:
    """Sentences for the caller about a face that may be animated badly."""
    height_px = face.box[3] - face.box[1]
    if height_px < _SMALL_FACE_PX:
        yield (
            f"The face is only {height_px:.0f} pixels high in the video. A picture that is cut closer to the "
            "person shows more of the mouth."
        )
    if abs(face.yaw) > _STRONG_YAW:
        yield (
            "The face is seen almost from the side; lips may look wrong. A picture that looks at the camera works "
            "better."
        )


def fit_picture(picture: Frames) -> tuple[Frames, float]:
    """The picture in the size of the video, and the factor by which it was scaled.

    picture, result: uint8 RGB (H, W, 3). The result has even sides of at most 1920 x 1080 or 1080 x 1920. A picture
    that fits keeps its pixels: an odd last row or column is cut off, so that nothing is resampled. A picture with a
    side of 1 pixel is enlarged to 2.
    """
    height, width = picture.shape[:2]
    scale = min(1.0, _LONG_SIDE / max(height, width), _SHORT_SIDE / min(height, width))
    if scale < 1:
        size = max(2, int(width * scale) // 2 * 2), max(2, int(height * scale) // 2 * 2)
        return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8), scale
    if min(height, width) < 2:
        size = max(2, width // 2 * 2), max(2, height // 2 * 2)
        return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_NEAREST), np.uint8), 1.0
    return np.ascontiguousarray(picture[: height // 2 * 2, : width // 2 * 2]), 1.0


def create(settings: EngineSettings) -> PreviewEngine:
    """The engine for these settings. Loads nothing."""
    return PreviewEngine()
