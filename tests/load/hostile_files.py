"""Measures the cost of hostile files for a server: its memory, the wait of an honest upload beside them, and /healthz.

    python tests/load/hostile_files.py [--case NAME] [--polls-per-s 50]

For each file two senders upload it to a real server (preview engine) at the same moment, once staying for the answer
and once hanging up at once. Meanwhile /healthz is asked again and again, and 0.3 s later an honest upload is timed.
Prints one JSON line per case: the answer, seconds, the growth of the server's own memory, the decoder processes'
largest memory, and the percentiles of /healthz in milliseconds. Load of the machine and number of cores come first.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import hostile_files as hostile
from server_process import ServerProcess
from site_kit import PNG, form

HONEST_AFTER_S = 0.3
CASES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "nothing hostile": ("image", lambda: PNG),
    "mp4 of 50 million samples": ("audio", lambda: hostile.mp4_with_many_samples(50_000_000)),
    "mp4 of 3 x 40 million samples": ("audio", lambda: hostile.mp4_with_many_samples(40_000_000, n_tracks=3)),
    "mp4 of 50 million samples as picture": (
        "image",
        lambda: hostile.mp4_with_many_samples(50_000_000, picture=True),
    ),
    "mp4 of 1000 tracks": ("audio", lambda: hostile.mp4_with_many_samples(2, n_tracks=1000)),
    "jpeg of 150 scans, 36 Mpx": ("image", lambda: hostile.jpeg_with_empty_scans(140, 6000)),
    "jpeg of 3800 scans": ("image", lambda: hostile.jpeg_with_empty_scans(3800)),
    "jpeg of 3800 scans, each behind a fill byte": (
        "image",
        lambda: hostile.jpeg_with_empty_scans(3800).replace(b"\xff\xda", b"\xff\xff\xda"),
    ),
    "webp of 64 Mpx": ("image", lambda: hostile.one_colour("WEBP")),
    "avif of 64 Mpx": ("image", lambda: hostile.one_colour("AVIF")),
    "png of 64 Mpx": ("image", lambda: hostile.one_colour("PNG")),
    "flac of silence, 10 min x 8 x 96 kHz": ("audio", lambda: hostile.flac_of_silence(600)),
}


class Watch(threading.Thread):
    """Samples the memory of the server and of its decoder processes, and the machine's other children apart."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.server = psutil.Process(pid)
        self.before = self.server.memory_info().rss
        self.server_peak = self.before
        self.decoder_peak = 0
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.wait(0.02):
            self.server_peak = max(self.server_peak, self.server.memory_info().rss)
            for child in self.server.children():
                try:
                    if "sandbox" in " ".join(child.cmdline()):
                        self.decoder_peak = max(self.decoder_peak, child.memory_info().rss)
                except psutil.Error:
                    continue


async def poll_health(url: str, times_ms: list[float], per_s: float) -> None:
    async with aiohttp.ClientSession() as session:
        while True:
            began = time.perf_counter()
            async with session.get(f"{url}/healthz") as response:
                await response.read()
            times_ms.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(1 / per_s)


async def upload(session: aiohttp.ClientSession, url: str, **fields: object) -> tuple[str, float]:
    began = time.perf_counter()
    async with session.post(f"{url}/v1/jobs", data=form(**fields)) as response:
        answer = await response.json()
        if response.status == 202:
            await session.delete(f"{url}/v1/jobs/{answer['id']}")
    return f"{response.status} {answer.get('detail', '')}"[:120], time.perf_counter() - began


async def measure(url: str, pid: int, field: str, content: bytes, *, stay: bool, per_s: float) -> dict[str, object]:
    times_ms: list[float] = []
    watch = Watch(pid)
    watch.start()
    health = asyncio.create_task(poll_health(url, times_ms, per_s))
    timeout = aiohttp.ClientTimeout(total=300)
    async with aiohttp.ClientSession(timeout=timeout) as hostile_session, aiohttp.ClientSession(timeout=timeout) as own:
        senders = [asyncio.create_task(upload(hostile_session, url, **{field: ("f.bin", content)})) for _ in range(2)]
        await asyncio.sleep(HONEST_AFTER_S)
        if not stay:
            for sender in senders:
                sender.cancel()
        honest, honest_s = await upload(own, url)
        answers = await asyncio.gather(*senders, return_exceptions=True)
    await asyncio.sleep(0.3)
    health.cancel()
    watch.stop.set()
    watch.join()
    first = answers[0]
    answer, answer_s = (first[0], round(first[1], 2)) if isinstance(first, tuple) else ("hung up", None)
    p50, p99 = np.percentile(times_ms, [50, 99])
    return {
        "answer": answer,
        "answer_s": answer_s,
        "honest": honest[:3],
        "honest_s": round(honest_s, 2),
        "server_mib": round((watch.server_peak - watch.before) / 2**20),
        "decoder_mib": round(watch.decoder_peak / 2**20),
        "healthz_ms": {"p50": round(p50, 1), "p99": round(p99, 1), "max": round(max(times_ms), 1), "n": len(times_ms)},
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", default="", help="only cases whose name holds this")
    parser.add_argument("--polls-per-s", type=float, default=50)
    arguments = parser.parse_args()
    print(json.dumps({"cores": os.cpu_count(), "load": os.getloadavg()}), flush=True)
    for name, (field, make) in CASES.items():
        if arguments.case not in name:
            continue
        content = make()
        with tempfile.TemporaryDirectory() as folder:
            options = {"ENGINE": "preview", "TOKENS": ""}
            with ServerProcess(Path(folder) / "data", engine="preview", options=options).running() as server:
                async with aiohttp.ClientSession() as session:
                    await upload(session, server.url)
                    await asyncio.sleep(2)
                assert server.process is not None
                for stay in (True, False):
                    found = await measure(
                        server.url, server.process.pid, field, content, stay=stay, per_s=arguments.polls_per_s
                    )
                    print(json.dumps({"case": name, "bytes": len(content), **found}), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
