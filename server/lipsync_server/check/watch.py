"""Reads the frames of a video once and keeps a few figures of each.

A decoder process with limits decodes the frames at a small size, one after the other. The figures take about 100 bytes
a frame, which is 5 MB for half an hour. Only the frames for the contact sheet are kept. Every frame of a short video
and every second frame of a longer one is searched for a face, near the face of the previous frame. If no face is near,
the whole picture is searched, at most once a second.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsync_server.check import mouth
from lipsync_server.engines.landmarks import Face, landmarker
from lipsync_server.media_types import Frames

Series = NDArray[np.float64]

FPS: Final = 25.0
MAX_SIDE_PX: Final = 640
"""The largest side of a measured frame. At this size a face of a tenth of the frame has 64 pixels."""
_EACH_FRAME_S: Final = 30
"""In videos up to this length every frame is searched for a face, because a few words must suffice for the lag.

With every second frame the lags of twelve short clips went from -43 to 71 ms, with every frame from -39 to 49 ms.
"""
_SEARCH_EVERY_S: Final = 1.0
_THUMB_PX: Final = 96
_MIN_FACE_SCORE: Final = 0.5


@dataclass(frozen=True)
class Seen:
    """Figures of a video, one value for each 1 / FPS s; NaN for an unknown figure.

    luma: mean brightness 0 to 255. contrast: its standard deviation. detail: variance of the frame's Laplacian.
    noise: median difference of a pixel to the median of its neighbours. red, blue: share of the colour. change: mean
    absolute difference to the previous frame; flicker: to the mean of its two neighbours, at frame i - 1. face: 1 with
    a face, 0 without one, NaN if the frame was not searched. opening: mouth.opening. height: of the face as a share of
    the frame's. x, y: position of the nose as shares of the frame. unlike: distance of the face's rigid shape to the
    first second's, NaN without a face.
    """

    pictures: tuple[tuple[float, Frames], ...]
    """Pictures for the contact sheet with their times in seconds."""
    luma: Series
    contrast: Series
    detail: Series
    noise: Series
    red: Series
    blue: Series
    change: Series
    flicker: Series
    face: Series
    opening: Series
    height: Series
    x: Series
    y: Series
    unlike: Series

    @property
    def n(self) -> int:
        """Count of frames."""
        return len(self.luma)

    @property
    def has_face(self) -> bool:
        """Whether any frame has a face."""
        return bool(np.nansum(self.face) > 0)


@dataclass
class _Figures:
    """The rows of figures so far, and the last two frames in grey at _THUMB_PX x _THUMB_PX."""

    rows: list[tuple[float, ...]] = field(default_factory=list)
    before: NDArray[np.float32] | None = None
    before_that: NDArray[np.float32] | None = None

    def add(self, frame: Frames, face: tuple[float, ...]) -> None:
        """Add the row of one frame. face: the six figures of _FaceFollower."""
        small = cv2.resize(frame, (_THUMB_PX, _THUMB_PX), interpolation=cv2.INTER_AREA)
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
        sharp = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        detail = float(cv2.Laplacian(sharp, cv2.CV_32F).var())
        grain = np.bincount(cv2.absdiff(sharp, cv2.medianBlur(sharp, 3)).ravel())
        noise = float(np.searchsorted(np.cumsum(grain), sharp.size / 2))
        colour = small.reshape(-1, 3).mean(axis=0) + 1e-3
        change = float(np.abs(grey - self.before).mean()) if self.before is not None else np.nan
        flicker = np.nan
        if self.before is not None and self.before_that is not None:
            flicker = float(np.abs(self.before - (grey + self.before_that) / 2).mean())
        self.rows.append(
            (
                float(grey.mean()), float(grey.std()), detail, noise,
                float(colour[0] / colour.sum()), float(colour[2] / colour.sum()),
                change, flicker, *face,
            )
        )  # fmt: skip
        self.before, self.before_that = grey, self.before


class _FaceFollower:
    """Follows one face from frame to frame: the largest face of the first frame that has a face."""

    def __init__(self, n_first: int) -> None:
        """n_first: the number of searched frames whose shapes are the usual one."""
        self._n_first = n_first
        self._face: Face | None = None
        self._searched_at = -np.inf
        self._shapes: list[NDArray[np.float32]] = []

    def figures(self, frame: Frames, time_s: float) -> tuple[float, ...]:
        """The fields face, opening, height, x, y and unlike of Seen for one frame."""
        face = landmarker().refine(frame, self._face.points) if self._face is not None else None
        if face is None or face.score < _MIN_FACE_SCORE:
            face = None
            if time_s - self._searched_at >= _SEARCH_EVERY_S:
                self._searched_at = time_s
                found = landmarker().detect(frame, max_faces=4)
                face = max(found, key=lambda f: f.area) if found else None
        self._face = face
        if face is None:
            return 0.0, *(np.nan,) * 5
        height, width = frame.shape[:2]
        shape = mouth.shape(face.points)
        if len(self._shapes) < self._n_first:
            self._shapes.append(shape)
        usual = np.median(self._shapes, axis=0)
        return (
            1.0,
            mouth.opening(face.points),
            mouth.face_height(face.points) / height,
            float(face.points[1, 0]) / width,
            float(face.points[1, 1]) / height,
            float(np.sqrt(((shape - usual) ** 2).sum(axis=1).mean())),
        )


def watch(
    frames: Iterator[Frames], n_frames: int, n_pictures: int, stop_if_cancelled: Callable[[], None] = lambda: None
) -> Seen:
    """Figures of a video. frames: uint8 RGB (H, W, 3), FPS of them a second, n_frames in all."""
    step = 1 if n_frames <= _EACH_FRAME_S * FPS else 2
    figures, follower = _Figures(), _FaceFollower(n_first=round(FPS / step))
    wanted = set(np.linspace(0, n_frames - 1, n_pictures).astype(int).tolist())
    pictures = []
    for i, frame in enumerate(frames):
        stop_if_cancelled()
        face = (np.nan,) * 6 if i % step else follower.figures(frame, i / FPS)
        figures.add(frame, face)
        if i in wanted:
            pictures.append((i / FPS, frame.copy()))
    columns = np.asarray(figures.rows, np.float64).reshape(-1, 14).T
    return Seen(tuple(pictures), *columns)
