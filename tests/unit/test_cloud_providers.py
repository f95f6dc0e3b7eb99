"""Each provider's API, against stand-ins over real HTTP with answers in their recorded shapes."""

import asyncio
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cloud_kit import (
    ORDER,
    RUNPOD_GPUS,
    TENSORDOCK_PLACES,
    URL,
    VAST_OFFERS,
    first_offers,
    renting,
    stock_order,
)
from lipsync_server.cloud.costs.cost import IDLE_STOP_MIN
from lipsync_server.cloud.machine import Machine
from lipsync_server.cloud.providers.api import NoCapacity, ProviderError, WrongKey
from lipsync_server.cloud.providers.tensordock import check_driver, cloud_init
from lipsync_server.cloud.providers.vast import onstart
from lipsync_server.cloud.rent import PROVIDERS, readiness
from lipsync_server.cloud.software import choose_software, upload
from lipsync_server.engines.recommended import best_profile
from provider import Provider as StandIn
from server_process import free_port


async def test_vast_lists_offers_cheapest_first(api: StandIn) -> None:
    api.answers("POST /bundles/", (200, VAST_OFFERS))
    async with renting("vast", api) as rented:
        assert await first_offers(rented) == [("1", 0.4), ("2", 0.5), ("3", 2.4)]
        assert await first_offers(rented, "rtx4090") == [("1", 0.4), ("2", 0.5)]
        found = await rented.offers(gpu="", min_memory_gb=20, disk_gb=70, limit=5)
    assert [(offer.reliability, offer.download_mbps) for offer in found] == [(0.97, 90.5), (0.99, 800.0), (None, None)]
    query = api.asked[0].body
    assert (query["type"], query["rentable"], query["disk_space"]) == ("ondemand", {"eq": True}, {"gte": 70})


async def test_vast_creates_with_our_entrypoint_port_and_variables(api: StandIn) -> None:
    api.answers("PUT /asks/1/", (200, {"success": True, "new_contract": 4711, "instance_api_key": "x"}))
    async with renting("vast", api) as rented:
        assert await rented.create("1", ORDER) == "4711"
    body = api.asked[0].body
    assert (body["image"], body["disk"], body["runtype"]) == ("example/lipsync:1", 70, "args")
    assert body["env"] == {**ORDER.environment, "-p 5000:5000": "1"}


@pytest.mark.parametrize("ports", [{"5000/tcp": [{"HostIp": "0.0.0.0", "HostPort": "45000"}]}, [45000]])
async def test_the_address_of_a_vast_machine_is_read_from_both_shapes_of_ports(
    api: StandIn, ports: dict[str, Any]
) -> None:
    instance = {"actual_status": "running", "public_ipaddr": "1.2.3.4\n", "ports": ports, "dph_total": 0.41}
    api.answers("GET /instances/5/", (200, {"instances": instance}))
    async with renting("vast", api) as rented:
        assert await rented.state("5") == Machine("5", "running", "http://1.2.3.4:45000", 0.41, "running")


@pytest.mark.parametrize(
    ("instance", "state"),
    [
        ({"actual_status": None, "intended_status": "running"}, "starting"),
        ({"actual_status": "loading", "ports": {}}, "starting"),
        ({"actual_status": None, "intended_status": "stopped"}, "stopped"),
        ({"actual_status": "exited"}, "stopped"),
        ({"actual_status": "offline"}, "failed"),
        (None, "gone"),
    ],
)
async def test_each_state_of_a_vast_machine_is_recognised(api: StandIn, instance: dict[str, Any], state: str) -> None:
    api.answers("GET /instances/5/", (200, {"instances": instance}))
    async with renting("vast", api) as rented:
        found = await rented.state("5")
    assert (found.state, found.url) == (state, "")


async def test_vast_stops_starts_and_destroys(api: StandIn) -> None:
    api.answers("PUT /instances/5/", (200, {"success": True}))
    api.answers("DELETE /instances/5/", (200, {"success": True}))
    async with renting("vast", api) as rented:
        for action in ("stop", "start", "destroy"):
            await rented.act("5", action)
    assert [(each.method, each.body) for each in api.asked] == [
        ("PUT", {"state": "stopped"}),
        ("PUT", {"state": "running"}),
        ("DELETE", None),
    ]


