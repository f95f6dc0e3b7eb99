"""The promises of the eyes' movement: the iris moves between lids that stay, and the eyes look with the speech."""

import cv2
import numpy as np
import pytest
from lipsync_server.engines.landmarks import FaceLandmarker
from lipsync_server.engines.preview import head
from lipsync_server.engines.preview.mesh import IRIS_CENTRES, LOWER_LIDS, UPPER_LIDS
from lipsync_server.engines.preview.motion import Amounts, Motion
from lipsync_server.engines.preview.mouth import MouthPose
from lipsync_server.engines.preview.puppet import Pose, Puppet
from numpy.typing import NDArray
from sample_pictures import sample_picture

FPS = 25
STILL = np.zeros(len(head.BASES), np.float32)
SHUT = MouthPose(open=0.0, close=1.0, spread=0.0, narrow=0.0, press=0.0)


def looks(track: NDArray[np.float32], seed: int = 0, **amounts: bool) -> NDArray[np.float64]:
    """The gaze of every frame, (n_frames, 2)."""
    motion = Motion(track, FPS, seed, Amounts(**amounts))
    return np.array([motion.pose(frame).gaze for frame in range(len(track))])


def talk(*phrases: tuple[float, float], seconds: float) -> NDArray[np.float32]:
    """The track of speech in `phrases` (start and end in s), with a stressed syllable in the middle of each."""
    t = np.arange(int(seconds * FPS)) / FPS
    loudness = np.zeros(len(t))
    for start, end in phrases:
        loudness[(t >= start) & (t < end)] = 0.5
        loudness += 0.5 * np.exp(-(((t - (start + end) / 2) / 0.1) ** 2))
    return np.stack([0.5 * loudness, 0 * t, 0 * t, loudness, 0 * t], axis=1).astype(np.float32)


@pytest.mark.parametrize("name", ["portrait.jpg", "glasses.jpg"])
@pytest.mark.parametrize("across", [-1.0, 1.0])
def test_the_iris_moves_and_everything_outside_the_lids_stays(
    landmarker: FaceLandmarker, name: str, across: float
) -> None:
    picture = sample_picture(name)
    face = max(landmarker.detect(picture), key=lambda f: f.area)
    puppet = Puppet(picture, face)
    straight, aside = picture.copy(), picture.copy()
    puppet.draw(Pose(SHUT, STILL), straight)
    puppet.draw(Pose(SHUT, STILL, gaze=(across, 0.0)), aside)
    changed = np.abs(aside.astype(int) - straight).max(axis=2) > 2
    opening = np.zeros(picture.shape[:2], np.uint8)
    for upper, lower in zip(UPPER_LIDS, LOWER_LIDS, strict=True):
        outline = face.points[[*upper, *lower[::-1]], :2]
        cv2.fillPoly(opening, [np.round(outline).astype(np.int32)], 1)
    assert changed.any()
    assert not changed[cv2.dilate(opening, np.ones((3, 3), np.uint8)) == 0].any()
    seen = landmarker.refine(aside, face.points).points
    before = landmarker.refine(straight, face.points).points
    moved = (seen - before)[list(IRIS_CENTRES), :2] @ puppet.frame.right
    assert np.all(np.sign(moved) == across), moved


def test_without_speech_the_eyes_stay_on_the_viewer() -> None:
    assert not looks(np.zeros((20 * FPS, 5), np.float32)).any()


def test_the_eyes_look_aside_at_the_start_of_phrases_and_at_the_viewer_on_the_stress() -> None:
    phrases = tuple((start, start + 3.0) for start in (1.0, 6.0, 11.0, 16.0, 21.0, 26.0))
    track = talk(*phrases, seconds=30)
    aside = stressed = 0.0
    for seed in range(8):
        gaze = np.abs(looks(track, seed)).max(axis=1)
        assert gaze.max() <= 1.0
        aside += np.mean([gaze[round((start + 0.2) * FPS)] for start, _ in phrases])
        stressed += np.mean([gaze[round((start + 1.5) * FPS)] for start, _ in phrases])
    assert aside / 8 > 0.3
    assert stressed / 8 < 0.1


def test_the_eyes_can_be_kept_still_and_begin_as_in_the_portrait() -> None:
    track = talk((0.0, 3.0), (4.0, 7.0), seconds=8)
    assert not looks(track, gaze=False).any()
    for seed in range(8):
        assert not looks(track, seed)[0].any()
