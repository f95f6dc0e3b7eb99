"""Face restoration: the crops that the model receives, its frames, and the message where it cannot run.

spandrel needs torchvision, whose wheels require a CUDA build of torch, so the tests do not install spandrel. Where it
is installed, the last test runs GFPGAN itself at full size with random weights.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import skimage.data
import torch
from engine_frames import frames_of
from lipsync_server.engines.base import RenderRequest
from lipsync_server.engines.sadtalker.engine import SadTalkerEngine
from lipsync_server.engines.sadtalker.options import Options
from lipsync_server.errors import EngineUnavailable, WeightsError
from lipsync_server.models import enhance
from lipsync_server.models.enhance import FILE, SIDE, Enhancer, load_enhancer
from lipsync_server.random_models import sadtalker as random_sadtalker
from lipsync_server.settings import Settings
from torch import Tensor, nn

CPU = torch.device("cpu")


class Warmer(nn.Module):
    """A stand-in for GFPGAN: reads [-1, 1] at 512 pixels, raises red, and sometimes exceeds the range."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor([0.5, 0.0, 0.0]))
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor, *, return_rgb: bool, randomize_noise: bool) -> tuple[Tensor, list[Tensor]]:
        assert (return_rgb, randomize_noise) == (False, False)
        assert x.is_contiguous()
        self.seen.append(x)
        return x + self.shift.view(-1, 1, 1), []


def test_faces_go_in_at_512_and_come_out_in_range() -> None:
    network = Warmer()
    squares = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    squares = squares.contiguous(memory_format=torch.channels_last)
    restored = Enhancer(network, CPU)(squares)
    assert restored.shape == (2, 3, SIDE, SIDE)
    assert restored.dtype == torch.float32
    [given] = network.seen
    assert given.shape == (2, 3, SIDE, SIDE)
    assert -1 <= float(given.min()) < -0.5 < 0.5 < float(given.max()) <= 1
    torch.testing.assert_close(restored[:, 1:], (given[:, 1:] + 1) / 2)
    torch.testing.assert_close(restored[:, 0], ((given[:, 0] + 1.5) / 2).clamp(0, 1))


def request_with(**options: object) -> RenderRequest:
    return RenderRequest(skimage.data.astronaut(), np.zeros(3200, np.float32), 0.2, Options(**options))


def test_without_the_package_the_job_fails_with_the_package_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enhance, "missing_packages", list)
    with pytest.raises(EngineUnavailable, match=r"pip install .*enhance"):
        load_enhancer(tmp_path, CPU)


def test_without_the_file_the_job_fails_with_the_place_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enhance, "missing_packages", lambda names: [])
    with pytest.raises(WeightsError, match=FILE):
        load_enhancer(tmp_path, CPU)


def test_a_package_that_does_not_load_is_named_as_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "spandrel.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    (tmp_path / FILE).touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "spandrel", raising=False)
    with pytest.raises(EngineUnavailable, match=r"does not load \(operator torchvision::nms"):
        load_enhancer(tmp_path, CPU)


def test_a_damaged_or_foreign_file_is_named_with_the_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enhance, "missing_packages", lambda names: [])
    monkeypatch.setitem(sys.modules, "spandrel", ModuleType("spandrel"))
    (tmp_path / FILE).write_bytes(b"no weights")
    with pytest.raises(WeightsError, match=rf"{FILE} is damaged or incomplete"):
        load_enhancer(tmp_path, CPU)
    torch.save({"optimizer": torch.zeros(2)}, tmp_path / FILE)
    with pytest.raises(WeightsError, match="has no key 'params_ema'"):
        load_enhancer(tmp_path, CPU)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> SadTalkerEngine:
    weights = tmp_path_factory.mktemp("weights")
    random_sadtalker.write(weights / "sadtalker")
    return SadTalkerEngine(Settings(weights_dir=weights, device="cpu"))


def test_every_frame_is_restored_before_it_is_put_back(engine: SadTalkerEngine) -> None:
    """Crops come at 512, whole pictures at their own size; red went up where the face is and nowhere else."""
    engine.enhancer = Enhancer(Warmer(), CPU)
    plain, enhanced = (
        frames_of(engine, request_with(preprocess="crop", enhance=asked)).astype(int) for asked in (False, True)
    )
    assert len(plain) == len(enhanced) == 5
    assert enhanced.shape[2] == SIDE
    assert enhanced[..., 0].mean() > plain[..., 0].mean() + 20
    plain, enhanced = (frames_of(engine, request_with(enhance=asked)).astype(int) for asked in (False, True))
    assert plain.shape == enhanced.shape
    assert np.array_equal(plain[:, 0], enhanced[:, 0])
    assert (enhanced[..., 0] - plain[..., 0]).max() > 20


def test_a_job_without_restoration_needs_no_package(engine: SadTalkerEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enhance, "missing_packages", lambda names: pytest.fail("nobody asked for it"))
    engine.enhancer = None
    assert len(frames_of(engine, request_with())) == 5


def test_gfpgan_itself_restores_a_face(tmp_path: Path) -> None:
    if importlib.util.find_spec("spandrel") is None:
        pytest.skip("spandrel is not installed")
    network = importlib.import_module("spandrel.architectures.GFPGAN").GFPGAN()

    torch.manual_seed(0)
    torch.save({"params_ema": network.state_dict()}, tmp_path / FILE)
    restored = load_enhancer(tmp_path, CPU)(torch.rand(1, 3, 256, 256))
    assert restored.shape == (1, 3, SIDE, SIDE)
    assert 0 <= float(restored.min()) < float(restored.max()) <= 1
    (tmp_path / FILE).write_bytes(b"no weights")
    torch.save({"params_ema": {"weight": torch.zeros(2)}}, tmp_path / FILE)
    with pytest.raises(WeightsError, match="no GFPGAN file"):
        load_enhancer(tmp_path, CPU)
