"""Promise 4: every bad input is refused with the right status and a sentence, and nothing stays on disk."""

import asyncio
import io
from collections.abc import AsyncIterator
from fractions import Fraction
from itertools import cycle
from typing import Any

import aiohttp
import av
import numpy as np
import pytest
from hostile_files import black_png
from lipsync_server.http.inputs import uploads
from site_kit import PNG, WAV, Site, Start, form, png, wav

HUGE = 3 * 1024**3
BEGUN_UPLOAD = (
    b"POST /lipsync HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n"
    b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' + PNG
)
"""A request that announces 100,000 bytes; only its picture follows."""


def jpeg() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "JPEG")
    return file.getvalue()


def silent_video() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(25))
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(10):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


M3U8 = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
M3U8_URL = M3U8.replace(b"file:///etc/passwd", b"http://127.0.0.1:9/secret.ts")
CONCAT = b"ffconcat version 1.0\nfile '/etc/passwd'\n"
SDP = b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n"

BAD: dict[str, tuple[dict[str, Any], int, str]] = {
    "empty picture": ({"image": b""}, 415, "image"),
    "empty recording": ({"audio": b""}, 415, "audio"),
    "text named png": ({"image": ("face.png", b"hello, I am no picture\n" * 20)}, 415, "image"),
    "huge picture in few bytes": ({"image": ("big.png", black_png(20_000, 20_000))}, 422, "image"),
    "cut off jpeg": ({"image": ("face.jpg", jpeg()[:-4000])}, 422, "image"),
    "tiny picture": ({"image": png(4, 4)}, 422, "image"),
    "svg": ({"image": ("face.svg", b'<svg xmlns="http://www.w3.org/2000/svg"/>')}, 415, "image"),
    "too short": ({"audio": wav(0.05)}, 422, "audio"),
    "video without sound": ({"audio": ("clip.mp4", silent_video())}, 422, "audio"),
    "playlist of a file": ({"audio": ("talk.m3u8", M3U8)}, 415, "audio"),
    "playlist posing as wav": ({"audio": ("talk.wav", M3U8)}, 415, "audio"),
    "playlist of an address": ({"audio": ("talk.mp3", M3U8_URL)}, 415, "audio"),
    "concat script": ({"audio": ("talk.mp3", CONCAT)}, 415, "audio"),
    "sdp": ({"audio": ("talk.wav", SDP)}, 415, "audio"),
    "picture as recording": ({"audio": ("talk.wav", PNG)}, 415, "audio"),
    "recording as picture": ({"image": ("face.png", WAV)}, 415, "image"),
    "missing picture": ({"image": None}, 422, "image"),
    "missing recording": ({"audio": None}, 422, "audio"),
    "unknown field": ({"picture": PNG}, 422, "picture"),
    "seed is no number": ({"seed": "many"}, 422, "seed"),
    "seed too small": ({"seed": "-1"}, 422, "seed"),
    "unknown engine": ({"engine": "wav2lip"}, 422, "engine"),
    "engine without weights": ({"engine": "infinitetalk"}, 422, "engine"),
    "unknown option": ({"options": '{"stepps": 8}'}, 422, "stepps"),
    "broken options": ({"options": "{steps"}, 422, "options"),
    "options as list": ({"options": "[1]"}, 422, "options"),
    "half a box": ({"face_box": "1,2,3"}, 422, "face_box"),
    "long prompt": ({"prompt": "x" * 4001}, 422, "prompt"),
    "callback into the house": ({"callback_url": "http://127.0.0.1:9/hook"}, 422, "callback_url"),
    "callback by ftp": ({"callback_url": "ftp://example.com/hook"}, 422, "callback_url"),
    "url and file": ({"image_url": "http://example.com/a.png"}, 422, "image_url"),
    "url that is none": ({"image": None, "image_url": "file:///etc/passwd"}, 422, "image_url"),
    "text beyond measure": ({"prompt": "x" * 70_000}, 413, "prompt"),
    "text that is none": ({"prompt": None, "options": b"\xff\xfe\x00"}, 422, "options"),
}


