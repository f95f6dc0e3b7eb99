"""Finds faces in a still picture: for each, 478 landmarks (the mesh) and the angles of the head.

Runs Google's face_landmarker.task (two small tflite models in a zip) with ai-edge-litert. The face detector runs on the
whole picture and on overlapping tiles, so that small faces are found too. The mesh model then runs twice on a rotated
crop of each face: on the detector's box, and on the box of the first mesh, which is steadier. Knows no use of the
points, and tracks nothing over time.

Coordinates are pixels of the picture as cv2 counts them: the centre of the first pixel is (0, 0).
"""

import math
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsync_server.engines.base import Box, Frames
from lipsync_server.errors import NoFace
from lipsync_server.paths import bundled
from lipsync_server.quiet import without_information_lines

Points = NDArray[np.float32]

Tile = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels."""

N_POINTS = 478
_DETECTOR_PX = 128
_MESH_PX = 256
# The crop is this much larger than the face, as in the mesh model's training.
_CROP_MARGIN = 1.5
_OVERLAP_IS_SAME = 0.3
# A box with less overlap than this means another face: it is more than three times as wide and high as the face.
_HARDLY_OVERLAPS = 0.1
# Tile sides as shares of the picture's short side. Each level finds faces about half as large as the level before.
_TILE_SHARES = (0.6, 0.3)
_MIN_TILE_PX = 96
# The detector finds faces of at least 0.15 of its tile's side, which is 40 pixels in these tiles. choose_face()
# promises 50. These tiles cost 0.1 to 0.2 s of processor time for each megapixel. So they are used only if larger tiles
# found no face.
_FINEST_TILE_PX = 256
_EYE_OUTER_RIGHT, _EYE_OUTER_LEFT = 33, 263
_CHEEK_RIGHT, _CHEEK_LEFT = 234, 454
_FOREHEAD, _CHIN = 10, 152
# Pitch in radians of the line from forehead to chin in a face that looks straight ahead.
_LEVEL_PITCH = 0.22


@dataclass(frozen=True)
class Face:
    """One face.

    points: float32 (478, 3), x and y in pixels, z in the same unit (smaller is nearer; z is noisy). score: the mesh
    model's own confidence that this is a face, 0 to 1. yaw, pitch, roll: angles in radians. yaw > 0 if the nose points
    to the right of the picture, pitch > 0 if it points down, roll > 0 if the head is turned clockwise.
    """

    points: Points
    score: float
    yaw: float
    pitch: float
    roll: float

    @property
    def box(self) -> Box:
        """The mesh's bounding box: left, top, right, bottom in pixels."""
        low, high = self.points[:, :2].min(axis=0), self.points[:, :2].max(axis=0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])

    def scaled(self, factor: float) -> "Face":
        """The same face in the picture scaled by `factor`."""
        points = self.points * np.float32(factor)
        points[:, :2] += np.float32((factor - 1) / 2)  # cv2 counts from the centre of the first pixel
        return replace(self, points=points)

    @property
    def area(self) -> float:
        """Area of the box in square pixels."""
        left, top, right, bottom = self.box
        return (right - left) * (bottom - top)


@dataclass(frozen=True)
class _Crop:
    """A rotated square of the picture. centre: (x, y) in pixels. side: in pixels. angle: clockwise, in radians."""

    centre: NDArray[np.float64]
    side: float
    angle: float


