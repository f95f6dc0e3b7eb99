"""Cutting, aligning, packing and pasting, against the golden data, and where the original has faults."""

import json
from typing import Any, get_args

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lipsync_server.engines.sadtalker.audio.coefficients import (
    reference_expression,
    source_semantics,
    target_rows,
    windows_of,
    with_reference_pose,
)
from lipsync_server.engines.sadtalker.face.camera import camera_path
from lipsync_server.engines.sadtalker.face.geometry import (
    STANDARD_POINTS,
    Preprocess,
    align,
    align_points,
    cut,
    find_crop,
    landmarks_in_cut,
    resize,
)
from lipsync_server.engines.sadtalker.face.landmarks68 import landmarks68
from lipsync_server.engines.sadtalker.face.paste import (
    CropFrames,
    FeatherPaste,
    crop_height,
    poisson_paste,
    to_bytes,
)
from lipsync_server.engines.sadtalker.face.reconstruction import FaceReconstruction
from lipsync_server.engines.sadtalker.face.source import read_coefficients
from lipsync_server.errors import InvalidImage
from lipsync_server.models.pictures import fit_video
from numpy.typing import NDArray
from sadtalker_golden import FILES, arrays, big, levels_apart, note, recipe_network, small, within

CROPS = json.loads(small("croper.json").read_text())


def landmarks_of(case: dict[str, Any]) -> NDArray[np.float32]:
    return np.array(case["landmarks68"], np.float32)


@pytest.mark.parametrize("case", CROPS, ids=lambda case: case["name"])
def test_crops_meet_the_golden_data(case: dict[str, Any]) -> None:
    width, height = case["width"], case["height"]
    crop = find_crop(landmarks_of(case), width, height, reference_clamp=True)
    assert list(crop.resized) == case["rsize"]
    assert list(crop.outer) == case["crop"]
    assert list(crop.inner) == case["quad_int"]
    assert list(crop.size) == case["crop_info_size"]
    left, top, right, bottom = crop.inner_in_picture
    assert [left, right, top, bottom] == case["paste_box_x1_x2_y1_y2"]
    within(f"crop quad, {case['name']}", 1e-3, crop.quad, case["quad_float"])
    picture = np.zeros((height, width, 3), np.uint8)
    assert list(cut(picture, crop, "crop").shape[:2]) == case["pixels_cut_normal_hw"]
    assert list(cut(picture, crop, "extcrop").shape[:2]) == case["pixels_cut_extended_hw"]


@pytest.mark.parametrize("case", CROPS, ids=lambda case: case["name"])
def test_the_recorded_crop_is_what_is_cut_where_the_original_records_more(case: dict[str, Any]) -> None:
    width, height = case["width"], case["height"]
    crop = find_crop(landmarks_of(case), width, height)
    picture = np.zeros((height, width, 3), np.uint8)
    assert cut(picture, crop, "crop").shape[1::-1] == crop.size
    left, top, right, bottom = crop.inner_in_picture
    assert 0 <= left < right <= crop.resized[0]
    assert 0 <= top < bottom <= crop.resized[1]


def test_the_original_cuts_faces_low_in_tall_pictures_short_and_this_does_not() -> None:
    tall = next(case for case in CROPS if case["name"].startswith("tall narrow"))
    faulty = find_crop(landmarks_of(tall), tall["width"], tall["height"], reference_clamp=True)
    whole = find_crop(landmarks_of(tall), tall["width"], tall["height"])
    chin = landmarks_of(tall)[8, 1]
    assert faulty.inner_in_picture[3] < chin < whole.inner_in_picture[3]


def test_standard_points_are_those_of_the_golden_data() -> None:
    wanted = json.loads(small("standard_landmarks.json").read_text())["standard_5_points_xyz"]
    assert np.array_equal(STANDARD_POINTS, wanted)


