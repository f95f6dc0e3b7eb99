"""The promises of the preview engine: exact length, the same frames for the same seed, a mouth that opens and shuts as
asked, and no other change of the picture."""

import gc

import cv2
import numpy as np
import psutil
import pytest
from engine_frames import frames_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lipsync_server.bench.render_context import RecordingContext
from lipsync_server.engines.base import Frames, ResumePoint
from lipsync_server.engines.landmarks import FaceLandmarker
from lipsync_server.engines.preview import head
from lipsync_server.engines.preview.calibration import TARGET_GAP, calibrate
from lipsync_server.engines.preview.engine import PreviewEngine, fit_picture
from lipsync_server.engines.preview.mesh import FaceFrame, lip_gap
from lipsync_server.engines.preview.motion import Amounts, Motion
from lipsync_server.engines.preview.mouth import MouthPose
from lipsync_server.engines.preview.puppet import Pose, Puppet
from lipsync_server.errors import Cancelled, NoFace
from preview_kit import hum, request
from sample_pictures import present, sample_picture

STILL = np.zeros(len(head.BASES), np.float32)
SHUT_BELOW = 0.005


def mouth_gap(landmarker: FaceLandmarker, frame: Frames, near: np.ndarray) -> float:
    points = landmarker.refine(frame, near).points
    return lip_gap(points, FaceFrame.of(points))


# --- length -------------------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(duration_s=st.floats(min_value=0.02, max_value=1.5), fps=st.sampled_from([24, 25, 30]))
def test_there_are_exactly_as_many_frames_as_the_sound_needs(
    engine: PreviewEngine, small_portrait: Frames, duration_s: float, fps: int
) -> None:
    job = request(small_portrait, duration_s)
    job = type(job)(job.picture, job.speech, duration_s, job.options, fps=fps)
    batches = list(engine.generate(job, RecordingContext()))
    assert sum(map(len, batches)) == job.n_frames == int(np.ceil(duration_s * fps - 1e-6))
    assert {batch.shape[1:] for batch in batches} == {(128, 128, 3)}
    assert all(batch.dtype == np.uint8 for batch in batches)


def test_the_mouth_is_shut_where_the_sound_is_shorter_than_announced(
    engine: PreviewEngine, small_portrait: Frames
) -> None:
    frames = frames_of(engine, request(small_portrait, 1.0, speech=np.zeros(0, np.float32)))
    assert len(frames) == 25


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((301, 403), (300, 402)),
        ((512, 512), (512, 512)),
        ((1080, 1920), (1080, 1920)),
        ((4000, 3000), (1440, 1080)),
        ((2000, 6000), (640, 1920)),
        ((1, 7), (2, 6)),
    ],
)
def test_the_video_has_even_sides_and_at_most_1080p(size: tuple[int, int], expected: tuple[int, int]) -> None:
    picture, scale = fit_picture(np.zeros((*size, 3), np.uint8))
    assert picture.shape[:2] == expected
    assert scale <= 1


# --- determinism --------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_frames_and_another_seed_others(
    engine: PreviewEngine, small_portrait: Frames
) -> None:
    first = frames_of(engine, request(small_portrait, 2.0, seed=7))
    again = frames_of(engine, request(small_portrait, 2.0, seed=7))
    other = frames_of(engine, request(small_portrait, 2.0, seed=8))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_render_resumes_at_its_resume_point_with_the_same_frames(
    engine: PreviewEngine, small_portrait: Frames
) -> None:
    recorder = RecordingContext()
    job = request(small_portrait, 26.0)
    whole = frames_of(engine, job, recorder)
    assert recorder.saved, "a resume point is saved every few hundred frames"
    state = recorder.saved[-1]
    n_frames = int(state["n_frames"])
    rest = frames_of(engine, job, RecordingContext(resume_point=ResumePoint(n_frames, state)))
    assert 0 < n_frames < len(whole)
    assert np.array_equal(whole[n_frames:], rest)


