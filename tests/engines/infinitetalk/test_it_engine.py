"""The whole engine on the tiny checkpoint: exact length, resuming, cancelling, people, and running out of memory."""

import gc
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
import torch
from lipsync_server.engines.base import Checkpoint, Frames, RenderRequest, State
from lipsync_server.engines.infinitetalk import engine as engine_module
from lipsync_server.engines.infinitetalk import models as models_module
from lipsync_server.engines.infinitetalk.clip import ImageEncoder
from lipsync_server.engines.infinitetalk.conditions import moving_picture, still_picture
from lipsync_server.engines.infinitetalk.engine import InfiniteTalkEngine, create
from lipsync_server.engines.infinitetalk.images import BUCKETS, latent_masks, move_camera, person_masks
from lipsync_server.engines.infinitetalk.options import Options
from lipsync_server.engines.infinitetalk.teacache import COEFFICIENTS
from lipsync_server.engines.infinitetalk.text import TextEncoder
from lipsync_server.engines.infinitetalk.vae import WanVae
from lipsync_server.engines.infinitetalk.windows import Window
from lipsync_server.errors import Cancelled, InvalidInput, OutOfMemory
from lipsync_server.media.image import first_frame
from lipsync_server.settings import Settings
from safetensors.torch import save_file

# The fewest steps and the smallest windows, so that three windows take seconds.
QUICK = {"preset": "fast", "steps": 1, "window_frames": 13, "motion_frames": 5}


@dataclass
class Context:
    """Collects what the engine reports."""

    scratch: Path
    checkpoint: Checkpoint | None = None
    stop_at: Callable[[str], bool] = lambda note: False
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    saved: list[State] = field(default_factory=list)
    fractions: list[float] = field(default_factory=list)

    def progress(self, stage: str, done: float, total: float, note: str = "") -> None:
        self.notes.append(f"{stage}: {note}")
        if stage == "generate":
            self.fractions.append(done / total)

    def cancelled(self) -> bool:
        return bool(self.notes) and self.stop_at(self.notes[-1])

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def save(self, state: State) -> None:
        self.saved.append(dict(state))


