"""Promise 5: connections without a request are closed, overload is answered, and the server stays reachable."""

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from lipsync_server.http.app import create_app
from lipsync_server.http.callers.connections import Connections, listen
from lipsync_server.settings import Settings
from site_kit import PNG, WAV, StandInExecutor

Open = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@asynccontextmanager
async def serving(
    folder: Path,
    *,
    most: int = 500,
    per_address: int = 100,
    idle_s: float = 30,
    executor: StandInExecutor | None = None,
) -> AsyncIterator[Open]:
    """A server with its real listener; yields the function that opens a connection to it."""
    settings = Settings(_env_file=None, data_dir=folder / "data", min_free_disk_bytes=0, tokens="t")
    runner = web.AppRunner(create_app(settings, executor or StandInExecutor()), access_log=None)
    await runner.setup()
    connections = Connections(most=most, most_idle_per_address=per_address)
    listener = await listen(runner, "127.0.0.1", 0, connections, idle_s=idle_s)
    port = listener.sockets[0].getsockname()[1]
    opened: list[asyncio.StreamWriter] = []

    async def open_one() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        opened.append(writer)
        return reader, writer

    try:
        yield open_one
    finally:
        for writer in opened:
            writer.close()
        listener.close()
        await runner.cleanup()


async def answer_to(open_one: Open, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to raw bytes."""
    async with asyncio.timeout(20):
        reader, writer = await open_one()
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = head.split("\r\n")
        headers = {key.lower(): value for key, _, value in (line.partition(": ") for line in lines[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    return int(lines[0].split()[1]), headers, body


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost: local", HEALTH + b"GET /v1/jobs HTT"])
async def test_a_connection_without_a_complete_request_is_closed_in_time(tmp_path: Path, sent: bytes) -> None:
    async with serving(tmp_path, idle_s=0.3) as open_one, asyncio.timeout(20):
        reader, writer = await open_one()
        writer.write(sent)
        await reader.read()
        assert reader.at_eof()


async def test_an_address_that_opens_hundreds_loses_its_oldest_and_everybody_is_answered(tmp_path: Path) -> None:
    async with serving(tmp_path, per_address=20) as open_one:
        silent = [await open_one() for _ in range(60)]
        for number, (_, writer) in enumerate(silent):
            writer.write(b"GET /he" if number % 2 else b"")
        assert (await answer_to(open_one, HEALTH))[0] == 200
        async with asyncio.timeout(20):
            assert await silent[0][0].read() == b""


async def test_when_every_connection_is_in_use_a_new_one_is_answered_503(tmp_path: Path) -> None:
    ask = b"POST /lipsync HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer t\r\nContent-Length: 99\r\n"
    ask += b"Content-Type: application/json\r\n\r\n{"
    async with serving(tmp_path, most=3) as open_one, asyncio.timeout(20):
        busy = [await open_one() for _ in range(3)]
        for _, writer in busy:
            writer.write(ask.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
        for reader, _ in busy:
            assert (await reader.readline()).startswith(b"HTTP/1.1 100")
        status, headers, body = await answer_to(open_one, b"")
        assert (status, headers["content-type"]) == (503, "application/problem+json")
        assert json.loads(body)["code"] == "overloaded"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \x01SECRET\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfcSECRET\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b"SECRET HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nContent-Length: SECRET\r\n\r\n",
        b"SECRET\r\n\r\n",
    ],
)
async def test_a_request_that_is_not_http_is_answered_as_a_problem_and_nothing_of_it_is_kept(
    tmp_path: Path, request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path) as open_one:
        status, headers, body = await answer_to(open_one, request_bytes)
    assert (status, headers["content-type"].split(";")[0]) == (400, "application/problem+json")
    assert json.loads(body)["status"] == 400
    assert b"SECRET" not in body
    assert "SECRET" not in caplog.text


async def test_a_viewer_who_leaves_an_event_stream_causes_no_error_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """aiohttp's own test server ends a handler whose caller has left; the real listener does not."""
    executor = StandInExecutor()
    token = "Host: x\r\nAuthorization: Bearer t\r\n"
    body = json.dumps({"image": b64encode(PNG).decode(), "audio": b64encode(WAV).decode(), "prompt": "hold"})
    submit = (
        f"POST /v1/jobs HTTP/1.1\r\n{token}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    )
    async with serving(tmp_path, executor=executor) as open_one, asyncio.timeout(60):
        status, _, answer = await answer_to(open_one, submit.encode())
        assert status == 202
        follow = f"GET /v1/jobs/{json.loads(answer)['id']}/events HTTP/1.1\r\n{token}\r\n".encode()
        await executor.rendering.wait()
        viewers = [await open_one() for _ in range(4)]
        for reader, writer in viewers:
            writer.write(follow)
            await reader.readuntil(b"event: progress")
        for _, writer in viewers[1:]:
            writer.transport.abort()
        executor.let_go.set()
        await viewers[0][0].readuntil(b"event: end")
    assert not [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
