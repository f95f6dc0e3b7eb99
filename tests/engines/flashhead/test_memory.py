"""FlashHead when the GPU's memory runs out, and with weights in 8 bits."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_frames import frames_of
from flashhead_kit import request_for
from lipsync_server.bench.clock import relative_error
from lipsync_server.bench.render_context import RecordingContext
from lipsync_server.engines.flashhead import job
from lipsync_server.engines.flashhead.engine import FlashHeadEngine, create
from lipsync_server.engines.flashhead.job import RAN_OUT
from lipsync_server.errors import OutOfMemory
from lipsync_server.models.layers.linear_8bit import QuantizedLinear
from lipsync_server.settings import EngineSettings


@pytest.fixture(autouse=True)
def _small_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "SIDE", 64)


def _engine(weights: Path, **settings: object) -> FlashHeadEngine:
    engine = create(EngineSettings(weights_dir=weights, device="cpu", **settings))
    engine.load()
    return engine


def _failing(at: Callable[[int], bool]) -> Callable[[torch.nn.Module, object], None]:
    """A hook that runs out of memory before the forwards whose numbers, from 1, are `at`."""
    calls: list[int] = []

    def fail(module: torch.nn.Module, args: object) -> None:
        calls.append(1)
        if at(len(calls)):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    return fail


def _rounded(engine: FlashHeadEngine) -> int:
    return sum(isinstance(module, QuantizedLinear) for module in engine.models.transformer.modules())


def test_a_job_that_runs_out_of_memory_is_tried_once_more_in_8_bits(tiny_weights: Path, tmp_path: Path) -> None:
    """Memory runs out in the second window, when the frames of the first window have been delivered."""
    engine = _engine(tiny_weights)
    whole = frames_of(engine, request_for(1.6), RecordingContext(tmp_path))
    engine.models.transformer.register_forward_pre_hook(_failing(lambda call: call == 4))
    context = RecordingContext(tmp_path)
    frames = frames_of(engine, request_for(1.6), context)
    np.testing.assert_array_equal(frames[:33], whole[:33])
    assert frames.shape == whole.shape
    assert (np.abs(frames[33:].astype(int) - whole[33:]) > 64).mean() < 0.02, "rounded, and from the same noise"
    assert context.warnings.count(RAN_OUT) == 1
    assert _rounded(engine) == 6 * len(engine.models.transformer.blocks)


def test_a_lasting_lack_of_memory_ends_with_the_remedy(tiny_weights: Path, tmp_path: Path) -> None:
    engine = _engine(tiny_weights)
    engine.models.transformer.register_forward_pre_hook(_failing(lambda call: True))
    with pytest.raises(OutOfMemory, match="variant lite"):
        frames_of(engine, request_for(0.4), RecordingContext(tmp_path))


@pytest.mark.parametrize("quant", ["int8", "fp8"])
def test_weights_are_held_in_8_bits_where_the_settings_ask_for_it(
    tiny_weights: Path, tmp_path: Path, quant: str
) -> None:
    plain, rounded = _engine(tiny_weights).models.transformer, _engine(tiny_weights, quant=quant)
    model, config = rounded.models.transformer, plain.config
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(config.out_dim, 9, 8, 8, generator=generator)
    audio = torch.randn(33, 5, config.audio_blocks, config.audio_channels, generator=generator)
    t = torch.tensor([832.0])
    error = relative_error(model(latent, latent, t, model.hear(audio)), plain(latent, latent, t, plain.hear(audio)))
    assert 0 < error < 0.05
    assert len(frames_of(rounded, request_for(0.4), RecordingContext(tmp_path))) == 10
