"""A LIPSYNC_STORE that stops answering holds up nothing but the copies themselves."""

import asyncio
import threading
from pathlib import Path

from lipsync_server.jobs.delivery.handover import FolderTarget, HandOver
from site_kit import StandInExecutor, Start

N_COPIES = 40
"""More than asyncio's own threads (cores + 4, 32 at most)."""


class FrozenVolume(FolderTarget):
    """A folder on a volume that stops in the middle of a write until it is thawed."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.thawed = threading.Event()

    def _put(self, video: Path, name: str) -> Path:
        self.thawed.wait()
        return super()._put(video, name)


async def test_a_store_that_hangs_stops_no_upload_and_no_video(start: Start, tmp_path: Path) -> None:
    (tmp_path / "away").mkdir()
    volume = FrozenVolume(tmp_path / "away")
    site = await start(executor=StandInExecutor(), after_render=HandOver(volume, give_up_s=3600), max_queue=200)
    try:
        async with asyncio.timeout(50):
            ids = [(await site.submit())["id"] for _ in range(N_COPIES)]
            for job_id in ids:
                while (await site.job(job_id))["progress"]["stage"] != "store":
                    pass
            ids.append((await site.submit(prompt="another"))["id"])
            async with site.client.get("/v1/engines") as response:
                assert response.status == 200
        assert len([thread for thread in threading.enumerate() if thread.name == "may hang"]) == 4
    finally:
        volume.thawed.set()
    jobs = [await site.ended(job_id) for job_id in ids]
    assert {job["state"] for job in jobs} == {"succeeded"}
    copies = {str(path): path.stat().st_size for path in (tmp_path / "away").iterdir()}
    assert copies == {job["links"]["stored"]: job["result"]["size_bytes"] for job in jobs}
