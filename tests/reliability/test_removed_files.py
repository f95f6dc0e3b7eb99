"""Somebody removes the files of jobs by hand while the server has them: each such job ends with that reason."""

import json
from pathlib import Path

import aiohttp
import pytest
from jobs_of_server import end_of
from server_process import MakeServer, ServerProcess
from site_kit import form, wav

SLOW = {"options": json.dumps({"seconds_per_frame": 0.05, "save_every": 5})}


async def submit(server: ServerProcess, session: aiohttp.ClientSession, seconds: float, **fields: object) -> str:
    async with session.post(f"{server.url}/v1/jobs", data=form(audio=wav(seconds), **fields)) as response:
        assert response.status == 202, await response.text()
        return str((await response.json())["id"])


@pytest.mark.parametrize("removed", ["the data folder", "the folders of the jobs"])
async def test_jobs_whose_files_were_removed_end_with_that_reason_and_others_are_rendered(
    make_server: MakeServer, session: aiohttp.ClientSession, tmp_path: Path, removed: str
) -> None:
    server = make_server()
    server.start()
    await server.answers(session, "/readyz")
    running = await submit(server, session, 4.0, **SLOW)
    waiting = await submit(server, session, 0.4)
    async with session.get(f"{server.url}/v1/jobs/{running}/events") as response:
        async for line in response.content:
            if line.startswith(b"data: ") and json.loads(line[6:])["progress"]["fraction"] > 0.1:
                break
    # Moved away at once: while a folder is being emptied, the worker writes into it.
    for path in [server.data_dir] if removed == "the data folder" else list((server.data_dir / "jobs").iterdir()):
        path.rename(tmp_path / f"removed-{path.name}")
    for job_id in (running, waiting):
        job = await end_of(session, server, job_id)
        assert job["state"] == "failed"
        assert "somebody removed them by hand" in job["error"]["detail"]
    job = await end_of(session, server, await submit(server, session, 0.4))
    assert job["state"] == "succeeded", job["error"]
    assert "Traceback" not in server.output()
