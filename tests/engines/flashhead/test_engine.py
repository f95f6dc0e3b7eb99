"""FlashHead behind the engine interface, on tiny random files: length, resuming, cancelling, refusals and messages."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_frames import frames_of
from flashhead_kit import PORTRAITS, request_for
from infinitetalk_kit import stopped_at
from lipsync_server.bench.render_context import RecordingContext
from lipsync_server.engines.base import Frames, ResumePoint
from lipsync_server.engines.flashhead.engine import FlashHeadEngine, create
from lipsync_server.engines.flashhead.info import describe
from lipsync_server.engines.flashhead.loading.convert import convert
from lipsync_server.engines.flashhead.loading.transformer_files import load_transformer
from lipsync_server.engines.flashhead.options import Options
from lipsync_server.engines.flashhead.published import FOLDER, MODEL_FOLDERS
from lipsync_server.engines.registry import ENGINES
from lipsync_server.errors import Cancelled, InvalidInput, NoFace, WeightsError
from lipsync_server.settings import EngineSettings
from PIL import Image
from safetensors.torch import load_file, save_file


def portrait(name: str = "glasses.jpg") -> Frames:
    return np.asarray(Image.open(PORTRAITS / name).convert("RGB"))


@pytest.mark.parametrize("variant", ["pro", "lite"])
@pytest.mark.parametrize("n_frames", [1, 33, 34, 58])
def test_a_video_has_exactly_the_sounds_frames(
    engine: FlashHeadEngine, tmp_path: Path, variant: str, n_frames: int
) -> None:
    frames = frames_of(engine, request_for(n_frames / 25, variant=variant), RecordingContext(tmp_path))
    assert frames.shape == (n_frames, 64, 64, 3)


def test_one_seed_makes_one_video_and_another_seed_another(engine: FlashHeadEngine, tmp_path: Path) -> None:
    for variant in ("pro", "lite"):
        one, same, other = (
            frames_of(engine, request_for(0.4, variant=variant, seed=seed), RecordingContext(tmp_path))
            for seed in (1, 1, 2)
        )
        np.testing.assert_array_equal(one, same)
        assert (one != other).any()


@pytest.mark.parametrize("variant", ["pro", "lite"])
@pytest.mark.parametrize("framing", ["centre", "paste"])
def test_a_job_that_was_killed_after_a_window_makes_the_same_video(
    engine: FlashHeadEngine, tmp_path: Path, variant: str, framing: str
) -> None:
    request = request_for(2.2, portrait(), variant=variant, framing=framing)
    context = RecordingContext(tmp_path)
    whole = frames_of(engine, request, context)
    resumed = RecordingContext(tmp_path, resume_point=ResumePoint(33, context.saved[0]))
    rest = frames_of(engine, request, resumed)
    np.testing.assert_array_equal(rest, whole[33:])
    assert not any("window 1 of" in note for note in resumed.notes)


def test_a_cancelled_job_stops_at_the_next_step(engine: FlashHeadEngine, tmp_path: Path) -> None:
    context = RecordingContext(tmp_path, stop=stopped_at("window 2 of 2, step 1"))
    with pytest.raises(Cancelled):
        frames_of(engine, request_for(2.0), context)
    assert context.notes[-1].endswith("step 1 of 2")


def test_progress_grows_to_the_end(engine: FlashHeadEngine, tmp_path: Path) -> None:
    context = RecordingContext(tmp_path)
    frames_of(engine, request_for(2.0), context)
    assert context.fractions == sorted(context.fractions)
    assert context.fractions[-1] == 1


def test_the_head_is_pasted_into_the_whole_picture_and_the_rest_stays_unchanged(
    engine: FlashHeadEngine, tmp_path: Path
) -> None:
    picture = portrait("beard-and-full-figure.jpg")
    frames = frames_of(engine, request_for(0.2, picture, framing="paste"), RecordingContext(tmp_path))
    assert frames.shape == (5, 500, 394, 3)
    changed = (frames != picture).any(axis=(0, 3))
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert changed.any()
    # Twice the width of the face, which is 76 pixels in our mesh and a tenth more for the detector.
    assert np.ptp(rows) < 170
    assert np.ptp(columns) < 170


def test_the_face_that_was_asked_for_is_the_one_that_moves(engine: FlashHeadEngine, tmp_path: Path) -> None:
    picture = portrait("several-people.jpg")
    left, right = (
        np.flatnonzero(
            (
                frames_of(engine, request_for(0.08, picture, framing="paste", face_index=i), RecordingContext(tmp_path))
                != picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]
            ).any(axis=(0, 1, 3))
        ).mean()
        for i in (0, 1)
    )
    assert left < right


def test_a_picture_without_a_face_is_refused_before_any_work(engine: FlashHeadEngine, tmp_path: Path) -> None:
    context = RecordingContext(tmp_path)
    with pytest.raises(NoFace, match="No face was found"):
        frames_of(engine, request_for(0.2, np.full((200, 200, 3), 90, np.uint8), framing="paste"), context)
    assert not any(note.startswith("generate") for note in context.notes)


def test_two_recordings_are_refused_with_the_remedy(engine: FlashHeadEngine, tmp_path: Path) -> None:
    from dataclasses import replace

    request = request_for(0.2)
    with pytest.raises(InvalidInput, match="infinitetalk") as raised:
        frames_of(engine, replace(request, second_speech=request.speech), RecordingContext(tmp_path))
    assert raised.value.field == "second_audio"


def test_a_number_of_steps_that_was_not_trained_is_warned_about(engine: FlashHeadEngine, tmp_path: Path) -> None:
    context = RecordingContext(tmp_path)
    frames_of(engine, request_for(0.08, steps=3), context)
    assert any("trained for 2 or 4 steps" in words for words in context.warnings)


def test_presets_choose_the_steps() -> None:
    assert [Options(preset=preset).n_steps for preset in ("quality", "balanced", "fast")] == [4, 4, 2]
    assert Options(preset="fast", steps=4).n_steps == 4


def test_auto_never_chooses_lite(tiny_weights: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_weights, tmp_path / "weights")
    settings = EngineSettings(weights_dir=tmp_path / "weights", device="cpu")
    assert ENGINES.choose(settings)[0] == "flashhead"
    shutil.rmtree(tmp_path / "weights" / FOLDER / MODEL_FOLDERS["pro"])
    assert describe(settings).available
    name, why = ENGINES.choose(settings)
    assert name == "preview"
    assert "only when it is asked for by name" in why
    assert ENGINES.choose(settings.model_copy(update={"engine": "flashhead"}))[0] == "flashhead"


def test_missing_files_are_listed_with_the_command_that_brings_them(tmp_path: Path) -> None:
    info = describe(EngineSettings(weights_dir=tmp_path, device="cpu"))
    assert not info.available
    assert "Model_Pro/config.json" in info.reason
    assert "lipsync weights pull flashhead-pro" in info.reason


def test_a_file_of_another_model_is_refused_by_tensor(tiny_weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "Model_Pro"
    shutil.copytree(tiny_weights / FOLDER / "Model_Pro", folder)
    path = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "stranger": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match="stranger"):
        load_transformer(folder)
    tensors.pop("blocks.1.ffn.2.bias")
    save_file(tensors, path)
    with pytest.raises(WeightsError, match=r"lacks blocks\.1\.ffn\.2\.bias"):
        load_transformer(folder)


def test_the_bfloat16_copy_holds_the_same_model_and_is_half_the_size(tiny_weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "Model_Lite"
    shutil.copytree(tiny_weights / FOLDER / "Model_Lite", folder)
    before = load_transformer(folder, dtype=torch.bfloat16)
    copy = convert(folder)
    after = load_transformer(folder, dtype=torch.bfloat16)
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, after.state_dict()[name]), name
    assert copy.stat().st_size < 0.55 * (folder / "diffusion_pytorch_model.safetensors").stat().st_size
    assert not list(folder.glob("*.part"))


def test_an_engine_that_was_closed_loads_again(tiny_weights: Path, tmp_path: Path) -> None:
    engine = create(EngineSettings(weights_dir=tiny_weights, data_dir=tmp_path, device="cpu"))
    stages: list[str] = []
    for _ in range(2):
        stages.clear()
        engine.load(lambda stage, done, total: stages.append(stage))
        engine.close()
        assert stages
