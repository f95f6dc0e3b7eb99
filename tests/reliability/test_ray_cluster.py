"""Several machines: jobs spread over a Ray cluster, and a machine that dies or joins is nobody's business but Ray's.

A head and two nodes run as processes of this machine; one is really killed in the middle, a third joins. All tests use
the same cluster, with the nodes that the one before left. How soon a node that joined works is printed:

    python -m pytest tests/reliability/test_ray_cluster.py -s
"""

import asyncio
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import lipsync_server
import pytest
from lipsync_server.engines.base import n_frames_for
from lipsync_server.media.mp4.mux import probe_video
from lipsync_server.paths import SAMPLES_DIR
from material import bar_numbers, expected_bars
from ray_nodes import START_S, TOKEN, RayNodes
from s3_server import KEY, SECRET, Bucket
from server_process import ServerProcess
from site_kit import form, wav

pytest.importorskip("ray")
# One process of pytest-xdist runs all of it: there is one cluster.
pytestmark = pytest.mark.xdist_group("ray")

N_JOBS = 40
SECONDS = 0.6
# Two or three on a quiet machine; a busy one of two cores starts processes slowly.
JOINED_WITHIN_S = 60


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    # Not pytest's own folder: the names of Ray's sockets may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    cluster = RayNodes(folder)
    try:
        cluster.start_head()
        for name in ("a", "b"):
            cluster.start(name)
            cluster.wait(name)
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Client:
    """Sends jobs and watches which machine does which."""

    url: str
    session: aiohttp.ClientSession
    seen: dict[str, set[str]] = field(default_factory=dict)

    async def get(self, path: str) -> dict:
        async with self.session.get(f"{self.url}{path}") as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def send(self, key: str, **fields: object) -> str:
        async with self.session.post(
            f"{self.url}/v1/jobs", data=form(prompt=key, **fields), headers={"Idempotency-Key": key}
        ) as response:
            assert response.status == 202, await response.text()
            return (await response.json())["id"]

    async def look(self) -> dict[str, str]:
        """The state of each machine's worker, by machine; remembers who does what."""
        workers = (await self.get("/v1/engines"))["workers"]
        for worker in workers:
            if worker["job_id"] is not None:
                self.seen.setdefault(worker["node"], set()).add(worker["job_id"])
        return {worker["node"]: worker["state"] for worker in workers}

    async def where(self, job_id: str) -> str:
        """The machine that is at a job."""
        workers = (await self.get("/v1/engines"))["workers"]
        return next(worker["node"] for worker in workers if worker["job_id"] == job_id)

    async def readiness(self) -> str:
        async with self.session.get(f"{self.url}/readyz") as response:
            return (await response.json())["detail"]

    async def metrics(self) -> str:
        async with self.session.get(f"{self.url}/metrics") as response:
            return await response.text()

    async def until(self, true: Callable[[dict[str, str]], bool], timeout_s: float = 90) -> None:
        async with asyncio.timeout(timeout_s):
            while True:
                if true(await self.look()):
                    return
                await asyncio.sleep(0.05)

    async def ended(self, job_ids: list[str], timeout_s: float = 120) -> list[dict]:
        """The jobs once all have ended."""
        async with asyncio.timeout(timeout_s):
            while True:
                await self.look()
                counts = (
                    await self.get("/v1/jobs?state=queued&limit=1"),
                    await self.get("/v1/jobs?state=running&limit=1"),
                )
                if not any(page["jobs"] for page in counts):
                    return [await self.get(f"/v1/jobs/{job_id}") for job_id in job_ids]
                await asyncio.sleep(0.05)


@pytest.fixture
async def client(session) -> AsyncIterator[Callable[[ServerProcess], Client]]:
    yield lambda server: Client(server.url, session)


def cluster_server(make_server, nodes: RayNodes, engine: str) -> ServerProcess:
    server = make_server(engine, EXECUTOR="ray", RAY_ADDRESS=nodes.address, CPUS_PER_WORKER="1", ENGINE="auto")
    server.environment |= TOKEN
    return server


async def freeze(site: Client, nodes: RayNodes, name: str) -> None:
    """Stop the node's actor in the middle of a job, which then cannot end before the node is killed."""
    while True:
        await site.until(lambda workers: workers.get(name) == "busy")
        [actor] = nodes.actors(name)
        actor.suspend()
        await asyncio.sleep(0.5)  # for what it said before
        if (await site.look()).get(name) == "busy":
            return
        actor.resume()