# Both routes use the same check. Each case starts a server, so the routes take turns.
@pytest.mark.parametrize(("case", "address"), zip(BAD, cycle(["/lipsync", "/v1/jobs"]), strict=False))
async def test_bad_input_is_refused_in_words_and_leaves_nothing(site: Site, case: str, address: str) -> None:
    fields, status, field = BAD[case]
    async with site.client.post(address, data=form(**fields)) as response:
        assert response.status == status, await response.text()
        assert response.content_type == "application/problem+json"
        problem = await response.json()
    assert problem["status"] == status
    assert problem["field"].split(".")[0] == field
    assert problem["detail"].endswith(".") and " " in problem["detail"]
    assert "/tmp" not in problem["detail"] and "root:" not in problem["detail"]
    assert site.left_on_disk() == []
    assert site.executor.tasks == []


async def test_a_field_given_twice_is_refused(site: Site) -> None:
    data = form()
    data.add_field("audio", WAV, filename="again.wav")
    async with site.client.post("/v1/jobs", data=data) as response:
        assert response.status == 422
        assert (await response.json())["field"] == "audio"
    assert site.left_on_disk() == []


async def test_a_silent_recording_is_accepted(site: Site) -> None:
    job = await site.submit(audio=wav(0.4, level=0))
    assert (await site.ended(job["id"]))["state"] == "succeeded"


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"image=1", "application/x-www-form-urlencoded", 415),
        (b"x", "text/plain", 415),
        (b"", "multipart/form-data", 400),
        (b"nothing like it", "multipart/form-data; boundary=b", 400),
        (b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\nabc', "multipart/form-data; boundary=b", 400),
        (b"--b\r\n\r\nabc\r\n--b--\r\n", "multipart/form-data; boundary=b", 400),
        (b"--b\r\n[no header]\r\n\r\nabc\r\n--b--\r\n", "multipart/form-data; boundary=b", 400),
        (b"--b--\r\n", "multipart/form-data; boundary=b", 422),
        (b"{", "application/json", 400),
        (b"[1]", "application/json", 400),
        (b'"\xff"', "application/json", 400),
        (b"{}", "application/json", 422),
        (b'{"image_url": "http://example.com/a"}' + b" " * 300_000, "application/json", 413),
    ],
)
async def test_a_malformed_body_is_refused(site: Site, body: bytes, kind: str, status: int) -> None:
    async with site.client.post("/v1/jobs", data=body, headers={"Content-Type": kind}) as response:
        assert response.status == status, await response.text()
        assert response.content_type == "application/problem+json"
    assert site.left_on_disk() == []


