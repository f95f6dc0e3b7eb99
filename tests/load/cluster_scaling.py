"""Jobs per hour on 1, 4, 16 and 64 workers of a Ray cluster, against the ideal, with an engine that only sleeps.

    python tests/load/cluster_scaling.py [--workers 1,4,16,64] [--seconds 20] [--rounds 3]

Everything is real but the engine: the server, its database, HTTP, Ray, the actors (processes of this machine), files
in pieces and the encoder. Each job sleeps `--seconds`; the ideal is a cluster where nothing else takes time. Prints
one JSON object a line.
"""

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from ray_nodes import TOKEN, RayNodes
from server_process import ServerProcess
from site_kit import form, wav

SOUND_S = 0.4
N_FRAMES = 10
START_S = 900


async def measure(n_workers: int, sleep_s: float, n_rounds: int) -> dict[str, object]:
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    nodes = RayNodes(folder)
    server = ServerProcess(
        folder / "server" / "data",
        "bars",
        {"EXECUTOR": "ray", "RAY_ADDRESS": nodes.address, "CPUS_PER_WORKER": "1", "MAX_QUEUE": "10000"},
        environment=dict(TOKEN),
    )
    try:
        nodes.start_head()
        nodes.start("workers", n_cpus=n_workers)
        nodes.wait("workers")
        server.start()
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
        ) as session:
            await server.answers(session)
            began = asyncio.get_running_loop().time()
            await all_ready(session, server, n_workers)
            starting_s = asyncio.get_running_loop().time() - began
            options = json.dumps({"seconds_per_frame": sleep_s / N_FRAMES, "batch": N_FRAMES})
            job_ids = []
            for _ in range(n_workers * n_rounds):
                data = form(audio=wav(SOUND_S), options=options)
                async with session.post(f"{server.url}/v1/jobs", data=data) as response:
                    job_ids.append((await response.json())["id"])
            jobs = []
            for job_id in job_ids:
                async with session.get(f"{server.url}/v1/jobs/{job_id}/events") as response:
                    await response.read()  # the stream ends with the job
                jobs.append(await get(session, server, f"/v1/jobs/{job_id}"))
        assert server.process is not None
        assert all(job["state"] == "succeeded" for job in jobs), [job["error"] for job in jobs]
        times = [
            [datetime.fromisoformat(job[key]).timestamp() for job in jobs] for key in ("started_at", "finished_at")
        ]
        elapsed_s = max(times[1]) - min(times[0])
        per_hour, ideal = len(jobs) / elapsed_s * 3600, n_workers / sleep_s * 3600
        return {
            "workers": n_workers,
            "jobs": len(jobs),
            "sleep_s": sleep_s,
            "jobs_per_hour": round(per_hour),
            "ideal": round(ideal),
            "of_ideal": round(per_hour / ideal, 3),
            "starting_s": round(starting_s, 1),
            "server_cpu_s_per_job": round(sum(psutil.Process(server.process.pid).cpu_times()[:2]) / len(jobs), 3),
            "load_average": round(os.getloadavg()[0], 1),
        }
    finally:
        if server.process is not None:
            server.kill()
        nodes.stop()
        shutil.rmtree(folder, ignore_errors=True)


async def all_ready(session: aiohttp.ClientSession, server: ServerProcess, n_workers: int) -> None:
    async with asyncio.timeout(START_S):
        while True:
            workers = (await get(session, server, "/v1/engines"))["workers"]
            if sum(worker["state"] == "ready" for worker in workers) == n_workers:
                return
            await asyncio.sleep(1)


async def get(session: aiohttp.ClientSession, server: ServerProcess, path: str) -> dict[str, Any]:
    async with session.get(server.url + path) as response:
        answer: dict[str, Any] = await response.json()
        return answer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="1,4,16,64")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    for number in arguments.workers.split(","):
        print(json.dumps(asyncio.run(measure(int(number), arguments.seconds, arguments.rounds))), flush=True)
