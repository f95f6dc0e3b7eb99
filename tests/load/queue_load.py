"""2,000 queued jobs and 200 polling clients against one server: what accepting costs, and that nothing breaks.

    python tests/load/queue_load.py [--jobs 2000] [--clients 200]

The server runs as a process of its own with the stand-in engine, slowed so that the queue only grows. Prints one JSON
object: latencies in milliseconds, the server's memory, the database's size, and how often each status was answered.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from server_process import ServerProcess
from site_kit import form, wav

N_SENDERS = 8
POLL_EVERY_S = 2.0
SLOW = json.dumps({"seconds_per_frame": 60.0})


@dataclass
class Load:
    url: str
    session: aiohttp.ClientSession
    job_ids: list[str] = field(default_factory=list)
    accept_s: list[float] = field(default_factory=list)
    poll_s: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)

    async def send(self, numbers: asyncio.Queue[int], sound: bytes) -> None:
        while not numbers.empty():
            number = numbers.get_nowait()
            while True:
                began = time.perf_counter()
                data = form(audio=sound, prompt=f"job {number}", options=SLOW)
                async with self.session.post(f"{self.url}/v1/jobs", data=data) as response:
                    answer = await response.json()
                self.statuses[f"POST {response.status}"] += 1
                if response.status == 202:
                    self.accept_s.append(time.perf_counter() - began)
                    self.job_ids.append(answer["id"])
                    break
                await asyncio.sleep(float(response.headers.get("Retry-After", 1)))

    async def poll_forever(self, chance: random.Random) -> None:
        while True:
            await asyncio.sleep(chance.uniform(0, 2 * POLL_EVERY_S))
            if not self.job_ids:
                continue
            began = time.perf_counter()
            async with self.session.get(f"{self.url}/v1/jobs/{chance.choice(self.job_ids)}") as response:
                await response.read()
            self.statuses[f"GET {response.status}"] += 1
            self.poll_s.append(time.perf_counter() - began)


async def main(n_jobs: int, n_clients: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        options = {"MAX_QUEUE": str(n_jobs + 10), "LOG_LEVEL": "warning", "SHUTDOWN_GRACE_S": "0"}
        server = ServerProcess(Path(folder) / "data", "bars", options)
        server.start()
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            await server.answers(session, "/readyz")
            assert server.process is not None
            process = psutil.Process(server.process.pid)
            rss_before = process.memory_info().rss
            load = Load(server.url, session)
            pollers = [asyncio.create_task(load.poll_forever(random.Random(n))) for n in range(n_clients)]
            numbers: asyncio.Queue[int] = asyncio.Queue()
            for number in range(n_jobs):
                numbers.put_nowait(number)
            began = time.perf_counter()
            await asyncio.gather(*(load.send(numbers, wav(0.5)) for _ in range(N_SENDERS)))
            accepting_s = time.perf_counter() - began
            # The queue is complete now. Measure polling on a full queue.
            load.poll_s.clear()
            await asyncio.sleep(20)
            result = {
                "jobs": n_jobs,
                "clients": n_clients,
                "accepted_per_s": round(n_jobs / accepting_s, 1),
                "accept_ms": percentiles(load.accept_s),
                "poll_ms_with_full_queue": percentiles(load.poll_s),
                "polls_per_s": round(len(load.poll_s) / 20, 1),
                "statuses": dict(load.statuses),
                "server_rss_mib": [round(rss / 2**20) for rss in (rss_before, process.memory_info().rss)],
                "database_mib": round(sum(p.stat().st_size for p in server.data_dir.glob("lipsync.db*")) / 2**20, 2),
                "server_cpu_s": round(sum(process.cpu_times()[:2]), 1),
                "load_average": os.getloadavg()[0],
            }
            for poller in pollers:
                poller.cancel()
            await asyncio.gather(*pollers, return_exceptions=True)
        server.kill()
    return result


def percentiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        f"p{percent}": round(1000 * ordered[min(len(ordered) - 1, len(ordered) * percent // 100)], 1)
        for percent in (50, 90, 99)
    } | {"max": round(1000 * ordered[-1], 1)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=200)
    arguments = parser.parse_args()
    print(json.dumps(asyncio.run(main(arguments.jobs, arguments.clients)), indent=2))
