"""LoRA files by name through the real HTTP API: wrong ones are refused before a job exists, others change its video."""

import json
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
import torch
from jobs_of_server import (
    TOKEN,
    check_that_a_killed_server_makes_the_same_video,
    frames_in,
    noise_png,
    posted,
    speaking_form,
    succeeded,
    until,
    video_of,
)
from lipsync_server.random_models import infinitetalk as random_models
from lipsync_server.random_models.infinitetalk import TINY
from safetensors.torch import save_file
from server_process import ServerProcess

DIM = TINY.transformer.dim


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lora")


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[ServerProcess]:
    random_models.write(home / "weights")
    (home / "loras").mkdir()
    layer, generator = "diffusion_model.blocks.0.self_attn.q", torch.Generator().manual_seed(1)
    style = {f"{layer}.lora_A.weight": torch.randn(4, DIM, generator=generator)}
    style[f"{layer}.lora_B.weight"] = torch.randn(DIM, 4, generator=generator)
    save_file(style, home / "loras" / "style.safetensors")
    save_file({"conv.weight": torch.zeros(2)}, home / "loras" / "vae.safetensors")
    options = {"ENGINE": "infinitetalk", "DEVICE": "cpu", "PRESET": "quality", "WEIGHTS_DIR": str(home / "weights")}
    options |= {"LORA_DIR": str(home / "loras"), "TOKENS": TOKEN}
    server = ServerProcess(home / "data", "small", options, environment={"OMP_NUM_THREADS": "1"})
    with server.running():
        yield server


def _form(duration_s: float, *loras: object) -> aiohttp.FormData:
    options = {"steps": 1, "window_frames": 13, "motion_frames": 5, "loras": loras}
    return speaking_form(noise_png(200, 64), "image/png", duration_s, options=json.dumps(options))


@pytest.mark.parametrize(
    ("wish", "sentence"),
    [
        ({"name": "stile"}, "There is no LoRA named 'stile' here; there are: style. Did you mean 'style'?"),
        ({"name": "style", "scale": 5}, "less than or equal to 4"),
        ({"name": "../loras/style"}, "without a path"),
        ({"name": "vae"}, "vae.safetensors is no LoRA file"),
    ],
)
async def test_a_wrong_lora_is_refused_before_a_job_exists(
    server: ServerProcess, session: aiohttp.ClientSession, wish: object, sentence: str
) -> None:
    async with session.post(f"{server.url}/v1/jobs", data=_form(0.3, wish)) as answer:
        problem = await answer.json()
    assert answer.status == 422
    assert sentence in problem["detail"]
    assert problem["field"].startswith("loras")


async def test_a_named_lora_changes_the_video_of_its_own_job_only(
    server: ServerProcess, session: aiohttp.ClientSession
) -> None:
    videos = []
    for loras in ((), ({"name": "style", "scale": 2},), ()):
        url = await posted(session, server, _form(0.3, *loras))
        await until(session, url, succeeded)
        videos.append(frames_in(await video_of(session, url)))
    plain, styled, again = videos
    assert (plain == again).all()
    assert (plain != styled).any()


async def test_a_server_killed_between_windows_resumes_with_the_lora(
    server: ServerProcess, session: aiohttp.ClientSession, home: Path
) -> None:
    await check_that_a_killed_server_makes_the_same_video(
        session, server, home / "data", lambda: _form(3.0, {"name": "style", "scale": 2}), n_frames=75
    )
