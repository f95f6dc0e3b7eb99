"""A machine's failure does not fail the job, and one bad record, or a worker that cannot start, harms no other job."""

import asyncio
import sqlite3

import pytest
from lipsync_server.engines.registry import ENGINES
from lipsync_server.jobs.running import machines
from site_kit import Json, Site, StandInExecutor, Start


async def jobs_of(site: Site, prompt: str, n_jobs: int) -> list[Json]:
    ids = [(await site.submit(prompt=prompt))["id"] for _ in range(n_jobs)]
    return [await site.ended(job_id) for job_id in ids]


async def test_a_full_machine_fails_no_job_of_a_healthy_cluster_and_is_set_aside(start: Start) -> None:
    executor = StandInExecutor(nodes=("sick", "well"))
    site = await start(executor=executor)
    jobs = await jobs_of(site, "fails on sick", 6)
    assert [job["state"] for job in jobs] == ["succeeded"] * 6, [job["error"] for job in jobs]
    assert all(seen in (["well"], ["sick", "well"]) for seen in executor.seen.values()), executor.seen
    assert sum(seen.count("sick") for seen in executor.seen.values()) == 2, "then it was set aside"
    async with site.client.get("/v1/engines") as response:
        workers = {worker["node"]: worker for worker in (await response.json())["workers"]}
    assert workers["sick"]["state"] == "set_aside"
    assert "Only 0 MiB are free" in workers["sick"]["reason"]
    async with site.client.get("/readyz") as response:
        assert response.status == 200
        assert "Machine sick is set aside" in (await response.json())["detail"]


async def test_a_job_whose_worker_died_is_tried_on_another_machine(start: Start) -> None:
    executor = StandInExecutor(nodes=("sick", "well"))
    site = await start(executor=executor)
    jobs = await jobs_of(site, "crashes on sick", 10)
    assert [job["state"] for job in jobs] == ["succeeded"] * 10, [job["error"] for job in jobs]
    assert all(seen in (["well"], ["sick", "well"]) for seen in executor.seen.values()), executor.seen


async def test_a_job_that_fails_on_every_machine_ends_with_the_reason_and_no_machine_is_blamed(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A machine that two of these jobs meet in a row is paused until the jobs have failed elsewhere too.
    monkeypatch.setattr(machines, "_FIRST_PAUSE_S", 0.05)
    executor = StandInExecutor(nodes=("a", "b", "c"))
    site = await start(executor=executor)
    for job in await jobs_of(site, "disk full everywhere", 4):
        assert (job["state"], job["error"]["code"]) == ("failed", "disk_full")
        assert sorted(executor.seen[job["id"]]) == ["a", "b", "c"]
    async with site.client.get("/v1/engines") as response:
        assert {worker["state"] for worker in (await response.json())["workers"]} == {"ready"}
    assert (await jobs_of(site, "hello", 1))[0]["state"] == "succeeded"


async def test_without_another_machine_a_failure_ends_the_job_at_once(start: Start) -> None:
    executor = StandInExecutor(nodes=("sick",))
    site = await start(executor=executor)
    (job,) = await jobs_of(site, "fails on sick", 1)
    assert (job["state"], job["attempts"]) == ("failed", 1)


class Cluster(StandInExecutor):
    """Machines that may leave the cluster and join it again."""

    registry = ENGINES

    def leave(self) -> None:
        self._away, self._workers = self._workers, []
        self._idle = asyncio.Queue()

    def come_back(self) -> None:
        self._workers = self._away
        for worker in self._workers:
            self.release(worker)


@pytest.mark.parametrize("engine", ["preview", "auto"])
async def test_a_job_whose_only_machine_left_ends_with_the_reason_after_the_stated_time(
    start: Start, engine: str
) -> None:
    executor = Cluster()
    site = await start(executor=executor, no_machine_timeout_s=0.2)
    executor.leave()
    job = await site.ended((await site.submit(engine=engine))["id"])
    assert (job["state"], job["error"]["code"]) == ("failed", "engine_unavailable")
    assert "LIPSYNC_NO_MACHINE_TIMEOUT_S" in job["error"]["detail"]
    assert executor.tasks == []
    executor.come_back()
    assert (await site.ended((await site.submit(engine=engine))["id"]))["state"] == "succeeded"


async def test_a_job_whose_only_machine_comes_back_in_time_is_rendered(start: Start) -> None:
    executor = Cluster()
    site = await start(executor=executor, no_machine_timeout_s=600)
    executor.leave()
    job_id = (await site.submit())["id"]
    executor.come_back()
    assert (await site.ended(job_id))["state"] == "succeeded"


async def test_jobs_end_with_the_reason_when_no_worker_can_be_started(start: Start) -> None:
    executor = StandInExecutor()
    executor.hopeless = True
    executor.state = type(executor.state)(False, "failed", 0.0, "The worker does not start: No module named 'x'.")
    site = await start(executor=executor)
    for job in await jobs_of(site, "hello", 3):
        assert (job["state"], job["error"]["code"]) == ("failed", "worker_crashed")
        assert "No module named 'x'" in job["error"]["detail"]
    assert executor.tasks == []


async def one_rendering_and_two_waiting(site: Site, executor: StandInExecutor) -> tuple[str, str, str]:
    """The ids of a job that renders until `executor` lets it go, and of two jobs behind it."""
    rendering = (await site.submit(prompt="hold"))["id"]
    await executor.rendering.wait()
    return rendering, (await site.submit())["id"], (await site.submit())["id"]


async def test_a_spoilt_row_of_a_waiting_job_fails_that_job_and_the_next_one_runs(start: Start) -> None:
    executor = StandInExecutor()
    site = await start(executor=executor)
    holding, poisoned, good = await one_rendering_and_two_waiting(site, executor)
    with sqlite3.connect(site.data_dir / "lipsync.db") as database:
        database.execute("UPDATE jobs SET spec = '{' WHERE id = ?", (poisoned,))
    executor.let_go.set()
    assert [(await site.ended(job_id))["state"] for job_id in (holding, poisoned, good)] == [
        "succeeded",
        "failed",
        "succeeded",
    ]


async def test_a_spoilt_row_stops_neither_the_queue_nor_the_list_nor_the_next_start(
    start: Start,
) -> None:
    executor = StandInExecutor()
    site = await start(executor=executor)
    holding, poisoned, good = await one_rendering_and_two_waiting(site, executor)
    with sqlite3.connect(site.data_dir / "lipsync.db") as database:
        database.execute("UPDATE jobs SET spec = '{' WHERE id IN (?, ?)", (poisoned, holding))
    async with site.client.get("/v1/jobs") as response:
        assert response.status == 200
        assert {job["id"] for job in (await response.json())["jobs"]} == {holding, poisoned, good}
    executor.let_go.set()
    assert (await site.ended(good))["state"] == "succeeded"
    for job_id in (poisoned, holding):
        job = await site.ended(job_id)
        assert (job["state"], job["error"]["code"]) == ("failed", "unreadable_record")
        async with site.client.delete(f"/v1/jobs/{job_id}") as response:
            assert response.status in (200, 204)

    with sqlite3.connect(site.data_dir / "lipsync.db") as database:
        database.execute("UPDATE jobs SET state = 'queued', spec = 'null', stage_s = '7' WHERE id = ?", (poisoned,))
    await site.client.close()
    site = await start()
    assert (await jobs_of(site, "hello", 1))[0]["state"] == "succeeded"
    async with site.client.get("/v1/jobs") as response:
        assert response.status == 200
