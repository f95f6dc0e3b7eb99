"""LIPSYNC_TUNNEL: cloudflared is started, its address is shown, and after its death it is started again.

The new process has a new address. The program is a stand-in script with the output of the real one.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import psutil
import pytest
from lipsync_server.cloud.this_machine.address import public_address
from server_process import ServerProcess

HOSTS = r"{\"ingress\":[{\"hostname\":\"lips.example.com\",\"service\":\"http://localhost:5000\"}]}"
CONFIGURATION = f'2026-11-22T10:00:01Z INF Updated to new configuration config="{HOSTS}" version=3'
SCRIPT = """#!/bin/sh
echo "$@" >> {folder}/arguments
echo "$$" > {folder}/pid
echo "token=$TUNNEL_TOKEN" >> {folder}/environment
n=$(wc -l < {folder}/arguments | tr -d ' ')
echo "2026-11-22T10:00:00Z INF Thank you for trying Cloudflare Tunnel. https://developers.cloudflare.com/" >&2
case "$*" in
*--url*)
  echo "2026-11-22T10:00:01Z ERR failed to ask https://api.trycloudflare.com once" >&2
  echo "2026-11-22T10:00:01Z INF |  https://four-random-words-$n.trycloudflare.com   |" >&2 ;;
*)
  echo '{configuration}' >&2 ;;
esac
exec sleep 600
"""


@pytest.fixture
def tunnelled(tmp_path: Path) -> Iterator[ServerProcess]:
    program = tmp_path / "bin" / "cloudflared"
    program.parent.mkdir()
    program.write_text(SCRIPT.format(folder=tmp_path, configuration=CONFIGURATION))
    program.chmod(0o755)
    server = ServerProcess(tmp_path / "data", options={"TOKENS": "secret"})
    server.environment["PATH"] = f"{program.parent}:/usr/bin:/bin"
    yield server
    if server.process is not None and server.process.poll() is None:
        server.kill()


async def public_url(server: ServerProcess, other_than: str | None = None) -> str:
    """Wait until /v1/engines shows a public address other than `old`; returns that address."""
    headers = {"Authorization": "Bearer secret"}
    async with asyncio.timeout(30), aiohttp.ClientSession(headers=headers) as session:
        await server.answers(session)
        while True:
            async with session.get(f"{server.url}/v1/engines") as response:
                url = (await response.json())["public_url"]
            if url not in (None, other_than):
                return str(url)
            await asyncio.sleep(0.2)


async def test_a_quick_tunnel_s_address_is_shown_and_again_after_it_died(
    tunnelled: ServerProcess, tmp_path: Path
) -> None:
    tunnelled.settings["TUNNEL"] = "quick"
    tunnelled.start()
    first = await public_url(tunnelled)
    assert first == "https://four-random-words-1.trycloudflare.com"
    assert f"--url http://127.0.0.1:{tunnelled.port}" in (tmp_path / "arguments").read_text()
    pid = int((tmp_path / "pid").read_text())
    psutil.Process(pid).kill()
    assert await public_url(tunnelled, first) == "https://four-random-words-2.trycloudflare.com"
    assert f"public address: {first}" in tunnelled.output()
    pid = int((tmp_path / "pid").read_text())
    assert await asyncio.to_thread(tunnelled.stop) == 0
    assert not psutil.pid_exists(pid)


async def test_a_named_tunnel_s_token_is_in_no_command_line_and_its_host_is_shown(
    tunnelled: ServerProcess, tmp_path: Path
) -> None:
    tunnelled.settings["TUNNEL"] = "eyJhIjoi-token"
    tunnelled.start()
    assert await public_url(tunnelled) == "https://lips.example.com"
    assert "eyJhIjoi-token" not in (tmp_path / "arguments").read_text()
    assert "token=eyJhIjoi-token" in (tmp_path / "environment").read_text()
    assert "eyJhIjoi-token" not in tunnelled.output()


async def test_a_missing_cloudflared_is_named(tunnelled: ServerProcess) -> None:
    tunnelled.settings["TUNNEL"] = "quick"
    tunnelled.environment["PATH"] = "/nowhere"
    tunnelled.start()
    assert await tunnelled.ended_by_itself() != 0
    assert "cloudflared, which is not installed" in tunnelled.output()


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({"PUBLIC_IPADDR": "1.2.3.4", "VAST_TCP_PORT_5000": "45000"}, "http://1.2.3.4:45000"),
        (
            {"RUNPOD_PUBLIC_IP": "1.2.3.4", "RUNPOD_TCP_PORT_5000": "17000", "RUNPOD_POD_ID": "x"},
            "http://1.2.3.4:17000",
        ),
        ({"RUNPOD_POD_ID": "abc"}, "https://abc-5000.proxy.runpod.net"),
        ({"PUBLIC_IPADDR": "1.2.3.4", "VAST_TCP_PORT_8080": "45000"}, ""),
    ],
)
def test_a_rented_machine_knows_its_address(environment: dict[str, str], url: str) -> None:
    assert public_address(5000, environment) == url
