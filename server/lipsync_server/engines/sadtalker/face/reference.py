"""The motion of a face in a video, to be followed: its coefficients frame by frame, cut as the source picture was.

Knows the video reader, the landmark model and the face network.
"""

from pathlib import Path

import numpy as np

from lipsync_server.engines.landmarks import Face, FaceLandmarker
from lipsync_server.engines.sadtalker.arrays import Rows
from lipsync_server.engines.sadtalker.face.geometry import align, resize
from lipsync_server.engines.sadtalker.face.landmarks68 import landmarks68
from lipsync_server.engines.sadtalker.face.reconstruction import FaceReconstruction
from lipsync_server.engines.sadtalker.face.source import Source, read_coefficients
from lipsync_server.media.sandbox.video_frames import read_video_frames, video_duration_s
from lipsync_server.media_types import FPS

# Twenty seconds, then it starts over: enough not to be noticed, and a bound on the work before the first frame.
MAX_FRAMES = 500
_MIN_SCORE = 0.5


def reference_rows(
    video: Path, n_frames: int, landmarker: FaceLandmarker, face: Face, source: Source, network: FaceReconstruction
) -> Rows:
    """(m, 73) coefficients of the video's frames at 25 per second, m at most n_frames.

    face, source: of the first frame. Where the face is lost its last known place is used.
    """
    known = max(1, round(video_duration_s(video) * FPS))
    left, top, right, bottom = source.box
    size = source.square.shape[0]
    points = face.points
    rows = []
    for frame in read_video_frames(video, range(min(n_frames, known, MAX_FRAMES)), fps=FPS):
        seen = landmarker.refine(frame, points)
        if seen.score >= _MIN_SCORE:
            points = seen.points
        square = resize(frame[max(top, 0) : bottom, max(left, 0) : right], size, size)
        placed = (landmarks68(points) + 0.5 - (left, top)) * size / (right - left, bottom - top) - 0.5
        rows.append(read_coefficients(network, align(square, placed.astype(np.float32))))
    return np.stack(rows)
