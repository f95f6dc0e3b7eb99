"""The next window's conditioning, made while the GPU decodes: the same numbers as without overlap."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from engine_frames import frames_of
from infinitetalk_golden import CPU
from infinitetalk_kit import QUICK, create, models_of, request_for, started, stopped_at
from lipsync_server.bench.infinitetalk.bench import TINY, Bench
from lipsync_server.bench.infinitetalk.moving import moving_windows
from lipsync_server.bench.render_context import RecordingContext
from lipsync_server.engines.base import RenderRequest, ResumePoint
from lipsync_server.engines.infinitetalk.loading.models import Models
from lipsync_server.engines.infinitetalk.loading.planner import Need
from lipsync_server.engines.infinitetalk.one_gpu import InfiniteTalkEngine
from lipsync_server.engines.infinitetalk.options import Options
from lipsync_server.engines.infinitetalk.video.conditions import (
    ConditionMaker,
    PictureAt,
    WindowCondition,
    moving_picture,
    still_picture,
)
from lipsync_server.engines.infinitetalk.video.video_picture import VideoPicture
from lipsync_server.errors import Cancelled, InvalidImage, LipsyncError
from lipsync_server.media.picture.video import first_frame
from lipsync_server.models.encoders.speech import SAMPLES_PER_FRAME, SpeechEmbedding, Track
from lipsync_server.models.sampling.side_stream import SideStream
from lipsync_server.models.sampling.windows import schedule
from lipsync_server.models.wan_vae.vae import WanVae
from lipsync_server.random_models import infinitetalk as random_models
from lipsync_server.random_models.networks import random_clip, random_vae, random_wav2vec
from lipsync_server.settings import Settings
from torch import Tensor

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="streams need a GPU")
BOXES = ((5.0, 2.0, 30.0, 62.0), (60.0, 2.0, 95.0, 62.0))
# Four windows, the last one shorter than the others.
PLAN = schedule(34, n_people=2, window_frames=13, motion_frames=5)


class Parts:
    """Small encoders, a picture and two voices on one device; every instance has the same numbers."""

    def __init__(self, device: torch.device, *, size: tuple[int, int] = (64, 96), vae_width: int = 8) -> None:
        cuda = device.type == "cuda"
        torch.manual_seed(0)
        sizes = random_models.TINY
        self.vae = random_vae(
            device=device, dtype=torch.bfloat16 if cuda else torch.float32, base_dim=vae_width, kernels=cuda
        )
        self.clip = random_clip(device=device, dtype=torch.float32, config=sizes.clip)
        self.wav2vec = random_wav2vec(device=device, config=sizes.wav2vec)
        self.size, self.side = size, SideStream(device)
        self.picture = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)

    def conditions(
        self, picture_at: PictureAt | None = None, tokens_of: Callable[[Tensor], Tensor] | None = None
    ) -> ConditionMaker:
        heard = PLAN.heard[0]
        sound = np.random.default_rng(1).standard_normal((2, heard * SAMPLES_PER_FRAME)).astype(np.float32) * 0.1
        speech = tuple(SpeechEmbedding(self.wav2vec, Track(samples, len(samples)), heard) for samples in sound)
        return ConditionMaker(
            picture_at or moving_picture(self.picture, BOXES), speech, PLAN,
            size=self.size, vae=self.vae, tokens_of=tokens_of or self.clip.encode, side=self.side,
        )  # fmt: skip


@pytest.fixture(scope="module")
def parts() -> Parts:
    return Parts(CPU)


def _video(path: Path, size: tuple[int, int] = (64, 192)) -> Path:
    pictures = np.random.default_rng(2).integers(0, 255, (30, *size, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = size[1], size[0], "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def _equal(one: WindowCondition, other: WindowCondition) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.tensors, other.tensors, strict=True))


@pytest.mark.parametrize("source", ["camera move", "video"])
@pytest.mark.parametrize("first", [0, 2], ids=["from the start", "resumed"])
def test_prefetched_conditioning_equals_conditioning_made_in_turn(
    parts: Parts, tmp_path: Path, source: str, first: int
) -> None:
    def conditions() -> ConditionMaker:
        if source == "camera move":
            return parts.conditions()
        path = _video(tmp_path / "video.mp4")
        return parts.conditions(VideoPicture(path, first_frame(path), PLAN, None))

    in_turn, early = conditions(), conditions()
    windows = PLAN.windows[first:]
    for window, following in zip(windows, [*windows[1:], None], strict=True):
        expected, made = in_turn.at(window), early.at(window)
        assert made.masks is not None
        assert _equal(made, expected)
        if following is not None:
            early.prefetch(following)
        # The state after a shortage of memory: the next window's picture was already read.
        assert _equal(early.at(window), expected)
    assert len(early._made) == 1


@pytest.mark.parametrize("words", ["CUDA out of memory. Tried to allocate 2 GiB.", "an illegal memory access"])
def test_a_prefetch_that_fails_is_made_in_turn_and_is_the_last_one(parts: Parts, words: str) -> None:
    calls: list[int] = []

    def tokens_of(picture: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise torch.OutOfMemoryError(words)
        return parts.clip.encode(picture)

    in_turn, early = parts.conditions(), parts.conditions(tokens_of=tokens_of)
    for window, following in zip(PLAN.windows, [*PLAN.windows[1:], None], strict=True):
        assert _equal(early.at(window), in_turn.at(window))
        if following is not None:
            early.prefetch(following)
    assert len(calls) == 1 + len(PLAN.windows), "the windows once each, and the failure"


def test_a_video_that_cannot_be_read_fails_when_its_window_comes(parts: Parts, tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(_video(tmp_path / "whole.mp4").read_bytes()[:2000])
    early = parts.conditions(VideoPicture(path, parts.picture, PLAN, None))
    early.at(PLAN.windows[0])
    early.prefetch(PLAN.windows[1])
    for _ in range(2):
        with pytest.raises(LipsyncError) as told:
            early.at(PLAN.windows[1])
        assert isinstance(told.value, InvalidImage)


def test_a_still_picture_is_never_read_early(parts: Parts) -> None:
    conditions = parts.conditions(still_picture(parts.picture, BOXES))
    conditions.at(PLAN.windows[0])
    conditions.prefetch(PLAN.windows[1])
    assert list(conditions._made) == [0]


def _requests(tmp_path: Path) -> dict[str, RenderRequest]:
    still = request_for(0.88)
    path = _video(tmp_path / "video.mp4")
    return {
        "still": still,
        "camera move": replace(still, options=Options(**QUICK, camera_move=True)),
        "video": replace(request_for(0.88, picture=first_frame(path)), picture_video=path),
    }


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine prepares windows early, as it does on a GPU with room."""
    monkeypatch.setattr(Models, "encodes_beside", lambda self, need: True)