async def test_runpod_lists_gpus_in_stock_at_the_prices_of_both_clouds(api: StandIn) -> None:
    api.answers("GET /catalog/gpus", (200, RUNPOD_GPUS))
    async with renting("runpod", api) as rented:
        assert await first_offers(rented) == [
            ("nvidia-geforce-rtx-4090@community", 0.34),
            ("nvidia-geforce-rtx-4090@secure", 0.69),
        ]
    query = {"include": "AVAILABILITY", "product": "POD", "count": "1", "cloud": "COMMUNITY", "minCudaVersion": "12.0"}
    assert api.asked[0].query == query


async def test_runpod_s_pod_has_only_fields_that_v2_knows(api: StandIn) -> None:
    api.answers("GET /catalog/gpus", (200, RUNPOD_GPUS))
    api.answers("POST /pods", (201, {"id": "pod7", "status": "PROVISIONING"}))
    async with renting("runpod", api) as rented:
        assert await rented.create("nvidia-geforce-rtx-4090@community", ORDER) == "pod7"
    body = api.calls("POST", "/pods")[0].body
    assert set(body) == {"name", "image", "cloud", "gpu", "disk", "mounts", "ports", "env"}
    assert body["gpu"] == {"id": "NVIDIA GeForce RTX 4090", "count": 1, "minCudaVersion": "12.0"}
    assert body["mounts"] == {"persistent": {"size": 70, "path": "/workspace"}}
    assert (body["cloud"], body["ports"]) == ("COMMUNITY", ["5000/http"])
    assert body["env"]["LIPSYNC_WEIGHTS_DIR"] == "/workspace/weights"
    assert all(isinstance(value, str) for value in body["env"].values())


async def test_state_address_and_price_of_a_runpod_machine_are_read(api: StandIn) -> None:
    pod = {"id": "pod7", "status": "RUNNING", "cost": 0.34, "runtime": None}
    api.answers(
        "GET /pods/pod7", (200, pod), (404, {"title": "Not Found", "status": 404, "detail": "resource not found"})
    )
    api.answers("POST /pods/pod7/action", (204, ""))
    api.answers("DELETE /pods/pod7", (204, ""))
    async with renting("runpod", api) as rented:
        expected = Machine("pod7", "running", "https://pod7-5000.proxy.runpod.net", 0.34, "running")
        assert await rented.state("pod7") == expected
        assert (await rented.state("pod7")).state == "gone"
        await rented.act("pod7", "stop")
        await rented.act("pod7", "destroy")
    assert api.calls("POST", "/pods/pod7/action")[0].body == {"action": "stop"}


async def test_a_tensordock_price_is_the_sum_of_its_parts_and_names_come_from_its_list(api: StandIn) -> None:
    api.answers("GET /locations", (200, TENSORDOCK_PLACES))
    api.answers("POST /instances", (201, {"data": {"type": "virtualmachine", "id": "vm-9", "attributes": {}}}))
    async with renting("tensordock", api) as rented:
        # 0.32 + 8 x 0.003 + 32 x 0.002 + 100 x 0.00005
        assert await first_offers(rented, "4090") == [("loc-1:geforcertx4090-pcie-24gb", 0.413)]
        assert await rented.create("loc-1:geforcertx4090-pcie-24gb", ORDER) == "vm-9"
    attributes = api.calls("POST", "/instances")[0].body["data"]["attributes"]
    assert attributes["resources"]["gpus"] == {"geforcertx4090-pcie-24gb": {"count": 1}}
    assert (attributes["location_id"], attributes["resources"]["storage_gb"]) == ("loc-1", 100)
    head, _, rest = attributes["cloud_init"].partition("\n")
    assert head == "#cloud-config"
    run = json.loads(rest)["runcmd"][-1][-1]
    assert "--gpus=all" in run
    assert "--env=LIPSYNC_TOKENS=tok" in run
    assert run.endswith("example/lipsync:1")