async def test_three_gigabytes_are_refused_before_they_are_read(site: Site) -> None:
    reader, writer = await asyncio.open_connection(site.client.host, site.client.port)
    head = (
        f"POST /lipsync HTTP/1.1\r\nHost: localhost\r\nContent-Length: {HUGE}\r\nExpect: 100-continue\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    )
    writer.write(head.encode())
    answer = await reader.readuntil(b"\r\n")
    writer.close()
    assert b"413" in answer
    assert site.left_on_disk() == []


async def test_a_body_without_a_length_is_refused_while_it_streams(start: Start) -> None:
    site = await start(max_audio_bytes=1_000_000)
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b'--b\r\nContent-Disposition: form-data; name="audio"; filename="a.wav"\r\n\r\n' + WAV
        while sent < HUGE:
            sent += 65536
            yield bytes(65536)

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    # A server that answers early may close the connection while the client sends. Both show that it stopped reading.
    try:
        async with site.client.post("/lipsync", data=endless(), headers=headers) as response:
            assert response.status == 413
            assert "audio is larger than the limit of 1 MiB" in (await response.json())["detail"]
    except aiohttp.ClientConnectionError:
        pass
    assert sent < 200_000_000
    assert site.left_on_disk() == []


async def test_expect_continue_is_answered_only_to_those_who_may_send(start: Start) -> None:
    site = await start(tokens="t")
    reader, writer = await asyncio.open_connection(site.client.host, site.client.port)
    head = (
        "POST /lipsync HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nExpect: 100-continue\r\n"
        "{}Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    )
    writer.write(head.format("").encode())
    assert b"401" in await reader.readuntil(b"\r\n")
    writer.close()
    reader, writer = await asyncio.open_connection(site.client.host, site.client.port)
    writer.write(head.format("Authorization: Bearer t\r\n").encode())
    assert b"100 Continue" in await reader.readuntil(b"\r\n")
    writer.close()


async def test_a_hundred_uploads_at_once_are_accepted_or_answered_429(start: Start) -> None:
    site = await start(max_uploads=4, max_queue=200)

    async def upload() -> tuple[int, str | None]:
        async with site.client.post("/v1/jobs", data=form(prompt="hold")) as response:
            await response.read()
            return response.status, response.headers.get("Retry-After")

    answers = await asyncio.gather(*(upload() for _ in range(100)))
    statuses = [status for status, _ in answers]
    assert set(statuses) <= {202, 429}
    assert statuses.count(202) >= 4
    assert all(retry for status, retry in answers if status == 429)
    jobs = [path for path in site.left_on_disk() if path.startswith("jobs/") and path.count("/") == 1]
    assert len(jobs) == statuses.count(202)
    assert not [path for path in site.left_on_disk() if path.startswith("incoming/")]
    site.executor.let_go.set()


async def test_a_hundred_uploads_over_the_limit_leave_nothing(start: Start) -> None:
    site = await start(max_uploads=100, max_audio_bytes=20_000, max_queue=200)

    async def upload() -> int:
        async with site.client.post("/v1/jobs", data=form(audio=bytes(60_000))) as response:
            await response.read()
            return response.status

    assert set(await asyncio.gather(*(upload() for _ in range(100)))) == {413}
    assert site.left_on_disk() == []


async def test_an_upload_that_breaks_off_leaves_nothing(site: Site) -> None:
    _, writer = await asyncio.open_connection(site.client.host, site.client.port)
    writer.write(BEGUN_UPLOAD)
    await writer.drain()
    async with asyncio.timeout(10):
        while not site.left_on_disk():
            await site.client.get("/healthz")
        writer.close()
        while site.left_on_disk():
            await site.client.get("/healthz")


async def test_a_full_disk_is_507_before_anything_is_read(start: Start) -> None:
    site = await start(min_free_disk_bytes=1 << 60)
    async with site.client.post("/lipsync", data=form()) as response:
        assert response.status == 507
        assert "have to stay free" in (await response.json())["detail"]
        assert int(response.headers["Retry-After"]) > 0
    assert site.left_on_disk() == []


@pytest.mark.parametrize(
    ("name", "download"),
    [
        ("../../etc/passwd", "passwd-lipsync.mp4"),
        ("C:\\photos\\Anna.JPG", "Anna-lipsync.mp4"),
        ("\u202egpj.exe", "gpj-lipsync.mp4"),
        ("x" * 300 + ".png", "x" * 196 + "-lipsync.mp4"),
        ("", "image-lipsync.mp4"),
    ],
)
async def test_a_file_name_is_only_a_name(site: Site, name: str, download: str) -> None:
    job = await site.submit(image=(name, PNG) if name else PNG)
    assert job["file_name"] == download
    assert "/" not in job["image_name"]


async def test_an_upload_that_stalls_is_ended(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "STALLED_S", 0.1)
    reader, writer = await asyncio.open_connection(site.client.host, site.client.port)
    writer.write(BEGUN_UPLOAD)
    assert b" 400 " in await reader.readuntil(b"\r\n")
    writer.close()
    assert site.left_on_disk() == []
