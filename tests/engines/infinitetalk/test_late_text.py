"""A job that waits for its text encoder rehearses its first window meanwhile, and its video stays the same."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_frames import frames_of
from infinitetalk_kit import create, request_for
from lipsync_server.bench.render_context import RecordingContext
from lipsync_server.engines.base import Frames, RenderRequest, ResumePoint
from lipsync_server.engines.infinitetalk.model.transformer import InfiniteTalkTransformer
from lipsync_server.engines.infinitetalk.one_gpu import InfiniteTalkEngine
from lipsync_server.errors import Cancelled
from lipsync_server.settings import Settings
from lipsync_server.weights.arriving import announce, withdraw
from torch.nn.modules.module import register_module_forward_pre_hook

pytestmark = pytest.mark.usefixtures("small_pictures")
MODES: dict[str, dict[str, Any]] = {
    "one pass": {"steps": 2},
    "three passes": {"preset": "quality", "steps": 2, "apg": True},
    "teacache": {"steps": 8, "teacache": 1.0},
    "two people": {"second": True, "people": ((5, 2, 90, 62), (110, 2, 195, 62)), "preset": "balanced", "steps": 2},
}


@dataclass
class Waiting(RecordingContext):
    """A job's context in whose weights folder the text encoder arrives after so many reports of the wait."""

    weights: Path = Path()
    n_waits: int = 2

    def progress(self, stage: str, done: float, total: float, note: str = "") -> None:
        super().progress(stage, done, total, note)
        if self.n_waited >= self.n_waits:
            withdraw(self.weights)

    @property
    def n_waited(self) -> int:
        return sum("waiting for the text encoder" in note for note in self.notes)


@pytest.fixture
def fresh_engine(tiny_weights: Path, tmp_path: Path) -> Iterator[InfiniteTalkEngine]:
    """An engine that has made no window yet."""
    engine = create(Settings(_env_file=None, weights_dir=tiny_weights, data_dir=tmp_path, device="cpu", preset="fast"))
    engine.load()
    yield engine
    engine.close()


@pytest.fixture
def coming(tiny_weights: Path) -> Iterator[None]:
    announce_text(tiny_weights)
    yield
    withdraw(tiny_weights)


def announce_text(weights: Path) -> None:
    announce(weights, [path for path in weights.rglob("*t5*") if path.is_file()])


def frames_and_forwards(
    engine: InfiniteTalkEngine, request: RenderRequest, context: RecordingContext
) -> tuple[Frames, int]:
    """The frames of a job, and how often a transformer ran for them."""
    ran: list[torch.nn.Module] = []

    def note(module: torch.nn.Module, inputs: object) -> None:
        if isinstance(module, InfiniteTalkTransformer):
            ran.append(module)

    hook = register_module_forward_pre_hook(note)
    try:
        return frames_of(engine, request, context), len(ran)
    finally:
        hook.remove()


@pytest.mark.parametrize("mode", MODES)
def test_the_wait_is_used_for_one_step_and_the_frames_stay_the_same(
    fresh_engine: InfiniteTalkEngine, tiny_weights: Path, tmp_path: Path, coming: None, mode: str
) -> None:
    request = request_for(0.6, **MODES[mode])
    waiting = Waiting(tmp_path, weights=tiny_weights)
    frames, n_forwards = frames_and_forwards(fresh_engine, request, waiting)
    assert waiting.n_waited >= 2
    assert waiting.warnings == []
    plain, n_of_the_job = frames_and_forwards(fresh_engine, request, RecordingContext(tmp_path))
    n_passes = {"one pass": 1, "three passes": 3, "teacache": 1, "two people": 2}[mode]
    assert n_forwards == n_of_the_job + n_passes
    assert (frames == plain).all()


def test_only_the_first_job_of_a_size_rehearses(
    fresh_engine: InfiniteTalkEngine, tiny_weights: Path, tmp_path: Path
) -> None:
    request = request_for(0.2, steps=2)
    _, n_of_the_job = frames_and_forwards(fresh_engine, request, RecordingContext(tmp_path))
    other = replace(request, prompt="a person sings")
    announce_text(tiny_weights)
    waiting = Waiting(tmp_path, weights=tiny_weights)
    assert frames_and_forwards(fresh_engine, other, waiting)[1] == n_of_the_job
    assert waiting.n_waited >= 2


def test_a_resumed_job_that_waits_makes_the_same_frames(
    fresh_engine: InfiniteTalkEngine, tiny_weights: Path, tmp_path: Path
) -> None:
    request, first = request_for(0.8, steps=2), RecordingContext(tmp_path)
    whole = frames_of(fresh_engine, request, first)
    again = create(fresh_engine._settings)
    announce_text(tiny_weights)
    waiting = Waiting(tmp_path, weights=tiny_weights, resume_point=ResumePoint(13, first.saved[0]))
    rest, n_forwards = frames_and_forwards(again, request, waiting)
    again.close()
    assert n_forwards == 1 + 2
    assert (rest == whole[13:]).all()


def test_cancelling_ends_a_rehearsal(fresh_engine: InfiniteTalkEngine, tmp_path: Path, coming: None) -> None:
    stops = Waiting(tmp_path, weights=tmp_path, stop=lambda context: any("waiting" in note for note in context.notes))
    with pytest.raises(Cancelled):
        frames_of(fresh_engine, request_for(0.2), stops)
