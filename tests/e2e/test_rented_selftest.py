"""`lipsync cloud up --selftest` to its end: a stand-in provider's machine on which a real server renders."""

import asyncio
import os
import sys
import zipfile
from pathlib import Path

import aiohttp
from cloud_kit import VAST_OFFERS
from provider import serve_provider
from server_process import ServerProcess


async def rent(server: ServerProcess, folder: Path) -> tuple[int, str]:
    """Rent the machine on which `server` runs and have it tested; status and output of the command."""
    async with serve_provider() as api:
        mapped = {"5000/tcp": [{"HostPort": server.url.rpartition(":")[2]}]}
        here = {"actual_status": "running", "public_ipaddr": "127.0.0.1", "ports": mapped, "dph_total": 0.4}
        api.answers("POST /bundles/", (200, VAST_OFFERS))
        api.answers("PUT /asks/1/", (200, {"success": True, "new_contract": 5}))
        api.answers("GET /instances/5/", (200, {"instances": here}))
        command = "cloud up 1 --image example/lipsync:1 --token its-token --selftest"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "lipsync_server.cli", *command.split()),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, "XDG_CONFIG_HOME": str(folder), "VAST_API_KEY": api.key, "LIPSYNC_VAST_URL": api.url},
        )
        output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def test_a_rented_machine_gets_a_verdict_on_its_weights_and_a_report(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data", "product", {"ENGINE": "preview", "TOKENS": "its-token"}).running() as server:
        status, printed = await rent(server, tmp_path)
        token = {"Authorization": "Bearer its-token"}
        async with aiohttp.ClientSession(headers=token) as session, session.get(f"{server.url}/v1/jobs") as response:
            [job] = (await response.json())["jobs"]
    assert status == 0, printed
    assert "PASS: The video shows the person" in printed
    assert job["collected_at"] is not None  # the idle stop does not wait for the test's video
    with zipfile.ZipFile(tmp_path / "lipsync-selftest.zip") as report:
        assert {"report.txt", "report.json", "sheet.jpg", "video.mp4"} <= set(report.namelist())
        assert not [name for name in report.namelist() if b"its-token" in report.read(name)]


async def test_a_machine_whose_weights_fail_the_test_is_named_with_the_command_that_ends_its_costs(
    tmp_path: Path,
) -> None:
    with ServerProcess(tmp_path / "data", options={"TOKENS": "its-token"}).running() as server:
        status, printed = await rent(server, tmp_path)
    assert status == 3, printed
    assert "PASS" not in printed
    assert "End its costs: lipsync cloud destroy --provider vast 5" in printed