def test_cancelling_stops_within_a_batch(engine: PreviewEngine, small_portrait: Frames) -> None:
    recorder = RecordingContext(stop=lambda context: len(context.stages) > 6)
    n_frames = 0
    with pytest.raises(Cancelled):
        for batch in engine.generate(request(small_portrait, 20.0), recorder):
            n_frames += len(batch)
    assert 0 < n_frames < 100


def test_progress_rises_to_the_end(engine: PreviewEngine, small_portrait: Frames) -> None:
    recorder = RecordingContext()
    frames_of(engine, request(small_portrait, 3.0), recorder)
    done = [done for stage, done, _ in recorder.stages if stage == "generate"]
    assert done == sorted(done) and len(done) > 2
    assert recorder.stages[-1] == ("generate", 75, 75)


def test_memory_does_not_grow_with_the_sound(engine: PreviewEngine, small_portrait: Frames) -> None:
    process = psutil.Process()

    def peak_mib(duration_s: float) -> float:
        gc.collect()
        peak = 0
        for _ in engine.generate(request(small_portrait, duration_s), RecordingContext()):
            peak = max(peak, process.memory_info().rss)
        return peak / 2**20

    # A minute of frames is 74 MB.
    short, long = peak_mib(5), peak_mib(65)
    assert long - short < 40, f"{short:.0f} MiB for 5 s, {long:.0f} MiB for 65 s"


# --- the mouth ----------------------------------------------------------------------------------------------------

# The shipped portrait smiles with parted lips; happy.png has shut ones, full_body_1.png a tilted head and parted lips.
PORTRAITS = present(
    "portrait.jpg", "glasses.jpg", "happy.png", "full4.jpeg", "full_body_1.png", "art_6.png", "people_0.png"
)


@pytest.mark.parametrize("name", PORTRAITS)
def test_the_mouth_opens_as_far_as_asked_and_shuts_even_when_the_portrait_s_lips_are_parted(
    landmarker: FaceLandmarker, name: str
) -> None:
    picture = sample_picture(name)
    face = max(landmarker.detect(picture), key=lambda f: f.area)
    puppet = Puppet(picture, face)
    calibration = calibrate(puppet, landmarker, face)

    def measured(opening: float, press: float = 0.0) -> float:
        frame = picture.copy()
        pose = Pose(MouthPose(opening, 1.0, 0.0, 0.0, press), STILL)
        puppet.draw(calibration.apply(pose), frame)
        return mouth_gap(landmarker, frame, face.points)

    assert measured(0.0) < SHUT_BELOW
    assert measured(0.0, press=1.0) < SHUT_BELOW
    gaps = [measured(opening) for opening in (0.25, 0.5, 0.75, 1.0)]
    assert gaps == pytest.approx([TARGET_GAP * opening for opening in (0.25, 0.5, 0.75, 1.0)], abs=0.009, rel=0.25)


def test_rounding_and_spreading_change_the_mouth_s_width(landmarker: FaceLandmarker, portrait: Frames) -> None:
    (face,) = landmarker.detect(portrait)
    puppet = Puppet(portrait, face)

    def width(spread: float, narrow: float) -> float:
        frame = portrait.copy()
        puppet.draw(Pose(MouthPose(0.4, 1.0, spread, narrow, 0.0), STILL), frame)
        points = landmarker.refine(frame, face.points).points
        return float(np.linalg.norm(points[291, :2] - points[61, :2])) / puppet.frame.height

    assert width(1, 0) > width(0, 0) + 0.02 > width(0, 1) + 0.05


def test_speech_moves_the_mouth_and_silence_leaves_it_shut(
    engine: PreviewEngine, landmarker: FaceLandmarker, portrait: Frames
) -> None:
    (face,) = landmarker.detect(portrait)
    speaking = frames_of(engine, request(portrait, 2.0, head_motion=0))
    silent = frames_of(engine, request(portrait, 2.0, speech=np.zeros(32_000, np.float32)))
    gaps = [mouth_gap(landmarker, frame, face.points) for frame in speaking]
    assert np.ptp(gaps) > 0.2 * TARGET_GAP
    assert all(mouth_gap(landmarker, frame, face.points) < SHUT_BELOW for frame in silent)
    assert not np.array_equal(silent[0], silent[-1]), "a silent face still breathes"