@pytest.fixture(scope="module", autouse=True)
def _small_pictures_and_a_busy_cache() -> Iterator[None]:
    """A table with one small size: a thirtieth of the work. Real sizes run in tests/e2e/test_infinitetalk_http.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BUCKETS, "480p", {0.33: (64, 192)})
        # A random time embedding changes so much with every step that the published polynomial would skip nothing.
        patch.setitem(COEFFICIENTS, "480p", (0.0, 0.0, 0.0, 0.0, 0.3))
        yield


@pytest.fixture(scope="module")
def engine(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory):
    settings = Settings(
        _env_file=None, weights_dir=tiny_weights, data_dir=tmp_path_factory.mktemp("data"), device="cpu", preset="fast"
    )
    made = create(settings)
    made.load()
    yield made
    made.close()


def _request(duration_s: float, *, second: bool = False, picture: Frames | None = None, **options: object):
    rng = np.random.default_rng(5)
    speech = (rng.standard_normal(round(duration_s * 16000)) * 0.1).astype(np.float32)
    if picture is None:
        picture = rng.integers(0, 255, (64, 200, 3), dtype=np.uint8)
    return RenderRequest(
        picture=picture,
        speech=speech,
        duration_s=duration_s,
        options=Options(**{**QUICK, **options}),
        prompt="a person talks",
        second_speech=speech[::-1].copy() if second else None,
    )


def _frames(engine: InfiniteTalkEngine, request: RenderRequest, context: Context) -> Frames:
    return np.concatenate(list(engine.generate(request, context)))


def test_frames_are_exactly_as_many_as_the_sound_asks_for(engine: InfiniteTalkEngine, tmp_path: Path) -> None:
    for duration_s, n_frames in ((0.2, 5), (0.23, 6), (0.57, 15), (3.3, 83)):
        frames = _frames(engine, _request(duration_s), Context(tmp_path))
        assert frames.shape == (n_frames, 64, 192, 3)
        assert frames.dtype == np.uint8


def test_a_killed_job_goes_on_from_its_last_window_with_the_same_frames(
    engine: InfiniteTalkEngine, tmp_path: Path
) -> None:
    request = _request(0.88, preset="balanced", steps=2)
    context = Context(tmp_path)
    whole = _frames(engine, request, context)
    assert len(whole) == 22
    assert [state["next_window"] for state in context.saved] == [1, 2, 3]
    for index, n_stored in ((0, 13), (1, 21)):
        resumed = Context(tmp_path, checkpoint=Checkpoint(n_stored, context.saved[index]))
        rest = _frames(engine, request, resumed)
        assert (rest == whole[n_stored:]).all()
        assert not any("window 1 of" in note for note in resumed.notes)


BOXES = ((5, 2, 90, 62), (110, 2, 195, 62))
MODES: dict[str, dict[str, object]] = {
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
    request = _request(0.8, **{"steps": 2, **MODES[mode]})
    context = Context(tmp_path)
    whole = _frames(engine, request, context)
    assert len(whole) == 20
    for index, n_stored in ((0, 13), (1, 20)):
        resumed = Context(tmp_path, checkpoint=Checkpoint(n_stored, context.saved[index]))
        rest = list(engine.generate(request, resumed))
        assert (np.concatenate([*rest, whole[:0]]) == whole[n_stored:]).all()


def test_the_same_seed_makes_the_same_video_and_another_one_does_not(
    engine: InfiniteTalkEngine, tmp_path: Path
) -> None:
    first, again, other = (_frames(engine, _request(0.2, seed=seed), Context(tmp_path)) for seed in (7, 7, 8))
    assert (first == again).all()
    assert (first != other).any()


def test_frames_leave_as_each_window_is_done(engine: InfiniteTalkEngine, tmp_path: Path) -> None:
    context = Context(tmp_path)
    batches = engine.generate(_request(0.56), context)
    next(batches)
    assert any("window 1 of" in note for note in context.notes)
    assert not any("window 2 of" in note for note in context.notes)
    batches.close()


def test_progress_names_window_and_step_and_never_goes_back(engine: InfiniteTalkEngine, tmp_path: Path) -> None:
    context = Context(tmp_path)
    _frames(engine, _request(0.56, steps=2), context)
    assert "generate: window 2 of 2, step 2 of 2" in context.notes
    assert context.fractions == sorted(context.fractions)
    assert context.fractions[-1] == 1


def test_cancelling_ends_the_job_within_a_step(engine: InfiniteTalkEngine, tmp_path: Path) -> None:
    context = Context(tmp_path, stop_at=lambda note: "step 2 of 5" in note)
    with pytest.raises(Cancelled):
        _frames(engine, _request(0.2, steps=5), context)
    assert not any("step 3 of 5" in note for note in context.notes)


def test_cancelling_ends_loading_too_and_the_next_job_loads_again(tiny_weights: Path, tmp_path: Path) -> None:
    engine = create(Settings(_env_file=None, weights_dir=tiny_weights, data_dir=tmp_path, device="cpu", preset="fast"))
    context = Context(tmp_path, stop_at=lambda note: "transformer" in note)
    with pytest.raises(Cancelled):
        _frames(engine, _request(0.2), context)
    assert not any(note.startswith("generate") for note in context.notes)
    assert len(_frames(engine, _request(0.2), Context(tmp_path))) == 5
    engine.close()


def test_two_people_each_hear_their_own_recording(engine: InfiniteTalkEngine, tmp_path: Path) -> None:
    together = _frames(engine, _request(0.2, second=True, people=BOXES), Context(tmp_path))
    after = _frames(engine, _request(0.2, second=True, people=BOXES, audio_mode="one_after_other"), Context(tmp_path))
    alone = _frames(engine, _request(0.2), Context(tmp_path))
    assert together.shape == after.shape == alone.shape
    assert (together != after).any()
    assert (together != alone).any()


def test_one_speaker_among_several_is_chosen_by_a_box(engine: InfiniteTalkEngine, tmp_path: Path) -> None:
    left = _frames(engine, _request(0.2, face_box=(20, 10, 60, 50)), Context(tmp_path))
    right = _frames(engine, _request(0.2, face_box=(140, 10, 180, 50)), Context(tmp_path))
    assert (left != right).any()
    with pytest.raises(InvalidInput, match="outside the picture"):
        _frames(engine, _request(0.2, face_box=(300, 10, 400, 50)), Context(tmp_path))


def test_a_person_at_the_rim_whom_the_camera_leaves_ends_no_job(engine: InfiniteTalkEngine, tmp_path: Path) -> None:
    """Fourteen seconds: the cut-out has drifted far enough by then."""
    request = _request(14, second=True, camera_move=True, people=((0, 2, 8, 62), (110, 2, 195, 62)))
    request = replace(request, options=request.options.model_copy(update={"window_frames": 81, "motion_frames": 9}))
    boxes = move_camera(request.picture, 288 / 25, request.options.people)[1]
    assert boxes is not None
    with pytest.raises(InvalidInput):
        latent_masks(person_masks((64, 200), boxes), (64, 192))
    assert sum(len(batch) for batch in engine.generate(request, Context(tmp_path))) == 350


def test_the_camera_moves_only_when_it_should() -> None:
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
    still = _request(0.88, picture=first_frame(path))
    followed = replace(still, picture_video=path)
    context = Context(tmp_path)
    whole, plain = _frames(engine, followed, context), _frames(engine, still, Context(tmp_path))
    assert (whole[:13] == plain[:13]).all()
    assert (whole[13:] != plain[13:]).any()
    resumed = Context(tmp_path, checkpoint=Checkpoint(21, context.saved[1]))
    assert (_frames(engine, followed, resumed) == whole[21:]).all()


@pytest.mark.parametrize("options", [{}, {"preset": "balanced", "steps": 8, "teacache": 1.0}], ids=["fast", "teacache"])
def test_running_out_of_memory_is_tried_once_more_with_fewer_blocks(
    tiny_weights: Path, tmp_path: Path, options: dict[str, object]
) -> None:
    """In the last forward of the first window, when TeaCache has counted 15 forwards already."""
    engine = create(Settings(_env_file=None, weights_dir=tiny_weights, data_dir=tmp_path, device="cpu", preset="fast"))
    expected = _frames(engine, _request(0.56, **options), Context(tmp_path))
    transformer, calls = engine._models.transformer, []
    at = 16 if options else 1

    def fail_once(module: torch.nn.Module, args: object) -> None:
        calls.append(1)
        if len(calls) == at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    transformer.register_forward_pre_hook(fail_once)
    context = Context(tmp_path)
    frames = _frames(engine, _request(0.56, **options), context)
    assert (frames == expected).all()
    assert any("memory ran out once" in warning for warning in context.warnings)
    assert engine._models.transformer is not transformer


@pytest.mark.parametrize("part", ["load_transformer", "SpeechEmbedding", "Conditions.colours"])
def test_running_out_of_memory_outside_of_a_window_is_tried_once_more_too(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """While the weights are read, the sound measured or the picture prepared: the error comes from the allocator."""
    settings = Settings(_env_file=None, weights_dir=tiny_weights, data_dir=tmp_path, device="cpu", preset="fast")
    engine = create(settings)
    module = models_module if part == "load_transformer" else engine_module
    owner: object = module
    *path, name = part.split(".")
    for step in path:
        owner = getattr(owner, step)
    real, calls = getattr(owner, name), []

    def fail_first(*args: object, **options: object) -> object:
        calls.append(options)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return real(*args, **options)

    monkeypatch.setattr(owner, name, fail_first)
    context = Context(tmp_path)
    assert len(_frames(engine, _request(0.2), context)) == 5
    if part == "load_transformer":
        assert [options["offload"] for options in calls] == ["none", 1]
    else:
        assert any("memory ran out once" in warning for warning in context.warnings)
    engine.close()


def test_running_out_of_memory_for_good_says_what_to_set(tiny_weights: Path, tmp_path: Path) -> None:
    engine = create(Settings(_env_file=None, weights_dir=tiny_weights, data_dir=tmp_path, device="cpu", preset="fast"))
    engine.load()

    def fail(module: torch.nn.Module, args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, args: fail(module, args) if type(module).__name__ == "InfiniteTalkTransformer" else None
    )
    try:
        with pytest.raises(OutOfMemory, match="LIPSYNC_OFFLOAD=blocks"):
            _frames(engine, _request(0.2), Context(tmp_path))
    finally:
        hook.remove()
        engine.close()


@pytest.mark.parametrize(
    ("words", "is_memory"),
    [
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("CUDA error: out of memory", True),
        ("CUDA error: an illegal memory access was encountered", False),
    ],
)
def test_libraries_that_only_say_that_memory_ran_out_are_understood(
    engine: InfiniteTalkEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, is_memory: bool
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError(words)

    monkeypatch.setattr(engine._models, "encode_text", fail)
    with pytest.raises(OutOfMemory if is_memory else RuntimeError, match="ran out" if is_memory else "illegal"):
        _frames(engine, _request(0.2), Context(tmp_path))


def test_a_model_that_never_fits_says_what_to_set_when_it_is_loaded(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr(models_module, "load_transformer", fail)
    settings = Settings(_env_file=None, weights_dir=tiny_weights, data_dir=tmp_path, device="cpu", resolution="720p")
    with pytest.raises(OutOfMemory, match=r"resolution 480p.*LIPSYNC_OFFLOAD=blocks"):
        create(settings).load()


def test_loading_says_in_one_line_what_runs_where(
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
        engine.load(lambda stage, done, total: stages.append(stage))
        engine.close()
    assert len([stage for stage in stages if "transformer" in stage]) >= 2


@pytest.mark.parametrize(("preset", "kind"), [("quality", "bf16"), ("fast", "fp8")])
def test_the_preset_decides_which_weights_are_used(tiny_weights: Path, tmp_path: Path, preset: str, kind: str) -> None:
    engine = create(Settings(_env_file=None, weights_dir=tiny_weights, data_dir=tmp_path, device="cpu", preset=preset))
    engine.load()
    assert kind in engine._models.describe()
    frames = _frames(engine, _request(0.2, preset=preset, teacache=0.2), Context(tmp_path))
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
        frames[name] = _frames(engine, _request(0.2), Context(tmp_path))
        descriptions[name] = engine._models.describe()
        if name == "full":
            _frames(engine, _request(0.2, preset="quality"), Context(tmp_path))
            assert "LoRA" not in engine._models.describe()
        engine.close()
    assert "infinitetalk_single_int8.safetensors with LoRA fast.safetensors at 0.5 on cpu" in descriptions["half"]
    assert "fast.safetensors at 1 on" in descriptions["full"]
    assert (frames["half"] != frames["full"]).any()
    assert (frames["none"] != frames["full"]).any()


def test_text_and_picture_are_encoded_once(
    engine: InfiniteTalkEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three windows: one pass of CLIP and of the VAE's encoder over a still picture, one to each window when the camera
    moves; the prompt's embedding comes from the disk the second time, in a new process too."""
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
    request = replace(_request(0.88), prompt="a prompt that nobody has asked for yet")
    _frames(engine, request, Context(tmp_path))
    assert calls == {"encode_picture": 1, "encode": 1, "_run": 1}
    _frames(engine, replace(request, options=Options(**QUICK, camera_move=True)), Context(tmp_path))
    assert calls == {"encode_picture": 4, "encode": 4, "_run": 1}


