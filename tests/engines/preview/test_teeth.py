"""The promises of a drawn mouth: teeth in the portrait's own colour, light and style, and a tongue in open vowels."""

import cv2
import numpy as np
import pytest
from lipsync_server.engines.base import Frames
from lipsync_server.engines.landmarks import FaceLandmarker
from lipsync_server.engines.preview import head
from lipsync_server.engines.preview.mesh import FaceFrame
from lipsync_server.engines.preview.mouth import MouthPose
from lipsync_server.engines.preview.puppet import Pose, Puppet
from lipsync_server.engines.preview.teeth import Light, Style
from sample_pictures import sample_picture

INNER_LIPS = [78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191]


@pytest.mark.parametrize("colour", [(235, 225, 200), (180, 162, 125), (150, 170, 190)])
def test_teeth_have_the_colour_of_those_that_the_portrait_shows(
    landmarker: FaceLandmarker, portrait: Frames, colour: tuple[int, int, int]
) -> None:
    (face,) = landmarker.detect(portrait)
    inside = np.tile(np.array(colour, np.uint8), (200, 1))
    light = Light(portrait, face.points, inside)
    assert light.from_picture
    assert np.abs(light.teeth - colour).max() < 3


def test_a_dark_gap_between_the_lips_gives_no_colour_of_teeth(landmarker: FaceLandmarker, portrait: Frames) -> None:
    (face,) = landmarker.detect(portrait)
    dark = Light(portrait, face.points, np.full((200, 3), 20, np.uint8))
    assert not dark.from_picture and not dark.shows_teeth
    assert np.array_equal(dark.teeth, Light(portrait, face.points).teeth)


def test_teeth_are_dimmer_in_a_dimmer_picture(landmarker: FaceLandmarker, portrait: Frames) -> None:
    (face,) = landmarker.detect(portrait)
    dim = (portrait * 0.5).astype(np.uint8)
    assert Light(dim, face.points).teeth.mean() < 0.65 * Light(portrait, face.points).teeth.mean()


def test_a_soft_picture_gets_soft_teeth_and_a_lined_face_worn_ones(landmarker: FaceLandmarker) -> None:
    old, young = sample_picture("glasses.jpg"), sample_picture("young-man.jpg")

    def style(picture: Frames) -> Style:
        face = max(landmarker.detect(picture), key=lambda f: f.area)
        return Style.of(picture, face.points, FaceFrame.of(face.points))

    assert style(old).wear > 0.4 > 0.1 > style(young).wear
    soft = np.asarray(cv2.GaussianBlur(young, (0, 0), 2.0), np.uint8)
    assert style(soft).blur_px > style(young).blur_px + 0.2
    enamel = np.array([220.0, 210.0, 190.0])
    assert np.all(style(old).worn(enamel) < style(young).worn(enamel))


def test_an_open_vowel_shows_a_tongue_behind_the_teeth(landmarker: FaceLandmarker) -> None:
    picture = sample_picture("portrait.jpg")
    face = max(landmarker.detect(picture), key=lambda f: f.area)
    frame = picture.copy()
    still = np.zeros(len(head.BASES), np.float32)
    Puppet(picture, face).draw(Pose(MouthPose(1.2, 1.0, 0.0, 0.0, 0.0), still), frame)
    points = landmarker.refine(frame, face.points).points
    mouth = np.zeros(frame.shape[:2], np.uint8)
    cv2.fillPoly(mouth, [np.round(points[INNER_LIPS, :2]).astype(np.int32)], 1)
    seen = frame[mouth > 0].astype(np.float64)
    light = seen.mean(axis=1)
    tongue = (light > 55) & (light < 150) & (seen[:, 0] > 1.15 * seen[:, 1])
    assert tongue.mean() > 0.15
    assert (light > 150).mean() > 0.1, "the upper teeth stay in sight"


def test_a_tongue_at_the_teeth_fills_the_dark_below_them_and_hides_no_upper_tooth(landmarker: FaceLandmarker) -> None:
    picture = sample_picture("portrait.jpg")
    face = max(landmarker.detect(picture), key=lambda f: f.area)
    still = np.zeros(len(head.BASES), np.float32)
    puppet = Puppet(picture, face)
    down, up = picture.copy(), picture.copy()
    puppet.draw(Pose(MouthPose(1.5, 1.0, 0.0, 0.0, 0.0), still), down)
    puppet.draw(Pose(MouthPose(1.5, 1.0, 0.0, 0.0, 0.0, tongue=1.0), still), up)
    before, after = down.astype(int).mean(axis=2), up.astype(int).mean(axis=2)
    changed = np.abs(after - before) > 4
    points = landmarker.refine(down, face.points).points
    mouth = np.zeros(picture.shape[:2], np.uint8)
    cv2.fillPoly(mouth, [np.round(points[INNER_LIPS, :2]).astype(np.int32)], 1)
    assert changed.sum() > 0.1 * mouth.sum()
    assert not changed[cv2.dilate(mouth, np.ones((9, 9), np.uint8)) == 0].any(), "nothing outside the mouth changes"
    assert before[changed].mean() < 100, "the dark of the mouth is covered"
    assert (before > 160)[mouth > 0].sum() == pytest.approx((after > 160)[mouth > 0].sum(), rel=0.05)
