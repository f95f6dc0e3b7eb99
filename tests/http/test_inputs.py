"""Promise 1 and 4: inputs of real clients are accepted, and hostile inputs are answered with 4xx, never 500."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from urllib.parse import unquote

import aiohttp
import pytest
from lipsync_server.http import keys
from lipsync_server.http.callers.slots import MAX_STREAMS
from lipsync_server.http.inputs import uploads
from site_kit import PNG, WAV, Json, Site, Start, form, wav

IMAGE, AUDIO = base64.b64encode(PNG).decode(), base64.b64encode(WAV).decode()


async def post_json(site: Site, body: object, path: str = "/v1/jobs") -> tuple[int, Json]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with site.client.post(path, data=data, headers={"Content-Type": "application/json"}) as response:
        return response.status, await response.json(content_type=None) if response.content_type != "video/mp4" else {}


NUMBERS = ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("field", ["face_box", "seed", "head_motion", "people"])
async def test_a_number_that_is_not_finite_is_refused_and_the_next_job_runs(
    site: Site, number: str, field: str
) -> None:
    form_field = {
        "face_box": {"face_box": f"{number},0,10,10"},
        "seed": {"seed": number},
        "head_motion": {"options": f'{{"head_motion": {number}}}'},
        "people": {"options": f'{{"people": [[0, 0, 1, {number}], [0, 0, 1, 1]]}}'},
    }[field]
    async with site.client.post("/v1/jobs", data=form(**form_field)) as response:
        assert response.status == 422, await response.text()
    value = f"[{number},0,10,10]" if field == "face_box" else number
    part = f'"options": {{"{field}": {value}}}' if field in ("head_motion", "people") else f'"{field}": {value}'
    status, _ = await post_json(site, f'{{"image": "{IMAGE}", "audio": "{AUDIO}", {part}}}'.encode())
    assert status in (400, 422)
    assert (await site.ended((await site.submit())["id"]))["state"] == "succeeded"


async def test_null_stands_for_a_field_that_was_left_out(site: Site) -> None:
    empty = ("prompt", "engine", "preset", "resolution", "seed", "face_index", "face_box", "file_name", "callback_url")
    body = {"image": IMAGE, "audio": AUDIO, "image_url": None, "second_audio": None, "options": None}
    status, job = await post_json(site, body | dict.fromkeys(empty))
    assert status == 202, job


@pytest.mark.parametrize(
    "written",
    [
        lambda text: text,
        lambda text: f"data:image/png;base64,{text}",
        lambda text: "\n".join(text[at : at + 76] for at in range(0, len(text), 76)),
        lambda text: text.replace("+", "-").replace("/", "_").rstrip("="),
        lambda text: f"  {text}\r\n",
        lambda text: f"DATA:IMAGE/PNG;BASE64,{text}",
        lambda text: f"data:image/png;base64,{text.replace('+', '%2B').replace('/', '%2f').replace('=', '%3D')}",
        lambda text: f"\ufeff{text[:99]}\u200b{text[99:]}\u200e",
    ],
)
async def test_files_in_base64_are_accepted_in_json(site: Site, written: Callable[[str], str]) -> None:
    status, job = await post_json(site, {"image": written(IMAGE), "audio": written(AUDIO), "prompt": "x"})
    assert status == 202, job
    folder = site.data_dir / "jobs" / job["id"]
    assert (await site.ended(job["id"]))["state"] == "succeeded"
    assert folder.exists()


@pytest.mark.parametrize("escape", ["\\/", "\\u002F", "\\u002f", "%2F", "%2f"])
async def test_base64_with_json_escapes_is_read_however_the_body_is_cut(escape: str) -> None:
    from lipsync_server.http.inputs.json_body import JsonBody

    text = f'{{"prompt": "say \\"image\\": \\\\", "image": "{IMAGE}", "options": {{"image": "{IMAGE[:8]}"}}}}'
    body = b"\xef\xbb\xbf" + text.replace(IMAGE, IMAGE.replace("/", escape)).encode()
    for size in (1, 2, 3, 5, 7, 64, 100_000):
        got = bytearray()

        async def write(name: str, data: bytes, got: bytearray = got) -> None:
            assert name == "image"
            got += data

        reader = JsonBody(("image", "audio"), write)
        for at in range(0, len(body), size):
            await reader.feed(body[at : at + size])
        values = reader.close()
        assert bytes(got) == PNG
        assert values["prompt"] == 'say "image": \\'
        assert values["options"] == {"image": IMAGE[:8]}


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("not base64!", "base64"),
        ("https://example.com/a.png", "image_url"),
        ("data:image/png,abc", "not in base64"),
        (7, "base64"),
        (["a"], "base64"),
        ({}, "base64"),
        ("A", "base64"),
        ("AAAA=AAA", "base64"),
    ],
)
async def test_a_file_in_json_that_is_no_base64_is_named(site: Site, value: object, says: str) -> None:
    status, problem = await post_json(site, {"image": value, "audio": AUDIO})
    assert status == 422, problem
    assert problem["field"] == "image"
    assert says in problem["detail"]
    assert site.left_on_disk() == []


async def test_a_file_in_base64_beyond_the_limit_is_refused_while_it_arrives(start: Start) -> None:
    site = await start(max_image_bytes=100_000)
    status, problem = await post_json(site, {"image": base64.b64encode(bytes(100_001)).decode(), "audio": AUDIO})
    assert (status, problem["field"]) == (413, "image")


async def test_the_blocking_address_accepts_json_too(site: Site) -> None:
    assert (await post_json(site, {"image": IMAGE, "audio": AUDIO}, "/lipsync"))[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        b'{"options": ' + b'{"a":' * 9_000 + b"1" + b"}" * 9_000 + b"}",
        b"[" * 100_000,
        b'{"prompt": "\\ud800", "image_url": "http://example.com/a", "audio_url": "http://example.com/a"}',
        b'{"seed": ' + b"9" * 5_000 + b"}",
        b'{"options": {"seed": ' + b"9" * 400 + b"}}",
        b'{"image": "' + b"\\" * 999,
        b'{"image": "\\',
        b'{"image',
        b"\xef\xbb\xbf",
        b"\xef\xbb",
        b"null",
        b'{"a": 1}}}}}',
    ],
)
async def test_hostile_json_is_answered_4xx(site: Site, body: bytes) -> None:
    status, problem = await post_json(site, body)
    assert 400 <= status < 500, problem
    assert site.left_on_disk() == []


BROKEN_ADDRESSES = [
    *("http://[", "http://[::1", "http://]/", "http://[::1]]:1/", "http://[1.2.3.4]/", "http:///x", "http://h:65536/"),
    *(
        "http://h:-1/",
        "http://a\\@h/",
        "http://h%0d%0a:1/",
        "http://",
        "http://h:x/",
        "http://a b/",
        "ftp://h/",
        "//h/",
    ),
    *("http://\x00/", "http://h\n/", "javascript:alert(1)", "http://" + "a" * 9_000, "http://xn--a.example:0/"),
]


@pytest.mark.parametrize("address", BROKEN_ADDRESSES)
@pytest.mark.parametrize("field", ["image_url", "callback_url"])
async def test_a_broken_address_is_answered_with_its_field(site: Site, address: str, field: str) -> None:
    body = {"image": IMAGE, "audio": AUDIO, field: address}
    if field == "image_url":
        del body["image"]
    status, problem = await post_json(site, body)
    assert (status, problem["field"]) == (422, field), problem


@pytest.mark.parametrize(
    "before, after",
    [(" ", "\n"), ("\u200b", ""), ("\ufeff \u00a0", "\u200e\u2060"), ("\t", "\u3000"), ("\u202a", "\u202c\u2069")],
)
async def test_blanks_around_an_address_do_not_matter_seen_or_unseen(site: Site, before: str, after: str) -> None:
    url = f"{before}http://127.0.0.1:9/a.png{after}"
    status, problem = await post_json(site, {"image_url": url, "audio": AUDIO})
    assert status == 422
    assert "not public" in problem["detail"]


async def test_a_list_or_an_object_may_be_json_text_inside_json(site: Site) -> None:
    body = {"image": IMAGE, "audio": AUDIO, "options": "{}", "face_box": "0, 0, 8, 8"}
    status, job = await post_json(site, body)
    assert status == 202, job
    for field, text in (("options", "{"), ("options", "[1]"), ("face_box", "1,NaN,2,3")):
        status, problem = await post_json(site, {**body, field: text})
        assert (status, problem["field"]) == (422, field), problem


@pytest.mark.parametrize("text", ["[object Object]", "data", "undefined", '{"mimeType":"image/png"}'])
async def test_text_where_a_file_belongs_is_quoted_with_the_remedy_in_n8n(site: Site, text: str) -> None:
    async with site.client.post("/lipsync", data=form(image=text)) as response:
        problem = await response.json()
        assert (response.status, problem["field"]) == (415, "image")
    assert "n8n Binary File" in problem["detail"]
    assert text[:12] in problem["detail"]


async def test_an_address_where_a_file_belongs_is_refused_with_the_right_field(site: Site) -> None:
    async with site.client.post("/lipsync", data=form(image="https://example.com/face.png")) as response:
        assert "image_url" in (await response.json())["detail"]


NAMES = [
    "Hello; how are you; fine.wav",
    'a"b;c.wav',
    "&amp;.wav",
    "x; name=image.wav",
    "ü ñ 语.wav",
    '";".wav',
    "a\tb\x02\x7f\0\x1b[2J.wav",
    "\u202egpj.wav",
]


@pytest.mark.parametrize("name", NAMES)
async def test_no_file_name_makes_a_recording_unreadable(site: Site, name: str) -> None:
    body = b""
    for field, file_name, content in (("image", "face.png", PNG), ("audio", name, WAV)):
        head = f'--b\r\nContent-Disposition: form-data; name="{field}"; filename="{file_name}"\r\n\r\n'
        body += head.encode() + content + b"\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    async with site.client.post("/v1/jobs", data=body + b"--b--\r\n", headers=headers) as response:
        assert response.status == 202, await response.text()
        assert (await response.json())["audio_name"].endswith(".wav")


@pytest.mark.parametrize("parameter", ["", "; boundary", "; boundary=", '; boundary=""'])
async def test_a_content_type_without_its_boundary_is_explained(site: Site, parameter: str) -> None:
    headers = {"Content-Type": f"multipart/form-data{parameter}"}
    async with site.client.post("/lipsync", data=WAV, headers=headers) as response:
        assert response.status == 400
        assert "without a boundary. Take away the Content-Type header" in (await response.json())["detail"]


@pytest.mark.parametrize("name", ["写" * 190 + ".jpg", "שלום.jpg", "a" * 5000 + ".jpg", "-rf.jpg", "é\u2028\u202e.jpg"])
async def test_the_videos_name_fits_every_file_system_and_every_header(site: Site, name: str) -> None:
    fields = {"image": (name, PNG), "audio": ("v.wav", WAV)}
    data = aiohttp.FormData(quote_fields=False)
    for field, (file_name, content) in fields.items():
        data.add_field(field, content, filename=file_name)
    async with site.client.post("/v1/jobs", data=data) as response:
        job = await response.json()
    assert (await site.ended(job["id"]))["state"] == "succeeded"
    async with site.client.get(f"/v1/jobs/{job['id']}/video") as response:
        disposition = response.headers["Content-Disposition"]
    plain, _, encoded = disposition.removeprefix('attachment; filename="').partition('"')
    assert disposition.isascii() and plain.endswith(".mp4") and plain[0] not in ".-"
    whole = unquote(encoded.removeprefix("; filename*=UTF-8''")) or plain
    assert whole.endswith("-lipsync.mp4") and whole.isprintable() and len(whole.encode()) <= 255


LIMITS = ["000001" + "9" * 30, "0000012345678", "9" * 5000, "-1", "1e9", "²", ""]
"""Python converts no text of more than 4,300 digits to a number."""


@pytest.mark.parametrize("limit", LIMITS)
async def test_a_limit_that_is_no_small_number_is_answered_422(site: Site, limit: str) -> None:
    async with site.client.get("/v1/jobs", params={"limit": limit}) as response:
        assert response.status == 422


@pytest.mark.parametrize("wait", ["²", "①", "9" * 400, "-1", "1e400", "NaN", ""])
async def test_a_wait_that_is_no_number_does_not_refuse_the_job(site: Site, wait: str) -> None:
    headers = {"Prefer": f"respond-async, wait={wait}"}
    async with site.client.post("/lipsync", data=form(), headers=headers) as response:
        assert response.status == 202


@pytest.mark.parametrize("headers", [{"Host": "["}, {"Host": "[::1"}, {"Host": "a]b"}, {"Origin": "http://["}])
async def test_a_malformed_host_or_origin_is_answered_4xx(site: Site, headers: dict[str, str]) -> None:
    async with site.client.get("/v1/jobs", headers=headers) as response:
        assert response.status in (400, 401, 403)


async def test_a_video_whose_file_was_removed_by_hand_is_a_problem_document(site: Site) -> None:
    job_id = (await site.submit())["id"]
    await site.ended(job_id)
    (site.data_dir / "jobs" / job_id / "video.mp4").unlink()
    async with site.client.get(f"/v1/jobs/{job_id}/video") as response:
        assert (response.status, response.content_type) == (410, "application/problem+json")


async def test_a_body_that_arrives_too_slowly_is_ended_although_it_never_stalls(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "STALLED_S", 0.2)

    async def drip() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
        while True:
            yield b"x" * 20
            await asyncio.sleep(0.05)

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    async with asyncio.timeout(20), site.client.post("/v1/jobs", data=drip(), headers=headers) as response:
        assert response.status == 400
        assert "too slow" in (await response.json())["detail"]
    assert site.left_on_disk() == []


async def test_too_many_event_streams_are_answered_429(site: Site) -> None:
    job_id = (await site.submit(prompt="hold"))["id"]
    site.client.app[keys.STREAMS].n_taken = MAX_STREAMS
    async with site.client.get(f"/v1/jobs/{job_id}/events") as response:
        assert response.status == 429
        assert "Retry-After" in response.headers
    site.client.app[keys.STREAMS].n_taken = 0
    site.executor.let_go.set()
    assert (await site.ended(job_id))["state"] == "succeeded"


async def test_an_upload_beyond_the_limit_is_answered_429_before_its_body_is_read(start: Start) -> None:
    site = await start(max_uploads=1)
    body = f'{{"image": "{IMAGE}", "audio": "{AUDIO}"}}'.encode()

    async def slowly() -> AsyncIterator[bytes]:
        yield body[:9]
        async with site.client.post("/v1/jobs", data=form()) as response:
            assert response.status == 429
            assert "1 uploads are being received" in (await response.json())["detail"]
            assert "Retry-After" in response.headers
        yield body[9:]

    async with site.client.post("/v1/jobs", data=slowly(), headers={"Content-Type": "application/json"}) as response:
        assert response.status == 202
    assert (await site.ended((await site.submit())["id"]))["state"] == "succeeded"


@pytest.mark.parametrize("blanks", ["", "   "])
async def test_a_data_uri_in_a_field_for_an_address_is_the_file(site: Site, blanks: str) -> None:
    """Many clients write a data URI where an address is asked for; a whole recording of any length may be in it."""
    long = base64.b64encode(wav(30)).decode()
    values = {
        "image_url": f"{blanks}data:image/png;base64,{IMAGE}",
        "audio_url": f"data:audio/wav;base64,{long}",
        "image": blanks,
        "callback_url": blanks,
        "second_audio_url": " ",
    }
    status, job = await post_json(site, values)
    assert status == 202, job
    assert (await site.ended(job["id"]))["state"] == "succeeded"


async def test_a_file_that_is_sent_twice_is_refused(site: Site) -> None:
    both = {"image": IMAGE, "image_url": f"data:image/png;base64,{IMAGE}", "audio": AUDIO}
    status, problem = await post_json(site, both)
    assert (status, problem["field"]) == (422, "image")
    assert site.left_on_disk() == []


async def test_json_that_is_not_utf8_is_refused_with_the_reason(site: Site) -> None:
    body = json.dumps({"image": IMAGE, "audio": AUDIO})
    for encoding in ("utf-16", "utf-16-le", "utf-32"):
        async with site.client.post(
            "/v1/jobs", data=body.encode(encoding), headers={"Content-Type": "application/json"}
        ) as response:
            assert response.status == 400
            assert "UTF-8" in (await response.json())["detail"]


@pytest.mark.parametrize("boundary", ["", '""', "; charset=utf-8", "another"])
async def test_a_wrong_boundary_is_refused_with_the_advice_to_remove_it(site: Site, boundary: str) -> None:
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    async with site.client.post("/v1/jobs", data=b"--x\r\n\r\nbody\r\n--x--\r\n", headers=headers) as response:
        assert response.status == 400
        assert "by hand" in (await response.json())["detail"]
