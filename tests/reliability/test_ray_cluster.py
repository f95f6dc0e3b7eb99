"""Several machines: jobs spread over a Ray cluster, and Ray alone handles a machine that fails or joins.

A head and two nodes run as processes of this machine (conftest.py); one is really killed in the middle, a third joins.
How soon a node that joined works is printed:

    python -m pytest tests/reliability/test_ray_cluster.py -s
"""

import asyncio
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
from lipsync_server.engines.base import n_frames_for
from lipsync_server.media.mp4.mux import probe_video
from lipsync_server.paths import SAMPLES_DIR
from material import bar_numbers, expected_bars
from ray_client import Client, bar_numbers_of, cluster_server, video_of
from ray_nodes import RayNodes
from s3_server import KEY, SECRET, Bucket
from server_process import MakeServer, ServerProcess
from site_kit import wav

pytest.importorskip("ray")

N_JOBS = 16


SECONDS = 0.6


# Two or three on a quiet machine; a busy one of two cores starts processes slowly.
JOINED_WITHIN_S = 60


@pytest.fixture(scope="module")
def nodes(nodes: RayNodes) -> RayNodes:
    """The cluster with two machines. Each test uses the machines that are left."""
    nodes.only("a", "b")
    return nodes


async def freeze(site: Client, nodes: RayNodes, name: str) -> None:
    """Stop the node's actor in the middle of a job, which then cannot end before the node is killed."""
    while True:
        await site.until(lambda workers: workers.get(name) == "busy")
        [actor] = nodes.actors(name)
        actor.suspend()
        await asyncio.sleep(0.5)  # Only lines that were logged after this point count.
        if (await site.look()).get(name) == "busy":
            return
        actor.resume()


async def test_machines_share_the_work_and_one_that_dies_loses_none_of_it(
    make_server: MakeServer,
    session: aiohttp.ClientSession,
    client: Callable[[ServerProcess], Client],
    nodes: RayNodes,
    tmp_path: Path,
) -> None:
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
    # Finished videos did not change, and another machine rendered the dead machine's job.
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


async def test_a_render_continues_elsewhere_from_its_resume_point_and_can_be_cancelled(
    make_server: MakeServer,
    session: aiohttp.ClientSession,
    client: Callable[[ServerProcess], Client],
    nodes: RayNodes,
    tmp_path: Path,
) -> None:
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

    # Only the actor is killed. The machine starts a new actor and continues.
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

    # Ray ends the actors of a killed server. The next server starts new actors and continues the stored jobs.
    lost = await site.send("lost", audio=wav(1.0), options=options)
    await site.until(lambda workers: "busy" in workers.values())
    server.kill()
    server.start()
    await server.answers(session)
    [job] = await site.ended([lost])
    assert job["state"] == "succeeded"
    assert bar_numbers_of(await video_of(site, job), path) == expected_bars(25)


async def test_a_video_made_on_another_machine_is_in_the_bucket(
    make_server: MakeServer,
    session: aiohttp.ClientSession,
    client: Callable[[ServerProcess], Client],
    nodes: RayNodes,
    bucket: Bucket,
) -> None:
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
