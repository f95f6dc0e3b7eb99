"""The VAE: golden pixels and latents, and every shortcut against diffusers' own whole-video passes."""

import shutil
import sysconfig
from pathlib import Path

import pytest
import torch
from it_golden import CPU, error, golden, golden_path, meets
from lipsync_server.engines.infinitetalk.state_files import randomise
from lipsync_server.engines.infinitetalk.vae import WanVae, build, official_name


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("name", ["clip", "image"])
@pytest.mark.parametrize("fold", [True, False])
def test_latents_and_pixels_are_golden(name: str, fold: bool) -> None:
    case = golden("E_vae/vae_cases.safetensors")
    vae = WanVae.load(golden_path("E_vae/vae_tiny.safetensors"), device=CPU, fold_convolutions=fold)
    path = "folded" if fold else "3-D"
    meets(f"vae {name} latent, {path}", vae.encode(case[f"{name}.video"]), case[f"{name}.latent"], 1e-4)
    for given, expected in (("latent", "recon"), ("z", "z_decoded")):
        pixels = torch.cat(list(vae.decode(case[f"{name}.{given}"])), 1)
        meets(f"vae {name} {expected}, {path}", pixels, case[f"{name}.{expected}"], 2e-4)


@pytest.mark.parametrize("fold", [True, False])
def test_streaming_equals_diffusers_whole_video(fold: bool) -> None:
    plain = build(8)
    randomise(plain, device=CPU, dtype=torch.float32)
    ours = WanVae.random(device=CPU, dtype=torch.float32, base_dim=8, fold_convolutions=fold)
    video = torch.rand(3, 13, 32, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1
    mean = torch.tensor(plain.config.latents_mean).view(-1, 1, 1, 1)
    std = torch.tensor(plain.config.latents_std).view(-1, 1, 1, 1)
    latents = (plain.encode(video[None]).latent_dist.mode()[0] - mean) / std
    assert error(ours.encode(video), latents) < 1e-5
    pieces = list(ours.decode(latents))
    assert [piece.shape[1] for piece in pieces] == [1, 4, 4, 4]
    assert error(torch.cat(pieces, 1), plain.decode((latents * std + mean)[None]).sample[0]) < 1e-5


@pytest.mark.parametrize("fold", [True, False])
def test_the_gpus_memory_order_changes_no_number(fold: bool) -> None:
    models = []
    for channels_last in (False, True):
        network = build(8)
        randomise(network, device=CPU, dtype=torch.float32)
        ours = WanVae(network, CPU, torch.float32, fold_convolutions=fold, channels_last=channels_last)
        models.append(ours)
    video = torch.rand(3, 9, 32, 48, generator=torch.Generator().manual_seed(3)) * 2 - 1
    plain, ordered = models
    latents = plain.encode(video)
    assert error(ordered.encode(video), latents) < 1e-5
    assert error(ordered.encode_picture(video[:, 0], 5), plain.encode_picture(video[:, 0], 5)) < 1e-5
    assert error(torch.cat(list(ordered.decode(latents)), 1), torch.cat(list(plain.decode(latents)), 1)) < 1e-5


@pytest.mark.parametrize("n_latents", [1, 2, 5, 12, 21, 31])
def test_a_picture_followed_by_grey_needs_only_what_the_picture_determines(n_latents: int) -> None:
    vae = WanVae.random(device=CPU, dtype=torch.float32, base_dim=8)
    picture = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1
    whole = vae.encode(torch.cat([picture[:, None], torch.zeros(3, 4 * (n_latents - 1), 32, 32)], 1))
    assert error(vae.encode_picture(picture, n_latents), whole) < 1e-6


def test_every_name_maps_to_another_official_one() -> None:
    names = [official_name(name) for name in build().state_dict()]
    assert len(set(names)) == len(names)
    assert "decoder.upsamples.3.time_conv.weight" in names


@pytest.mark.skipif(
    shutil.which("g++") is None or not Path(sysconfig.get_path("include"), "Python.h").is_file(),
    reason="torch.compile on the CPU needs g++ and python3-dev",
)
def test_the_compiled_norm_is_compiled_once_for_all_sizes() -> None:
    models = []
    for compiled in (False, True):
        network = build(4)
        randomise(network, device=CPU, dtype=torch.float32)
        models.append(WanVae(network, CPU, torch.float32, compile_norms=compiled, fold_convolutions=False))
    plain, fast = models
    with torch._dynamo.config.patch(error_on_recompile=True):
        for height, width in ((16, 16), (16, 24), (24, 16)):
            video = torch.rand(3, 5, height, width, generator=torch.Generator().manual_seed(4)) * 2 - 1
            latents = plain.encode(video)
            assert error(fast.encode(video), latents) < 1e-5
            assert error(torch.cat(list(fast.decode(latents)), 1), torch.cat(list(plain.decode(latents)), 1)) < 1e-4
