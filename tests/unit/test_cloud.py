"""Renting from the command line: waiting for a machine, remembering it, its cost; providers are stand-ins over HTTP."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cloud_kit import (
    URL,
    VAST_OFFERS,
    renting,
)
from lipsync_server.cli.rental import stock_is_faster
from lipsync_server.cloud.costs.cost import DEFAULT_OFFERS
from lipsync_server.cloud.costs.first_video import STOCK_BYTES, first_video, ranked
from lipsync_server.cloud.machine import RentOffer
from lipsync_server.cloud.providers.api import ProviderError
from lipsync_server.cloud.remembered import RememberedMachine, forget, keep_wheel, remember
from lipsync_server.cloud.rent import provider, wait_until_ready
from lipsync_server.cloud.this_machine.address import price_from_provider
from lipsync_server.engines.datasheet import Row
from lipsync_server.errors import InvalidInput
from provider import Provider as StandIn
from served import served


async def test_without_a_key_the_variable_is_named() -> None:
    with pytest.raises(InvalidInput, match="RUNPOD_API_KEY"):
        async with provider("runpod", {}):
            pass


async def test_a_rented_machine_reads_its_price_from_its_provider(api: StandIn) -> None:
    vast = {"CONTAINER_ID": "5", "CONTAINER_API_KEY": api.key}
    runpod = {"RUNPOD_POD_ID": "pod7", "RUNPOD_API_KEY": api.key}
    api.answers("GET /instances/5/", (200, {"instances": {"dph_total": 0.41}}), (404, "no"))
    api.answers("GET /pods/pod7", (200, {"id": "pod7", "cost": 0.34}))
    urls = {"vast_url": api.url, "runpod_url": api.url}
    assert await price_from_provider(vast, **urls) == 0.41
    assert await price_from_provider(runpod, **urls) == 0.34
    assert await price_from_provider(vast, **urls) is None
    assert await price_from_provider({}, **urls) is None


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 60.0
        return self.now


@asynccontextmanager
async def lipsync_server(*states: dict[str, Any]) -> AsyncIterator[int]:
    """A server that answers /readyz with one state after the other; yields its port."""
    left = list(states)

    async def readyz(request: web.Request) -> web.Response:
        state = left.pop(0) if len(left) > 1 else left[0]
        return web.json_response(state, status=200 if state["ready"] else 503)

    app = web.Application()

    async def idle_stop(request: web.Request) -> web.Response:
        kept = (await request.json())["minutes"] * 60 if request.can_read_body else 250.4
        return web.json_response({"enabled": True, "after_minutes": 5, "in_s": kept})

    app.router.add_get("/readyz", readyz)
    app.router.add_get("/v1/idle-stop", idle_stop)
    app.router.add_post("/v1/idle-stop/keep", idle_stop)

    async def doctor(request: web.Request) -> web.Response:
        compiler = {"name": "compiler", "state": "problem", "detail": "no C compiler.", "advice": "Install gcc."}
        disk = {"name": "weights disk", "state": "ok", "detail": "90 GB free.", "advice": ""}
        card = {"name": "card", "state": "ok", "detail": "RTX 4090.", "advice": ""}
        return web.json_response({"engine": "infinitetalk", "findings": [card, compiler, disk]})

    app.router.add_get("/v1/doctor", doctor)
    async with served(app) as port:
        yield port


LOADING = {"ready": False, "stage": "downloading", "detail": "Downloading infinitetalk-int8: 1 of 32 GB."}
READY = {"ready": True, "stage": "ready", "detail": "infinitetalk is loaded."}


def at_port(port: int) -> tuple[int, dict[str, Any]]:
    mapped = {"5000/tcp": [{"HostPort": str(port)}]}
    return 200, {"instances": {"actual_status": "running", "public_ipaddr": "127.0.0.1", "ports": mapped}}


async def test_waiting_follows_a_port_that_changes_and_shows_its_progress(api: StandIn) -> None:
    shown: list[str] = []
    async with lipsync_server(LOADING, READY) as port, renting("vast", api) as rented:
        loading = (200, {"instances": {"actual_status": "loading", "status_msg": "pulling image"}})
        api.answers("GET /instances/5/", loading, at_port(1), at_port(port), at_port(port))
        machine = await wait_until_ready(
            rented, "5", start_limit_s=600, ready_limit_s=600, show=shown.append, poll_interval_s=0.0
        )
    assert machine.url == f"http://127.0.0.1:{port}"
    assert shown == [
        "starting: pulling image",
        "running: the server does not answer yet",
        "running: Downloading infinitetalk-int8: 1 of 32 GB.",
    ]


async def test_a_machine_that_is_stuck_while_starting_is_given_up_with_the_remedy(api: StandIn) -> None:
    api.answers("GET /instances/5/", (200, {"instances": {"actual_status": "loading", "status_msg": "pulling"}}))
    async with renting("vast", api) as rented:
        with pytest.raises(ProviderError, match=r"starting for 10 minutes.*cloud destroy --provider vast 5"):
            await wait_until_ready(
                rented, "5", start_limit_s=600, ready_limit_s=600, show=print, poll_interval_s=0.0, clock=Clock()
            )


async def test_a_server_that_cannot_get_its_weights_ends_the_wait(api: StandIn) -> None:
    failed = {"ready": False, "stage": "failed", "detail": "the model hub wants a token"}
    async with lipsync_server(failed) as port, renting("vast", api) as rented:
        api.answers("GET /instances/5/", at_port(port))
        with pytest.raises(ProviderError, match="wants a token"):
            await wait_until_ready(rented, "5", start_limit_s=9, ready_limit_s=9, show=print, poll_interval_s=0.0)


async def lipsync(api: StandIn, *arguments: str, **environment: str) -> tuple[int, str]:
    """Run the command line against the stand-in; returns the exit status and the output."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "lipsync_server.cli", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "VAST_API_KEY": api.key, "LIPSYNC_VAST_URL": api.url, **environment},
        cwd=environment.get("XDG_CONFIG_HOME"),
    )
    output, _ = await process.communicate()
    assert api.key not in output.decode()  # on no path is a key shown
    return process.returncode or 0, output.decode()


