"""The VAE: golden pixels and latents, and every shortcut against diffusers' own whole-video passes."""

import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from infinitetalk_golden import CPU, FILES, error, golden, golden_path, meets
from lipsync_server.models.wan_vae import ops
from lipsync_server.models.wan_vae.layers import PairedConv
from lipsync_server.models.wan_vae.vae import Options, WanVae, build, official_name
from lipsync_server.random_models.numbers import randomise
from torch import Tensor, nn
from torch.nn import functional as F

if importlib.util.find_spec("triton") is not None:
    from lipsync_server.models.wan_vae import kernels as vae_kernels

GPU = torch.device("cuda", 0)
needs_kernels = pytest.mark.skipif(
    not torch.cuda.is_available() or importlib.util.find_spec("triton") is None, reason="Triton's kernels need a GPU"
)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def _network(base_dim: int, *, device: torch.device = CPU, dtype: torch.dtype = torch.float32) -> AutoencoderKLWan:
    """Random weights, biases and gains included."""
    network = build(base_dim)
    randomise(network, device=device, dtype=dtype)
    generator = torch.Generator(device).manual_seed(5)
    for name, parameter in network.named_parameters():
        if name.endswith(("bias", "gamma")):
            parameter.add_(torch.randn(parameter.shape, generator=generator, device=device).to(dtype), alpha=0.2)
    return network


def _video(n_frames: int, height: int, width: int) -> Tensor:
    return torch.rand(3, n_frames, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


WAYS: dict[str, Options] = {
    "folded": {"fold_convolutions": True},
    "3-D": {"fold_convolutions": False},
    "paired": {"fold_convolutions": False, "pair_columns": True},
}


@pytest.mark.parametrize("name", FILES.cases("E_vae/vae_cases.safetensors"))
@pytest.mark.parametrize("way", WAYS)
def test_latents_and_pixels_are_golden(name: str, way: str) -> None:
    case = golden("E_vae/vae_cases.safetensors")
    vae = WanVae.load(golden_path("E_vae/vae_tiny.safetensors"), device=CPU, **WAYS[way])
    meets(f"E vae {name} latent, {way}", vae.encode(case[f"{name}.video"]), case[f"{name}.latent"], 1e-4)
    for given, expected in (("latent", "recon"), ("z", "z_decoded")):
        pixels = torch.cat(list(vae.decode(case[f"{name}.{given}"])), 1)
        meets(f"E vae {name} {expected}, {way}", pixels, case[f"{name}.{expected}"], 2e-4)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_streaming_equals_diffusers_whole_video(way: str, channels_last: bool) -> None:
    """In every way of computing, in the CPU's and in the GPU's memory order."""
    plain = _network(8)
    options: Options = {**WAYS[way], "channels_last": channels_last}
    ours = WanVae(_network(8), CPU, torch.float32, **options)
    video = _video(13, 32, 48)
    mean = torch.tensor(plain.config.latents_mean).view(-1, 1, 1, 1)
    std = torch.tensor(plain.config.latents_std).view(-1, 1, 1, 1)
    latents = (plain.encode(video[None]).latent_dist.mode()[0] - mean) / std
    assert error(ours.encode(video), latents) < 1e-5
    pieces = list(ours.decode(latents))
    assert [piece.shape[1] for piece in pieces] == [1, 4, 4, 4]
    assert error(torch.cat(pieces, 1), plain.decode((latents * std + mean)[None]).sample[0].clamp(-1, 1)) < 1e-5


@pytest.mark.parametrize("width", [6, 7])
def test_pairs_of_columns_make_the_same_convolution(width: int) -> None:
    conv = nn.Conv3d(32, 5, 3)
    object.__setattr__(conv, "_padding", (1, 1, 1, 1, 2, 0))
    assert PairedConv.suits(conv)
    paired = PairedConv(conv)
    frames = F.pad(torch.randn(1, 32, 3, 4, width), (1, 1))
    assert paired.deferred is not None
    expected = F.conv3d(F.pad(frames, (0, 0, 1, 1)), conv.weight)
    torch.testing.assert_close(paired(frames), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_latents", [1, 2, 5, 12, 21, 31])
def test_a_picture_followed_by_grey_needs_only_what_the_picture_determines(n_latents: int) -> None:
    vae = WanVae(_network(8), CPU, torch.float32)
    picture = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1
    whole = vae.encode(torch.cat([picture[:, None], torch.zeros(3, 4 * (n_latents - 1), 32, 32)], 1))
    assert error(vae.encode_picture(picture, n_latents), whole) < 1e-6


def test_every_name_maps_to_another_official_one() -> None:
    names = [official_name(name) for name in build().state_dict()]
    assert len(set(names)) == len(names)
    assert "decoder.upsamples.3.time_conv.weight" in names


def _values(channels: int, n_frames: int, height: int, width: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator(GPU).manual_seed(channels)
    values = torch.randn(1, channels, n_frames, height, width, device=GPU, generator=generator).to(dtype)
    return values.contiguous(memory_format=torch.channels_last_3d)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("channels", "edge"), [(96, 1), (192, 0), (384, 0), (20, 1)])
def test_each_kernel_computes_what_plain_torch_does(channels: int, edge: int, dtype: torch.dtype) -> None:
    close: dict[str, Any] = {"rtol": 1e-2, "atol": 1e-2} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    gamma, bias = torch.randn(2, channels, device=GPU)
    history = _values(channels, 2, 6, 10 + 2 * edge, dtype)
    for n_frames in (1, 4):
        x, y = (_values(channels, n_frames, 6, 10, dtype) for _ in range(2))
        # add() may overwrite its argument.
        torch.testing.assert_close(vae_kernels.add(x.clone(), y), ops.add(x, y), **close)
        torch.testing.assert_close(vae_kernels.add(x.clone(), y, bias), ops.add(x, y, bias), **close)
        for b in (None, bias):
            for n_parts in (1, 2):
                torch.testing.assert_close(vae_kernels.double(x, n_parts, b), ops.double(x, n_parts, b), **close)
            for before in (None, history):
                ours = vae_kernels.norm_silu(x, gamma, b, before, edge)
                plain = ops.norm_silu(x, gamma, b, before, edge)
                for got, wanted in zip(ours, plain, strict=True):
                    torch.testing.assert_close(got, wanted, **close)


def _passes(vae: WanVae, video: Tensor, latents: Tensor) -> list[Tensor]:
    return [vae.encode(video), vae.encode_picture(video[:, 0], 21), torch.cat(list(vae.decode(latents)), 1)]


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fast_vae_is_as_close_to_float32_as_the_plain_one(dtype: torch.dtype) -> None:
    video, latents = _video(9, 64, 48).to(GPU), torch.randn(16, 4, 8, 6, device=GPU)
    with torch.backends.cudnn.flags(allow_tf32=False):
        exact = _passes(WanVae(_network(96, device=GPU), GPU, torch.float32), video, latents)
        plain = _passes(WanVae(_network(96, device=GPU, dtype=dtype), GPU, dtype), video, latents)
        fast = _passes(WanVae(_network(96, device=GPU, dtype=dtype), GPU, dtype, kernels=True), video, latents)
    for reference, slow, quick in zip(exact, plain, fast, strict=True):
        assert error(quick, reference) <= 1.5 * error(slow, reference) + 2e-4