@pytest.mark.parametrize(
    ("forwards", "url"),
    [
        ({}, "http://9.9.9.9:5000"),
        ({"5000": 20001}, "http://9.9.9.9:20001"),
        (
            [{"internal_port": 22, "external_port": 1}, {"internal_port": 5000, "external_port": 20002}],
            "http://9.9.9.9:20002",
        ),
    ],
)
async def test_the_address_of_a_tensordock_machine_is_read(api: StandIn, forwards: Any, url: str) -> None:
    attributes = {"status": "running", "ipAddress": "9.9.9.9", "portForwards": forwards, "rateHourly": 0.41}
    api.answers(
        "GET /instances/vm-9", (200, {"data": {"type": "virtualmachine", "id": "vm-9", "attributes": attributes}})
    )
    async with renting("tensordock", api) as rented:
        assert await rented.state("vm-9") == Machine("vm-9", "running", url, 0.41, "running")


@pytest.mark.parametrize(
    ("name", "call", "offer", "answer"),
    [
        (
            "vast",
            "PUT /asks/1/",
            "1",
            (410, {"success": False, "error": "no_such_ask", "msg": "error 410/3907: no_such_ask"}),
        ),
        (
            "runpod",
            "POST /pods",
            "nvidia-geforce-rtx-4090@community",
            (400, {"title": "Bad Request", "status": 400, "detail": "There are no instances currently available"}),
        ),
        (
            "tensordock",
            "POST /instances",
            "loc-1:geforcertx4090-pcie-24gb",
            (400, {"errors": [{"status": "400", "title": "Bad Request", "detail": "No available nodes found"}]}),
        ),
    ],
)
async def test_no_capacity_is_an_error_of_its_own_and_tried_once(
    api: StandIn, name: str, call: str, offer: str, answer: tuple[int, Any]
) -> None:
    api.answers("GET /catalog/gpus", (200, RUNPOD_GPUS))
    api.answers(call, answer)
    async with renting(name, api) as rented:
        with pytest.raises(NoCapacity):
            await rented.create(offer, ORDER)
    method, path = call.split()
    assert len(api.calls(method, path)) == 1


@pytest.mark.parametrize("name", list(PROVIDERS))
async def test_a_wrong_key_names_its_variable_and_is_never_shown(api: StandIn, name: str) -> None:
    async with renting(name, api, key="sk-not-this-one") as rented:
        with pytest.raises(WrongKey) as caught:
            await rented.state("5")
    assert PROVIDERS[name].key_variable in caught.value.detail
    assert "sk-not-this-one" not in caught.value.detail
    assert len(api.asked) == 1


async def test_too_many_requests_without_retry_after_are_waited_out(api: StandIn) -> None:
    api.answers(
        "POST /bundles/", (429, "API requests too frequent"), (429, "API requests too frequent"), (200, VAST_OFFERS)
    )
    async with renting("vast", api) as rented:
        assert len(await first_offers(rented)) == 3


async def test_too_many_requests_for_ever_are_given_up_with_a_sentence(api: StandIn) -> None:
    api.answers("POST /bundles/", (429, "API requests too frequent"))
    async with renting("vast", api) as rented:
        with pytest.raises(ProviderError, match="429"):
            await first_offers(rented)
    assert len(api.asked) == 3


async def test_a_create_whose_answer_is_lost_is_not_done_twice(api: StandIn) -> None:
    api.answers("PUT /asks/1/", (502, "bad gateway"))
    async with renting("vast", api) as rented:
        with pytest.raises(ProviderError, match="502"):
            await rented.create("1", ORDER)
    assert len(api.asked) == 1


