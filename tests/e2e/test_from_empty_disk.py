"""From an empty disk to a rendered video with one command: `lipsync serve --profile ...` against a stand-in hub."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import pytest
from jobs_of_server import end_of
from lipsync_server.media.mp4.mux import probe_video
from lipsync_server.paths import SAMPLES_DIR
from lipsync_server.random_models import sadtalker as random_sadtalker
from model_hub import Hub, digest, serve_hub
from server_process import MakeServer, ServerProcess, free_port
from site_kit import Json, form, wav

PORTRAIT = (SAMPLES_DIR / "portrait.jpg").read_bytes()


@pytest.fixture(scope="module")
def model_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """SadTalker's files with tiny networks, by name."""
    folder = tmp_path_factory.mktemp("model_files")
    random_sadtalker.write(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def make_server(tmp_path: Path, model_files: dict[str, bytes]) -> Iterator[MakeServer]:
    """A server with the profile `tiny` to download, not yet started."""
    files = {
        name: {"source": "s", "path": name, "size_bytes": len(data), "size_exact": True, "sha256": digest(data)}
        for name, data in model_files.items()
    }
    source = {"repository": "some/model", "revision": "main", "folder": "sadtalker", "licence": "x", "what": "x"}
    profile = {"engine": "sadtalker", "title": "tiny", "files": list(files)}
    manifest = {"version": 1, "sources": {"s": source}, "files": files, "profiles": {"tiny": profile}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    servers: list[ServerProcess] = []

    def make(hub: Hub, variables: dict[str, str] | None = None, **options: str) -> ServerProcess:
        places = {"MANIFEST": str(tmp_path / "manifest.json"), "WEIGHTS_DIR": str(tmp_path / "weights")}
        settings = {"PROFILE": "tiny", "DEVICE": "cpu", **places, **options}
        variables = {"HF_ENDPOINT": hub.url, **(variables or {})}
        servers.append(ServerProcess(tmp_path / "data", "product", settings, environment=variables))
        servers[-1].start()
        return servers[-1]

    yield make
    for server in servers:
        server.kill()


async def submit(server: ServerProcess, session: aiohttp.ClientSession, **fields: object) -> str:
    data = form(image=("portrait.jpg", PORTRAIT), audio=wav(0.4), **fields)
    async with session.post(f"{server.url}/v1/jobs", data=data) as response:
        assert response.status == 202, await response.text()
        return str((await response.json())["id"])


async def readiness(server: ServerProcess, session: aiohttp.ClientSession, stage: str, known: str = "detail") -> Json:
    """Wait until /readyz reports the stage `stage` with the field `known`; returns that answer."""
    async with asyncio.timeout(60):
        while True:
            async with session.get(f"{server.url}/readyz") as response:
                state: Json = await response.json()
            if state["stage"] == stage and state[known] is not None:
                return state
            await asyncio.sleep(0.2)


async def test_a_server_with_an_empty_disk_downloads_with_progress_and_renders(
    make_server: MakeServer, model_files: dict[str, bytes], tmp_path: Path
) -> None:
    total = sum(map(len, model_files.values()))
    async with serve_hub(model_files) as hub, aiohttp.ClientSession() as session:
        hub.open.clear()
        server = make_server(hub)
        await server.answers(session)
        state = await readiness(server, session, "downloading", "bytes_total")
        assert (state["ready"], state["bytes_done"], state["bytes_total"]) == (False, 0, total)
        assert "tiny" in state["detail"]
        assert "Licence: x (x)" in state["detail"], "shown before its files are downloaded"
        async with session.get(f"{server.url}/ping") as response:
            assert response.status == 204

        # Meanwhile jobs for the preview engine are rendered; jobs for the engine that is still downloading are queued.
        patient = await submit(server, session, engine="sadtalker")
        assert (await end_of(session, server, await submit(server, session)))["engine"] == "preview"
        async with session.get(f"{server.url}/v1/jobs/{patient}") as response:
            assert (await response.json())["state"] == "queued"

        hub.open.set()
        await readiness(server, session, "ready")
        job = await end_of(session, server, patient)
        assert (job["state"], job["engine"]) == ("succeeded", "sadtalker"), job
        assert (await end_of(session, server, await submit(server, session)))["engine"] == "sadtalker"
        async with session.get(f"{server.url}/v1/jobs/{patient}/video") as response:
            (tmp_path / "video.mp4").write_bytes(await response.read())
    assert probe_video(tmp_path / "video.mp4").n_frames == 10


async def test_without_the_preview_jobs_wait_for_the_weights(
    make_server: MakeServer, model_files: dict[str, bytes]
) -> None:
    async with serve_hub(model_files) as hub, aiohttp.ClientSession() as session:
        hub.open.clear()
        server = make_server(hub, PREVIEW_WHILE_LOADING="false")
        await server.answers(session)
        job_id = await submit(server, session)
        hub.open.set()
        assert (await end_of(session, server, job_id))["engine"] == "sadtalker"


async def test_a_refused_download_shows_the_reason_and_ends_the_jobs_that_waited(
    make_server: MakeServer, model_files: dict[str, bytes]
) -> None:
    async with serve_hub(dict(model_files)) as hub, aiohttp.ClientSession() as session:
        hub.open.clear()
        hub.files.popitem()
        server = make_server(hub)
        await server.answers(session)
        job_id = await submit(server, session, engine="sadtalker")
        hub.open.set()
        state = await readiness(server, session, "failed")
        assert "is not at some/model" in state["detail"]
        job = await end_of(session, server, job_id)
        assert (job["state"], job["error"]["code"]) == ("failed", "engine_unavailable")
        assert (await end_of(session, server, await submit(server, session)))["engine"] == "preview"


class LoadBalancer:
    """A stand-in for a serverless endpoint that balances load: starts a worker for a request, and asks its /ping.

    A worker gets requests only after /ping answered 200. pings: the earlier statuses, "" without an answer.
    """

    def __init__(self, start: Callable[[str], ServerProcess], session: aiohttp.ClientSession) -> None:
        self._start, self._session = start, session
        self.worker: ServerProcess | None = None
        self.pings: list[object] = []

    async def post(self, path: str, data: aiohttp.FormData, headers: dict[str, str]) -> tuple[int, bytes]:
        if self.worker is None:
            port = str(free_port())
            self.worker = self._start(port)
            await self._wait_until_healthy(f"http://127.0.0.1:{port}/ping")
        async with self._session.post(self.worker.url + path, data=data, headers=headers) as response:
            return response.status, await response.read()

    async def _wait_until_healthy(self, url: str) -> None:
        self.pings = []
        async with asyncio.timeout(120):
            while self.pings[-1:] != [200]:
                try:
                    async with self._session.get(url) as response:
                        self.pings.append(response.status)
                except aiohttp.ClientError:
                    self.pings.append("")
                await asyncio.sleep(0.2)

    def scale_to_zero(self) -> int:
        assert self.worker is not None
        status = self.worker.stop()
        self.worker = None
        return status


async def test_a_serverless_worker_starts_for_a_request_and_finds_its_volume_again(
    make_server: MakeServer, model_files: dict[str, bytes]
) -> None:
    """The recipe of docs/rent-a-gpu.md: /ping at PORT_HEALTH, weights and data on a volume that outlives the worker."""
    headers = {"Authorization": "Bearer secret"}
    async with serve_hub(model_files) as hub, aiohttp.ClientSession() as session:

        def start(port: str) -> ServerProcess:
            return make_server(hub, {"PORT_HEALTH": port}, TOKENS="secret")

        balancer = LoadBalancer(start, session)
        for _ in range(2):
            data = form(image=("portrait.jpg", PORTRAIT), audio=wav(0.4), engine="sadtalker")
            status, video = await balancer.post("/lipsync", data, headers)
            assert (status, video[4:8]) == (200, b"ftyp"), video[:300]
            assert set(balancer.pings) <= {"", 204, 200}
            n_downloads = len(hub.ranges)
            assert balancer.scale_to_zero() == 0
        assert n_downloads == len(model_files), "the second worker downloads nothing"