@pytest.fixture(autouse=True)
def settings_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for variable in ("RUNPOD_API_KEY", "TENSORDOCK_API_KEY", "LIPSYNC_IMAGE"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


async def test_the_command_line_rents_waits_shows_stops_and_destroys(api: StandIn) -> None:
    api.answers("PUT /asks/1/", (200, {"success": True, "new_contract": 5}))
    api.answers("PUT /instances/5/", (200, {"success": True}))
    api.answers("DELETE /instances/5/", (200, {"success": True}))
    api.answers("POST /bundles/", (200, VAST_OFFERS))
    async with lipsync_server(READY) as port:
        api.answers("GET /instances/5/", at_port(port))
        cloud = ("cloud", "up", "--provider", "vast", "1", "--profile", "sadtalker-256")
        status, printed = await lipsync(api, *cloud, LIPSYNC_IMAGE="example/lipsync:1")
        assert status == 0, printed
        token = api.calls("PUT", "/asks/1/")[0].body["env"]["LIPSYNC_TOKENS"]
        assert f"address  http://127.0.0.1:{port}" in printed
        assert f"token    {token}" in printed
        assert "ok       card: RTX 4090." in printed
        assert "problem  compiler: no C compiler. Install gcc." in printed
        assert "weights disk" not in printed
        status, printed = await lipsync(api, "cloud", "status", "--provider", "vast", "5")
        assert "infinitetalk is loaded" in printed
    for verb in (("down",), ("destroy", "--yes")):
        status, printed = await lipsync(api, "cloud", *verb, "--provider", "vast", "5")
        assert status == 0, printed
    status, printed = await lipsync(api, "cloud", "offers", "--provider", "vast", "--gpu", "4090")
    # 40 s x 29.9 / 3600 x 0.40
    assert "$0.133" in printed, printed
    assert "computed" in printed
    assert "A host that has not PyTorch's image yet downloads it too" in printed
    with_image = {"LIPSYNC_IMAGE": "me/lipsync:gpu"}
    status, printed = await lipsync(api, "cloud", "offers", "--provider", "vast", "--gpu", "4090", **with_image)
    assert "`cloud up --from-source` has the first video in about" in printed
    status, printed = await lipsync(api, "cloud", "up", "--provider", "vast", "1", LIPSYNC_IMAGE="")
    assert (status, "--from-source" in printed) == (2, True)


async def test_cost_live_uses_todays_prices(api: StandIn) -> None:
    api.answers("POST /bundles/", (200, VAST_OFFERS))
    keys = {"RUNPOD_API_KEY": "", "TENSORDOCK_API_KEY": ""}
    status, printed = await lipsync(api, "cost", "--live", **keys)
    assert status == 0, printed
    rows = [line for line in printed.splitlines() if "│ vast" in line and "RTX 4090" in line]
    assert rows
    assert all("0.40" in row for row in rows)
    assert any(offer.price_per_hour == 0.45 for offer in DEFAULT_OFFERS)
    assert "live prices of vast" in printed
    status, printed = await lipsync(api, "cost", "--live", VAST_API_KEY="", **keys)
    assert (status, "RUNPOD_API_KEY" in printed) == (2, True)


async def test_a_key_and_a_source_are_enough_and_the_machine_is_remembered_for_its_owner_alone(
    api: StandIn, settings_folder: Path
) -> None:
    api.answers("POST /bundles/", (200, VAST_OFFERS))
    api.answers("PUT /asks/2/", (200, {"success": True, "new_contract": 5}))
    api.answers("PUT /instances/5/", (200, {"success": True}))
    api.answers("GET /instances/", (200, {"instances": [{"id": 5, "actual_status": "running", "label": "lipsync"}]}))
    async with lipsync_server(READY) as port:
        api.answers("GET /instances/5/", at_port(port))
        up = ("cloud", "up", "--yes", "--source", URL, "--gpu", "4090", "--env", "LIPSYNC_STORE=s3://b/p")
        status, printed = await lipsync(api, *up)
        assert status == 0, printed
        # 36 GB over 90 Mbit/s cost more than the cheaper hour saves: offer 2, not 1.
        body = api.calls("PUT", "/asks/2/")[0].body
        assert (body["env"]["LIPSYNC_STORE"], body["env"]["LIPSYNC_PRICE_PER_HOUR"]) == ("s3://b/p", "0.5")
        assert body["env"]["LIPSYNC_IDLE_STOP"] == "5"
        kept = settings_folder / "lipsync" / "machines.json"
        assert kept.stat().st_mode & 0o777 == 0o600
        status, printed = await lipsync(api, "cloud", "status", "--token")
        assert body["env"]["LIPSYNC_TOKENS"] in printed
        assert "machine 5 at vast: running" in printed
        assert "stops   in 4 min 10 s" in printed
        assert "a start $0.067: 3 min until it is ready" in printed
        status, printed = await lipsync(api, "cloud", "keep", "--minutes", "45")
        assert (status, "machine 5: stays on for 45 min 0 s" in printed) == (0, True), printed
        status, printed = await lipsync(api, "cloud", "list")
        assert ("5" in printed, "remembered" in printed) == (True, True)
    status, printed = await lipsync(api, "cloud", "down")
    assert status == 0, printed
    assert api.calls("PUT", "/instances/5/")[0].body == {"state": "stopped"}


def test_offers_are_ranked_by_the_first_video_and_small_hosts_come_last() -> None:
    slow = RentOffer("slow", "RTX 4090", 24, 0.30, download_mbps=50, reliability=0.99)
    fast = RentOffer("fast", "RTX 4090", 24, 0.40, download_mbps=900, reliability=0.99)
    shaky = RentOffer("shaky", "RTX 4090", 24, 0.40, download_mbps=900, reliability=0.6)
    small = RentOffer("small", "RTX 4090", 24, 0.20, download_mbps=900, reliability=0.99, host_memory_gb=16)
    row = Row("infinitetalk", "balanced")
    found = ranked([small, slow, shaky, fast], weights_bytes=31.9e9, seconds=40, row=row, least_host_memory_gb=24)
    assert [one.offer.offer_id for one in found] == ["fast", "shaky", "slow", "small"]
    # (5.26 + 31.9) GB x 8 / 900 Mbit/s = 330 s; + 150 s + 40 x 29.9 s = 1,676 s
    assert found[0].minutes == pytest.approx(28.0, abs=0.1)


def test_the_faster_way_of_pytorchs_image_is_named_with_its_minutes_where_the_user_chooses() -> None:
    offer = RentOffer("1", "RTX 4090", 24, 0.40, download_mbps=500, reliability=0.99)
    row = Row("flashhead", "pro")
    found = first_video(offer, weights_bytes=6.95e9, seconds=40, row=row)
    # (5.26 - 0.38) GB x 8 / 500 Mbit/s = 77 s
    assert found.minutes - found.stock_minutes == pytest.approx(77 / 60, abs=0.05)
    assert found.cost > found.stock_cost
    sentence = stock_is_faster(found, "https://example.com/v1.tar.gz")
    assert "`cloud up --source https://example.com/v1.tar.gz`" in sentence
    assert f"{found.stock_minutes:.1f} minutes" in sentence
    assert "--from-source" in stock_is_faster(found, "")
    stock = first_video(offer, weights_bytes=6.95e9, seconds=40, row=row, software_bytes=STOCK_BYTES)
    assert (stock.minutes, stock.cost) == (found.stock_minutes, found.stock_cost)
    assert stock_is_faster(stock, "") == ""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vast", ["-p 5000:5000", "Launch mode: SSH", "On-start script", "70 GB"]),
        ("runpod", ["Expose HTTP ports: 5000", "Volume mount path: /workspace", "START_SCRIPT"]),
        ("tensordock", ["Ubuntu 24.04", "#cloud-config", "100 GB"]),
    ],
)
async def test_a_template_prints_every_field_and_needs_no_key(api: StandIn, name: str, words: list[str]) -> None:
    printed = await lipsync(api, "cloud", "template", "--provider", name, "--source", URL, VAST_API_KEY="")
    assert printed[0] == 0, printed
    assert [word for word in [*words, URL, "LIPSYNC_TOKENS"] if word not in printed[1]] == []


