"""The shape, the sound and the stills of a finished video."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lipsync_server.engines.ask import Ask
from lipsync_server.engines.base import EngineOptions
from lipsync_server.engines.landmarks import N_POINTS, Face
from lipsync_server.media.framing.shape import ASPECTS, Framed, border_colour, cut_around, head_box, video_size
from lipsync_server.media.framing.stills import MAX_PREVIEW_BYTES, write_still
from lipsync_server.media.framing.wishes import STILL_TYPES, Still, VideoFormat
from lipsync_server.media.mp4.encoder import FrameEncoder
from lipsync_server.media.mp4.mux import mux
from lipsync_server.media.sound.delivered import integrated_loudness, write_delivered
from lipsync_server.paths import SAMPLES_DIR
from lipsync_server.workers.rendering.framing import moved_options
from PIL import Image
from pydantic import ValidationError

SPEECH = SAMPLES_DIR / "speech.wav"


@pytest.mark.parametrize("wanted", list(ASPECTS))
@pytest.mark.parametrize("size", [(512, 512), (1920, 1080), (1080, 1920), (333, 777), (4000, 300)])
def test_a_cut_has_the_wanted_ratio_and_holds_the_whole_head(wanted: VideoFormat, size: tuple[int, int]) -> None:
    side = min(size) / 8
    for middle in (0.1, 0.5, 0.95):
        face = (size[0] * middle - side / 2, size[1] * middle - side / 2)
        head = head_box((*face, face[0] + side, face[1] + side))
        part = cut_around(size, head, ASPECTS[wanted])
        assert part is not None
        left, top, right, bottom = part
        assert left >= 0 and top >= 0 and right <= size[0] and bottom <= size[1]
        assert abs((right - left) / (bottom - top) / ASPECTS[wanted] - 1) < 0.01
        assert left <= max(0, head[0]) + 1 and right >= min(size[0], head[2]) - 1
        assert top <= max(0, head[1]) + 1 and bottom >= min(size[1], head[3]) - 1


def test_a_head_that_is_too_large_for_the_shape_is_not_cut() -> None:
    assert cut_around((512, 512), head_box((100, 100, 400, 450)), 16 / 9) is None


@pytest.mark.parametrize("frame", [(512, 512), (832, 464), (640, 360), (255, 511)])
@pytest.mark.parametrize("wanted", ["original", *ASPECTS])
@pytest.mark.parametrize("height", [None, 144, 720])
def test_sizes_are_even_and_nothing_is_squeezed(
    frame: tuple[int, int], wanted: VideoFormat, height: int | None
) -> None:
    width, tall = video_size(frame, wanted, height)
    assert width % 2 == 0 and tall % 2 == 0
    assert height is None or tall == height
    # A disc stays round: its width and height in the video are the same.
    picture = np.zeros((frame[1], frame[0], 3), np.uint8)
    y, x = np.mgrid[: frame[1], : frame[0]]
    radius = min(frame) * 0.3
    picture[(x - frame[0] / 2) ** 2 + (y - frame[1] / 2) ** 2 < radius**2] = 255
    (fitted,) = Framed((width, tall), "plain").fit(picture[None])
    assert fitted.shape == (tall, width, 3)
    rows, columns = np.flatnonzero(fitted[..., 0].max(1) > 127), np.flatnonzero(fitted[..., 0].max(0) > 127)
    assert abs(np.ptp(rows) - np.ptp(columns)) <= 0.03 * np.ptp(rows) + 2


def test_the_stripes_beside_a_widened_picture_are_blurred_or_plain() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (1, 90, 90, 3), np.uint8)
    blurred = Framed((160, 90), "blur").fit(frame)[0]
    plain = Framed((160, 90), "plain", border_colour(frame[0])).fit(frame)[0]
    assert np.array_equal(blurred[:, 35:125], frame[0])
    assert np.abs(np.diff(blurred[:, :30].astype(int), axis=1)).max() < 40  # noise has neighbours 255 apart
    assert np.ptp(plain[:, :30].reshape(-1, 3), axis=0).max() == 0


@pytest.mark.parametrize(
    ("wishes", "says"),
    [
        ({"height": 721}, "even"),
        ({"height": 100}, "144"),
        ({"format": "21:9"}, "9:16"),
        ({"fill": "red"}, "blur"),
        ({"lead_silence_s": -1}, "0"),
        ({"loudness_lufs": 0}, "-9"),
        ({"lead_silence_s": float("nan")}, "finite"),
    ],
)
def test_a_wrong_value_of_a_shape_or_sound_field_is_refused_with_its_limits(
    wishes: dict[str, object], says: str
) -> None:
    with pytest.raises(ValidationError, match=says):
        Ask.model_validate(wishes)


@pytest.mark.parametrize("factor", [0.05, 1.0])
def test_the_sound_gets_the_wanted_loudness_without_clipping_or_moving(tmp_path: Path, factor: float) -> None:
    samples, rate_hz = soundfile.read(SPEECH, dtype="float32")
    spoken, output = tmp_path / "spoken.wav", tmp_path / "out.wav"
    soundfile.write(spoken, np.stack([samples, samples], 1) * factor, rate_hz)
    assert write_delivered(spoken, output, lead_silence_s=0.5, loudness_lufs=-14.0) == ()
    assert integrated_loudness(output) == pytest.approx(-14, abs=0.3)
    made, same_rate = soundfile.read(output)
    silence = round(0.5 * rate_hz)
    assert same_rate == rate_hz and len(made) == len(samples) + silence
    assert np.abs(made[:silence]).max() == 0 and np.abs(made).max() <= 10 ** (-1 / 20) + 1e-4
    match = np.correlate(made[silence : silence + 48_000, 0], samples[2_000:46_000], mode="valid")
    assert int(match.argmax()) == 2_000


def test_a_recording_of_silence_keeps_its_level_with_a_warning(tmp_path: Path) -> None:
    silent, output = tmp_path / "silent.wav", tmp_path / "out.wav"
    soundfile.write(silent, np.zeros(48_000, np.float32), 48_000)
    (said,) = write_delivered(silent, output, loudness_lufs=-14.0)
    assert "silent" in said and np.abs(soundfile.read(output)[0]).max() == 0


def silent_video(folder: Path, frames: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Path:
    """An MP4 of these frames in `folder`."""
    encoder = FrameEncoder(folder / "segments", fps=25, encoder="libx264", crf=18)
    encoder.write(frames)
    encoder.end_segment()
    encoder.close()
    spoken = folder / "spoken.wav"
    soundfile.write(spoken, np.zeros(round(16_000 * len(frames) / 25), np.float32), 16_000)
    mux(folder / "segments", spoken, folder / "video.mp4", duration_s=len(frames) / 25)
    return folder / "video.mp4"


@pytest.fixture(scope="module", params=[1, 45])
def noise(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A video of noise, and its number of frames. A moving preview of 45 such frames has to become smaller."""
    n_frames: int = request.param
    frames = np.random.default_rng(0).integers(0, 256, (n_frames, 480, 640, 3), np.uint8)
    return silent_video(tmp_path_factory.mktemp("noise"), frames), n_frames