async def video_of(client: Client, job: dict) -> bytes:
    async with client.session.get(f"{client.url}/v1/jobs/{job['id']}/video") as response:
        assert response.status == 200
        video = await response.read()
    assert hashlib.sha256(video).hexdigest() == job["result"]["sha256"]
    return video


async def test_machines_share_the_work_and_one_that_dies_loses_none_of_it(
    make_server, session, client, nodes: RayNodes, tmp_path: Path
):
    server = cluster_server(make_server, nodes, "preview")
    server.start()
    await server.answers(session)
    site = client(server)
    await site.until(lambda workers: workers == {"a": "ready", "b": "ready"})

    face = (SAMPLES_DIR / "portrait.jpg").read_bytes()
    job_ids = [await site.send(f"job-{n}", image=face, audio=wav(SECONDS), engine="preview") for n in range(N_JOBS)]
    await site.until(lambda workers: all(len(site.seen.get(name, ())) >= 3 for name in ("a", "b")))
    metrics = await site.metrics()
    [waited_s] = re.findall(r'^lipsync_queue_seconds{engine="preview"} (.*)$', metrics, re.MULTILINE)
    assert float(waited_s) > 0
    assert re.search(r'^lipsync_workers{engine="preview",node="a",state="(busy|ready)"} 1.0$', metrics, re.MULTILINE)
    await freeze(site, nodes, "b")
    before = {job["id"]: job for job in (await site.get("/v1/jobs?state=succeeded&limit=200"))["jobs"]}
    nodes.kill("b")
    nodes.start("c")
    await asyncio.to_thread(nodes.wait, "c")
    began = time.monotonic()
    await site.until(lambda workers: workers.get("c") in ("ready", "busy"), JOINED_WITHIN_S)
    print(f"\na node that joined had its engine loaded after {time.monotonic() - began:.1f} s")
    jobs = await site.ended(job_ids)

    assert [job["state"] for job in jobs] == ["succeeded"] * N_JOBS, [job["error"] for job in jobs]
    assert len((await site.get("/v1/jobs?limit=200"))["jobs"]) == N_JOBS
    # Finished videos are as the client saw them, and another machine did the dead one's work.
    for job in jobs:
        if job["id"] in before:
            assert (job["result"], job["finished_at"]) == tuple(
                before[job["id"]][key] for key in ("result", "finished_at")
            )
    assert sum(job["attempts"] for job in jobs) == N_JOBS + 1
    twice = next(job for job in jobs if job["attempts"] == 2)
    assert twice["id"] in site.seen["b"]
    path = tmp_path / "video.mp4"
    for job in jobs:
        path.write_bytes(await video_of(site, job))
        assert probe_video(path).n_frames == n_frames_for(SECONDS)

    await site.until(lambda workers: workers == {"a": "ready", "c": "ready"})
    more = [await site.send(f"more-{n}", image=face, audio=wav(SECONDS), engine="preview") for n in range(4)]
    assert [job["state"] for job in await site.ended(more)] == ["succeeded"] * 4
    assert site.seen["c"] & set(more)
    workers = (await site.get("/v1/engines"))["workers"]
    assert [(each["node"], each["engine"], each["state"]) for each in sorted(workers, key=lambda w: w["node"])] == [
        ("a", "preview", "ready"),
        ("c", "preview", "ready"),
    ]
    assert 'lipsync_workers{engine="preview",node="c",state="ready"} 1.0' in await site.metrics()
    assert server.stop() == 0