async def test_the_machines_of_every_account_are_listed_and_unknown_ones_are_marked(
    api: StandIn, settings_folder: Path
) -> None:
    keys = {"VAST_API_KEY": "", "RUNPOD_API_KEY": api.key, "TENSORDOCK_API_KEY": api.key}
    urls = {"LIPSYNC_RUNPOD_URL": api.url, "LIPSYNC_TENSORDOCK_URL": api.url}
    api.answers("GET /pods", (200, {"pods": [{"id": "pod7", "status": "EXITED", "name": "lipsync", "cost": 0.34}]}))
    box = {"id": "box9", "attributes": {"status": "running", "name": "other", "rateHourly": 0.32}}
    api.answers("GET /instances", (200, {"data": {"instances": [box]}}))
    remember(settings_folder / "lipsync" / "machines.json", RememberedMachine(provider="runpod", machine_id="pod7"))
    status, printed = await lipsync(api, "cloud", "list", **keys, **urls)
    assert status == 0, printed
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if line.startswith("│")]
    assert rows == [
        ["runpod", "pod7", "stopped", "0.340", "lipsync", "remembered"],
        ["tensordock", "box9", "running", "0.320", "other", "unknown here"],
    ]


async def test_a_machine_that_starts_again_gets_the_wheel_it_was_made_for(
    api: StandIn, settings_folder: Path, tmp_path: Path
) -> None:
    machines = settings_folder / "lipsync" / "machines.json"
    built = tmp_path / "built" / "lipsync_server-0.1.0-py3-none-any.whl"
    built.parent.mkdir()
    built.write_bytes(b"the wheel of that day")
    kept = keep_wheel(machines, built)
    built.unlink()  # --from-source builds into a temporary folder, which is deleted when `up` ends.
    for machine_id in ("5", "6"):
        remember(
            machines, RememberedMachine(provider="vast", machine_id=machine_id, price_per_hour=0.45, wheel=str(kept))
        )
    received: list[bytes] = []
    api.answers("PUT /instances/5/", (200, {"success": True}))
    async with waiting_for_a_wheel(received) as port:
        api.answers("GET /instances/5/", at_port(port))
        status, printed = await lipsync(api, "cloud", "up", "--machine", "5")
    assert status == 0, printed
    assert received == [b"the wheel of that day"]
    assert "a start  $0.060: 3 min until it is ready" in printed
    forget(machines, "vast", "5")
    assert kept.exists()  # The request rented machine 6.
    forget(machines, "vast", "6")
    assert not kept.parent.exists()


@asynccontextmanager
async def waiting_for_a_wheel(received: list[bytes]) -> AsyncIterator[int]:
    """A machine whose start script waits for its wheel, and is ready once it has one."""

    async def readyz(request: web.Request) -> web.Response:
        stage = "ready" if received else "waiting"
        return web.json_response({"ready": bool(received), "stage": stage, "detail": stage})

    async def put(request: web.Request) -> web.Response:
        received.append(await request.read())
        return web.json_response({"detail": "received"}, status=201)

    application = web.Application()
    application.router.add_get("/readyz", readyz)
    application.router.add_put("/wheel", put)
    async with served(application) as port:
        yield port
