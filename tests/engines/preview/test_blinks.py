"""The promises of a blink: a shut eye shows skin and no iris, nothing else changes, and eyes stay open where the lid
would look wrong."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import pytest
from engine_frames import frames_of
from lipsync_server.engines.base import Frames
from lipsync_server.engines.landmarks import Face, FaceLandmarker
from lipsync_server.engines.preview import blink_check, head
from lipsync_server.engines.preview.engine import PreviewEngine
from lipsync_server.engines.preview.mesh import LOWER_LIDS, UPPER_LIDS
from lipsync_server.engines.preview.mouth import MouthPose
from lipsync_server.engines.preview.puppet import Pose, Puppet
from preview_kit import request
from sample_pictures import present, sample_picture

STILL = np.zeros(len(head.BASES), np.float32)
MOUTH = MouthPose(open=0.0, close=1.0, spread=0.0, narrow=0.0, press=0.0)
IRIS_CENTRES = (468, 473)
# A beard, several people, a smile, bare eyes under a low brow, made-up lashes, a fringe, wrinkles, a turned head.
BLINKING = present(
    "portrait.jpg",
    "young-man.jpg",
    "beard-and-full-figure.jpg",
    "several-people.jpg",
    "happy.png",
    "people_0.png",
    "full4.jpeg",
    "full_body_1.png",
    "art_0.png",
    "infinitetalk_two_people.jpg",
)


def open_puppet(landmarker: FaceLandmarker, picture: Frames) -> tuple[Puppet, Face]:
    face = max(landmarker.detect(picture), key=lambda f: f.area)
    return Puppet(picture, face), face


def drawn(puppet: Puppet, closed: float) -> Frames:
    frame = puppet.picture.copy()
    puppet.draw(Pose(MOUTH, STILL, (closed, closed)), frame)
    return frame


def opening(face: Face, eye: int, shape: tuple[int, ...]) -> np.ndarray:
    """The mask of an eye's opening in the still portrait, without its border."""
    ring = face.points[[*UPPER_LIDS[eye], *LOWER_LIDS[eye][::-1]], :2]
    mask = np.zeros(shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.round(ring).astype(np.int32)], 1)
    return mask > 0


@pytest.mark.parametrize("name", BLINKING)
def test_a_shut_eye_shows_skin_where_iris_and_white_were(landmarker: FaceLandmarker, name: str) -> None:
    picture = sample_picture(name)
    puppet, face = open_puppet(landmarker, picture)
    assert blink_check.why_not(puppet, landmarker, face) is None
    shut = drawn(puppet, 1.0).astype(np.float64)
    for eye in puppet.lids:
        inside = opening(face, eye, picture.shape)
        height_px = max(1, round(0.2 * puppet.lids[eye].gap_px))
        # The lash line runs along the lower lid, so the upper part of the opening has to be all skin.
        upper_part = inside & np.roll(inside, -2 * height_px, axis=0)
        lid = shut[upper_part]
        below = face.points[LOWER_LIDS[eye][4], :2] + 0.06 * puppet.frame.height * puppet.frame.down
        x, y = (int(v) for v in below)
        reach = max(2, int(0.02 * puppet.frame.height))
        skin = shut[y - reach : y + reach, x - reach : x + reach].reshape(-1, 3)
        before = np.abs(picture[upper_part] - np.median(skin, axis=0)).max(axis=-1)
        after = np.abs(lid - np.median(skin, axis=0)).max(axis=-1)
        assert np.median(after) < 0.8 * np.median(before), "the lid has the colour of skin, the eye had not"
        assert np.percentile(lid.mean(axis=-1), 98) < np.percentile(skin.mean(axis=-1), 98) + 25, "no white slit"
        assert np.ptp(np.percentile(lid.mean(axis=-1), [5, 95])) < 100, "no bands, no iris"


def test_a_blink_changes_the_eyes_alone(landmarker: FaceLandmarker, portrait: Frames) -> None:
    puppet, _ = open_puppet(landmarker, portrait)
    before = drawn(puppet, 0.0)
    changed = np.abs(drawn(puppet, 1.0).astype(int) - before).max(axis=-1) > 0
    for lid in puppet.lids.values():
        grid = lid.grid
        window = changed[grid.top : grid.top + grid.height, grid.left : grid.left + grid.width]
        assert window.any()
        window[...] = False
    assert not changed.any()