def test_the_inside_of_an_open_mouth_is_darker_than_the_face(landmarker: FaceLandmarker, portrait: Frames) -> None:
    (face,) = landmarker.detect(portrait)
    puppet = Puppet(portrait, face)
    frame = portrait.copy()
    puppet.draw(Pose(MouthPose(1.2, 1.0, 0.0, 0.0, 0.0), STILL), frame)
    points = landmarker.refine(frame, face.points).points
    inside = np.zeros(frame.shape[:2], np.uint8)
    ring = [78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191]
    cv2.fillPoly(inside, [np.round(points[ring, :2]).astype(np.int32)], 1)
    x, y = np.round(points[50, :2]).astype(int)
    assert frame[inside > 0].mean() < 0.85 * frame[y - 3 : y + 4, x - 3 : x + 4].mean()


# --- the rest of the picture --------------------------------------------------------------------------------------


def test_the_background_stays_as_it_was(engine: PreviewEngine, portrait: Frames) -> None:
    frame = np.full((600, 900, 3), (60, 90, 120), np.uint8)
    frame += np.random.default_rng(0).integers(0, 40, frame.shape).astype(np.uint8)
    frame[88:600, 20:532] = portrait
    frames = frames_of(engine, request(frame, 3.0))
    assert np.array_equal(frames[:, :, 560:], np.broadcast_to(frame[:, 560:], frames[:, :, 560:].shape))
    assert np.array_equal(frames[:, 590:], np.broadcast_to(frame[590:], frames[:, 590:].shape))


def test_no_border_turns_dark_when_the_head_fills_the_picture(
    engine: PreviewEngine, landmarker: FaceLandmarker, portrait: Frames
) -> None:
    (face,) = landmarker.detect(portrait)
    left, top, right, bottom = (int(v) for v in face.box)
    close_up = np.ascontiguousarray(portrait[top - 6 : bottom + 4, left - 4 : right + 6])
    close_up = np.asarray(cv2.resize(close_up, (320, 360), interpolation=cv2.INTER_CUBIC), np.uint8)
    frames = frames_of(engine, request(close_up, 4.0, head_motion=2)).astype(np.float64)
    for edge in (np.s_[:, 0], np.s_[:, -1], np.s_[:, :, 0], np.s_[:, :, -1]):
        still = close_up[None][edge].mean()
        assert np.abs(frames[edge].mean(axis=(1, 2)) - still).max() < 12


def test_frames_are_as_sharp_as_the_portrait(engine: PreviewEngine, portrait: Frames) -> None:
    def detail(picture: Frames) -> float:
        grey = cv2.cvtColor(picture[70:180, 180:270], cv2.COLOR_RGB2GRAY).astype(np.float32)
        return float(np.sqrt(((grey - cv2.GaussianBlur(grey, (0, 0), 1.5)) ** 2).mean()))

    frames = frames_of(engine, request(portrait, 3.0))
    assert np.median([detail(frame) for frame in frames]) > 0.8 * detail(portrait)


def test_movement_is_smooth(engine: PreviewEngine, portrait: Frames) -> None:
    """Outside the lower face, second differences over time stay small beside first differences (no shaking)."""
    frames = frames_of(engine, request(portrait, 4.0, blinks=False))
    grey = np.stack([cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in frames]).astype(np.float32)[:, :125]
    first = np.abs(np.diff(grey, axis=0)).mean()
    second = np.abs(np.diff(grey, n=2, axis=0)).mean()
    assert first > 0.02, "the head does move"
    assert second - 0.8 * first < 0.4


