"""The rendered square in the picture: its position, and a border that cannot be seen."""

import math

import cv2
import numpy as np
import pytest
import torch
from flashhead_kit import CPU, PORTRAITS
from hypothesis import given
from hypothesis import strategies as st
from lipsync_server.engines.base import Frames
from lipsync_server.engines.flashhead.video.face_crop import FaceCrop, crop_for, place_crop, warnings_for
from lipsync_server.engines.flashhead.video.paste_back import PasteBack
from lipsync_server.engines.landmarks import Face, FaceLandmarker
from lipsync_server.errors import InvalidImage
from PIL import Image


def picture_of(height: int, width: int, grain: float = 0.0) -> Frames:
    """Soft shapes, the same for all tests, with photographic grain on request."""
    rng = np.random.default_rng(3)
    small = rng.uniform(60, 200, (max(2, height // 24), max(2, width // 24), 3)).astype(np.float32)
    smooth = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    noise = rng.standard_normal((height, width, 1)) * grain
    return np.clip(smooth + noise, 0, 255).round().astype(np.uint8)


def planes(square: Frames) -> torch.Tensor:
    return torch.from_numpy(square.copy()).permute(2, 0, 1)[None].float() / 255


@given(
    x=st.floats(0, 640), y=st.floats(0, 480), face=st.floats(20, 400), scale=st.floats(1.4, 3.5),
    size=st.sampled_from([(480, 640), (640, 480), (300, 300), (1080, 1920)]),
)  # fmt: skip
def test_a_square_that_fits_lies_inside_on_whole_pixels(
    x: float, y: float, face: float, scale: float, size: tuple[int, int]
) -> None:
    crop = place_crop((x, y), face, size, scale)
    left, top, right, bottom = crop.box
    assert right - left == bottom - top == crop.side
    assert left == round(left)
    assert top == round(top)
    if crop.side <= min(size):
        assert min(left, top) >= 0
        assert right <= size[1]
        assert bottom <= size[0]
        assert crop.beyond == 0


def test_the_square_is_twice_the_face_and_raised_by_a_twentieth_of_its_side() -> None:
    crop = place_crop((500.0, 500.0), 100.0, (1000, 1000))
    assert (crop.x, crop.side) == (500.0, 200.0)
    assert crop.y == pytest.approx(490.0, abs=0.5)


def test_a_square_larger_than_the_picture_repeats_its_edge_pixels() -> None:
    picture = picture_of(60, 100)
    crop = place_crop((50.0, 30.0), 60.0, (60, 100))
    assert crop.beyond > 0
    cut = crop.cut(picture, 120)
    np.testing.assert_array_equal(cut[0], cut[5])


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (513, 381), (300, 300), (1080, 1920)])
@pytest.mark.parametrize("angle", [0.0, 0.4])
def test_a_still_square_gives_the_picture_back(size: tuple[int, int], angle: float) -> None:
    picture = picture_of(*size)
    crop = FaceCrop(size[1] * 0.45 // 1 + 0.0, size[0] * 0.5 // 1, 2 * (min(size) // 4), angle)
    square = crop.cut(picture)
    frame = PasteBack(picture, crop, square, CPU)(planes(square))[0]
    expected = picture[: size[0] // 2 * 2, : size[1] // 2 * 2]
    difference = np.abs(frame.astype(int) - expected)
    assert difference.mean() < 0.5
    assert np.quantile(difference, 0.999) <= 8


def ring_step(frame: Frames, crop: FaceCrop) -> float:
    """The steps across the square's sides less the steps one feather away: the largest difference, in levels of 255."""
    grey = frame.astype(float).mean(axis=2)
    left, top, right, bottom = (round(side) for side in crop.box)
    found: list[float] = []
    columns, rows = grey[top:bottom].T, grey[:, left:right]
    for at, lines in ((left, columns), (right, columns), (top, rows), (bottom, rows)):
        if 2 < at < len(lines) - 2:
            steps = np.abs(np.diff(lines, axis=0)).mean(axis=1)
            beside = [steps[at - 1 + d] for d in (-6, -4, 4, 6) if 0 <= at - 1 + d < len(steps)]
            found.append(float(steps[at - 1] - np.mean(beside)))
    return max(found)


def moved(square: Frames, dx: float, dy: float) -> Frames:
    """The square's content moved by (dx, dy), given as shares of the square's side, as when a body sways."""
    side = square.shape[0]
    matrix = np.array([[1, 0, dx * side], [0, 1, dy * side]], np.float32)
    return np.asarray(cv2.warpAffine(square, matrix, (side, side), borderMode=cv2.BORDER_REFLECT))


@pytest.mark.parametrize(("dx", "dy"), [(0.02, 0.0), (0.0, 0.03), (0.05, -0.04)])
def test_content_that_moves_at_the_border_meets_the_still_picture(dx: float, dy: float) -> None:
    picture = picture_of(400, 500)
    crop = FaceCrop(250.0, 200.0, 240.0)
    square = crop.cut(picture)
    swayed = planes(moved(square, dx, dy))
    followed, plain = (
        PasteBack(picture, crop, square, CPU, follow_border=follow)(swayed)[0] for follow in (True, False)
    )
    band = np.zeros(picture.shape[:2], bool)
    band[80:320, 130:370] = True
    band[100:300, 150:350] = False
    errors = [np.abs(frame.astype(int) - picture)[band].mean() for frame in (followed, plain)]
    assert errors[0] < 0.6 * errors[1]
    middle = np.abs(followed.astype(int) - plain)[180:220, 230:270].mean()
    assert middle < 1.5


def test_light_that_differs_along_the_border_leaves_no_edge() -> None:
    picture = picture_of(400, 500)
    crop = FaceCrop(250.0, 200.0, 240.0)
    square = crop.cut(picture)
    lighter = (planes(square) + 0.04).clamp(0, 1)
    frame = PasteBack(picture, crop, square, CPU, grain=False)(lighter)[0]
    ring = np.abs(frame.astype(int) - picture)[84:100, 134:366].mean()
    assert ring < 1.5
    assert ring_step(frame, crop) < 0.5


def test_the_generated_square_gets_the_grain_of_the_photograph() -> None:
    picture = picture_of(400, 500, grain=5.0)
    crop = FaceCrop(250.0, 200.0, 240.0)
    square = crop.cut(picture)
    smooth = planes(crop.cut(picture_of(400, 500)))
    frame = PasteBack(picture, crop, square, CPU)(smooth)[0]

    def grain_at(image: Frames, rows: slice, columns: slice) -> float:
        grey = image[rows, columns].astype(np.float32).mean(axis=2)
        return float((grey - cv2.GaussianBlur(grey, (0, 0), 2)).std())

    inside, outside = (
        grain_at(frame, slice(150, 250), slice(200, 300)),
        grain_at(picture, slice(10, 60), slice(10, 400)),
    )
    assert inside == pytest.approx(outside, rel=0.15)


def test_a_head_that_leaves_the_square_is_bent_back_and_counted() -> None:
    picture = picture_of(400, 500)
    crop = FaceCrop(250.0, 200.0, 240.0)
    square = crop.cut(picture)
    paste = PasteBack(picture, crop, square, CPU)
    paste(planes(square))
    assert paste.n_beyond == 0
    paste(planes(moved(square, 0.12, 0.0)))
    assert paste.n_beyond == 1


def test_frames_follow_from_their_own_square_alone() -> None:
    picture = picture_of(400, 500, grain=3.0)
    crop = FaceCrop(250.0, 200.0, 240.0)
    square = crop.cut(picture)
    squares = torch.cat([planes(moved(square, 0.01 * i, 0)) for i in range(3)])
    together = PasteBack(picture, crop, square, CPU)(squares)
    alone = PasteBack(picture, crop, square, CPU)(squares[2:])
    np.testing.assert_array_equal(together[2:], alone)


def test_sides_on_the_pictures_own_border_do_not_fade() -> None:
    picture = picture_of(200, 200)
    crop = FaceCrop(100.0, 100.0, 200.0)
    square = np.full((512, 512, 3), 30, np.uint8)
    frame = PasteBack(picture, crop, square, CPU, follow_border=False, grain=False)(planes(square))[0]
    assert (frame == 30).all()


def face_like(width: float, yaw: float = 0.0, roll: float = 0.0) -> Face:
    points = np.zeros((478, 3), np.float32)
    points[:, 0] = np.linspace(200, 200 + width, 478)
    points[:, 1] = np.linspace(150, 150 + width, 478)
    return Face(points, 1.0, yaw, 0.0, roll)


def test_unusable_pictures_are_refused_and_doubtful_ones_warned_about() -> None:
    fine = face_like(150)
    picture = picture_of(600, 600)
    assert warnings_for(fine, crop_for(fine, picture)) == []
    with pytest.raises(InvalidImage, match="25 pixels wide"):
        warnings_for(face_like(25), crop_for(face_like(25), picture))
    with pytest.raises(InvalidImage, match="from the side"):
        warnings_for(face_like(150, yaw=1.2), crop_for(fine, picture))
    assert "soft" in warnings_for(face_like(60), crop_for(face_like(60), picture))[0]
    assert "side" in warnings_for(face_like(150, yaw=-0.8), crop_for(fine, picture))[0]
    near = crop_for(fine, picture[:, 180:])
    assert "close to the border" in warnings_for(fine, place_crop((60.0, 300.0), 165.0, (600, 600)))[0]
    assert near.side == crop_for(fine, picture).side
    assert "beyond the picture" in warnings_for(fine, place_crop((60.0, 60.0), 165.0, (200, 200)))[0]


def test_a_tilted_head_is_cut_upright() -> None:
    photograph = np.asarray(Image.open(PORTRAITS / "glasses.jpg").convert("RGB"))
    height, width = photograph.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), -25, 1.0)
    turned = cv2.warpAffine(photograph, turn, (width, height), borderMode=cv2.BORDER_REPLICATE)
    tilted = np.asarray(turned, np.uint8)
    landmarker = FaceLandmarker()
    face = landmarker.detect(tilted)[0]
    assert math.degrees(face.roll) == pytest.approx(25, abs=6)
    cut = crop_for(face, tilted).cut(tilted)
    upright = landmarker.detect(cut)[0]
    assert abs(math.degrees(upright.roll)) < 4
    left, _, right, _ = upright.box
    assert (right - left) * 1.1 == pytest.approx(256, rel=0.12)
