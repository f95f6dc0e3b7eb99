"""InfiniteTalk works while its text encoder is still being downloaded: the default prompt's embedding is known."""

import asyncio
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import pytest
from jobs_of_server import speaking_form
from lipsync_server.engines.infinitetalk.loading.embed import embed_default_prompts
from lipsync_server.random_models import infinitetalk as random_models
from lipsync_server.settings import Settings
from lipsync_server.weights.arriving import announce, arriving, withdraw
from model_hub import Hub, digest, serve_hub
from PIL import Image
from server_process import ServerProcess
from site_kit import Json

TRANSFORMER, TEXT = "quant_models/infinitetalk_single_int8_lora.safetensors", "quant_models/t5_fp8.safetensors"
CONTENTS = random_models.Contents(people=("single",), shards=False, kinds=("int8",), merged=(True,), text=("fp8",))
LOAD_S = 300

Make = Callable[[Hub], ServerProcess]


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder with every file of a tiny InfiniteTalk."""
    folder = tmp_path_factory.mktemp("complete")
    random_models.write(folder, contents=CONTENTS)
    return folder


@pytest.fixture(scope="module")
def on_hub(complete: Path) -> dict[str, bytes]:
    return {name: (complete / "InfiniteTalk" / name).read_bytes() for name in (TRANSFORMER, TEXT)}


@pytest.fixture
def weights(tmp_path: Path, complete: Path) -> Path:
    """A weights folder that lacks the transformer and the text encoder, and has the embedding of the default prompt."""
    folder = tmp_path / "weights"
    shutil.copytree(complete, folder)
    embed_default_prompts(Settings(_env_file=None, weights_dir=folder, device="cpu"))
    for name in (TRANSFORMER, TEXT):
        (folder / "InfiniteTalk" / name).unlink()
    return folder


@pytest.fixture
def make_server(tmp_path: Path, weights: Path, on_hub: dict[str, bytes]) -> Iterator[Make]:
    """A server that downloads a profile whose text encoder is downloaded last."""
    sums = {
        name: {"source": "s", "path": name, "size_bytes": len(data), "size_exact": True, "sha256": digest(data)}
        for name, data in on_hub.items()
    }
    source = {"repository": "some/model", "revision": "main", "folder": "InfiniteTalk", "licence": "MIT", "what": "x"}
    profile = {"engine": "infinitetalk", "title": "tiny", "files": list(sums), "late": [TEXT]}
    manifest = {"version": 1, "sources": {"s": source}, "files": sums, "profiles": {"tiny": profile}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    servers: list[ServerProcess] = []

    def make(hub: Hub) -> ServerProcess:
        settings = {
            "PROFILE": "tiny", "MANIFEST": str(tmp_path / "manifest.json"), "WEIGHTS_DIR": str(weights),
            "DEVICE": "cpu", "PRESET": "fast", "ENGINE": "infinitetalk",
        }  # fmt: skip
        servers.append(ServerProcess(tmp_path / "data", "small", settings, environment={"HF_ENDPOINT": hub.url}))
        servers[-1].start()
        return servers[-1]

    yield make
    for server in servers:
        server.kill()


def _wide_picture() -> bytes:
    """A picture in the shape of the small video."""
    picture = io.BytesIO()
    Image.new("RGB", (200, 64), "grey").save(picture, "PNG")
    return picture.getvalue()


async def submit(server: ServerProcess, session: aiohttp.ClientSession, **fields: str) -> str:
    form = speaking_form(_wide_picture(), "image/png", 0.3, options='{"steps": 1}', **fields)
    async with session.post(f"{server.url}/v1/jobs", data=form) as response:
        assert response.status == 202, await response.text()
        return str((await response.json())["id"])


async def ready(server: ServerProcess, session: aiohttp.ClientSession) -> None:
    """Wait until /readyz answers 200; a busy machine loads the tiny model in a minute."""
    await server.answers(session)
    async with asyncio.timeout(LOAD_S):
        while True:
            async with session.get(f"{server.url}/readyz") as response:
                if response.status == 200:
                    return
            await asyncio.sleep(0.25)


async def job_when(
    server: ServerProcess, session: aiohttp.ClientSession, job_id: str, is_so: Callable[[Json], bool]
) -> Json:
    async with asyncio.timeout(LOAD_S):
        while True:
            async with session.get(f"{server.url}/v1/jobs/{job_id}") as response:
                job: Json = await response.json()
            if is_so(job):
                return job
            assert job["state"] in ("queued", "running"), job
            await asyncio.sleep(0.25)


def waits_for_the_encoder(job: Json) -> bool:
    return "waiting for the text encoder" in json.dumps(job["progress"])


async def test_the_default_prompt_is_rendered_before_the_text_encoder_is_here_and_another_prompt_waits(
    make_server: Make, weights: Path, on_hub: dict[str, bytes]
) -> None:
    async with serve_hub(on_hub) as hub, aiohttp.ClientSession() as session:
        hub.held[TEXT] = asyncio.Event()
        server = make_server(hub)
        await ready(server, session)
        assert not (weights / "InfiniteTalk" / TEXT).exists()
        first = await submit(server, session)
        await job_when(server, session, first, lambda job: job["state"] == "succeeded")
        async with session.get(f"{server.url}/v1/jobs/{first}/video") as response:
            assert response.status == 200
        other = await submit(server, session, prompt="A person sings.")
        await job_when(server, session, other, waits_for_the_encoder)
        hub.held[TEXT].set()
        await job_when(server, session, other, lambda job: job["state"] == "succeeded")
        assert arriving(weights) == frozenset()


async def test_a_job_that_waits_for_a_text_encoder_which_never_comes_ends_with_the_reason(
    make_server: Make, weights: Path, on_hub: dict[str, bytes]
) -> None:
    async with serve_hub({TRANSFORMER: on_hub[TRANSFORMER]}) as hub, aiohttp.ClientSession() as session:
        hub.held[TEXT] = asyncio.Event()
        hub.files[TEXT] = bytes(len(on_hub[TEXT]))  # its checksum is wrong
        server = make_server(hub)
        await ready(server, session)
        job_id = await submit(server, session, prompt="A person sings.")
        await job_when(server, session, job_id, waits_for_the_encoder)
        hub.held[TEXT].set()
        job = await job_when(server, session, job_id, lambda job: job["state"] == "failed")
        assert "missing" in job["error"]["detail"]
        async with session.get(f"{server.url}/readyz") as response:
            assert "t5_fp8" in (await response.json())["detail"]


def test_the_files_that_a_killed_server_announced_are_not_awaited(tmp_path: Path) -> None:
    announce(tmp_path, [tmp_path / "text"])
    assert arriving(tmp_path) == {tmp_path / "text"}
    withdraw(tmp_path)
    assert arriving(tmp_path) == frozenset()
    code = (
        "import sys; from pathlib import Path; from lipsync_server.weights.arriving import announce; "
        "announce(Path(sys.argv[1]), [Path(sys.argv[1]) / 'text'])"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert (tmp_path / ".arriving.json").exists()
    assert arriving(tmp_path) == frozenset()