def test_the_lid_comes_down_step_by_step(landmarker: FaceLandmarker, portrait: Frames) -> None:
    puppet, face = open_puppet(landmarker, portrait)
    inside = opening(face, 0, portrait.shape) | opening(face, 1, portrait.shape)
    shown = [np.abs(drawn(puppet, c).astype(int) - portrait).max(axis=-1)[inside] > 12 for c in (0, 0.25, 0.5, 0.75, 1)]
    shares = [float(mask.mean()) for mask in shown]
    assert shares[0] < 0.02 and shares[-1] > 0.75
    assert all(b > a + 0.05 for a, b in pairwise(shares))


def strand(picture: Frames, face: Face) -> Frames:
    """A strand of hair from the forehead across one eye to the cheek."""
    x, y = face.points[IRIS_CENTRES[0], :2]
    height = float(np.linalg.norm(face.points[152, :2] - face.points[10, :2]))
    top, bottom = (int(x - 0.03 * height), int(y - 0.35 * height)), (int(x + 0.02 * height), int(y + 0.25 * height))
    covered = picture.copy()
    cv2.line(covered, top, bottom, (60, 40, 30), max(2, int(height / 70)), cv2.LINE_AA)
    return covered


def sunglasses(picture: Frames, face: Face) -> Frames:
    height = float(np.linalg.norm(face.points[152, :2] - face.points[10, :2]))
    covered = picture.copy()
    for centre in IRIS_CENTRES:
        middle = tuple(int(v) for v in face.points[centre, :2])
        cv2.ellipse(covered, middle, (int(0.14 * height), int(0.1 * height)), 0, 0, 360, (20, 20, 22), -1, cv2.LINE_AA)
    return covered


def ink(picture: Frames, face: Face) -> Frames:
    """A drawing of hard black lines on white."""
    grey = cv2.medianBlur(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), 5)
    lines = cv2.adaptiveThreshold(grey, 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY, 15, 6)
    return np.asarray(cv2.cvtColor(lines, cv2.COLOR_GRAY2RGB), np.uint8)


def asleep(picture: Frames, face: Face) -> Frames:
    return drawn(Puppet(picture, face), 1.0)


@pytest.mark.parametrize("spoil", [strand, sunglasses, ink, asleep])
@pytest.mark.parametrize("name", present("young-man.jpg", "several-people.jpg", "people_0.png", "happy.png"))
def test_eyes_stay_open_where_a_lid_would_look_wrong(
    landmarker: FaceLandmarker, name: str, spoil: Callable[[Frames, Face], Frames]
) -> None:
    picture = sample_picture(name)
    face = max(landmarker.detect(picture), key=lambda f: f.area)
    spoilt = np.asarray(spoil(picture, face), np.uint8)
    seen = landmarker.refine(spoilt, face.points)
    assert blink_check.why_not(Puppet(spoilt, seen), landmarker, seen)


def test_a_render_keeps_eyes_open_that_cannot_be_shut(engine: PreviewEngine) -> None:
    """A cartoon's eyes are larger than those of the landmark model."""
    cartoon = sample_picture("cartoon.jpg")
    frames = frames_of(engine, request(cartoon, 6.0, head_motion=0, seed=3))
    same = frames_of(engine, request(cartoon, 6.0, head_motion=0, seed=3, blinks=False))
    assert np.array_equal(frames, same)


def test_an_eye_that_is_turned_away_stays_as_it_is(landmarker: FaceLandmarker, portrait: Frames) -> None:
    """An eye that is turned away is narrow in the picture: here its landmarks are moved together."""
    (face,) = landmarker.detect(portrait)
    points = face.points.copy()
    ring = [*UPPER_LIDS[1], *LOWER_LIDS[1]]
    points[ring, 0] = points[ring, 0].mean() + 0.3 * (points[ring, 0] - points[ring, 0].mean())
    puppet = Puppet(portrait, replace(face, points=points))
    assert list(puppet.lids) == [0]
    away = opening(face, 1, portrait.shape)
    assert np.array_equal(drawn(puppet, 1.0)[away], drawn(puppet, 0.0)[away])