def generic_points(width: int, height: int) -> np.ndarray:
    """The reference's five points of a face that fills the picture, for pictures without landmarks; y up."""
    return (STANDARD_POINTS[:, :2] + 1) / 2 * (width, height)


@pytest.mark.parametrize("name", FILES.cases("geometry/align.npz"))
def test_alignment_meets_the_golden_data(name: str) -> None:
    data = arrays(big("geometry/align.npz"))
    square = data[f"{name}.in.image_u8"]
    if name == "fallback":
        points = data["fallback.in.five_points"].astype(np.float64)
        within("generic five points", 1e-4, generic_points(*square.shape[1::-1]), points)
        aligned = align_points(square, points)
    else:
        aligned = align(square, data[f"{name}.in.landmarks_y_down"])
    parameters = (aligned.scale, aligned.x, aligned.y)
    within(f"alignment {name}, parameters", 1e-5, parameters, data[f"{name}.out.trans_params"][2:], relative=True)
    difference = levels_apart(aligned.picture, data[f"{name}.out.image_u8"])
    note(f"alignment {name}, grey levels", 1, difference.max())
    note(f"alignment {name}, share of pixels off", 1e-3, (difference > 0).mean())


def test_coefficients_of_a_picture_meet_the_golden_data() -> None:
    data = arrays(big("geometry/crop_and_extract.npz"))
    network = recipe_network(FaceReconstruction, "face_3drecon")
    picture = data["in.image_u8"]
    height, width = picture.shape[:2]
    stored = FILES.cases("geometry/crop_and_extract.npz")
    modes: list[Preprocess] = [mode for mode in get_args(Preprocess) if mode in stored]
    assert len(modes) == len(stored)
    for mode in modes:
        crop = find_crop(data["in.landmarks_full_image"], width, height, reference_clamp=True)
        square = resize(cut(picture, crop, mode), 256, 256)
        assert levels_apart(square, data[f"{mode}.out.crop_image_u8"]).max() == 0
        coefficients = read_coefficients(network, align(square, data["in.landmarks_in_256_crop"]))
        wanted = data[f"{mode}.out.coeff_73"][0]
        within(f"crop_and_extract {mode}, coefficients", 5e-4, coefficients[:70], wanted[:70])
        within(f"crop_and_extract {mode}, crop", 1e-4, coefficients[70:], wanted[70:], relative=True)


def test_landmarks_follow_the_pixels_into_the_square() -> None:
    picture = np.zeros((900, 700, 3), np.uint8)
    landmarks = landmarks_of(CROPS[0]) + 20
    spots = [36, 45, 48, 54]
    for index in spots:
        cv2.circle(picture, tuple(int(v) for v in landmarks[index].round()), 6, (255, 255, 255), -1)
    crop = find_crop(landmarks, 700, 900)
    square = resize(cut(picture, crop, "crop"), 512, 512)
    placed = landmarks_in_cut(landmarks, crop, (700, 900), crop.box("crop"), 512)
    for index in spots:
        x, y = placed[index].round().astype(int)
        near = square[y - 20 : y + 21, x - 20 : x + 21, 0].astype(float)
        centre = np.array(np.nonzero(near > 127)).mean(axis=1)[::-1] - 20
        assert np.hypot(*centre) < 1.5


@pytest.mark.parametrize("case", range(6))
def test_windows_of_coefficients_meet_the_golden_data(case: int) -> None:
    data = arrays(small("semantics.npz"))
    batch, still, scale, full, n_frames = data[f"case{case}.info"]
    source = data["in.source_coeff_73"][0][: 73 if full else 70]
    generated = data[f"case{case}.in.generated_70"]
    rows = target_rows(generated, source, expression_scale=float(scale), still=bool(still))
    windows = windows_of(lambda first, stop: rows[first:stop], int(n_frames), 0, int(n_frames))
    wanted = data[f"case{case}.out.target_semantics"].reshape(-1, *windows.shape[1:])
    padded = np.concatenate([windows, np.repeat(windows[-1:], len(wanted) - len(windows), axis=0)])
    assert int(batch) == len(data[f"case{case}.out.target_semantics"])
    within(f"semantics {case}, target", 1e-6, padded, wanted)
    within(f"semantics {case}, source", 1e-6, source_semantics(source), data[f"case{case}.out.source_semantics"][0])