async def test_a_render_goes_on_elsewhere_from_its_resume_point_and_can_be_cancelled(
    make_server, session, client, nodes: RayNodes, tmp_path: Path
):
    server = cluster_server(make_server, nodes, "bars")
    server.start()
    await server.answers(session, "/readyz")
    site = client(server)
    options = json.dumps({"seconds_per_frame": 0.05, "save_every": 10})
    job_id = await site.send("long", audio=wav(4.0), options=options)
    scratch = server.data_dir / "jobs" / job_id / "scratch"
    await site.until(lambda workers: any(scratch.glob("checkpoint-*.npz")))
    assert (await site.get(f"/v1/jobs/{job_id}"))["progress"]["fraction"] > 0
    at = await site.where(job_id)
    nodes.kill(at)
    [job] = await site.ended([job_id])
    assert job["state"] == "succeeded", job["error"]
    assert [warning for warning in job["result"]["warnings"] if warning.startswith("resumed at ")]
    assert [node for node, seen in site.seen.items() if job_id in seen and node != at], "it ended on another machine"
    path = tmp_path / "video.mp4"
    path.write_bytes(await video_of(site, job))
    assert bar_numbers(path) == expected_bars(100)

    # An actor alone: the machine goes on with a new one.
    nodes.start("d")
    await asyncio.to_thread(nodes.wait, "d")
    job_id = await site.send("again", audio=wav(4.0), options=options)
    scratch = server.data_dir / "jobs" / job_id / "scratch"
    await site.until(lambda workers: any(scratch.glob("checkpoint-*.npz")))
    nodes.actors(await site.where(job_id))[0].kill()
    [job] = await site.ended([job_id])
    assert job["state"] == "succeeded", job["error"]
    assert [warning for warning in job["result"]["warnings"] if warning.startswith("resumed at ")]

    await site.until(lambda workers: len(workers) == 2 and set(workers.values()) == {"ready"})
    slow = await site.send("slow", audio=wav(4.0), options=json.dumps({"seconds_per_frame": 1.0}))
    await site.until(lambda workers: "busy" in workers.values())
    async with session.delete(f"{server.url}/v1/jobs/{slow}") as response:
        assert response.status in (200, 202)
    [job] = await site.ended([slow])
    assert job["state"] == "cancelled"

    # A killed server takes its actors along; the next one makes new ones and goes on with what was there.
    lost = await site.send("lost", audio=wav(1.0), options=options)
    await site.until(lambda workers: "busy" in workers.values())
    server.kill()
    server.start()
    await server.answers(session)
    [job] = await site.ended([lost])
    assert job["state"] == "succeeded"
    assert bar_numbers_of(await video_of(site, job), path) == expected_bars(25)


