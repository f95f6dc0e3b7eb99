"""`face_index` means the same person for every engine."""

import numpy as np
from lipsync_server.engines.base import Frames, RenderRequest
from lipsync_server.engines.infinitetalk.options import Options
from lipsync_server.engines.infinitetalk.video.people import cast_of
from lipsync_server.engines.landmarks import choose_face, landmarker
from lipsync_server.paths import SAMPLES_DIR
from PIL import Image


def small_face_above_a_large_one() -> Frames:
    """Two faces: the small one's middle lies left of the large one's, its left edge right of the large one's."""
    large = Image.open(SAMPLES_DIR / "portrait.jpg").convert("RGB")
    [face] = landmarker().detect(np.asarray(large))
    left, _, right, _ = face.box
    small = large.resize((large.width // 2, large.height // 2))
    middle = left + (right - left) * 0.4
    canvas = Image.new("RGB", (large.width, large.height + small.height), (200, 200, 200))
    canvas.paste(large, (0, small.height))
    canvas.paste(small, (round(middle - (left + right) / 4), 0))
    return np.asarray(canvas)


def test_face_index_counts_by_the_middle_of_the_faces_as_in_every_engine() -> None:
    picture = small_face_above_a_large_one()
    faces = landmarker().detect(picture)
    assert len(faces) == 2
    assert faces[0].area < faces[1].area and faces[0].box[0] > faces[1].box[0]
    for index in (0, 1):
        request = RenderRequest(picture, np.zeros(16_000, np.float32), 1.0, Options(face_index=index))
        cast = cast_of(request, Options(face_index=index))
        assert cast.boxes is not None
        left, top, right, bottom = choose_face(faces, face_index=index).box
        box = cast.boxes[0]
        assert box[0] <= left and box[1] <= top and box[2] >= right and box[3] >= bottom
        assert box[2] - box[0] < 3 * (right - left)


def test_the_landmark_models_are_loaded_once_a_process() -> None:
    assert landmarker() is landmarker()