def test_memory_does_not_grow_with_the_length(engine: InfiniteTalkEngine, tmp_path: Path) -> None:
    """Fourteen windows of 81 frames; the last ten leave the process as large as the first four made it."""
    request = _request(40, window_frames=81, motion_frames=9)
    process, sizes = psutil.Process(), []

    class Measuring(Context):
        def save(self, state: State) -> None:
            sizes.append(process.memory_info().rss)

    n_frames = sum(len(batch) for batch in engine.generate(request, Measuring(tmp_path)))
    assert (n_frames, len(sizes)) == (1000, 14)
    frames_of_ten_windows = 10 * 72 * 64 * 192 * 3
    assert max(sizes[4:]) - max(sizes[:4]) < frames_of_ten_windows / 2


def test_jobs_leave_no_tensors_behind(engine: InfiniteTalkEngine, tmp_path: Path) -> None:
    def n_bytes() -> int:
        gc.collect()
        # By exact type: torch.compile keeps stand-ins without memory.
        tensors = [o for o in gc.get_objects() if type(o) in (torch.Tensor, torch.nn.Parameter) and not o.is_meta]
        storages = (tensor.untyped_storage() for tensor in tensors)
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    request = _request(0.2)
    _frames(engine, request, Context(tmp_path))
    before = n_bytes()
    for _ in range(10):
        _frames(engine, request, Context(tmp_path))
    assert n_bytes() <= before
