"""The head's motion and expression over a whole recording: no jumps, any length, any stretch on demand."""

from typing import Any, cast

import numpy as np
import pytest
import torch
from lipsync_server.engines.sadtalker.audio.audio_nets import ExpNet
from lipsync_server.engines.sadtalker.audio.coefficients import CoefficientTrack, TrackOptions
from lipsync_server.engines.sadtalker.audio.pose_track import PoseJoin, PoseTrack, seeded_noise
from lipsync_server.engines.sadtalker.audio.pose_vae import PoseVAE
from lipsync_server.engines.sadtalker.loading.model_files import build
from lipsync_server.engines.sadtalker.loading.official import UNUSED_PREFIXES, Dimensions, combined
from lipsync_server.random_models.sadtalker import random_tensors


@pytest.fixture(scope="module")
def networks() -> tuple[ExpNet, PoseVAE]:
    tensors = random_tensors(combined(Dimensions(width=1 / 16, depth=4)))
    used = {name: value for name, value in tensors.items() if not name.startswith(UNUSED_PREFIXES)}

    def below(prefix: str) -> dict[str, torch.Tensor]:
        return {name[len(prefix) :]: value for name, value in used.items() if name.startswith(prefix)}

    exp_net = build(ExpNet, below("audio2exp."), "audio2exp", "random")
    pose_vae = build(PoseVAE, below("audio2pose."), "audio2pose", "random")
    # With random weights the noise hardly changes the motion. This stand-in moves the head as a trained network does.
    pose_vae.decoder.MLP.L0.weight.data[:, 6:70] *= 20
    pose_vae.decoder.pose_linear.weight.data *= 10
    return exp_net, pose_vae


@pytest.fixture(autouse=True)
def _no_gradients() -> object:
    with torch.inference_mode():
        yield


def pose_track(network: PoseVAE, n_frames: int, join: PoseJoin) -> PoseTrack:
    windows = torch.randn(n_frames, 1, 80, 16, generator=torch.Generator().manual_seed(3))
    return PoseTrack(
        network,
        lambda first, stop: windows[first:stop],
        n_frames,
        torch.linspace(-0.2, 0.3, 6),
        style=1,
        noise=seeded_noise(5, 64),
        join=join,
    )


class _SteadyDecoder(torch.nn.Module):
    """Keeps the head still within a block, at a position drawn from the noise. Only block borders then show motion."""

    n_frames, n_latent = 32, 64

    def forward(self, audio: torch.Tensor, z: torch.Tensor, style: torch.Tensor, pose: torch.Tensor) -> torch.Tensor:
        return z[:, None, :6].expand(1, 32, 6)


class _SteadyHead(torch.nn.Module):
    decoder = _SteadyDecoder()

    def embed(self, windows: torch.Tensor) -> torch.Tensor:
        return windows.flatten(1)


def test_blended_blocks_do_not_jump_where_independent_ones_do() -> None:
    n_frames = 1 + 32 * 12
    steady = cast(PoseVAE, _SteadyHead())

    def steps(join: PoseJoin) -> np.ndarray:
        track = pose_track(steady, n_frames, join)
        largest: np.ndarray = np.abs(np.diff(track.raw(0, n_frames), axis=0)).max(axis=1)
        return largest

    independent, blended = steps("independent"), steps("blended")
    assert sorted(np.flatnonzero(independent > 1e-6)) == list(range(0, n_frames - 1, 32))
    assert np.median(independent[::32]) > 1
    # Half a period of a raised cosine over 16 frames: its largest step is less than a tenth of the whole.
    assert blended.max() < 0.16 * independent.max()
    places = pose_track(steady, n_frames, "blended").raw(0, n_frames)
    assert 0.5 < places[64:].std(axis=0).mean() < 1.3


def test_the_head_starts_from_the_picture_s_own_pose(networks: tuple[ExpNet, PoseVAE]) -> None:
    track = pose_track(networks[1], 100, "blended")
    raw = track.raw(0, 100)
    assert np.allclose(raw[0], np.linspace(-0.2, 0.3, 6))
    assert np.abs(raw[1] - raw[0]).max() < 0.05 * np.abs(raw - raw[0]).max()


@pytest.mark.parametrize("join", ["blended", "independent"])
@pytest.mark.parametrize("n_frames", [1, 2, 3, 12, 13, 17, 21, 32, 33, 34, 65, 97])
def test_any_stretch_of_any_length_equals_the_whole(
    networks: tuple[ExpNet, PoseVAE], n_frames: int, join: PoseJoin
) -> None:
    whole = pose_track(networks[1], n_frames, join).rows(0, n_frames)
    assert whole.shape == (n_frames, 6)
    assert np.isfinite(whole).all()
    track = pose_track(networks[1], n_frames, join)
    for first in range(0, n_frames, 11):
        stop = min(first + 11, n_frames)
        assert np.allclose(track.rows(first, stop), whole[first:stop], atol=1e-5)


def coefficient_track(networks: tuple[ExpNet, PoseVAE], n_frames: int, **options: Any) -> CoefficientTrack:
    speech = (0.1 * np.random.default_rng(0).standard_normal(640 * n_frames)).astype(np.float32)
    source = np.linspace(-1, 1, 73).astype(np.float32)
    return CoefficientTrack(*networks, speech, n_frames, source, TrackOptions(seed=1, **options))


@pytest.mark.parametrize("n_frames", [1, 2, 20, 21, 33, 80])
def test_windows_are_the_same_in_whatever_order_they_are_asked_for(
    networks: tuple[ExpNet, PoseVAE], n_frames: int
) -> None:
    whole = coefficient_track(networks, n_frames).semantics(0, n_frames)
    assert whole.shape == (n_frames, 73, 27)
    track = coefficient_track(networks, n_frames)
    for first in reversed(range(0, n_frames, 7)):
        stop = min(first + 7, n_frames)
        assert np.allclose(track.semantics(first, stop), whole[first:stop], atol=1e-4)


def test_each_option_changes_its_own_part_of_the_motion(networks: tuple[ExpNet, PoseVAE]) -> None:
    plain = coefficient_track(networks, 60).rows(0, 60)
    still = coefficient_track(networks, 60, still=True).rows(0, 60)
    assert np.array_equal(still[:, :64], plain[:, :64])
    assert np.ptp(still[:, 64:70], axis=0).max() == 0
    assert np.ptp(plain[:, 64:70], axis=0).max() > 0
    doubled = coefficient_track(networks, 60, expression_scale=2.0).rows(0, 60)
    assert np.allclose(doubled[:, :64], 2 * plain[:, :64])
    styled = coefficient_track(networks, 60, style=7).rows(0, 60)
    assert not np.allclose(styled[:, 64:70], plain[:, 64:70])
    unblinking = coefficient_track(networks, 60, blink_scale=0.0).rows(0, 60)
    assert not np.allclose(unblinking[:, :64], plain[:, :64])
    assert np.allclose(unblinking[0], plain[0])
