"""Machines of a Ray cluster that fail: workers that die, another version, a head that was lost, a missing token."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import aiohttp
import lipsync_server
import pytest
from lipsync_server.paths import SAMPLES_DIR
from ray_client import Client, cluster_server
from ray_nodes import START_S, TOKEN, RayNodes
from server_process import MakeServer, ServerProcess
from site_kit import wav

pytest.importorskip("ray")

SECONDS = 0.6
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


async def test_a_machine_whose_workers_die_fails_no_job_of_a_healthy_cluster(
    make_server: MakeServer, session: aiohttp.ClientSession, client: Callable[[ServerProcess], Client], nodes: RayNodes
) -> None:
    await asyncio.to_thread(nodes.only, "sick", "well")
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


async def test_a_machine_of_another_version_gets_no_work_and_shows_the_reason(
    make_server: MakeServer,
    session: aiohttp.ClientSession,
    client: Callable[[ServerProcess], Client],
    nodes: RayNodes,
    tmp_path: Path,
) -> None:
    """Its Python imports a copy of the package with version 0.0.1."""
    await asyncio.to_thread(nodes.only, "well")
    copy = tmp_path / "older" / "lipsync_server"
    await asyncio.to_thread(shutil.copytree, Path(lipsync_server.__file__).parent, copy)
    (copy / "version.py").write_text('__version__ = "0.0.1"\n')
    nodes.start("older", environment={"PYTHONPATH": str(copy.parent)})
    await asyncio.to_thread(nodes.wait, "older")
    server = cluster_server(make_server, nodes, "preview")
    server.start()
    await server.answers(session)
    site = client(server)
    await site.until(lambda workers: workers.get("well") == "ready")
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
    make_server: MakeServer,
    session: aiohttp.ClientSession,
    client: Callable[[ServerProcess], Client],
    nodes: RayNodes,
    tmp_path: Path,
) -> None:
    """One machine has a package with an engine of its own, and so has the server; the other machine has not."""
    await asyncio.to_thread(nodes.only, "well")
    package = tmp_path / "extra" / "lipsync_mirror"
    package.mkdir(parents=True)
    for name, text in {"__init__.py": "", **ENGINE_OF_ONE_MACHINE}.items():
        (package / name).write_text(text)
    info = tmp_path / "extra" / "lipsync_mirror-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lipsync-mirror\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[lipsync.engines]\nmirror = lipsync_mirror\n")
    path = {"PYTHONPATH": os.pathsep.join([str(package.parent), *filter(None, [os.environ.get("PYTHONPATH")])])}
    nodes.start("with", environment=path)
    await asyncio.to_thread(nodes.wait, "with")
    server = cluster_server(make_server, nodes, "preview")
    server.environment |= path
    server.start()
    await server.answers(session)
    site = client(server)
    await site.until(lambda workers: workers.get("with") == "ready" and workers.get("well") == "ready")
    face = (SAMPLES_DIR / "portrait.jpg").read_bytes()
    wishes = ["mirror", "preview"] * 4
    job_ids = [await site.send(f"w-{n}", image=face, audio=wav(SECONDS), engine=e) for n, e in enumerate(wishes)]
    jobs = await site.ended(job_ids)
    assert [job["state"] for job in jobs] == ["succeeded"] * 8, [job["error"] for job in jobs]
    mirrored = {job["id"] for job in jobs if job["engine"] == "mirror"}
    assert len(mirrored) == 4
    assert not mirrored & site.seen.get("well", set())

    # A job whose only machine is gone waits for that machine. Other jobs go on.
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


async def test_a_machine_that_ray_declared_dead_returns_by_itself(
    make_server: MakeServer, session: aiohttp.ClientSession, client: Callable[[ServerProcess], Client], nodes: RayNodes
) -> None:
    await asyncio.to_thread(nodes.only, "looping", loop=True)
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


def test_the_cause_of_an_actors_end_is_the_exception_that_it_raised(nodes: RayNodes) -> None:
    environment = {**os.environ, **TOKEN, "CLUSTER": nodes.address, "RAY_USAGE_STATS_ENABLED": "0"}
    ended = subprocess.run(
        [sys.executable, "-c", _CAUSES], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    lacking, failing, died = [line[6:] for line in ended.stdout.splitlines() if line.startswith("CAUSE")]
    assert lacking == "ModuleNotFoundError: No module named 'no_such_package'"
    assert failing == "AttributeError: 'RenderTask' object has no attribute 'colour'"
    assert "died" in died and "\x1b" not in died and "pid=" not in died


async def test_a_server_without_the_clusters_token_names_the_missing_token(
    make_server: MakeServer, nodes: RayNodes, tmp_path: Path
) -> None:
    server = cluster_server(make_server, nodes, "preview")
    server.environment = {"RAY_AUTH_MODE": "token", "HOME": str(tmp_path)}
    server.start()
    assert server.process is not None
    assert server.log is not None
    assert await server.ended_by_itself() != 0
    log = server.output()
    assert "the server needs RAY_AUTH_MODE=token and the same token" in log
    assert "Traceback" not in log, log


# The last test, because a head without a stored state forgets the cluster that it had.
async def test_work_continues_by_itself_after_the_head_was_lost_and_returned(
    make_server: MakeServer, session: aiohttp.ClientSession, client: Callable[[ServerProcess], Client], nodes: RayNodes
) -> None:
    """The head and the server are started again together, as compose.yaml does; the other machine returns by itself."""
    await asyncio.to_thread(nodes.only, "looping", loop=True)
    server = cluster_server(make_server, nodes, "bars")
    server.start()
    await server.answers(session)
    site = client(server)
    await site.until(lambda workers: workers == {"looping": "ready"})
    options = json.dumps({"seconds_per_frame": 0.1, "save_every": 10})
    job_ids = [await site.send(f"head-{n}", audio=wav(3.0), options=options) for n in range(2)]
    await site.until(lambda workers: workers.get("looping") == "busy")
    nodes.kill("head")
    assert server.process is not None
    assert await server.ended_by_itself(START_S) != 0, "the server ends, so that it can be restarted"
    await asyncio.to_thread(nodes.start_head)
    server.start()
    await server.answers(session)
    jobs = await site.ended(job_ids, timeout_s=START_S)
    assert [job["state"] for job in jobs] == ["succeeded"] * 2, [job["error"] for job in jobs]
    assert server.stop() == 0
