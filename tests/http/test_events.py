"""Promise 6: the progress of a job can be followed until its end."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from lipsync_server.http.routes import events
from lipsync_server.workers.base import LoadState
from site_kit import Site


async def read_event(response: aiohttp.ClientResponse) -> tuple[str, dict[str, Any]]:
    """The next event's kind and data; a comment is ("comment", {})."""
    kind = ""
    data: dict[str, Any] = {}
    while True:
        line = (await response.content.readline()).decode()
        assert line, "the stream ended early"
        match line.rstrip("\n").partition(": "):
            case ("", "", ""):
                if kind:
                    return kind, data
            case ("", _, _):
                kind = "comment"
            case ("event", _, value):
                kind = value
            case ("data", _, value):
                data = json.loads(value)


async def test_events_report_progress_and_then_the_end(site: Site) -> None:
    job = await site.submit(prompt="hold")
    await site.executor.rendering.wait()
    async with site.client.get(f"/v1/jobs/{job['id']}/events") as response:
        assert response.content_type == "text/event-stream"
        kind, seen = await read_event(response)
        assert (kind, seen["state"]) == ("progress", "running")
        assert seen["progress"]["fraction"] == 0.5
        assert seen["progress"]["note"] == "frame 1 of 2"
        site.executor.let_go.set()
        while kind != "end":
            kind, seen = await read_event(response)
        assert seen["state"] == "succeeded"
        ended = await site.job(job["id"])
        assert seen | {"links": None} == ended | {"links": None}
        assert await response.content.read() == b""


async def test_events_of_an_ended_job_end_at_once(site: Site) -> None:
    job = await site.submit()
    await site.ended(job["id"])
    async with site.client.get(f"/v1/jobs/{job['id']}/events") as response:
        assert (await read_event(response))[0] == "end"
        assert await response.content.read() == b""


async def test_a_quiet_stream_is_kept_alive(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_HEARTBEAT_S", 0.01)
    job = await site.submit(prompt="hold")
    await site.executor.rendering.wait()
    async with site.client.get(f"/v1/jobs/{job['id']}/events") as response:
        kinds = [(await read_event(response))[0] for _ in range(3)]
    assert "comment" in kinds
    site.executor.let_go.set()


async def test_streams_end_when_the_server_stops(site: Site) -> None:
    job = await site.submit(prompt="hold")
    await site.executor.rendering.wait()
    async with site.client.get(f"/v1/jobs/{job['id']}/events") as response:
        await read_event(response)
        async with asyncio.timeout(10):
            runner = site.client.server.runner
            assert runner is not None
            await runner.shutdown()
            await response.content.read()
        assert response.content.at_eof()


async def test_readyz_reports_the_progress_of_loading(site: Site) -> None:
    site.executor.state = LoadState(False, "downloading", 0.25, "Fetching weights.", 10, 40, 3.0)
    async with site.client.get("/readyz") as response:
        assert response.status == 503
        body = await response.json()
    assert (body["stage"], body["fraction"], body["bytes_done"], body["bytes_total"]) == ("downloading", 0.25, 10, 40)
    async with site.client.get("/ping") as response:
        assert (response.status, await response.read()) == (204, b"")
    site.executor.state = LoadState(True, "ready", 1.0, "preview is loaded.")
    for address in ("/readyz", "/ping", "/healthz"):
        async with site.client.get(address) as response:
            assert response.status == 200
