"""A client of a server whose workers are in a Ray cluster, which watches the machine of each job."""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from lipsync_server.jobs.model import FINAL_STATES
from material import bar_numbers
from ray_nodes import TOKEN, RayNodes
from server_process import MakeServer, ServerProcess
from site_kit import form


@dataclass
class Client:
    """Sends jobs and watches which machine does which."""

    url: str
    session: aiohttp.ClientSession
    seen: dict[str, set[str]] = field(default_factory=dict)

    async def get(self, path: str) -> dict[str, Any]:
        async with self.session.get(f"{self.url}{path}") as response:
            assert response.status == 200, await response.text()
            answer: dict[str, Any] = await response.json()
            return answer

    async def send(self, key: str, **fields: object) -> str:
        async with self.session.post(
            f"{self.url}/v1/jobs", data=form(prompt=key, **fields), headers={"Idempotency-Key": key}
        ) as response:
            assert response.status == 202, await response.text()
            return str((await response.json())["id"])

    async def look(self) -> dict[str, str]:
        """The state of each machine's worker, by machine. Records which worker has which job."""
        workers = (await self.get("/v1/engines"))["workers"]
        for worker in workers:
            if worker["job_id"] is not None:
                self.seen.setdefault(worker["node"], set()).add(worker["job_id"])
        return {worker["node"]: worker["state"] for worker in workers}

    async def where(self, job_id: str) -> str:
        """The machine that is at a job."""
        workers = (await self.get("/v1/engines"))["workers"]
        return str(next(worker["node"] for worker in workers if worker["job_id"] == job_id))

    async def readiness(self) -> str:
        async with self.session.get(f"{self.url}/readyz") as response:
            return str((await response.json())["detail"])

    async def metrics(self) -> str:
        async with self.session.get(f"{self.url}/metrics") as response:
            return await response.text()

    async def until(self, true: Callable[[dict[str, str]], bool], timeout_s: float = 180) -> None:
        async with asyncio.timeout(timeout_s):
            while True:
                if true(await self.look()):
                    return
                await asyncio.sleep(0.1)

    async def ended(self, job_ids: list[str], timeout_s: float = 240) -> list[dict[str, Any]]:
        """The jobs once all have ended. A job that lost its worker goes from running back to queued in between."""
        async with asyncio.timeout(timeout_s):
            while True:
                await self.look()
                jobs = {job["id"]: job for job in (await self.get("/v1/jobs?limit=200"))["jobs"]}
                if all(jobs[job_id]["state"] in FINAL_STATES for job_id in job_ids):
                    return [await self.get(f"/v1/jobs/{job_id}") for job_id in job_ids]
                await asyncio.sleep(0.1)


def cluster_server(make_server: MakeServer, nodes: RayNodes, engine: str) -> ServerProcess:
    server = make_server(engine, EXECUTOR="ray", RAY_ADDRESS=nodes.address, CPUS_PER_WORKER="1", ENGINE="auto")
    server.environment |= TOKEN
    return server


async def video_of(client: Client, job: dict[str, Any]) -> bytes:
    async with client.session.get(f"{client.url}/v1/jobs/{job['id']}/video") as response:
        assert response.status == 200
        video = await response.read()
    assert hashlib.sha256(video).hexdigest() == job["result"]["sha256"]
    return video


def bar_numbers_of(video: bytes, path: Path) -> list[int]:
    path.write_bytes(video)
    return bar_numbers(path)