async def test_a_video_made_on_another_machine_is_in_the_bucket(
    make_server, session, client, nodes: RayNodes, bucket: Bucket
):
    server = cluster_server(make_server, nodes, "bars")
    server.settings |= {"STORE": "s3://videos/cluster/", "STORE_ENDPOINT": f"http://127.0.0.1:{bucket.port}"}
    server.environment |= {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    server.start()
    await server.answers(session, "/readyz")
    site = client(server)
    [job] = await site.ended([await site.send("stored", audio=wav(0.6))])
    assert job["state"] == "succeeded", job["error"]
    copy = (await bucket.contents())[job["links"]["stored"].removeprefix("s3://videos/")]
    assert copy == await video_of(site, job)


async def test_a_machine_whose_workers_die_fails_no_job_of_a_healthy_cluster(
    make_server, session, client, nodes: RayNodes
):
    names = set(nodes.processes) - {"head"}
    for name in names:
        nodes.kill(name)
    for name in ("sick", "well"):
        nodes.start(name)
        await asyncio.to_thread(nodes.wait, name)
    server = cluster_server(make_server, nodes, "bars")
    server.start()
    await server.answers(session)
    site = client(server)
    await site.until(lambda workers: workers == {"sick": "ready", "well": "ready"})
    options = json.dumps({"seconds_per_frame": 0.05})
    job_ids = [await site.send(f"sick-{n}", audio=wav(1.0), options=options) for n in range(6)]

    async def kill_every_render() -> None:
        while True:
            if (await site.look()).get("sick") == "busy":
                for actor in nodes.actors("sick"):
                    actor.kill()
            await asyncio.sleep(0.1)

    killing = asyncio.create_task(kill_every_render())
    jobs = await site.ended(job_ids)
    killing.cancel()
    assert [job["state"] for job in jobs] == ["succeeded"] * 6, [job["error"] for job in jobs]
    assert max(job["attempts"] for job in jobs) == 2, "a second try is on the other machine"
    assert server.stop() == 0


async def test_a_machine_that_ray_declared_dead_returns_by_itself(make_server, session, client, nodes: RayNodes):
    for name in set(nodes.processes) - {"head"}:
        nodes.kill(name)
    nodes.start("looping", loop=True)
    await asyncio.to_thread(nodes.wait, "looping")
    server = cluster_server(make_server, nodes, "bars")
    server.start()
    await server.answers(session)
    site = client(server)
    await site.until(lambda workers: workers == {"looping": "ready"})
    raylet = nodes.raylet("looping")
    raylet.suspend()
    await site.until(lambda workers: workers == {})
    assert "looping left it" in await site.readiness()
    raylet.resume()
    await site.until(lambda workers: workers == {"looping": "ready"}, START_S)
    [job] = await site.ended([await site.send("after", audio=wav(0.6))])
    assert job["state"] == "succeeded", job["error"]
    assert server.stop() == 0


async def test_a_machine_of_another_version_gets_no_work_and_says_why(
    make_server, session, client, nodes: RayNodes, tmp_path: Path
):
    """Its Python imports a copy of the package that calls itself 0.0.1."""
    for name in set(nodes.processes) - {"head"}:
        nodes.kill(name)
    copy = tmp_path / "older" / "lipsync_server"
    await asyncio.to_thread(shutil.copytree, Path(lipsync_server.__file__).parent, copy)
    (copy / "__init__.py").write_text('__version__ = "0.0.1"\n')
    nodes.start("older", environment={"PYTHONPATH": str(copy.parent)})
    await asyncio.to_thread(nodes.wait, "older")
    nodes.start("same")
    await asyncio.to_thread(nodes.wait, "same")
    server = cluster_server(make_server, nodes, "preview")
    server.start()
    await server.answers(session)
    site = client(server)
    await site.until(lambda workers: workers.get("same") == "ready")
    face = (SAMPLES_DIR / "portrait.jpg").read_bytes()
    job_ids = [await site.send(f"v-{n}", image=face, audio=wav(SECONDS), engine="preview") for n in range(4)]
    jobs = await site.ended(job_ids)
    assert [job["state"] for job in jobs] == ["succeeded"] * 4, [job["error"] for job in jobs]
    assert not site.seen.get("older")
    workers = {worker["node"]: worker for worker in (await site.get("/v1/engines"))["workers"]}
    assert "lipsync-server 0.0.1 instead of" in workers["older"]["reason"]
    assert workers["older"]["state"] != "ready"
    assert server.stop() == 0


ENGINE_OF_ONE_MACHINE = {
    "options.py": """
from lipsync_server.engines.base import EngineOptions
class Options(EngineOptions):
    pass
""",
    "info.py": """
from lipsync_server.engines.base import EngineInfo
def describe(settings):
    return EngineInfo(name="mirror", title="Mirror", available=True, reason="")
""",
    "engine.py": """
class Mirror:
    name = "mirror"
    def load(self, report=None):
        pass
    def generate(self, request, context):
        height, width = (side // 2 * 2 for side in request.picture.shape[:2])
        for frame in range(request.n_frames):
            yield request.picture[None, :height, width - 1 :: -1].copy()[:, :, :width]
            context.progress("generate", frame + 1, request.n_frames)
    def close(self):
        pass
def create(settings):
    return Mirror()
""",
}


async def test_a_machine_without_the_engine_gets_none_of_its_jobs_and_does_the_others(
    make_server, session, client, nodes: RayNodes, tmp_path: Path
):
    """One machine has a package with an engine of its own, and so has the server; the other machine has not."""
    for name in set(nodes.processes) - {"head"}:
        nodes.kill(name)
    package = tmp_path / "extra" / "lipsync_mirror"
    package.mkdir(parents=True)
    for name, text in {"__init__.py": "", **ENGINE_OF_ONE_MACHINE}.items():
        (package / name).write_text(text)
    info = tmp_path / "extra" / "lipsync_mirror-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lipsync-mirror\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[lipsync.engines]\nmirror = lipsync_mirror\n")
    path = {"PYTHONPATH": os.pathsep.join([str(package.parent), *filter(None, [os.environ.get("PYTHONPATH")])])}
    for name, environment in (("with", path), ("without", {})):
        nodes.start(name, environment=environment)
        await asyncio.to_thread(nodes.wait, name)
    server = cluster_server(make_server, nodes, "preview")
    server.environment |= path
    server.start()
    await server.answers(session)
    site = client(server)
    await site.until(lambda workers: workers.get("with") == "ready" and workers.get("without") == "ready")
    face = (SAMPLES_DIR / "portrait.jpg").read_bytes()
    wishes = ["mirror", "preview"] * 4
    job_ids = [await site.send(f"w-{n}", image=face, audio=wav(SECONDS), engine=e) for n, e in enumerate(wishes)]
    jobs = await site.ended(job_ids)
    assert [job["state"] for job in jobs] == ["succeeded"] * 8, [job["error"] for job in jobs]
    mirrored = {job["id"] for job in jobs if job["engine"] == "mirror"}
    assert len(mirrored) == 4
    assert not mirrored & site.seen.get("without", set())

    # With its only machine gone, a job waits for that machine, and others go on.
    nodes.kill("with")
    await site.until(lambda workers: "with" not in workers)
    waiting = await site.send("w-waits", image=face, audio=wav(SECONDS), engine="mirror")
    other = await site.send("w-other", image=face, audio=wav(SECONDS), engine="preview")
    async with session.get(f"{site.url}/v1/jobs/{other}/events") as events:
        assert "event: end" in await events.text()
    assert (await site.get(f"/v1/jobs/{other}"))["state"] == "succeeded"
    assert (await site.get(f"/v1/jobs/{waiting}"))["state"] == "queued"
    nodes.start("with", environment=path)
    await asyncio.to_thread(nodes.wait, "with")
    assert [job["state"] for job in await site.ended([waiting])] == ["succeeded"]
    assert server.stop() == 0


