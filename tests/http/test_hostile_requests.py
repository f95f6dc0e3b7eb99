"""Every route against hostile requests: no answer is a 500 or a stack trace, and each refusal is a problem document.

The requests go over plain TCP, so that a client's library mends nothing. The random ones have a fixed seed.
"""

import asyncio
import base64
import json
import logging
import random
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass

import pytest
from aiohttp import web
from lipsync_server.http.answers.schemas import FILE_FIELDS, JOB_FIELDS
from lipsync_server.http.app import ROUTES
from lipsync_server.http.callers.connections import Connections, listen
from site_kit import PNG, WAV, Site

SECONDS = 20
NO_BODY = (304, 412, 416)
"""Answers to conditions and ranges, which HTTP gives without a document."""
# Texts that break parsers: words for numbers, digits outside ASCII, the edges of Unicode, addresses.
WORDS = [
    "", " ", "null", "true", "NaN", "Infinity", "-Infinity", "1e999", "-1", "-0", "0x10", "1_000", "007", "9" * 400,
    "²", "①",
    "٣", "\x00", "a\x00b", "\x01\x1b[2J", "\x7f", "\ufeff", "\u202e", "\ufffe", "🎤" * 50, "e\u0301", "..",
    "../../etc/passwd",
    "..\\..\\boot.ini", "%2e%2e%2f", "%00", "%", "%zz", "{}", "[]", "[" * 9000, "{'a':" * 900,
    "'; DROP TABLE jobs; --",
    "${jndi:ldap://x}", "{{7*7}}", "<script>", "http://[", "http://[::1", "http://]/", "http://[::1]]:1/", "http:///x",
    "http://h:65536/", "http://h:-1/", "http://a\\@h/", "http://h%0d%0a:1/", "http://[1.2.3.4]/", "file:///etc/passwd",
    "gopher://x", "data:image/png;base64,", "data:,", "http://\u2460.1", "http://" + "a" * 300 + "/", "//x",
    "x" * 5000,
]  # fmt: skip
JSON_VALUES: list[str] = [
    "null", "true", "-0", "1e400", "-1e400", "NaN", "Infinity", "1" * 5000, "0.1", "[]", "{}", '"\\ud800"',
    '"\\u0000"',
    '"\\udfff\\ud800"', "[[[[[[]]]]]]", '{"a": NaN}', '{"a": {"b": 1e999}}', "[NaN, 0, 1, 2]", "[1, 2, 3, 4, 5]",
    '["a"]',
    '[null, null, null, null]', '{"": 1}', '{"__proto__": 1}', '"\\uD83D"', "[" * 500 + "]" * 500,
]  # fmt: skip


@dataclass(frozen=True)
class Answered:
    status: int
    kind: str
    body: str


@dataclass(frozen=True)
class Door:
    """A site behind the product's own listener, which answers bytes that are no HTTP as well."""

    site: Site
    port: int
    log: pytest.LogCaptureFixture


@pytest.fixture
async def door(site: Site, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Door]:
    runner = site.client.server.runner
    assert isinstance(runner, web.AppRunner)
    listener = await listen(runner, "127.0.0.1", 0, Connections(most=500), idle_s=0.5)
    yield Door(site, listener.sockets[0].getsockname()[1], caplog)
    listener.close()


