"""The whole engine on tiny model files: exact length, resuming, cancelling, people, weights."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from engine_frames import frames_of
from infinitetalk_kit import QUICK, create, models_of, request_for, started, stopped_at
from lipsync_server.bench.render_context import RecordingContext
from lipsync_server.engines.base import ResumePoint
from lipsync_server.engines.infinitetalk.one_gpu import InfiniteTalkEngine
from lipsync_server.engines.infinitetalk.options import Options
from lipsync_server.engines.infinitetalk.video.conditions import moving_picture, still_picture
from lipsync_server.engines.infinitetalk.video.images import latent_masks, move_camera, person_masks
from lipsync_server.errors import Cancelled, InvalidInput
from lipsync_server.media.picture.video import first_frame
from lipsync_server.models.encoders.clip import ImageEncoder
from lipsync_server.models.encoders.text import TextEncoder
from lipsync_server.models.sampling.windows import Window
from lipsync_server.models.wan_vae.vae import WanVae
from lipsync_server.settings import Settings
from safetensors.torch import save_file

pytestmark = pytest.mark.usefixtures("small_pictures")


def test_the_video_has_exactly_the_frames_of_the_sound(engine: InfiniteTalkEngine, tmp_path: Path) -> None:
    for duration_s, n_frames in ((0.2, 5), (0.23, 6), (0.57, 15), (3.3, 83)):
        frames = frames_of(engine, request_for(duration_s), RecordingContext(tmp_path))
        assert frames.shape == (n_frames, 64, 192, 3)
        assert frames.dtype == np.uint8


def test_a_killed_job_resumes_after_its_last_window_with_the_same_frames(
    engine: InfiniteTalkEngine, tmp_path: Path
) -> None:
    request = request_for(0.88, preset="balanced", steps=2)
    context = RecordingContext(tmp_path)
    whole = frames_of(engine, request, context)
    assert len(whole) == 22
    assert [state["next_window"] for state in context.saved] == [1, 2, 3]
    for index, n_stored in ((0, 13), (1, 21)):
        resumed = RecordingContext(tmp_path, resume_point=ResumePoint(n_stored, context.saved[index]))
        rest = frames_of(engine, request, resumed)
        assert (rest == whole[n_stored:]).all()
        assert not any("window 1 of" in note for note in resumed.notes)


BOXES = ((5, 2, 90, 62), (110, 2, 195, 62))
MODES: dict[str, dict[str, Any]] = {
    "two people": {"second": True, "people": BOXES, "preset": "balanced"},
    "one speaker among several": {"face_box": (20, 10, 60, 50)},
    "camera move": {"camera_move": True},
    "apg with three passes": {"preset": "quality", "apg": True},
    "reused guidance": {"preset": "balanced", "steps": 5, "guidance_interval": 2},
    "teacache with one pass": {"steps": 8, "teacache": 1.0},
    "teacache with two passes": {"preset": "balanced", "steps": 8, "teacache": 1.0},
    "teacache with three passes": {"preset": "quality", "steps": 8, "teacache": 1.0},
}


@pytest.mark.parametrize("mode", MODES)
def test_a_resumed_job_makes_the_same_frames_in_every_mode(
    engine: InfiniteTalkEngine, tmp_path: Path, mode: str
) -> None:
    """The last window is shorter than the others, so nothing that depends on its length may be carried over."""
    request = request_for(0.8, **{"steps": 2, **MODES[mode]})
    context = RecordingContext(tmp_path)
    whole = frames_of(engine, request, context)
    assert len(whole) == 20
    for index, n_stored in ((0, 13), (1, 20)):
        resumed = RecordingContext(tmp_path, resume_point=ResumePoint(n_stored, context.saved[index]))
        rest = list(engine.generate(request, resumed))
        assert (np.concatenate([*rest, whole[:0]]) == whole[n_stored:]).all()


def test_the_same_seed_makes_the_same_video_and_another_one_does_not(
    engine: InfiniteTalkEngine, tmp_path: Path
) -> None:
    first, again, other = (
        frames_of(engine, request_for(0.2, seed=seed), RecordingContext(tmp_path)) for seed in (7, 7, 8)
    )
    assert (first == again).all()
    assert (first != other).any()


def test_the_frames_of_a_window_are_delivered_when_the_window_is_done(
    engine: InfiniteTalkEngine, tmp_path: Path
) -> None:
    context = RecordingContext(tmp_path)
    batches = started(engine, request_for(0.56), context)
    assert any("window 1 of" in note for note in context.notes)
    assert not any("window 2 of" in note for note in context.notes)
    batches.close()


def test_progress_names_window_and_step_and_never_goes_back(engine: InfiniteTalkEngine, tmp_path: Path) -> None:
    context = RecordingContext(tmp_path)
    frames_of(engine, request_for(0.56, steps=2), context)
    assert "generate: window 2 of 2, step 2 of 2" in context.notes
    assert context.fractions == sorted(context.fractions)
    assert context.fractions[-1] == 1


def test_cancelling_ends_the_job_within_a_step(engine: InfiniteTalkEngine, tmp_path: Path) -> None:
    context = RecordingContext(tmp_path, stop=stopped_at("step 2 of 5"))
    with pytest.raises(Cancelled):
        frames_of(engine, request_for(0.2, steps=5), context)
    assert not any("step 3 of 5" in note for note in context.notes)


def test_cancelling_ends_loading_too_and_the_next_job_loads_again(tiny_weights: Path, tmp_path: Path) -> None:
    engine = create(Settings(_env_file=None, weights_dir=tiny_weights, data_dir=tmp_path, device="cpu", preset="fast"))
    context = RecordingContext(tmp_path, stop=stopped_at("transformer"))
    with pytest.raises(Cancelled):
        frames_of(engine, request_for(0.2), context)
    assert not any(note.startswith("generate") for note in context.notes)
    assert len(frames_of(engine, request_for(0.2), RecordingContext(tmp_path))) == 5
    engine.close()


def test_two_people_each_hear_their_own_recording(engine: InfiniteTalkEngine, tmp_path: Path) -> None:
    together = frames_of(engine, request_for(0.2, second=True, people=BOXES), RecordingContext(tmp_path))
    after = frames_of(
        engine, request_for(0.2, second=True, people=BOXES, audio_mode="one_after_other"), RecordingContext(tmp_path)
    )
    alone = frames_of(engine, request_for(0.2), RecordingContext(tmp_path))
    assert together.shape == after.shape == alone.shape
    assert (together != after).any()
    assert (together != alone).any()


def test_one_speaker_among_several_is_chosen_by_a_box(engine: InfiniteTalkEngine, tmp_path: Path) -> None:
    left = frames_of(engine, request_for(0.2, face_box=(20, 10, 60, 50)), RecordingContext(tmp_path))
    right = frames_of(engine, request_for(0.2, face_box=(140, 10, 180, 50)), RecordingContext(tmp_path))
    assert (left != right).any()
    with pytest.raises(InvalidInput, match="outside the picture"):
        frames_of(engine, request_for(0.2, face_box=(300, 10, 400, 50)), RecordingContext(tmp_path))


def test_a_person_at_the_rim_whom_the_camera_leaves_ends_no_job(engine: InfiniteTalkEngine, tmp_path: Path) -> None:
    """Fourteen seconds are long enough for the cut-out to drift visibly."""
    request = request_for(14, second=True, camera_move=True, people=((0, 2, 8, 62), (110, 2, 195, 62)))
    request = replace(request, options=request.options.model_copy(update={"window_frames": 81, "motion_frames": 9}))
    assert isinstance(request.options, Options)
    boxes = move_camera(request.picture, 288 / 25, request.options.people)[1]
    assert boxes is not None
    with pytest.raises(InvalidInput):
        latent_masks(person_masks((64, 200), boxes), (64, 192))
    assert sum(len(batch) for batch in engine.generate(request, RecordingContext(tmp_path))) == 350


def test_the_camera_moves_only_above_60_s_of_a_still_picture() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    later = Window(index=9, start=500, n_frames=81, keep_first=9, keep_stop=81)
    assert (moving_picture(picture, None)(later)[0] != picture).any()
    assert still_picture(picture, None)(later)[0] is picture
    assert Options().moves_camera(61, still=True)
    assert not Options().moves_camera(59, still=True)
    assert not Options().moves_camera(600, still=False)
    assert not Options(camera_move=False).moves_camera(61, still=True)


def test_a_video_as_the_picture_is_followed_window_by_window(engine: InfiniteTalkEngine, tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    pictures = np.random.default_rng(2).integers(0, 255, (30, 64, 192, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 192, 64, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    still = request_for(0.88, picture=first_frame(path))
    followed = replace(still, picture_video=path)
    context = RecordingContext(tmp_path)
    whole, plain = frames_of(engine, followed, context), frames_of(engine, still, RecordingContext(tmp_path))
    assert (whole[:13] == plain[:13]).all()
    assert (whole[13:] != plain[13:]).any()
    resumed = RecordingContext(tmp_path, resume_point=ResumePoint(21, context.saved[1]))
    assert (frames_of(engine, followed, resumed) == whole[21:]).all()


def test_loading_logs_in_one_line_where_each_part_runs(
    tiny_weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = create(Settings(_env_file=None, weights_dir=tiny_weights, data_dir=tmp_path, device="cpu", preset="fast"))
    with caplog.at_level("INFO"):
        engine.load()
    engine.close()
    (line,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("InfiniteTalk:")]
    for part in ("infinitetalk_single_", " on cpu; ", "attention: sdpa (", "all 2 blocks in host memory"):
        assert part in line


def test_a_closed_engine_loads_again(tiny_weights: Path, tmp_path: Path) -> None:
    engine = create(Settings(_env_file=None, weights_dir=tiny_weights, data_dir=tmp_path, device="cpu"))
    stages: list[str] = []
    for _ in range(2):
        stages.clear()
        engine.load(lambda stage, done, total: stages.append(stage))
        engine.close()
        assert any("transformer" in stage for stage in stages)


@pytest.mark.parametrize(("preset", "kind"), [("quality", "bf16"), ("fast", "fp8")])
def test_the_preset_decides_which_weights_are_used(tiny_weights: Path, tmp_path: Path, preset: str, kind: str) -> None:
    engine = create(Settings(_env_file=None, weights_dir=tiny_weights, data_dir=tmp_path, device="cpu", preset=preset))
    engine.load()
    assert kind in models_of(engine).describe()
    frames = frames_of(engine, request_for(0.2, preset=preset, teacache=0.2), RecordingContext(tmp_path))
    assert len(frames) == 5
    engine.close()


def test_lora_files_are_merged_for_the_fast_presets_and_named_at_start(tiny_weights: Path, tmp_path: Path) -> None:
    """From a public file's spelling to the frames, at two scales; `quality` is rendered without them."""
    rank, layer = 4, "diffusion_model.blocks.0.self_attn.q"
    save_file(
        {f"{layer}.lora_down.weight": torch.ones(rank, 64), f"{layer}.lora_up.weight": torch.ones(64, rank) * 0.1},
        tmp_path / "fast.safetensors",
    )
    frames, descriptions = {}, {}
    for name, lora in (
        ("none", ""),
        ("half", f"{tmp_path}/fast.safetensors:0.5"),
        ("full", f"{tmp_path}/fast.safetensors"),
    ):
        settings = Settings(
            _env_file=None, weights_dir=tiny_weights, data_dir=tmp_path, device="cpu", preset="fast", lora=lora,
            profile="infinitetalk-int8",
        )  # fmt: skip
        engine = create(settings)
        frames[name] = frames_of(engine, request_for(0.2), RecordingContext(tmp_path))
        descriptions[name] = models_of(engine).describe()
        if name == "full":
            frames_of(engine, request_for(0.2, preset="quality"), RecordingContext(tmp_path))
            assert "LoRA" not in models_of(engine).describe()
        engine.close()
    assert "infinitetalk_single_int8.safetensors with LoRA fast.safetensors at 0.5 on cpu" in descriptions["half"]
    assert "fast.safetensors at 1 on" in descriptions["full"]
    assert (frames["half"] != frames["full"]).any()
    assert (frames["none"] != frames["full"]).any()


def test_text_and_picture_are_encoded_once(
    engine: InfiniteTalkEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A still picture needs one pass of CLIP and of the VAE's encoder for three windows, a moving camera one for each.

    The second time the prompt's embedding comes from the disk, in a new process too.
    """
    calls: Counter[str] = Counter()

    def count(owner: type, name: str) -> None:
        real = getattr(owner, name)

        def counted(self: object, *args: object) -> object:
            calls[name] += 1
            return real(self, *args)

        monkeypatch.setattr(owner, name, counted)

    count(WanVae, "encode_picture")
    count(ImageEncoder, "encode")
    count(TextEncoder, "_run")
    request = replace(request_for(0.88), prompt="a prompt that nobody has asked for yet")
    frames_of(engine, request, RecordingContext(tmp_path))
    assert calls == {"encode_picture": 1, "encode": 1, "_run": 1}
    frames_of(engine, replace(request, options=Options(**QUICK, camera_move=True)), RecordingContext(tmp_path))
    assert calls == {"encode_picture": 4, "encode": 4, "_run": 1}
