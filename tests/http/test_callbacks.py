"""Callbacks: signed, repeated until the receiver accepts them, and delivered also after a restart."""

import asyncio
import hashlib
import hmac
import json
import re
import stat
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from lipsync_server.jobs.delivery import callbacks
from lipsync_server.jobs.delivery.callbacks import sign
from site_kit import form


class Receiver:
    """A receiver of callbacks. It answers with `statuses` in turn and repeats the last one."""

    def __init__(self) -> None:
        self.statuses = [200]
        self.texts: list[str] = []
        self.calls: asyncio.Queue[tuple[dict[str, str], bytes]] = asyncio.Queue()
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.calls.put_nowait((dict(request.headers), await request.read()))
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        text = self.texts.pop(0) if self.texts else ""
        return web.Response(status=status, text=text, headers={"Location": "/elsewhere"} if 300 <= status < 400 else {})

    async def next(self) -> tuple[dict[str, str], bytes]:
        async with asyncio.timeout(20):
            return await self.calls.get()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/hook", receiver.handle)
    server = TestServer(app)
    await server.start_server()
    receiver.url = f"http://127.0.0.1:{server.port}/hook?run=7"
    yield receiver
    await server.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch):
    """The pauses are those of the product in thousandths."""
    monkeypatch.setattr(callbacks, "_FIRST_PAUSE_S", 0.002)


@pytest.mark.parametrize(("prompt", "event"), [("", "job.succeeded"), ("no face", "job.failed")])
async def test_the_end_of_a_job_is_called_back_with_a_signature(start, receiver, prompt: str, event: str):
    site = await start(allow_private_urls=True, webhook_secret="key", public_url="https://lips.example/base")
    job = await site.submit(prompt=prompt, callback_url=receiver.url)
    headers, body = await receiver.next()
    signature = re.fullmatch(r"t=(\d+),v1=([0-9a-f]{64})", headers["Lipsync-Signature"])
    assert signature is not None
    timestamp, digest = signature.groups()
    expected = hmac.new(b"key", timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    assert hmac.compare_digest(digest, expected)
    callback = json.loads(body)
    assert callback["event"] == event
    assert callback["job"]["id"] == job["id"]
    assert callback["job"]["links"]["self"] == f"https://lips.example/base/v1/jobs/{job['id']}"


async def test_a_cancelled_job_is_called_back(start, receiver):
    site = await start(allow_private_urls=True)
    await site.submit(prompt="hold")
    waiting = await site.submit(callback_url=receiver.url)
    async with site.client.delete(f"/v1/jobs/{waiting['id']}") as response:
        assert response.status == 200
    _, body = await receiver.next()
    assert json.loads(body)["event"] == "job.cancelled"
    site.executor.let_go.set()


async def test_a_callback_is_tried_again_until_it_is_taken(start, receiver):
    """n8n answers 404, 409 or 500 to a callback that comes before the run is stored as waiting."""
    receiver.statuses = [500, 404, 409, 302, 503, 200]
    site = await start(allow_private_urls=True)
    await site.submit(callback_url=receiver.url)
    calls = [await receiver.next() for _ in range(6)]
    assert len({body for _, body in calls}) == 1
    numbers = [headers["Lipsync-Delivery"].rsplit("-", 1)[1] for headers, _ in calls]
    assert numbers == ["1", "2", "3", "4", "5", "6"]
    follow_up = await site.submit(callback_url=receiver.url)
    _, body = await receiver.next()
    assert json.loads(body)["job"]["id"] == follow_up["id"]


async def test_a_receiver_that_says_it_is_starting_up_has_not_taken_the_callback(start, receiver):
    """n8n 1.123.81 and 2.41.1 answer 200 to every request while they start."""
    receiver.texts = ["n8n is starting up. Please wait"] * 2
    site = await start(allow_private_urls=True)
    await site.submit(callback_url=receiver.url)
    calls = [await receiver.next() for _ in range(3)]
    assert [headers["Lipsync-Delivery"].rsplit("-", 1)[1] for headers, _ in calls] == ["1", "2", "3"]


async def test_a_callback_survives_a_restart(start, receiver):
    receiver.statuses = [500]
    site = await start(allow_private_urls=True)
    job = await site.submit(callback_url=receiver.url)
    await receiver.next()
    await site.client.close()
    receiver.statuses = [200]
    while not receiver.calls.empty():
        receiver.calls.get_nowait()
    await start(allow_private_urls=True)
    _, body = await receiver.next()
    assert json.loads(body)["job"]["id"] == job["id"]


async def test_the_signing_key_is_made_once_and_kept_private(start):
    site = await start()
    kept = site.data_dir / "webhook_secret"
    first = kept.read_text()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert len(first.strip()) == 64
    await site.client.close()
    await start()
    assert kept.read_text() == first


async def test_a_callback_that_turns_private_later_is_not_sent(start, receiver):
    """DNS named another address when the job was accepted. The address is checked again when the callback is sent."""
    site = await start()
    url = receiver.url.replace("127.0.0.1", "no-such-host.invalid")
    job = await site.submit(callback_url=url)
    assert (await site.ended(job["id"]))["state"] == "succeeded"
    assert receiver.calls.empty()
    async with site.client.post("/v1/jobs", data=form(callback_url=receiver.url)) as response:
        assert response.status == 422


def test_the_signature_is_the_documented_one():
    assert sign(b"key", b"body", 1) == ("t=1,v1=" + hmac.new(b"key", b"1.body", "sha256").hexdigest())
