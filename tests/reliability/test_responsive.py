"""Promise 5: the event loop never blocks. /healthz answers in milliseconds while a job renders and clients poll.

On a quiet machine with two cores p99 must be under 20 ms. On a shared machine the limit is LIPSYNC_TEST_P99_MS, because
other programs slow the answers. The test prints the figure:

    LIPSYNC_TEST_ENGINE=preview python -m pytest tests/reliability/test_responsive.py -s
"""

import asyncio
import json
import os
import statistics
import time

import aiohttp
import psutil
import pytest
from lipsync_server.paths import SAMPLES_DIR
from server_process import MakeServer, ServerProcess
from site_kit import form, png, wav

pytestmark = pytest.mark.timing

ENGINE = os.environ.get("LIPSYNC_TEST_ENGINE", "bars")
P99_MS = float(os.environ.get("LIPSYNC_TEST_P99_MS", "200"))
N_CLIENTS = 50
N_CHECKS = 400
# A steady client asks once a second or so; these ask three times as often.
POLL_EVERY_S = 0.3


async def long_job(server: ServerProcess, session: aiohttp.ClientSession) -> str:
    if ENGINE == "bars":
        options = json.dumps({"seconds_per_frame": 0.02, "width": 512, "height": 512})
        data = form(image=png(), audio=wav(60), options=options)
    else:
        picture = next(path for path in SAMPLES_DIR.iterdir() if path.suffix in (".png", ".jpg"))
        data = form(image=picture.read_bytes(), audio=wav(60))
    async with session.post(f"{server.url}/v1/jobs", data=data) as response:
        assert response.status == 202, await response.text()
        return str((await response.json())["id"])


async def test_healthz_answers_at_once_while_a_job_renders_and_fifty_clients_poll(make_server: MakeServer) -> None:
    server = make_server(ENGINE)
    server.start()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        await server.answers(session, "/readyz")
        job_id = await long_job(server, session)
        address = f"{server.url}/v1/jobs/{job_id}"
        while (await (await session.get(address)).json())["state"] == "queued":
            pass

        async def poll() -> int:
            n_polls = 0
            while True:
                async with session.get(address) as response:
                    assert response.status == 200
                    await response.read()
                n_polls += 1
                await asyncio.sleep(POLL_EVERY_S)

        clients = [asyncio.create_task(poll()) for _ in range(N_CLIENTS)]
        # The measuring client is a process of its own: this one's event loop is busy with fifty clients.
        measured = await asyncio.to_thread(measure, server.port)
        assert not any(client.done() for client in clients)
        for client in clients:
            client.cancel()
        async with session.get(address) as response:
            assert (await response.json())["state"] == "running", "the job ended before the measurement did"
    p50, p99 = statistics.median(measured), statistics.quantiles(measured, n=100)[98]
    print(f"\n/healthz with {ENGINE}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, worst {max(measured):.1f} ms")
    assert p99 < P99_MS


def measure(port: int) -> list[float]:
    """Milliseconds of N_CHECKS requests, one after the other on one connection, measured by a program of its own."""
    import subprocess
    import sys

    code = f"""
import http.client, time
connection = http.client.HTTPConnection("127.0.0.1", {port})
for _ in range({N_CHECKS}):
    began = time.perf_counter()
    connection.request("GET", "/healthz")
    assert connection.getresponse().read()
    print((time.perf_counter() - began) * 1000)
    time.sleep(0.01)
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return [float(line) for line in output.split()]


async def test_the_server_listens_within_a_second_and_a_half(make_server: MakeServer) -> None:
    """The limit holds for seconds of processor time, because wall time also contains the work of other programs."""
    server = make_server("preview")
    seconds, processor_s = [], []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        for _ in range(3):
            began = time.monotonic()
            server.start()
            await server.answers(session)
            seconds.append(time.monotonic() - began)
            assert server.process is not None
            spent = psutil.Process(server.process.pid).cpu_times()
            processor_s.append(spent.user + spent.system)
            server.kill()
    print(f"\nlistening after {min(seconds):.2f} s, {min(processor_s):.2f} s of it on the processor")
    assert min(processor_s) < 1.5