@pytest.mark.parametrize("kind", list(STILL_TYPES))
def test_stills_are_pictures_below_their_limit_even_of_noise(
    tmp_path: Path, kind: Still, noise: tuple[Path, int]
) -> None:
    video, n_frames = noise
    size = write_still(video, tmp_path / kind, kind, duration_s=n_frames / 25)
    assert 0 < size < MAX_PREVIEW_BYTES
    with Image.open(tmp_path / kind) as picture:
        if kind == "poster.jpg":
            assert picture.size == (640, 480)
        else:
            assert getattr(picture, "n_frames", 1) == (1 if n_frames == 1 else pytest.approx(20, abs=4))
            if kind == "preview.gif" and n_frames > 1:
                assert max(picture.size) < 480
    assert [path.name for path in tmp_path.glob(".*.part")] == []


def test_the_still_part_of_a_gif_does_not_flicker(tmp_path: Path) -> None:
    """A bright bar moves over the lower half of a portrait; the upper half keeps its colours in every frame."""
    still = np.asarray(Image.open(SAMPLES_DIR / "portrait.jpg").convert("RGB").resize((320, 320)))
    frames = np.repeat(still[None], 50, axis=0)
    for i, frame in enumerate(frames):
        frame[200:, 6 * i : 6 * i + 20] = (40, 250 - 4 * i, 200)
    write_still(silent_video(tmp_path, frames), tmp_path / "a.gif", "preview.gif", duration_s=2.0)
    with Image.open(tmp_path / "a.gif") as moving:
        uppers = []
        for index in range(getattr(moving, "n_frames", 1)):
            moving.seek(index)
            shown = np.asarray(moving.convert("RGB").resize((320, 320))).astype(float)
            uppers.append(shown[:160])
    assert len(uppers) > 20
    steps = [np.abs(after - before).mean() for before, after in pairwise(uppers)]
    assert max(steps) < 0.5


def test_a_face_above_the_cut_does_not_count_for_face_index() -> None:
    """Two people one above the other, cut to a wide picture around the lower one: this face is the only one left."""

    def face(left: float, top: float) -> Face:
        points = np.zeros((N_POINTS, 3), np.float32)
        points[:, 0], points[:, 1] = np.linspace(left, left + 100, N_POINTS), np.linspace(top, top + 100, N_POINTS)
        return Face(points, 1.0, 0.0, 0.0, 0.0)

    above, below = face(150, 100), face(160, 700)
    options = EngineOptions(face_index=1)
    assert moved_options(options, [above, below], below, (0, 600, 400, 825)).face_index is None
    beside = moved_options(options, [above, face(40, 700), below], below, (0, 600, 400, 825))
    assert beside.face_index is None and beside.face_box == (160, 100, 260, 200)