class FaceLandmarker:
    """Both models, loaded. A lock admits one thread at a time, because the interpreters keep state between calls.

    Engines share one instance, which landmarker() keeps for the whole process.
    """

    def __init__(self, model: Path | None = None, *, n_threads: int = 2) -> None:
        from ai_edge_litert.interpreter import Interpreter

        with zipfile.ZipFile(model or bundled("face_landmarker.task")) as task:
            blobs = {name: task.read(name) for name in ("face_detector.tflite", "face_landmarks_detector.tflite")}
        with without_information_lines():
            self._detector = Interpreter(model_content=blobs["face_detector.tflite"], num_threads=n_threads)
            self._mesh = Interpreter(model_content=blobs["face_landmarks_detector.tflite"], num_threads=n_threads)
            self._detector.allocate_tensors()
            self._mesh.allocate_tensors()
        by_shape = {tuple(out["shape"]): out["index"] for out in self._detector.get_output_details()}
        self._detector_in = self._detector.get_input_details()[0]["index"]
        self._boxes_out, self._scores_out = by_shape[1, 896, 16], by_shape[1, 896, 1]
        by_shape = {tuple(out["shape"]): out["index"] for out in self._mesh.get_output_details()}
        self._mesh_in = self._mesh.get_input_details()[0]["index"]
        # Two outputs have a single number: the probability of a face (rank 4), and of a visible tongue (rank 2).
        self._points_out, self._presence_out = by_shape[1, 1, 1, 3 * N_POINTS], by_shape[1, 1, 1, 1]
        self._anchors = _anchors()
        self._turn = threading.RLock()

    def detect(
        self, picture: Frames, *, min_score: float = 0.5, max_faces: int = 16, face_box: Box | None = None
    ) -> list[Face]:
        """Every face in `picture`, uint8 RGB (H, W, 3), from left to right; [] without a face.

        A face that is much smaller than the largest one may be missing, unless it touches `face_box` (left, top, right,
        bottom in pixels).
        """
        with self._turn:
            faces = self._detect(picture, min_score, max_faces)
            if face_box is not None and all(_overlap(face.box, face_box) < _HARDLY_OVERLAPS for face in faces):
                near = self._faces_near(picture, face_box, min_score)
                faces += [new for new in near if all(_overlap(new.box, old.box) < _OVERLAP_IS_SAME for old in faces)]
        return sorted(faces, key=lambda face: face.box[0] + face.box[2])

    def _faces_near(self, picture: Frames, box: Box, min_score: float) -> list[Face]:
        """The faces that touch `box`. Searches squares around the box, because a caller may draw it too large."""
        height, width = picture.shape[:2]
        left, top, right, bottom = box
        x, y, longest = (left + right) / 2, (top + bottom) / 2, max(right - left, bottom - top, _MIN_TILE_PX / 2)
        crops: list[_Crop] = []
        for share in (1.0, 2.0):
            tile = (
                int(max(0, min(width, x - share * longest))),
                int(max(0, min(height, y - share * longest))),
                int(max(0, min(width, x + share * longest))),
                int(max(0, min(height, y + share * longest))),
            )
            if tile[0] < tile[2] and tile[1] < tile[3]:
                crops += self._crops(picture, tile, min_score)
        return [face for face in self._faces_at(picture, crops, min_score, 4) if _overlap(face.box, box) > 0]

    def _detect(self, picture: Frames, min_score: float, max_faces: int) -> list[Face]:
        """Search the whole picture and large tiles, then smaller tiles until a face is found."""
        height, width = picture.shape[:2]
        crops = self._crops(picture, (0, 0, width, height), min_score)
        for tile in _tiles(width, height):
            crops += self._crops(picture, tile, min_score)
        faces = self._faces_at(picture, crops, min_score, max_faces)
        for side in _finer_sides(width, height):
            if faces:
                break
            crops = [
                crop for tile in _covering(width, height, side, 0.4) for crop in self._crops(picture, tile, min_score)
            ]
            faces = self._faces_at(picture, crops, min_score, max_faces)
        return faces

    def _faces_at(self, picture: Frames, crops: list[_Crop], min_score: float, max_faces: int) -> list[Face]:
        """The faces in the crops, each face once."""
        faces: list[Face] = []
        # Larger crops come first, because a tile that cuts through a face gives a smaller and worse crop.
        for crop in sorted(crops, key=lambda c: -c.side):
            if any(_inside(crop.centre, face.box) for face in faces) or len(faces) >= max_faces:
                continue
            points, score = self._landmarks(picture, crop)
            if score < min_score:
                continue
            face = self.refine(picture, points)
            if face.score >= min_score and not any(_overlap(face.box, other.box) > 0.3 for other in faces):
                faces.append(face)
        return faces

    def refine(self, picture: Frames, points: Points) -> Face:
        """The face near known points, for example the points of the same face one frame earlier.

        picture: uint8 RGB (H, W, 3). points: float32 (478, 3) in pixels.
        """
        with self._turn:
            points, score = self._landmarks(picture, _crop_around(points))
        yaw, pitch, roll = _angles(points)
        return Face(points, score, yaw, pitch, roll)

    def _crops(self, picture: Frames, tile: tuple[int, int, int, int], min_score: float) -> list[_Crop]:
        """Run the detector on one tile (left, top, right, bottom). Returns a crop for each detected face."""
        left, top, right, bottom = tile
        part = picture[top:bottom, left:right]
        scale = _DETECTOR_PX / max(part.shape[:2])
        height, width = (max(1, round(side * scale)) for side in part.shape[:2])
        small = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
        pad_y, pad_x = (_DETECTOR_PX - small.shape[0]) // 2, (_DETECTOR_PX - small.shape[1]) // 2
        square = np.zeros((_DETECTOR_PX, _DETECTOR_PX, 3), np.float32)
        square[pad_y : pad_y + small.shape[0], pad_x : pad_x + small.shape[1]] = small
        self._detector.set_tensor(self._detector_in, square[None] / 127.5 - 1)
        self._detector.invoke()
        scores = _sigmoid(self._detector.get_tensor(self._scores_out)[0, :, 0])
        keep = scores >= min_score
        raw, scores, anchors = self._detector.get_tensor(self._boxes_out)[0][keep], scores[keep], self._anchors[keep]
        # For each anchor: box centre, box size, six key points (right eye, left eye, nose, mouth, ears), in 128ths.
        centre, size = raw[:, :2] / _DETECTOR_PX + anchors, raw[:, 2:4] / _DETECTOR_PX
        keys = raw[:, 4:8].reshape(-1, 2, 2) / _DETECTOR_PX + anchors[:, None]
        crops = []
        for group in _groups(centre, size, scores):
            weight = scores[group] / scores[group].sum()
            middle, extent = weight @ centre[group], weight @ size[group]
            eyes = np.einsum("n,nkc->kc", weight, keys[group])
            tilt = np.arctan2(*(eyes[1] - eyes[0])[::-1])
            place = (middle * _DETECTOR_PX - (pad_x, pad_y)) / scale + (left - 0.5, top - 0.5)
            crops.append(_Crop(place, _CROP_MARGIN * float(extent.max()) * _DETECTOR_PX / scale, float(tilt)))
        return crops

    def _landmarks(self, picture: Frames, crop: _Crop) -> tuple[Points, float]:
        """Run the mesh model on one crop. Returns float32 (478, 3) in pixels of the picture, and the score."""
        scale = crop.side / _MESH_PX
        turn = scale * np.array([[np.cos(crop.angle), -np.sin(crop.angle)], [np.sin(crop.angle), np.cos(crop.angle)]])
        shift = crop.centre - turn @ np.full(2, (_MESH_PX - 1) / 2)
        # warpAffine does not average pixels, so a large face is first cut out and shrunk by a whole factor.
        step = max(1, int(scale))
        reach = crop.side * 0.75 + 2 * step
        left, top = (int(v) for v in np.maximum(crop.centre - reach, 0))
        right, bottom = (int(v) for v in np.ceil(crop.centre + reach))
        part = picture[top:bottom, left:right]
        if part.size == 0:
            return np.zeros((N_POINTS, 3), np.float32), 0.0
        if step > 1:
            size = -(-part.shape[1] // step), -(-part.shape[0] // step)
            part = np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA), np.uint8)
        inner = (shift - (left, top) + 0.5) / step - 0.5
        matrix = np.column_stack([turn / step, inner])
        image = cv2.warpAffine(part, matrix, (_MESH_PX, _MESH_PX), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        self._mesh.set_tensor(self._mesh_in, image[None].astype(np.float32) / 255)
        self._mesh.invoke()
        points = self._mesh.get_tensor(self._points_out).reshape(N_POINTS, 3).astype(np.float64)
        score = float(_sigmoid(self._mesh.get_tensor(self._presence_out).ravel())[0])
        # Coordinate 0 is the edge of the first pixel for the model, and its centre for cv2.
        plane = (points[:, :2] - 0.5) @ turn.T + shift
        return np.column_stack([plane, points[:, 2] * scale]).astype(np.float32), score


@cache
def landmarker() -> FaceLandmarker:
    """The landmark models of this process. The first call loads them, and they stay loaded, because they are small."""
    return FaceLandmarker()


def choose_face(faces: list[Face], *, face_index: int | None = None, face_box: Box | None = None) -> Face:
    """The face that a box or a number selects; without both, the largest face.

    face_index: counted from the left, starting at 0. face_box: (left, top, right, bottom) in pixels; the face with the
    largest overlap is selected. Raises NoFace, with the places or the count of the faces that were found.
    """
    if not faces:
        raise NoFace(
            "No face was found in the picture. Use one in which a face is clearly visible, looks roughly at the camera "
            "and is at least 50 pixels high.",
            field="image",
        )
    if face_box is not None:
        best = max(faces, key=lambda face: _overlap(face.box, face_box))
        if _overlap(best.box, face_box) <= 0:
            boxes = ", ".join("({:.0f}, {:.0f}, {:.0f}, {:.0f})".format(*face.box) for face in faces)
            raise NoFace(f"face_box does not touch any face. Faces were found at {boxes}.", field="face_box")
        return best
    if face_index is not None:
        if face_index >= len(faces):
            found = "1 face was" if len(faces) == 1 else f"{len(faces)} faces were"
            raise NoFace(
                f"face_index is {face_index}, but {found} found. Count from the left, starting at 0.",
                field="face_index",
            )
        return faces[face_index]
    return max(faces, key=lambda face: face.area)


def _anchors() -> NDArray[np.float32]:
    """Centres of the detector's 896 anchors, float32 (896, 2), 0 to 1.

    Each cell of a 16 x 16 grid has two anchors, and each cell of an 8 x 8 grid has six.
    """
    rows = []
    for n_cells, per_cell in ((16, 2), (8, 6)):
        y, x = np.divmod(np.arange(n_cells * n_cells), n_cells)
        rows.append(np.repeat((np.column_stack([x, y]) + 0.5) / n_cells, per_cell, axis=0))
    return np.concatenate(rows).astype(np.float32)


def _tiles(width: int, height: int) -> list[Tile]:
    """Overlapping squares that cover the picture at each level. A long picture also gets squares of its short side."""
    shares = ((1.0,) if max(width, height) > 1.3 * min(width, height) else ()) + _TILE_SHARES
    sides = [int(min(width, height) * share) for share in shares]
    # In a tile below _MIN_TILE_PX even a face that fills the tile has too few pixels to animate.
    return [tile for side in sides if side >= _MIN_TILE_PX for tile in _covering(width, height, side)]


def _finer_sides(width: int, height: int) -> Iterator[int]:
    """Tile sides for small faces in a large picture. Each side is half of the previous one, down to _FINEST_TILE_PX."""
    side = int(min(width, height) * _TILE_SHARES[-1])
    while side > _FINEST_TILE_PX:
        side = max(side // 2, _FINEST_TILE_PX)
        yield side


def _covering(width: int, height: int, side: int, overlap: float = 0.5) -> list[Tile]:
    """Squares of `side` that cover the picture. A face smaller than their overlap lies completely in one of them."""
    step = side * (1 - overlap)
    xs = np.linspace(0, width - side, max(1, math.ceil((width - side) / step) + 1)).astype(int)
    ys = np.linspace(0, height - side, max(1, math.ceil((height - side) / step) + 1)).astype(int)
    return [(int(x), int(y), int(x) + side, int(y) + side) for y in ys for x in xs]


def _groups(
    centre: NDArray[np.float32], size: NDArray[np.float32], scores: NDArray[np.float32]
) -> list[NDArray[np.intp]]:
    """Groups of detections of the same face, best first.

    As non-maximum suppression, but the suppressed detections are kept, to average them. centre, size: float32 (n, 2).
    scores: float32 (n,). Returns indices of detections, one array for each face.
    """
    boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=1)
    order = np.argsort(-scores)
    groups = []
    while len(order):
        first = tuple(boxes[order[0]])
        same = np.array([_overlap(first, tuple(boxes[i])) > _OVERLAP_IS_SAME for i in order])
        same[0] = True
        groups.append(order[same])
        order = order[~same]
    return groups


def _crop_around(points: Points) -> _Crop:
    """The crop around a mesh, with the eyes level."""
    eyes = points[_EYE_OUTER_LEFT, :2] - points[_EYE_OUTER_RIGHT, :2]
    angle = float(np.arctan2(eyes[1], eyes[0]))
    upright = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    flat = points[:, :2].astype(np.float64) @ upright.T
    low, high = flat.min(axis=0), flat.max(axis=0)
    return _Crop((low + high) / 2 @ upright, _CROP_MARGIN * float((high - low).max()), angle)


def _angles(points: Points) -> tuple[float, float, float]:
    """Yaw, pitch and roll of a mesh in radians, as in `Face`."""
    across, down = points[_CHEEK_LEFT] - points[_CHEEK_RIGHT], points[_CHIN] - points[_FOREHEAD]
    eyes = points[_EYE_OUTER_LEFT] - points[_EYE_OUTER_RIGHT]
    yaw = np.arctan2(across[2], np.hypot(across[0], across[1]))
    pitch = np.arctan2(down[2], np.hypot(down[0], down[1])) - _LEVEL_PITCH
    return float(yaw), float(pitch), float(np.arctan2(eyes[1], eyes[0]))


def _sigmoid(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / (1 + exp(-x))."""
    return (1 / (1 + np.exp(-np.clip(x, -60, 60)))).astype(np.float32)


def _inside(point: NDArray[np.float64], box: Box) -> bool:
    """Whether a point (x, y) is in a box."""
    return bool(box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3])


def _overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)