def test_camera_paths_meet_the_golden_data() -> None:
    for case in json.loads(small("camera_pose.json").read_text()):
        path = camera_path(case["degrees"], case["frames"])
        assert len(path) == case["frames"]
        if "out" in case:
            padded = np.pad(path, (0, len(case["out"]) - len(path)), mode="edge")
            within(f"camera path {case['degrees']}", 1e-6, padded, case["out"])
        else:
            assert np.unique(path).tolist() == [case["degrees"][0]]


@pytest.mark.parametrize("case", range(3))
def test_motion_of_reference_videos_meets_the_golden_data(case: int) -> None:
    data = arrays(small("reference_video.npz"))
    reference, generated = data[f"r{case}.in.reference_coeff_73"], data[f"r{case}.in.predicted_70"]
    posed = with_reference_pose(generated, reference)
    within(f"reference video {case}, pose", 1e-6, posed, data[f"r{case}.out.with_reference_pose_70"])
    wanted = data[f"r{case}.out.expnet_ref_with_reference_blink"][0, :, :64]
    within(f"reference video {case}, eyes", 1e-6, reference_expression(reference, 0, len(generated)), wanted)


def test_frames_become_bytes_as_in_the_golden_data() -> None:
    data = arrays(small("paste.npz"))
    frames = to_bytes(torch.from_numpy(data["frame.in.float"]).permute(0, 3, 1, 2))
    within("frame to bytes", 0, frames, data["frame.out.u8"])
    for case in range(3):
        width, height = (int(v) for v in data[f"resize{case}.in.crop_size_w_h"])
        assert crop_height(64, (width, height)) == data[f"resize{case}.out.u8"].shape[0]


@pytest.mark.parametrize("case", [0, 1])
def test_poisson_paste_meets_the_golden_data(case: int) -> None:
    data = arrays(small("paste.npz"))
    left, right, top, bottom = (int(v) for v in data[f"p{case}.in.box_x1_x2_y1_y2"])
    photo, square = data[f"p{case}.in.background_rgb_u8"], data[f"p{case}.in.frame_rgb_u8"]
    pasted = poisson_paste(photo, square, (left, top, right, bottom))
    within(f"poisson paste {case}", 2, pasted, data[f"p{case}.out.rgb_u8"])


def test_poisson_paste_over_the_edge_is_clipped_where_the_original_fails() -> None:
    photo = np.full((80, 80, 3), 90, np.uint8)
    pasted = poisson_paste(photo, np.full((64, 64, 3), 200, np.uint8), (-10, 20, 50, 90))
    assert pasted.shape == photo.shape


BOXES = [(200, 100, 420, 330), (0, 100, 260, 360), (-30, -20, 300, 280), (350, 250, 660, 500)]