@pytest.mark.parametrize(
    ("name", "offer", "call", "answer"),
    [
        ("vast", "1", "PUT /asks/1/", (200, {"success": True, "new_contract": 1})),
        ("runpod", "nvidia-geforce-rtx-4090@community", "POST /pods", (201, {"id": "pod7"})),
        ("tensordock", "loc-1:geforcertx4090-pcie-24gb", "POST /instances", (201, {"data": {"id": "vm-9"}})),
    ],
)
async def test_a_stock_image_gets_the_script_that_installs_the_source(
    api: StandIn, name: str, offer: str, call: str, answer: tuple[int, Any]
) -> None:
    api.answers("GET /catalog/gpus", (200, RUNPOD_GPUS))
    api.answers(call, answer)
    async with renting(name, api) as rented:
        await rented.create(offer, stock_order())
    body = api.calls(*call.split())[0].body
    if name == "vast":
        assert (body["image"], body["runtype"]) == ("pytorch/pytorch:2.10.0-cuda12.8-cudnn9-runtime", "ssh")
        script = body["onstart"]
    elif name == "runpod":
        assert body["args"] == "bash -c 'eval \"$START_SCRIPT\"'"
        assert body["gpu"]["minCudaVersion"] == "12.0"
        script = body["env"]["START_SCRIPT"]
    else:
        script = body["data"]["attributes"]["cloud_init"]
    assert f"lipsync-server[gpu,s3] @ {URL}" in script
    checked = await asyncio.to_thread(
        subprocess.run, ["bash", "-n"], input=stock_order().script, text=True, check=False
    )
    assert checked.returncode == 0


async def until_answering(port: int) -> str:
    said = "the server does not answer yet"
    async with asyncio.timeout(20):
        for pause_s in itertools.repeat(0.05):
            said = (await readiness(f"http://127.0.0.1:{port}")).detail
            if said != "the server does not answer yet":
                break
            await asyncio.sleep(pause_s)
    return said


class StartScript:
    """A start script with a stand-in for `python` that records pip, the download and the server, and runs all else.

    The download lasts until it is ended, and the second installation waits for it to begin. FAIL=yes: pip fails.
    """

    def __init__(self, folder: Path, script: str) -> None:
        self._folder, self._script, self._log = folder, script, folder / "log"
        programs = folder / "bin"
        programs.mkdir()
        (programs / "python").write_text(
            f"#!/bin/bash\nlog={self._log}\n"
            'case "$*" in\n'
            '*"import torch"*) echo torch==2.10.0 ;;\n'
            '*"weights pull"*) trap \'echo the download was ended >> $log; exit 0\' TERM; echo "$*" >> $log\n'
            "while :; do read -rt 0.05 <> <(:) || :; done ;;\n"
            '"-m "*) [[ "$*" != *gpu* || -z "$LIPSYNC_PROFILE" ]] || until grep -q pull $log; do :; done\n'
            'echo "$*" >> $log; [[ -z "$FAIL" ]] ;;\n'
            f'*) exec {sys.executable} "$@" ;;\n'
            "esac\n"
        )
        (programs / "gcc").write_text("#!/bin/sh\n")
        for program in programs.iterdir():
            program.chmod(0o755)

    async def run(self, **environment: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *("bash", "-c", self._script),
            env={
                "PATH": f"{self._folder / 'bin'}:/usr/bin:/bin",
                "HOME": str(self._folder),
                "LIPSYNC_DATA_DIR": str(self._folder / "data"),
                "LIPSYNC_WEIGHTS_DIR": str(self._folder / "weights"),
                **environment,
            },
        )

    def asked(self) -> list[str]:
        """The calls that the stand-in got, in order."""
        return self._log.read_text().splitlines()


async def test_the_start_script_accepts_only_the_wheel_it_was_made_for_and_installs_it(tmp_path: Path) -> None:
    """The script really runs. `python` is a stand-in that records pip and the server, and runs all else."""
    wheel, other = tmp_path / "lipsync_server-1-py3-none-any.whl", tmp_path / "other.whl"
    wheel.write_bytes(b"the right bytes")
    other.write_bytes(b"other bytes")
    started, port = StartScript(tmp_path, choose_software(source=str(wheel)).script), free_port()
    process = await started.run(LIPSYNC_PORT=str(port))
    url = f"http://127.0.0.1:{port}"
    assert await until_answering(port) == "The machine waits for the wheel."
    with pytest.raises(ProviderError, match="not the file"):
        await upload(url, other, tries=1)
    await upload(url, wheel, tries=3, pause_s=0.1)
    assert await asyncio.wait_for(process.wait(), 30) == 0
    first, installed, served = started.asked()
    assert first.endswith(f"{tmp_path}/weights/.uploads/{wheel.name}")
    assert installed.endswith(f"{tmp_path}/weights/.uploads/{wheel.name}[gpu,s3]")
    assert served == "-m lipsync_server.cli serve"


