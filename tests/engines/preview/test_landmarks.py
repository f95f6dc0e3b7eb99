"""Faces are found where they are: small ones, several, tilted ones; and the sentence when there is none."""

import cv2
import numpy as np
import pytest
from lipsync_server.engines.base import Frames
from lipsync_server.engines.landmarks import N_POINTS, FaceLandmarker, choose_face
from lipsync_server.errors import NoFace


def canvas(height: int, width: int) -> Frames:
    """A plain background with a soft gradient, in which no face can be found."""
    y, x = np.mgrid[:height, :width]
    return np.stack([90 + x * 60 // width, 100 + y * 50 // height, np.full_like(x, 120)], axis=-1).astype(np.uint8)


def resized(picture: Frames, side: int) -> Frames:
    return np.asarray(cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def test_the_portrait_s_face_is_found_where_it_is(portrait: Frames, landmarker: FaceLandmarker) -> None:
    (face,) = landmarker.detect(portrait)
    assert face.points.shape == (N_POINTS, 3) and face.points.dtype == np.float32
    assert face.score > 0.9
    left, top, right, bottom = face.box
    assert (left, top, right, bottom) == pytest.approx((179, 69, 271, 178), abs=6)
    eyes, mouth, chin = (face.points[i, 1] for i in (168, 13, 152))
    assert eyes < mouth < chin
    assert abs(face.yaw) < 0.2 and abs(face.pitch) < 0.2 and abs(face.roll) < 0.15


def test_points_follow_the_picture_s_scale_and_place(portrait: Frames, landmarker: FaceLandmarker) -> None:
    (face,) = landmarker.detect(portrait)
    frame = canvas(700, 900)
    frame[150:534, 400:784] = resized(portrait, 384)
    (moved,) = landmarker.detect(frame)
    expected = (face.points[:, :2] + 0.5) * 0.75 - 0.5 + (400, 150)
    assert np.abs(moved.points[:, :2] - expected).mean() < 1.0


@pytest.mark.parametrize(("side", "place"), [(300, (600, 1500)), (300, (20, 30)), (260, (790, 900))])
def test_a_small_face_in_a_large_picture_is_found(
    portrait: Frames, landmarker: FaceLandmarker, side: int, place: tuple[int, int]
) -> None:
    frame = canvas(1080, 1920)
    top, left = place
    frame[top : top + side, left : left + side] = resized(portrait, side)
    (face,) = landmarker.detect(frame)
    nose = face.points[1, :2]
    assert nose == pytest.approx((left + 0.44 * side, top + 0.25 * side), abs=0.04 * side)


@pytest.mark.parametrize(
    ("width", "height", "side", "place"),
    [
        (3000, 2000, 320, (1340, 500)),
        (3000, 2000, 240, (20, 1700)),
        (3000, 2000, 240, (2750, 40)),
        (2000, 3000, 240, (901, 1333)),
        (6000, 4000, 240, (4107, 2611)),
    ],
)
def test_a_face_of_50_pixels_is_found_however_large_the_photograph(
    portrait: Frames, landmarker: FaceLandmarker, width: int, height: int, side: int, place: tuple[int, int]
) -> None:
    frame = canvas(height, width)
    left, top = place
    frame[top : top + side, left : left + side] = resized(portrait, side)
    (face,) = landmarker.detect(frame)
    assert face.points[1, :2] == pytest.approx((left + 0.44 * side, top + 0.25 * side), abs=0.06 * side)


@pytest.mark.parametrize("loose", [1.0, 2.5])
def test_a_face_of_50_pixels_in_the_callers_box_is_found_beside_a_large_one(
    portrait: Frames, landmarker: FaceLandmarker, loose: float
) -> None:
    frame = canvas(2000, 3000)
    frame[700:1724, 300:1324] = resized(portrait, 1024)
    frame[500:740, 2340:2580] = resized(portrait, 240)
    assert len(landmarker.detect(frame)) == 1, "the small face alone would be found by smaller tiles"
    x, y, half = 2340 + 0.44 * 240, 500 + 0.25 * 240, 30 * loose
    box = (x - half, y - half, x + half, y + half)
    chosen = choose_face(landmarker.detect(frame, face_box=box), face_box=box)
    assert chosen.points[1, :2] == pytest.approx((x, y), abs=0.06 * 240)


def test_several_faces_are_counted_from_the_left(portrait: Frames, landmarker: FaceLandmarker) -> None:
    frame = canvas(512, 1200)
    frame[100:450, 30:380] = resized(portrait, 350)
    frame[:, 650:1162] = portrait
    faces = landmarker.detect(frame)
    assert len(faces) == 2
    assert faces[0].box[0] < faces[1].box[0]
    assert choose_face(faces) is faces[1], "the largest face is the default"
    assert choose_face(faces, face_index=0) is faces[0]
    assert choose_face(faces, face_box=faces[0].box) is faces[0]
    assert choose_face(faces, face_box=(700, 0, 1100, 400)) is faces[1]


def test_a_tilted_head_is_found_and_its_tilt_measured(portrait: Frames, landmarker: FaceLandmarker) -> None:
    (upright,) = landmarker.detect(portrait)
    turn = cv2.getRotationMatrix2D((256, 256), -30, 1.0)
    tilted = np.asarray(cv2.warpAffine(portrait, turn, (512, 512), borderMode=cv2.BORDER_REPLICATE), np.uint8)
    (face,) = landmarker.detect(tilted)
    assert face.roll - upright.roll == pytest.approx(np.deg2rad(30), abs=0.06)


def test_yaw_changes_its_sign_in_the_mirror(portrait: Frames, landmarker: FaceLandmarker) -> None:
    (face,) = landmarker.detect(portrait)
    (mirrored,) = landmarker.detect(np.ascontiguousarray(portrait[:, ::-1]))
    assert mirrored.yaw == pytest.approx(-face.yaw, abs=0.08)
    assert mirrored.roll == pytest.approx(-face.roll, abs=0.03)


@pytest.mark.parametrize("shape", [(400, 600), (2, 2), (1, 500), (3000, 40)])
def test_a_picture_without_a_face_gives_none(landmarker: FaceLandmarker, shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (*shape, 3)).astype(np.uint8)
    assert landmarker.detect(noise) == []
    assert landmarker.detect(canvas(*shape)) == []


def test_the_sentence_names_what_was_found_instead(portrait: Frames, landmarker: FaceLandmarker) -> None:
    with pytest.raises(NoFace, match="No face was found") as none:
        choose_face([])
    assert none.value.status == 422 and none.value.field == "image"
    faces = landmarker.detect(portrait)
    with pytest.raises(NoFace, match="face_index is 3, but 1 face was found") as index:
        choose_face(faces, face_index=3)
    assert index.value.field == "face_index"
    with pytest.raises(NoFace, match=r"Faces were found at \(1\d\d, ") as box:
        choose_face(faces, face_box=(400, 400, 500, 500))
    assert box.value.field == "face_box"
