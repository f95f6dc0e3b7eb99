"""The engine's memory: one shortage, a lasting shortage, and no growth with length or jobs."""

import gc
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from engine_frames import frames_of
from infinitetalk_kit import create, models_of, request_for
from lipsync_server.bench.render_context import RecordingContext
from lipsync_server.engines.base import State
from lipsync_server.engines.infinitetalk import job
from lipsync_server.engines.infinitetalk.loading import models
from lipsync_server.engines.infinitetalk.one_gpu import InfiniteTalkEngine
from lipsync_server.errors import OutOfMemory
from lipsync_server.settings import Settings

pytestmark = pytest.mark.usefixtures("small_pictures")


@pytest.mark.parametrize("options", [{}, {"preset": "balanced", "steps": 8, "teacache": 1.0}], ids=["fast", "teacache"])
def test_a_job_that_runs_out_of_memory_is_tried_once_more_with_fewer_blocks(
    tiny_weights: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    """Memory runs out in the last forward of the first window, when TeaCache has counted 15 forwards."""
    engine = create(Settings(_env_file=None, weights_dir=tiny_weights, data_dir=tmp_path, device="cpu", preset="fast"))
    expected = frames_of(engine, request_for(0.56, **options), RecordingContext(tmp_path))
    transformer, calls = models_of(engine).transformer, []
    at = 16 if options else 1

    def fail_once(module: torch.nn.Module, args: object) -> None:
        calls.append(1)
        if len(calls) == at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    transformer.register_forward_pre_hook(fail_once)
    context = RecordingContext(tmp_path)
    frames = frames_of(engine, request_for(0.56, **options), context)
    assert (frames == expected).all()
    assert any("memory ran out once" in warning for warning in context.warnings)
    assert models_of(engine).transformer is not transformer


@pytest.mark.parametrize("part", ["load_transformer", "SpeechEmbedding", "ConditionMaker.colours"])
def test_a_lack_of_memory_outside_a_window_is_tried_once_more_too(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """The allocator raises while weights are read, while the sound is analysed, or while the picture is prepared."""
    settings = Settings(_env_file=None, weights_dir=tiny_weights, data_dir=tmp_path, device="cpu", preset="fast")
    engine = create(settings)
    module = models if part == "load_transformer" else job
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
    context = RecordingContext(tmp_path)
    assert len(frames_of(engine, request_for(0.2), context)) == 5
    if part == "load_transformer":
        assert [options["offload"] for options in calls] == ["none", 1]
    else:
        assert any("memory ran out once" in warning for warning in context.warnings)
    engine.close()


def test_a_lasting_lack_of_memory_names_the_settings_to_change(tiny_weights: Path, tmp_path: Path) -> None:
    engine = create(Settings(_env_file=None, weights_dir=tiny_weights, data_dir=tmp_path, device="cpu", preset="fast"))
    engine.load()

    def fail(module: torch.nn.Module, args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, args: fail(module, args) if type(module).__name__ == "InfiniteTalkTransformer" else None
    )
    try:
        with pytest.raises(OutOfMemory, match="LIPSYNC_OFFLOAD=blocks"):
            frames_of(engine, request_for(0.2), RecordingContext(tmp_path))
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
def test_a_lack_of_memory_is_recognised_by_a_librarys_message(
    engine: InfiniteTalkEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, is_memory: bool
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError(words)

    monkeypatch.setattr(engine._models, "encode_text", fail)
    with pytest.raises(OutOfMemory if is_memory else RuntimeError, match="ran out" if is_memory else "illegal"):
        frames_of(engine, request_for(0.2), RecordingContext(tmp_path))


def test_a_model_that_never_fits_names_the_settings_to_change_at_load(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr(models, "load_transformer", fail)
    settings = Settings(_env_file=None, weights_dir=tiny_weights, data_dir=tmp_path, device="cpu", resolution="720p")
    with pytest.raises(OutOfMemory, match=r"resolution 480p.*LIPSYNC_OFFLOAD=blocks"):
        create(settings).load()


def test_memory_does_not_grow_with_the_length(engine: InfiniteTalkEngine, tmp_path: Path) -> None:
    """Fourteen windows of 81 frames; after the last ten the process is as large as after the first four."""
    request = request_for(40, window_frames=81, motion_frames=9)
    process, sizes = psutil.Process(), []

    class Measuring(RecordingContext):
        def save(self, state: State) -> None:
            sizes.append(process.memory_info().rss)

    n_frames = sum(len(batch) for batch in engine.generate(request, Measuring(tmp_path)))
    assert (n_frames, len(sizes)) == (1000, 14)
    frames_of_ten_windows = 10 * 72 * 64 * 192 * 3
    assert max(sizes[4:]) - max(sizes[:4]) < frames_of_ten_windows / 2


def test_jobs_leave_no_tensors_behind(engine: InfiniteTalkEngine, tmp_path: Path) -> None:
    def n_bytes() -> int:
        gc.collect()
        # The types are compared exactly, because torch.compile keeps subclass objects that hold no memory.
        tensors = [o for o in gc.get_objects() if type(o) in (torch.Tensor, torch.nn.Parameter) and not o.is_meta]
        storages = (tensor.untyped_storage() for tensor in tensors)
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    request = request_for(0.2)
    frames_of(engine, request, RecordingContext(tmp_path))
    before = n_bytes()
    for _ in range(10):
        frames_of(engine, request, RecordingContext(tmp_path))
    assert n_bytes() <= before