@pytest.mark.parametrize("box", BOXES)
def test_a_feathered_paste_leaves_no_seam_and_no_pixel_outside_its_box(box: tuple[int, int, int, int]) -> None:
    rng = np.random.default_rng(0)
    photo = cv2.GaussianBlur(rng.integers(0, 255, (480, 640, 3), dtype=np.uint8), (0, 0), 9).astype(np.uint8)
    paste = FeatherPaste(photo, box, torch.device("cpu"))
    pasted = paste.place(paste.blend(torch.ones(2, 3, 64, 64)))
    assert pasted.shape == (2, 480, 640, 3)
    left, top, right, bottom = (max(box[0], 0), max(box[1], 0), min(box[2], 640), min(box[3], 480))
    outside = np.ones((480, 640), bool)
    outside[top:bottom, left:right] = False
    assert np.array_equal(pasted[0][outside], photo[outside])
    # Across every edge of the box inside the picture, a white patch makes no step larger than the photo has.
    largest = max(int(np.abs(np.diff(photo.astype(int), axis=axis)).max()) for axis in (0, 1))
    across = np.abs(np.diff(pasted[0].astype(int), axis=1))
    down = np.abs(np.diff(pasted[0].astype(int), axis=0))
    for column in (left, right):
        if 0 < column < 640:
            assert across[:, column - 1].max() <= largest + 2
    for row in (top, bottom):
        if 0 < row < 480:
            assert down[row - 1].max() <= largest + 2
    assert (pasted[0][(top + bottom) // 2, (left + right) // 2] == 255).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(16, 3000), st.integers(16, 3000))
def test_videos_are_even_and_at_most_1080p(width: int, height: int) -> None:
    video, (scale_x, scale_y) = fit_video(np.zeros((height, width, 3), np.uint8))
    rows, columns = video.shape[:2]
    assert rows % 2 == columns % 2 == 0
    assert max(rows, columns) <= 1920
    assert min(rows, columns) <= 1080
    assert abs(width * scale_x - columns) <= 1
    assert abs(height * scale_y - rows) <= 1


def test_a_cropped_video_keeps_the_crop_s_shape() -> None:
    cropped = CropFrames(64, (300, 421))
    frames = cropped.place(cropped.blend(torch.rand(3, 3, 64, 64)))
    assert frames.shape == (3, 88, 64, 3)


def test_an_odd_last_row_is_left_out_and_the_rest_is_exact() -> None:
    data = arrays(small("paste.npz"))
    for case in range(3):
        width, height = (int(v) for v in data[f"resize{case}.in.crop_size_w_h"])
        square, wanted = data["frame.out.u8"][0], data[f"resize{case}.out.u8"]
        cropped = CropFrames(64, (width, height))
        frame = cropped.place(torch.from_numpy(square)[None])[0]
        assert frame.shape[0] == wanted.shape[0] // 2 * 2
        within(f"aspect resize {case}", 1, frame, wanted[: frame.shape[0]])


def test_a_very_tall_crop_is_no_higher_than_a_video_may_be() -> None:
    cropped = CropFrames(512, (100, 2000))
    assert cropped.size == (96, 1920)
    assert cropped.place(cropped.blend(torch.rand(1, 3, 64, 64))).shape == (1, 1920, 96, 3)


def test_a_face_of_a_few_pixels_is_refused_with_what_to_do() -> None:
    landmarks = landmarks_of(CROPS[0]) * np.float32(0.002)
    with pytest.raises(InvalidImage, match="preprocess full"):
        align(np.zeros((256, 256, 3), np.uint8), landmarks)


@settings(max_examples=60, deadline=None)
@given(st.integers(-20, 40), st.integers(-20, 40), st.integers(30, 120), st.integers(30, 120), st.integers(60, 91))
def test_poisson_paste_accepts_any_box(left: int, top: int, width: int, height: int, side: int) -> None:
    photo = np.random.default_rng(side).integers(0, 255, (side, side + 7, 3), dtype=np.uint8)
    pasted = poisson_paste(photo, np.full((64, 64, 3), 200, np.uint8), (left, top, left + width, top + height))
    outside = np.ones(photo.shape[:2], bool)
    outside[max(top, 0) : top + height, max(left, 0) : left + width] = False
    assert np.array_equal(pasted[outside], photo[outside])


def test_mesh_points_become_landmarks_in_their_places() -> None:
    mesh = np.arange(478 * 3, dtype=np.float32).reshape(478, 3)
    landmarks = landmarks68(mesh)
    assert landmarks.shape == (68, 2)
    for index, point in ((36, 33), (39, 133), (42, 362), (45, 263), (30, 4), (48, 61), (54, 291)):
        assert np.array_equal(landmarks[index], mesh[point, :2])