def test_eyes_blink_every_few_seconds_down_fast_and_up_slowly() -> None:
    motion = Motion(np.zeros((25 * 120, 5), np.float32), 25, 5, Amounts())
    lids = np.array([motion.pose(i).lids for i in range(25 * 120)])
    shut = lids.max(axis=1) > 0.8
    starts = np.flatnonzero(shut[1:] & ~shut[:-1])
    assert 120 / 6.5 < len(starts) < 120 / 2
    assert lids[0].max() == 0 and np.median(lids) == 0
    rising, falling = (np.diff(lids[:, 0]) > 0.01).sum(), (np.diff(lids[:, 0]) < -0.01).sum()
    assert falling > 1.3 * rising
    still = Motion(np.zeros((500, 5), np.float32), 25, 5, Amounts(head=0, blinks=False))
    assert all(still.pose(i).lids == (0, 0) for i in range(500))


# --- which face ---------------------------------------------------------------------------------------------------


def test_only_the_chosen_face_speaks(engine: PreviewEngine, portrait: Frames) -> None:
    pair = np.ascontiguousarray(np.hstack([portrait[:400], portrait[:400, ::-1]]))
    for index, moved, rested in ((0, np.s_[:, :, :400], np.s_[:, :, 624:]), (1, np.s_[:, :, 624:], np.s_[:, :, :400])):
        frames = frames_of(engine, request(pair, 1.5, face_index=index)).astype(np.int16)
        change = np.abs(frames - pair).max(axis=-1)
        assert change[moved].max() > 40
        assert change[rested].max() == 0
    left, top, right, bottom = 750, 60, 860, 190
    frames = frames_of(engine, request(pair, 0.5, face_box=(left, top, right, bottom))).astype(np.int16)
    assert np.abs(frames - pair)[:, :, :400].max() == 0


def test_a_face_box_is_meant_in_pixels_of_the_picture_that_was_given(engine: PreviewEngine, portrait: Frames) -> None:
    pair = np.hstack([portrait, portrait[:, ::-1]])
    large = np.asarray(cv2.resize(pair, None, fx=3, fy=3, interpolation=cv2.INTER_LINEAR), np.uint8)
    frames = frames_of(engine, request(large, 0.2, speech=hum(0.2), face_box=(2250, 180, 2580, 570)))
    assert frames.shape[2] == 1920
    still = fit_picture(large)[0].astype(np.int16)
    change = np.abs(frames - still).max(axis=(0, 3))
    assert change[:, :700].max() == 0 and change[:, 1100:].max() > 20


def test_a_picture_without_a_face_is_refused(engine: PreviewEngine) -> None:
    with pytest.raises(NoFace, match="No face was found"):
        frames_of(engine, request(np.full((300, 400, 3), 128, np.uint8), 1.0))


def test_a_strong_profile_gets_a_warning(engine: PreviewEngine) -> None:
    recorder = RecordingContext()
    frames = frames_of(engine, request(sample_picture("child.jpg"), 0.2, face_index=0), recorder)
    assert len(frames) == 5
    assert len(recorder.warnings) == 1 and "from the side" in recorder.warnings[0]


@pytest.mark.parametrize(("width", "height", "side"), [(4000, 3000, 250), (2400, 6000, 240)])
def test_a_face_of_50_pixels_in_a_large_photograph_moves_and_its_size_is_reported(
    engine: PreviewEngine, portrait: Frames, width: int, height: int, side: int
) -> None:
    """The video has fewer pixels than the photograph; the promise counts those of the photograph."""
    photograph = np.full((height, width, 3), 120, np.uint8)
    top, left = height // 3, width // 4
    photograph[top : top + side, left : left + side] = cv2.resize(portrait, (side, side), interpolation=cv2.INTER_AREA)
    recorder = RecordingContext()
    frames = frames_of(engine, request(photograph, 1.0), recorder)
    scale = frames.shape[2] / width
    window = np.s_[:, int(top * scale) : int((top + side) * scale), int(left * scale) : int((left + side) * scale)]
    moved = np.abs(np.diff(frames.astype(np.int16), axis=0))
    assert moved[window].max() > 4
    moved[window] = 0
    assert moved.max() == 0
    assert any("pixels high in the video" in warning for warning in recorder.warnings)