async def ask(door: Door, request: bytes) -> Answered | None:
    """Send the bytes as they are; None when the server closes without an answer, as it may on other bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    try:
        async with asyncio.timeout(SECONDS):
            writer.write(request)
            whole = await reader.read()
    except ConnectionError:
        return None
    finally:
        writer.close()
    head, _, body = whole.partition(b"\r\n\r\n")
    found = re.match(rb"HTTP/\d\.\d (\d{3})", head)
    if found is None:
        assert not whole, whole[:200]
        return None
    kind = re.search(rb"(?im)^content-type: ([^;\r\n]*)", head)
    return Answered(int(found[1]), kind[1].decode() if kind else "", body.decode("utf-8", "replace"))


def head(method: str, path: str, *headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")


def with_body(path: str, kind: str, body: bytes, *headers: str) -> bytes:
    return head("POST", path, f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers) + body


def part(name: str, value: bytes, more: str = "") -> bytes:
    return (
        b'--b\r\nContent-Disposition: form-data; name="'
        + name.encode()
        + b'"'
        + more.encode()
        + b"\r\n\r\n"
        + value
        + b"\r\n"
    )


def form_of(parts: Iterable[bytes]) -> bytes:
    return b"".join(parts) + b"--b--\r\n"


INPUTS = (part("image", PNG, '; filename="a.png"'), part("audio", WAV, '; filename="a.wav"'))
MULTIPART = "multipart/form-data; boundary=b"


async def check(door: Door, requests: Iterable[tuple[str, bytes]], *, field_of: str = "") -> list[Answered]:
    """Send all requests; fails with the names of the requests that were answered wrongly."""
    wrong, answers = [], []
    for name, request in requests:
        answered = await ask(door, request)
        if answered is None:
            continue
        answers.append(answered)
        if answered.status >= 500 or "Traceback" in answered.body or ".py" in answered.body.replace("docs.py", ""):
            wrong.append((name, answered))
        elif answered.status in NO_BODY or request.startswith(b"HEAD "):
            continue
        elif answered.status >= 400:
            if answered.kind != "application/problem+json":
                wrong.append((name, answered))
                continue
            problem = json.loads(answered.body)
            if not problem["detail"].endswith((".", "?")) or problem["status"] != answered.status:
                wrong.append((name, answered))
            if answered.status == 422 and field_of and not str(problem.get("field", "")).startswith(field_of):
                wrong.append((f"{name}: the field is not named", answered))
    traces = [record.getMessage() for record in door.log.records if record.levelno >= logging.ERROR]
    assert not traces, traces[:5]
    assert not wrong, "\n".join(f"{name[:90]!r}: {a.status} {a.body[:300]}" for name, a in wrong[:10])
    async with door.site.client.get("/v1/jobs") as response:
        assert response.status == 200, "the list can still be read"
    return answers


@pytest.mark.parametrize("field", JOB_FIELDS)
async def test_no_value_of_a_form_field_is_a_500_and_each_refusal_names_the_field(door: Door, field: str) -> None:
    others = [each for each in INPUTS if f'name="{field.removesuffix("_url")}"'.encode() not in each]
    values = [word.encode("utf-8", "surrogatepass") for word in WORDS] + [b"\xff\xfe", b"\xed\xa0\x80", bytes(300)]
    values += [value.encode() for value in JSON_VALUES]
    name = field.removesuffix("_url") if field.endswith("_url") and field != "callback_url" else field
    await check(
        door,
        (
            (f"{field}={value[:60]!r}", with_body("/v1/jobs", MULTIPART, form_of([*others, part(field, value)])))
            for value in values
        ),
        field_of="" if field == "options" else name,
    )  # fmt: skip


@pytest.mark.parametrize("field", [*JOB_FIELDS, "unknown"])
async def test_no_value_of_a_json_field_is_a_500(door: Door, field: str) -> None:
    files = {"image": base64.b64encode(PNG).decode(), "audio": base64.b64encode(WAV).decode()}
    files.pop(field.removesuffix("_url"), None)
    start = json.dumps(files)[:-1] + ("," if files else "") + f'"{field}":'
    values = [*JSON_VALUES, *(json.dumps(word) for word in WORDS)]
    requests = ((value, with_body("/v1/jobs", "application/json", f"{start}{value}}}".encode())) for value in values)
    await check(door, requests)
    doubled = f'{start}"x","{field}":"y"}}'.encode()
    await check(door, [("twice", with_body("/v1/jobs", "application/json", doubled))])


def _multiparts() -> Iterator[tuple[str, bytes]]:
    whole = form_of(INPUTS)
    for n_bytes in (0, 1, 2, 3, 4, 40, 60, 90, len(whole) - 7, len(whole) - 1):
        yield f"cut at {n_bytes}", whole[:n_bytes]
    yield "nested", form_of([part("image", whole, "\r\nContent-Type: multipart/mixed; boundary=b")])
    for more in (
        '; filename="', "; filename=", '; filename*=utf-8\'\'%ff%fe', "; filename*=x", '; filename="a\x00b.png"',
        "; a; b; c=",
        '; filename="' + "x" * 7000 + '"', "\r\nContent-Type: ;;;", "\r\nContent-Type: \xff", "\r\nContent-Length: -1",
        "\r\nContent-Transfer-Encoding: quoted-printable", "\r\nContent-Transfer-Encoding: nonsense",
        "\r\nContent-Encoding: gzip", "\r\nContent-Encoding: br", "\r\n: x", "\r\nX",
        "\r\n" + "X: y\r\n" * 200 + "Z: z",
        '; name="audio"', "; name=", "; filename=\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
    ):  # fmt: skip
        yield f"part with {more[:40]!r}", form_of([part("image", PNG, more), INPUTS[1]])
    yield "no name", form_of([b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n", *INPUTS])
    yield (
        "another disposition",
        form_of([b'--b\r\nContent-Disposition: attachment; name="image"\r\n\r\nx\r\n', *INPUTS]),
    )
    yield "no disposition", form_of([b"--b\r\nContent-Type: image/png\r\n\r\nx\r\n", *INPUTS])
    yield (
        "a name of bytes",
        form_of([b'--b\r\nContent-Disposition: form-data; name="\xff\x00\xed\xa0\x80"\r\n\r\nx\r\n', *INPUTS]),
    )
    yield "many fields", form_of([part(f"x{number}", b"1") for number in range(3000)])
    yield "the same field often", form_of([part("prompt", b"1")] * 50 + list(INPUTS))
    yield "empty lines", b"\r\n" * 5000 + whole


async def test_no_malformed_form_is_a_500(door: Door) -> None:
    bodies = list(_multiparts())
    await check(
        door, ((name, with_body(path, MULTIPART, body)) for name, body in bodies for path in ("/v1/jobs", "/lipsync"))
    )
    dice = random.Random(7)
    whole = form_of(INPUTS)

    def spoilt() -> bytes:
        body = bytearray(whole)
        for _ in range(dice.randint(1, 6)):
            at = dice.randrange(len(body))
            match dice.randrange(3):
                case 0:
                    body[at] = dice.randrange(256)
                case 1:
                    del body[at : at + dice.randint(1, 40)]
                case _:
                    body[at:at] = dice.choice([b"--b", b"\r\n", b"\r\n\r\n", b'"', b";", b"\x00", b"--b--"])
        return bytes(body)

    await check(door, ((f"spoilt {number}", with_body("/v1/jobs", MULTIPART, spoilt())) for number in range(150)))


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=" + "x" * 300,
        "multipart/mixed",
        'multipart/form-data; boundary="', "multipart/form-data; boundary=\x01", "application/json; charset=utf-16",
        "application/json; charset=nonsense", "application/x-www-form-urlencoded", "text/plain", ";", "/", "a",
        "\xff\xff",
        "application/json, text/plain", "multipart/form-data; boundary=b; boundary=c", "",
    ],
)  # fmt: skip
async def test_no_content_type_is_a_500(door: Door, kind: str) -> None:
    await check(
        door,
        (
            (f"{path} {body[:20]!r}", with_body(path, kind, body))
            for path in ("/v1/jobs", "/lipsync")
            for body in (b"", b"{}", form_of(INPUTS), "{}".encode("utf-16"), b"a=1")
        ),
    )


async def test_no_header_or_query_is_a_500_on_any_route(door: Door) -> None:
    job = await door.site.submit()
    await door.site.ended(job["id"])
    # Header values end at a line break; those with control characters are refused by the parser.
    lines = [word for word in WORDS if "\n" not in word]
    headers = [
        f"{name}: {word}"
        for name in (
            "Prefer", "Range", "If-None-Match", "If-Match", "If-Range", "If-Modified-Since", "Idempotency-Key",
            "X-Request-Id",
            "Last-Event-ID", "Accept", "Origin", "Authorization", "Lipsync-Keep", "Cookie", "Forwarded",
            "X-Forwarded-For",
            "X-Forwarded-Proto", "Expect", "Transfer-Encoding", "Content-Encoding", "Upgrade",
        )
        for word in [*lines, "respond-async, wait=²", "wait=99999999999999999999", "bytes=5-1", "bytes=-0",
        "bytes=0-0,2-3"]
    ]  # fmt: skip
    dice = random.Random(3)

    def requests() -> Iterator[tuple[str, bytes]]:
        for route in ROUTES:
            path = re.sub(r"\{[^}]*\}", job["id"], route.path)
            for line in dice.sample(headers, 60):
                yield f"{route.method} {path} {line[:50]!r}", head(route.method, path, line)
        for line in headers:
            if line.startswith(("Range", "If-", "Lipsync", "Prefer", "Accept")):
                yield f"video {line[:60]!r}", head("GET", f"/v1/jobs/{job['id']}/video", line)
            yield f"post {line[:60]!r}", head("POST", "/v1/jobs", "Content-Length: 0", line)
        for host in ("[", "[::1", "a]b", "", "\xff", "x" * 4000, "a:b:c", "localhost:99999999"):
            yield (
                f"Host {host[:40]!r}",
                f"GET /v1/engines HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode(),
            )

    await check(door, requests())


async def test_no_path_or_query_is_a_500(door: Door) -> None:
    def requests() -> Iterator[tuple[str, bytes]]:
        for word in WORDS:
            quoted = "".join(f"%{byte:02x}" for byte in word.encode("utf-8", "surrogatepass"))[:6000]
            for method, path in (
                ("GET", f"/v1/jobs/{quoted}"),
                ("DELETE", f"/v1/jobs/{quoted}"),
                ("GET", f"/v1/jobs/{quoted}/video"),
                ("GET", f"/v1/jobs/{quoted}/events"),
                ("POST", f"/v1/jobs/{quoted}/collected"),
                ("GET", f"/v1/jobs?limit={quoted}"),
                ("GET", f"/v1/jobs?state={quoted}&after={quoted}"),
                ("GET", f"/v1/jobs?{quoted}={quoted}"),
                ("GET", f"/static/{quoted}"),
                ("GET", f"/{quoted}"),
                ("PROPFIND", f"/{quoted}"),
            ):
                yield f"{method} {path[:60]}", head(method, path)
        for path in (
            "/v1/jobs?limit=000001" + "1" * 30, "/v1/jobs?limit=0000012345678", "/v1/jobs?limit=1&limit=2", "*",
            "http://[/x",
            "http://localhost/v1/jobs", "/%", "/%ff%fe", "//", "/./../etc/passwd",
            "/v1/jobs/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
            "/static/..%2f..%2fsettings", "/v1/jobs/" + "a" * 7000, "/?" + "a=b&" * 1500,
        ):  # fmt: skip
            for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
                yield f"{method} {path[:60]}", head(method, path)

    answers = await check(door, requests())
    assert not any("root:" in answered.body for answered in answers)


async def test_bytes_that_are_no_request_are_no_500(door: Door) -> None:
    dice = random.Random(11)
    good = head("GET", "/v1/jobs")
    requests = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/9.9\r\n\r\n", b"GET /\r\n\r\n",
        b"\x00" * 100 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        head("POST", "/v1/jobs", "Transfer-Encoding: chunked") + b"zz\r\n",
        head("POST", "/v1/jobs", "Transfer-Encoding: chunked") + b"ffffffffffffffffff\r\n",
        with_body("/v1/jobs", "application/json", b"abcd", "Content-Encoding: gzip"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 5000 + b"\r\n",
        b"GET / HTTP/1.1\r\nA: " + b"b" * 100_000 + b"\r\n\r\n",
    ]  # fmt: skip
    for _ in range(150):
        spoilt = bytearray(good)
        for _ in range(dice.randint(1, 4)):
            spoilt[dice.randrange(len(spoilt))] = dice.randrange(256)
        requests.append(bytes(spoilt) + b"\r\n\r\n")
    await check(door, ((repr(request[:70]), request) for request in requests))


def test_every_file_may_also_come_by_address() -> None:
    """The fields above are the schema's, so that a new field is tried without a change of the test."""
    assert {f"{name}_url" for name in FILE_FIELDS} <= set(JOB_FIELDS)