async def test_after_the_head_was_lost_and_returned_work_goes_on_without_hands(
    make_server, session, client, nodes: RayNodes
):
    """The head and the server are started again together, as compose.yaml does; the other machine returns by itself."""
    for name in set(nodes.processes) - {"head"}:
        nodes.kill(name)
    nodes.start("back", loop=True)
    await asyncio.to_thread(nodes.wait, "back")
    server = cluster_server(make_server, nodes, "bars")
    server.start()
    await server.answers(session)
    site = client(server)
    await site.until(lambda workers: workers == {"back": "ready"})
    options = json.dumps({"seconds_per_frame": 0.1, "save_every": 10})
    job_ids = [await site.send(f"head-{n}", audio=wav(3.0), options=options) for n in range(2)]
    await site.until(lambda workers: workers.get("back") == "busy")
    nodes.kill("head")
    assert server.process is not None
    assert await asyncio.to_thread(server.process.wait, START_S) != 0, "the server ends, so that it can be restarted"
    await asyncio.to_thread(nodes.start_head)
    server.start()
    await server.answers(session)
    jobs = await site.ended(job_ids, timeout_s=START_S)
    assert [job["state"] for job in jobs] == ["succeeded"] * 2, [job["error"] for job in jobs]
    assert server.stop() == 0


_CAUSES = """
import os, signal, ray
from lipsync_server.workers.ray.cause import cause_of_death

class Lacking:
    def __init__(self):
        import no_such_package
    def work(self): ...

class Failing:
    def work(self): raise AttributeError("'RenderTask' object has no attribute 'colour'")
    def die(self): os.kill(os.getpid(), signal.SIGKILL)

ray.init(address=os.environ["CLUSTER"], log_to_driver=False, configure_logging=False, include_dashboard=False)
failing = ray.remote(Failing).options(num_cpus=0).remote()
for call in (ray.remote(Lacking).options(num_cpus=0).remote().work, failing.work, failing.die):
    try:
        ray.get(call.remote())
    except ray.exceptions.RayError as error:
        print("CAUSE", cause_of_death(error))
"""


def test_the_cause_of_an_actors_end_is_the_exception_that_it_raised(nodes: RayNodes):
    environment = {**os.environ, **TOKEN, "CLUSTER": nodes.address, "RAY_USAGE_STATS_ENABLED": "0"}
    ended = subprocess.run(
        [sys.executable, "-c", _CAUSES], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    lacking, failing, died = [line[6:] for line in ended.stdout.splitlines() if line.startswith("CAUSE")]
    assert lacking == "ModuleNotFoundError: No module named 'no_such_package'"
    assert failing == "AttributeError: 'RenderTask' object has no attribute 'colour'"
    assert "died" in died and "\x1b" not in died and "pid=" not in died


async def test_a_server_without_the_clusters_token_says_what_it_lacks(make_server, nodes: RayNodes, tmp_path: Path):
    server = cluster_server(make_server, nodes, "preview")
    server.environment = {"RAY_AUTH_MODE": "token", "HOME": str(tmp_path)}
    server.start()
    assert server.process is not None
    assert server.log is not None
    assert await asyncio.to_thread(server.process.wait, 60) != 0
    log = server.log.read_text()
    assert "the server needs RAY_AUTH_MODE=token and the same token" in log
    assert "Traceback" not in log, log


def bar_numbers_of(video: bytes, path: Path) -> list[int]:
    path.write_bytes(video)
    return bar_numbers(path)
