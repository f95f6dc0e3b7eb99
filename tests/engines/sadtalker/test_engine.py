"""The whole engine from tiny model files in the official layout: frames, options, resuming, errors."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import GeneratorType
from typing import Any

import av
import numpy as np
import psutil
import pytest
import skimage.data
import torch
from engine_frames import frames_of
from lipsync_server.bench.render_context import RecordingContext
from lipsync_server.engines.base import RenderRequest, ResumePoint
from lipsync_server.engines.registry import create, options_model
from lipsync_server.engines.sadtalker import engine as engine_module
from lipsync_server.engines.sadtalker.engine import SadTalkerEngine
from lipsync_server.engines.sadtalker.info import describe
from lipsync_server.engines.sadtalker.options import Options
from lipsync_server.errors import Cancelled, NoFace, WeightsError
from lipsync_server.random_models import sadtalker as random_sadtalker
from lipsync_server.settings import Settings
from pydantic import ValidationError

FACE = skimage.data.astronaut()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    random_sadtalker.write(folder / "sadtalker")
    return folder


@pytest.fixture(scope="module")
def engine(weights: Path) -> Iterator[SadTalkerEngine]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    engine = create("sadtalker", Settings(weights_dir=weights, device="cpu", _env_file=None))
    assert isinstance(engine, SadTalkerEngine)
    yield engine
    engine.close()
    torch.set_num_threads(n_threads)


def speech(duration_s: float) -> np.ndarray:
    n_samples = round(16_000 * duration_s)
    return (0.1 * np.random.default_rng(0).standard_normal(n_samples)).astype(np.float32)


def request(duration_s: float, picture: np.ndarray = FACE, **options: object) -> RenderRequest:
    options = {"precision": "float32", **options}
    return RenderRequest(picture, speech(duration_s), duration_s, Options(**options))


# 0.84 s are 21 frames, on which the original crashes, as on one and two.
@pytest.mark.parametrize("duration_s", [0.04, 0.08, 0.2, 0.84, 0.85])
def test_any_length_gives_exactly_the_frames_of_the_sound(engine: SadTalkerEngine, duration_s: float) -> None:
    asked = request(duration_s, preprocess="crop")
    frames = frames_of(engine, asked)
    assert frames.shape == (asked.n_frames, 256, 256, 3)
    assert frames.dtype == np.uint8
    assert frames.std() > 5


def test_by_default_the_head_is_put_back_into_the_whole_picture(engine: SadTalkerEngine) -> None:
    frames = frames_of(engine, request(0.12))
    assert frames.shape == (3, *FACE.shape)
    changed = (frames[0] != FACE).any(axis=2)
    assert changed[100:170, 190:260].mean() > 0.9
    assert not changed[400:].any()
    assert not changed[:, 420:].any()


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"preprocess": "crop", "size": 512}, (512, 512)),
        ({"preprocess": "extcrop"}, None),
        ({"preprocess": "resize"}, (256, 256)),
        ({"preprocess": "extfull"}, FACE.shape[:2]),
        ({"preprocess": "full", "paste": "poisson"}, FACE.shape[:2]),
        ({"preprocess": "full", "reference_behaviour": True}, FACE.shape[:2]),
        ({"preprocess": "crop", "yaw": [-20, 20], "pitch": [5], "roll": [0, 10, 0]}, (256, 256)),
    ],
    ids=str,
)
def test_every_mode_renders(engine: SadTalkerEngine, options: dict[str, Any], shape: tuple[int, int] | None) -> None:
    frames = frames_of(engine, request(0.08, **options))
    assert len(frames) == 2
    assert frames.shape[1] % 2 == frames.shape[2] % 2 == 0
    if shape is not None:
        assert frames.shape[1:3] == shape


def test_given_angles_turn_the_head(engine: SadTalkerEngine) -> None:
    plain = frames_of(engine, request(0.04, preprocess="crop"))
    turned = frames_of(engine, request(0.04, preprocess="crop", yaw=[60]))
    assert np.abs(plain.astype(int) - turned).mean() > 0.5


def test_one_angle_needs_no_list_and_an_impossible_angle_is_refused() -> None:
    assert Options.model_validate({"yaw": 20, "pitch": [1, 2.5]}).yaw == [20.0]
    for wrong in (200, True, "left", [0] * 65):
        with pytest.raises(ValidationError, match="yaw"):
            Options.model_validate({"yaw": wrong})


def test_the_same_seed_gives_the_same_frames_whatever_the_batch(engine: SadTalkerEngine) -> None:
    one = frames_of(engine, request(0.2, preprocess="crop", batch_size=1))
    three = frames_of(engine, request(0.2, preprocess="crop", batch_size=3))
    assert np.abs(one.astype(int) - three).max() <= 1
    again = frames_of(engine, request(0.2, preprocess="crop", batch_size=3))
    assert np.array_equal(three, again)
    other = frames_of(engine, request(0.2, preprocess="crop", batch_size=3, seed=7))
    assert not np.array_equal(other, again)


@pytest.mark.parametrize("n_done", [1, 2, 7, 10])
def test_a_resumed_render_yields_what_was_missing(
    engine: SadTalkerEngine, n_done: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "_SAVE_FRAMES", 4)
    asked = request(0.4, preprocess="crop", batch_size=3)
    whole_context = RecordingContext()
    whole = frames_of(engine, asked, whole_context)
    assert [state["n_frames"] for state in whole_context.saved] == [6]
    if n_done == 10:
        assert list(engine.generate(asked, RecordingContext(resume_point=ResumePoint(10, {})))) == []
        return
    rest = frames_of(engine, asked, RecordingContext(resume_point=ResumePoint(n_done, {"n_frames": n_done})))
    assert np.abs(rest.astype(int) - whole[n_done:]).max() <= 1


def test_cancelling_stops_within_a_batch(engine: SadTalkerEngine) -> None:
    context = RecordingContext.stopping_at(2)
    seen = 0
    with pytest.raises(Cancelled):
        for frames in engine.generate(request(1.0, preprocess="crop", batch_size=1), context):
            seen += len(frames)
    assert seen == 2


def test_progress_counts_frames_to_the_end(engine: SadTalkerEngine) -> None:
    context = RecordingContext()
    frames_of(engine, request(0.2, preprocess="crop", batch_size=2), context)
    done = [done for stage, done, total in context.stages if stage == "generate" and total == 5]
    assert done == [2, 4, 5]
    assert {stage for stage, _, _ in context.stages} >= {"preprocess", "generate"}


def test_the_original_drops_the_last_incomplete_frame_of_sound(engine: SadTalkerEngine) -> None:
    duration_s = 0.15  # 3.75 frames
    padded = frames_of(engine, request(duration_s, preprocess="crop"))
    dropped = frames_of(engine, request(duration_s, preprocess="crop", tail="dropped"))
    assert len(padded) == len(dropped) == 4
    assert np.array_equal(dropped[2], dropped[3])
    assert not np.array_equal(padded[2], padded[3])


def test_the_motion_of_a_video_is_followed(engine: SadTalkerEngine, tmp_path: Path) -> None:
    video = tmp_path / "head.mp4"
    with av.open(str(video), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 512, 512, "yuv420p"
        for i in range(4):
            moved = np.roll(FACE, 10 * i, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(moved, format="rgb24")))
        container.mux(stream.encode())
    results = {}
    for follow in ("none", "pose", "eyes", "both"):
        asked = request(0.2, preprocess="crop", follow_video=follow)
        results[follow] = frames_of(engine, replace(asked, picture_video=video))
    assert all(len(frames) == 5 for frames in results.values())
    for follow in ("pose", "eyes", "both"):
        assert not np.array_equal(results[follow], results["none"])


def test_a_picture_without_a_face_is_refused(engine: SadTalkerEngine) -> None:
    with pytest.raises(NoFace, match="No face"):
        frames_of(engine, request(0.2, picture=np.full((300, 300, 3), 128, np.uint8)))


def test_the_face_that_was_asked_for_is_animated(engine: SadTalkerEngine) -> None:
    two = np.concatenate([FACE[:, 100:400], FACE[:, 100:400]], axis=1)
    for index in (0, 1):
        changed = (frames_of(engine, request(0.04, picture=two, face_index=index))[0] != two).any(axis=2)
        other = slice(300, None) if index == 0 else slice(None, 300)
        assert changed.any()
        assert changed[:, other].mean() < 0.02


def test_a_picture_with_odd_sides_and_one_beyond_1080p_give_even_videos(engine: SadTalkerEngine) -> None:
    odd = frames_of(engine, request(0.04, picture=FACE[:401, :399]))
    assert odd.shape[1:] == (400, 398, 3)
    large = frames_of(engine, request(0.04, picture=np.repeat(np.repeat(FACE, 5, axis=0), 5, axis=1)))
    assert large.shape[1:] == (1080, 1080, 3)


def test_memory_does_not_grow_with_the_recording(engine: SadTalkerEngine, tmp_path: Path) -> None:
    """Coefficients, mel and poses of ten minutes. Only the part that is being rendered is held in memory."""
    n_samples = 600 * 16_000
    sound = np.memmap(tmp_path / "speech.f32", np.float32, "w+", shape=(n_samples,))
    asked = RenderRequest(FACE, sound, 600.0, Options(preprocess="crop", precision="float32"))
    batches = engine.generate(asked, RecordingContext())
    assert isinstance(batches, GeneratorType)
    next(batches)
    render = batches.gi_yieldfrom
    assert isinstance(render, GeneratorType)
    assert render.gi_frame is not None
    track = render.gi_frame.f_locals["self"].track
    process = psutil.Process()
    track.semantics(0, 8)
    before = process.memory_info().rss
    for first in range(0, asked.n_frames - 8, 750):
        track.semantics(first, first + 8)
    assert process.memory_info().rss - before < 30 * 2**20
    batches.close()


def test_a_size_without_weights_is_refused_by_name(weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sadtalker"
    folder.mkdir()
    for path in (weights / "sadtalker").iterdir():
        if "512" not in path.name:
            (folder / path.name).symlink_to(path)
    settings = Settings(weights_dir=tmp_path, device="cpu", _env_file=None)
    assert describe(settings).resolutions == ("256",)
    with pytest.raises(WeightsError, match="sadtalker-512"):
        frames_of(SadTalkerEngine(settings), request(0.04, size=512))


def test_the_description_names_missing_parts_and_the_remedy(weights: Path, tmp_path: Path) -> None:
    missing = describe(Settings(weights_dir=tmp_path, device="cpu", _env_file=None))
    assert not missing.available
    assert "lipsync weights pull sadtalker-256" in missing.reason
    present = describe(Settings(weights_dir=weights, device="cpu", _env_file=None))
    assert present.available
    assert (present.reason, present.device, present.resolutions) == ("", "cpu", ("256", "512"))
    properties = present.options_schema["properties"]
    assert isinstance(properties, dict)
    assert set(properties) == set(options_model("sadtalker").model_fields)


def test_reference_behaviour_restores_the_original_everywhere() -> None:
    plain, original = Options().resolved(), Options(reference_behaviour=True).resolved()
    assert (plain.paste, plain.pose_join, plain.crop_limit, plain.shrink, plain.tail) == (
        "feather",
        "blended",
        "box",
        "area",
        "padded",
    )
    assert (original.paste, original.pose_join, original.crop_limit, original.shrink, original.tail) == (
        "poisson",
        "independent",
        "picture_width",
        "bilinear",
        "dropped",
    )
    assert plain.still is True
    assert original.still is False
    assert Options(preprocess="crop").resolved().still is False


def test_a_closed_engine_loads_again(engine: SadTalkerEngine) -> None:
    engine.close()
    assert frames_of(engine, request(0.04, preprocess="crop")).shape == (1, 256, 256, 3)