async def test_model_files_are_downloaded_while_the_rest_is_installed_and_a_restart_installs_nothing(
    tmp_path: Path,
) -> None:
    started = StartScript(tmp_path, choose_software(source=URL).script)
    assert await asyncio.wait_for((await started.run(LIPSYNC_PROFILE="sadtalker-256")).wait(), 30) == 0
    assert started.asked() == [
        f"-m pip install --no-cache-dir lipsync-server @ {URL}",
        "-m lipsync_server.cli weights pull sadtalker-256",
        f"-m pip install --no-cache-dir -c /tmp/torch.txt lipsync-server[gpu,s3] @ {URL}",
        "the download was ended",
        "-m lipsync_server.cli serve",
    ]
    assert await asyncio.wait_for((await started.run(LIPSYNC_PROFILE="sadtalker-256")).wait(), 30) == 0
    assert started.asked()[5:] == ["-m lipsync_server.cli serve"]


async def test_an_installation_that_fails_is_repeated_at_the_next_start(tmp_path: Path) -> None:
    started = StartScript(tmp_path, choose_software(source=URL).script)
    assert await asyncio.wait_for((await started.run(FAIL="yes")).wait(), 30) != 0
    assert await asyncio.wait_for((await started.run()).wait(), 30) == 0
    assert [line.partition(" lipsync-server")[0] for line in started.asked()] == [
        "-m pip install --no-cache-dir",
        "-m pip install --no-cache-dir",
        "-m pip install --no-cache-dir -c /tmp/torch.txt",
        "-m lipsync_server.cli serve",
    ]


@pytest.mark.parametrize(("driver", "refused"), [("580.65.06", False), ("535.183.01", True), ("", True)])
async def test_a_tensordock_host_with_an_old_driver_reports_it_to_cloud_up(
    tmp_path: Path, driver: str, refused: bool
) -> None:
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n[ -n '{driver}' ] && echo '{driver}'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    port, mark = free_port(), tmp_path / "refused"
    script = check_driver(580, port, str(mark)).replace("setsid python3", f"setsid {sys.executable}")
    # The page is killed by its own id at the end: `echo $!` prints the id.
    script = script.replace(" &\nfi", " & echo $!\nfi")
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = await asyncio.to_thread(
        subprocess.run, ["bash", "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert mark.exists() is refused, done
    if refused:
        try:
            said = await until_answering(port)
            assert f"driver {driver or 'none'}, and the image needs 580" in said
            assert (await readiness(f"http://127.0.0.1:{port}")).failed
        finally:
            os.kill(int(done.stdout), 9)


def test_vast_s_start_ends_at_once_and_carries_the_script_unchanged() -> None:
    script = onstart(stock_order().script)
    assert stock_order().script in script
    assert script.rstrip().endswith("&")


def test_the_n8n_node_rents_with_the_defaults_of_cloud_up() -> None:
    """Before a machine is rented no server can answer the node, so the node has a copy of two values."""
    node = Path(__file__).parents[2] / "n8n-node/nodes/Lipsync/resources/machine/start.ts"
    source = node.read_text(encoding="utf-8")
    assert f"const PROFILE = '{best_profile()[0]}';" in source
    assert f"const IDLE_STOP_MINUTES = {IDLE_STOP_MIN:g};" in source


def test_the_n8n_node_sends_the_same_scripts() -> None:
    """The node has the rules in TypeScript; its tests hold them to the same recorded texts."""
    recorded = json.loads((Path(__file__).parents[1] / "data/providers/stock.json").read_text(encoding="utf-8"))
    order = stock_order()
    assert recorded == {
        "source": URL,
        "image": order.image,
        "script": order.script,
        "onstart": onstart(order.script),
        "environment": dict(ORDER.environment),
        "cloud_init": cloud_init(order),
        "cloud_init_of_an_image": cloud_init(ORDER),
        "own_image": ORDER.image,
    }
