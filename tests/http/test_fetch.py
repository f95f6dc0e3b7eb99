"""Promise 4: URLs are fetched from public addresses only, with any answer of DNS and any redirect."""

import ipaddress
import socket
from collections.abc import AsyncIterator, Callable

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.test_utils import TestServer
from lipsync_server.http.inputs.fetch import Fetcher, is_public
from site_kit import PNG, WAV, Start, form

# One address of this machine plays the public internet, another one the private network.
OUTSIDE, INSIDE = "127.0.0.1", "127.0.0.2"


def allow(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return str(address) == OUTSIDE


class Names(AbstractResolver):
    """A name server whose answers change: each name has a list of answers, whose last one is repeated."""

    def __init__(self, **answers: list[str]) -> None:
        self.answers = {name.replace("_", "."): list(addresses) for name, addresses in answers.items()}
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        answers = self.answers.get(host)
        if not answers:
            raise OSError(f"no such host: {host}")
        address = answers.pop(0) if len(answers) > 1 else answers[0]
        return [
            ResolveResult(
                hostname=host, host=each, port=port, family=socket.AF_INET, proto=0, flags=socket.AI_NUMERICHOST
            )
            for each in address.split()
        ]

    async def close(self) -> None:
        pass


class WebServer(TestServer):
    reached: list[tuple[str, str]]


@pytest.fixture
async def web_server() -> AsyncIterator[WebServer]:
    """A web server on every loopback address with files, redirects and traps; `reached` lists its requests."""
    reached: list[tuple[str, str]] = []

    async def file(request: web.Request) -> web.Response:
        assert request.transport is not None
        reached.append((request.transport.get_extra_info("sockname")[0], request.path))
        return web.Response(body={"a.png": PNG, "a.wav": WAV}[request.match_info["name"]])

    async def moved(request: web.Request) -> web.Response:
        raise web.HTTPFound(request.query["to"])

    async def again(request: web.Request) -> web.Response:
        raise web.HTTPFound("/again")

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(bytes(65536))

    async def gzipped(request: web.Request) -> web.Response:
        return web.Response(body=b"\x1f\x8b" + bytes(30), headers={"Content-Encoding": "gzip"})

    app = web.Application()
    app.add_routes(
        [
            web.get("/files/{name}", file),
            web.get("/moved", moved),
            web.get("/again", again),
            web.get("/endless", endless),
            web.get("/gzipped", gzipped),
        ]
    )
    server = WebServer(app, host="0.0.0.0")
    await server.start_server()
    server.reached = reached
    yield server
    await server.close()


def fetcher(resolver: Names) -> Fetcher:
    return Fetcher(allow_private=False, user_agent="test", allow=allow, resolver=resolver)


async def test_inputs_are_fetched_from_their_addresses(start: Start, web_server: WebServer) -> None:
    site = await start(fetcher=fetcher(Names(files_example=[OUTSIDE])))
    base = f"http://files.example:{web_server.port}/files"
    body = {"image_url": f"{base}/a.png?token=x", "audio_url": f"{base}/a.wav", "prompt": "hello", "seed": 3}
    async with site.client.post("/v1/jobs", json=body) as response:
        assert response.status == 202, await response.text()
        job = await response.json()
    assert (job["image_name"], job["audio_name"], job["file_name"]) == ("a.png", "a.wav", "a-lipsync.mp4")
    assert (await site.ended(job["id"]))["state"] == "succeeded"


async def test_a_form_may_mix_files_and_addresses(start: Start, web_server: WebServer) -> None:
    site = await start(fetcher=fetcher(Names(files_example=[OUTSIDE])))
    url = f"http://files.example:{web_server.port}/files/a.wav"
    async with site.client.post("/lipsync", data=form(audio=None, audio_url=url)) as response:
        assert response.status == 200, await response.text()


REFUSED: dict[str, tuple[Callable[[int], str], dict[str, list[str]]]] = {
    "a private address": (lambda port: f"http://{INSIDE}:{port}/files/a.png", {}),
    "a name for a private address": (lambda port: f"http://in.example:{port}/files/a.png", {"in_example": [INSIDE]}),
    "a redirect to a private address": (
        lambda port: f"http://out.example:{port}/moved?to=http://{INSIDE}:{port}/files/a.png",
        {"out_example": [OUTSIDE]},
    ),
    "a redirect to a name for one": (
        lambda port: f"http://out.example:{port}/moved?to=http://in.example:{port}/files/a.png",
        {"out_example": [OUTSIDE], "in_example": [INSIDE]},
    ),
    "a name that turns private between redirects": (
        lambda port: f"http://re.example:{port}/moved?to=http://re.example:{port}/files/a.png",
        {"re_example": [OUTSIDE, INSIDE]},
    ),
    "an address as a number": (lambda port: f"http://2130706434:{port}/files/a.png", {"2130706434": [INSIDE]}),
    "an address in IPv6 clothes": (lambda port: f"http://[::ffff:7f00:2]:{port}/files/a.png", {}),
    "a redirect to a file": (
        lambda port: f"http://out.example:{port}/moved?to=file:///etc/passwd",
        {"out_example": [OUTSIDE]},
    ),
    "redirects without end": (
        lambda port: f"http://out.example:{port}/moved?to=/moved%3Fto=/moved",
        {"out_example": [OUTSIDE]},
    ),
    "an unknown name": (lambda port: f"http://no.example:{port}/files/a.png", {}),
    "nothing there": (lambda port: f"http://out.example:{port}/none", {"out_example": [OUTSIDE]}),
    "a compressed answer": (lambda port: f"http://out.example:{port}/gzipped", {"out_example": [OUTSIDE]}),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_an_address_inside_is_never_reached(start: Start, web_server: WebServer, case: str) -> None:
    make_url, names = REFUSED[case]
    assert web_server.port is not None
    site = await start(fetcher=fetcher(Names(**names)))
    body = {"image_url": make_url(web_server.port), "audio_url": "http://out.example/a.wav"}
    async with site.client.post("/v1/jobs", json=body) as response:
        assert response.status == 422, await response.text()
        problem = await response.json()
    assert problem["code"] == "fetch_failed"
    assert problem["field"] == "image_url"
    assert web_server.reached == []
    assert site.left_on_disk() == []


async def test_a_name_with_a_public_and_a_private_address_uses_the_public_one(
    start: Start, web_server: WebServer
) -> None:
    site = await start(fetcher=fetcher(Names(two_example=[f"{INSIDE} {OUTSIDE}"])))
    url = f"http://two.example:{web_server.port}/files/a.png"
    async with site.client.post("/v1/jobs", data=form(image=None, image_url=url)) as response:
        assert response.status == 202
    assert {address for address, _ in web_server.reached} == {OUTSIDE}


async def test_an_endless_file_is_cut_at_the_limit(start: Start, web_server: WebServer) -> None:
    site = await start(fetcher=fetcher(Names(out_example=[OUTSIDE])), max_image_bytes=500_000)
    url = f"http://out.example:{web_server.port}/endless"
    async with site.client.post("/v1/jobs", data=form(image=None, image_url=url)) as response:
        assert response.status == 413
        assert (await response.json())["field"] == "image_url"
    assert site.left_on_disk() == []


async def test_private_addresses_are_reached_when_the_setting_allows_them(start: Start, web_server: WebServer) -> None:
    site = await start(allow_private_urls=True)
    url = f"http://{INSIDE}:{web_server.port}/files/a.png"
    async with site.client.post("/v1/jobs", data=form(image=None, image_url=url)) as response:
        assert response.status == 202, await response.text()


async def test_the_real_rule_refuses_this_machine(start: Start, web_server: WebServer) -> None:
    site = await start()
    for host in (OUTSIDE, "localhost", "[::1]", "0.0.0.0"):
        url = f"http://{host}:{web_server.port}/files/a.png"
        async with site.client.post("/v1/jobs", data=form(image=None, image_url=url)) as response:
            assert response.status == 422
            assert "not public" in (await response.json())["detail"] or host == "[::1]"
    assert web_server.reached == []


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "169.254.169.254", "172.16.0.1", "192.168.1.1"),
        *("192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "240.0.0.1"),
        *("255.255.255.255", "::", "::1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "fe80::1"),
        *("fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1", "64:ff9b::7f00:1", "64:ff9b:1::1"),
        *("2002:7f00:1::", "2002:a9fe:a9fe::1", "2001:0:4136:e378:8000:63bf:80ff:fffe", "100::1"),
    ],
)
def test_no_private_address_counts_as_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.215.14", "2606:4700:4700::1111", "::ffff:1.1.1.1"])
def test_public_addresses_count_as_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))