@pytest.mark.parametrize("source", ["camera move", "video", "still"])
def test_the_engine_prepares_each_moving_window_once_before_it_decodes(
    engine: InfiniteTalkEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    request, in_order = _requests(tmp_path)[source], RecordingContext(tmp_path)
    expected = frames_of(engine, request, in_order)
    events: list[str] = []

    def note(name: str) -> None:
        real = getattr(WanVae, name)

        def noted(self: WanVae, *given: object) -> object:
            events.append(name)
            return real(self, *given)

        monkeypatch.setattr(WanVae, name, noted)

    note("encode_picture")
    note("decode")
    monkeypatch.setattr(Models, "encodes_beside", lambda self, need: True)
    context = RecordingContext(tmp_path)
    assert (frames_of(engine, request, context) == expected).all()
    early = [] if source == "still" else ["encode_picture"]
    assert events == ["encode_picture", *early, "decode", *early, "decode", "decode"]
    assert all(np.array_equal(a["random"], b["random"]) for a, b in zip(context.saved, in_order.saved, strict=True))
    resumed = RecordingContext(tmp_path, resume_point=ResumePoint(13, context.saved[0]))
    assert (frames_of(engine, request, resumed) == expected[13:]).all()


@pytest.mark.usefixtures("beside", "small_pictures")
@pytest.mark.parametrize("source", ["camera move", "video"])
def test_memory_that_runs_out_while_decoding_costs_no_prepared_window(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    request = _requests(tmp_path)[source]
    settings = Settings(_env_file=None, weights_dir=tiny_weights, data_dir=tmp_path, device="cpu", preset="fast")
    engine = create(settings)
    expected = frames_of(engine, request, RecordingContext(tmp_path))
    real, calls = WanVae.decode, []

    def fail_once(self: WanVae, latents: Tensor) -> object:
        calls.append(1)
        for index, frames in enumerate(real(self, latents)):
            if len(calls) == 2 and index == 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
            yield frames

    monkeypatch.setattr(WanVae, "decode", fail_once)
    context = RecordingContext(tmp_path)
    assert (frames_of(engine, request, context) == expected).all()
    assert any("memory ran out once" in warning for warning in context.warnings)
    engine.close()


@pytest.mark.usefixtures("beside")
@pytest.mark.parametrize("source", ["camera move", "video"])
def test_a_job_that_ends_early_does_not_change_the_next_one(
    engine: InfiniteTalkEngine, tmp_path: Path, source: str
) -> None:
    request = _requests(tmp_path)[source]
    expected = frames_of(engine, request, RecordingContext(tmp_path))
    with pytest.raises(Cancelled):
        frames_of(engine, request, RecordingContext(tmp_path, stop=stopped_at("window 2 of")))
    batches = started(engine, request, RecordingContext(tmp_path))
    batches.close()
    assert (frames_of(engine, request, RecordingContext(tmp_path)) == expected).all()


class FreeBytes:
    value: int | None = None


def test_windows_are_prepared_early_only_where_there_is_room_for_both(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(_env_file=None, weights_dir=tiny_weights, data_dir=tmp_path, device="cpu", preset="fast")
    models, need, free = Models(settings), Need("single", True, 640 * 640, 1), FreeBytes()
    monkeypatch.setattr(models._planner, "free_bytes", lambda: free.value)
    # Four cases: no device memory; just enough to keep CLIP there; less; more.
    for free.value, prepared in ((None, False), (9 * 10**9, False), (7 * 10**9, False), (14 * 10**9, True)):
        models._release_transformer()
        models.load_transformer(need, lambda stage, done, total: None)
        assert models.encodes_beside(need) is prepared
        assert models._held is not None
        assert models._held.plan.keep_encoders is (free.value != 7 * 10**9)
    larger = replace(need, pixels=960 * 960)
    models.load_transformer(larger, lambda stage, done, total: None)
    assert not models.encodes_beside(larger)
    models.load_transformer(need, lambda stage, done, total: None)
    assert models.encodes_beside(need)
    assert models.make_room(need, lambda stage, done, total: None)
    assert not models.encodes_beside(need)
    models.close()


def test_the_benchmark_measures_moving_windows_both_ways(tmp_path: Path) -> None:
    bench = Bench(TINY, CPU, tmp_path, tmp_path / "bench.json", repeats=1)
    bench.section("moving", moving_windows)
    found = bench.numbers["moving"]
    for way in ("in_order", "beside"):
        assert "failed" not in found[way]
        assert len(found[way]["windows"]) == 3
        last = found[way]["windows"][-1]
        assert sum(s for part, s in last.items() if part != "all") == pytest.approx(last["all"], abs=0.1)
    assert found["beside"]["windows"][-1]["condition"] < found["in_order"]["windows"][-1]["condition"]


@needs_gpu
def test_streams_under_load_leave_every_bit_as_it_was() -> None:
    """Frames are decoded, conditions made and dropped on two streams at once, whose memory is reused all the time."""
    device = torch.device("cuda", 0)
    parts = Parts(device, size=(256, 384), vae_width=32)
    latents = torch.randn(16, 4, 32, 48, device=device)
    windows = PLAN.windows
    with torch.inference_mode():
        plain = parts.conditions()
        expected = [[tensor.cpu() for tensor in plain.at(window).tensors] for window in windows]
        decoded = torch.cat(list(parts.vae.decode(latents)), 1).cpu()
        torch.cuda.synchronize()
        for _ in range(5):
            conditions = parts.conditions()
            for window, following in zip(windows, [*windows[1:], None], strict=True):
                # The main stream reaches these copies only after the long operation that this test queued before them.
                torch.cuda._sleep(50_000_000)
                seen = [tensor.clone() for tensor in conditions.at(window).tensors]
                torch.cuda._sleep(50_000_000)
                late = [tensor.clone() for tensor in conditions.at(window).tensors]
                if following is not None:
                    conditions.prefetch(following)
                frames = torch.cat(list(parts.vae.decode(latents)), 1)
                assert torch.equal(frames.cpu(), decoded)
                for made in (seen, late):
                    assert all(torch.equal(a.cpu(), b) for a, b in zip(made, expected[window.index], strict=True))
            conditions.close()


@needs_gpu
def test_buffers_that_the_main_stream_still_reads_are_not_overwritten_by_the_side() -> None:
    """A conditioning is dropped while the main stream has yet to read it, and the next one is made meanwhile."""
    device = torch.device("cuda", 0)
    parts = Parts(device, size=(256, 384), vae_width=32)
    windows = PLAN.windows
    with torch.inference_mode():
        plain = parts.conditions()
        expected = [[tensor.cpu() for tensor in plain.at(window).tensors] for window in windows]
        for _ in range(5):
            conditions = parts.conditions()
            conditions.at(windows[0])
            late = []
            for window, following in zip(windows[1:], [*windows[2:], None], strict=True):
                conditions.prefetch(window)
                held = conditions.at(window).tensors
                torch.cuda._sleep(500_000_000)
                late.append([tensor.clone() for tensor in held])
                del held, conditions._made[window.index]
                if following is not None:
                    conditions.prefetch(following)
            for made, wanted in zip(late, expected[1:], strict=True):
                assert all(torch.equal(a.cpu(), b) for a, b in zip(made, wanted, strict=True))
            conditions.close()


@needs_gpu
@pytest.mark.usefixtures("small_pictures")
@pytest.mark.parametrize("source", ["camera move", "video"])
def test_a_gpu_renders_the_same_frames_both_ways(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    request = _requests(tmp_path)[source]
    settings = Settings(_env_file=None, weights_dir=tiny_weights, data_dir=tmp_path, device="cuda", preset="fast")
    engine = create(settings)
    with monkeypatch.context() as patch:
        patch.setattr(Models, "encodes_beside", lambda self, need: False)
        # The job runs twice, because the first run also compiles.
        frames_of(engine, request, RecordingContext(tmp_path))
        expected = frames_of(engine, request, RecordingContext(tmp_path))
    assert models_of(engine).side._side is None
    for _ in range(3):
        assert (frames_of(engine, request, RecordingContext(tmp_path)) == expected).all()
    assert models_of(engine).side._side is not None
    engine.close()
