"""Promise 3 and the HTTP table: jobs can be made, listed, followed, fetched, collected, cancelled and deleted."""

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urljoin

import pytest
from lipsync_server.jobs.model import Job
from site_kit import Json, Site, StandInExecutor, Start, form


async def until(site: Site, job_id: str, condition: Callable[[Json], bool]) -> None:
    """Poll the job, as a client does, until `condition` holds of it."""
    async with asyncio.timeout(10):
        while not condition(await site.job(job_id)):
            pass


async def test_a_job_is_accepted_followed_and_fetched(site: Site) -> None:
    async with site.client.post("/v1/jobs", data=form(prompt="profile", seed=9)) as response:
        assert response.status == 202
        job = await response.json()
        assert urljoin(response.url.path, response.headers["Location"]) == f"/v1/jobs/{job['id']}"
    job = await site.ended(job["id"])
    assert job["state"] == "succeeded"
    assert job["engine"] == "preview"
    assert job["attempts"] == 1
    assert job["progress"] | {"note": ""} == {"stage": "done", "fraction": 1, "note": "", "expected_finish": None}
    assert job["result"]["seed"] == 9
    assert job["result"]["warnings"] == ["The head is turned far to the side."]
    assert job["timings"]["generate_s"] == 0.05
    async with site.client.get(f"/v1/jobs/{job['id']}/video") as response:
        assert response.status == 200
        assert hashlib.sha256(await response.read()).hexdigest() == job["result"]["sha256"]


@pytest.mark.parametrize("root", ["", "/user/me/proxy/5000"])
async def test_links_go_from_the_root_of_the_address_that_people_use(start: Start, root: str) -> None:
    site = await start(public_url=f"https://example.com{root}" if root else "")
    job_id = (await site.submit())["id"]
    await site.ended(job_id)
    for address, method in (
        (f"/v1/jobs/{job_id}", "GET"),
        ("/v1/jobs", "GET"),
        (f"/v1/jobs/{job_id}/collected", "POST"),
    ):
        async with site.client.request(method, address) as response:
            body = await response.json()
        job = body["jobs"][0] if "jobs" in body else body
        assert job["links"]["self"] == f"{root}/v1/jobs/{job_id}"
        assert job["links"]["video"] == f"{root}/v1/jobs/{job_id}/video"
        assert job["links"]["events"] == f"{root}/v1/jobs/{job_id}/events"


async def test_the_list_is_paged_newest_first(site: Site) -> None:
    ids = [(await site.submit())["id"] for _ in range(5)]
    assert ids == sorted(ids)
    await site.ended(ids[-1])
    seen, address = [], "/v1/jobs?limit=2&state=succeeded"
    while address:
        async with site.client.get(address) as response:
            page = await response.json()
            assert len(page["jobs"]) <= 2
            seen += [job["id"] for job in page["jobs"]]
            address = page["next"] and urljoin(response.url.path, page["next"])
    assert seen == ids[::-1]


@pytest.mark.parametrize("query", ["state=done", "limit=0", "limit=201", "limit=x", "limit=²", "after=../../etc"])
async def test_a_wrong_query_is_named(site: Site, query: str) -> None:
    async with site.client.get(f"/v1/jobs?{query}") as response:
        assert response.status == 422
        assert (await response.json())["field"] == query.partition("=")[0]


async def test_jobs_run_first_in_first_out_and_report_their_position(site: Site) -> None:
    first = await site.submit(prompt="hold")
    await site.executor.rendering.wait()
    waiting = [await site.submit(prompt=f"{number}") for number in range(3)]
    places = [(await site.job(job["id"]))["queue_position"] for job in (first, *waiting)]
    assert places == [None, 0, 1, 2]
    site.executor.let_go.set()
    await site.ended(waiting[-1]["id"])
    assert [task.ask.prompt for task in site.executor.tasks] == ["hold", "0", "1", "2"]


async def test_ranges_head_and_etag_of_a_video(site: Site) -> None:
    job_id = (await site.submit())["id"]
    await site.ended(job_id)
    address = f"/v1/jobs/{job_id}/video"
    async with site.client.get(address) as response:
        whole, etag = await response.read(), response.headers["ETag"]
    async with site.client.get(address, headers={"Range": "bytes=10-19"}) as response:
        assert (response.status, await response.read()) == (206, whole[10:20])
        assert response.headers["Content-Range"] == f"bytes 10-19/{len(whole)}"
    async with site.client.get(address, headers={"Range": "bytes=-7"}) as response:
        assert (response.status, await response.read()) == (206, whole[-7:])
    async with site.client.get(address, headers={"Range": "bytes=999999999-"}) as response:
        assert response.status == 416
    async with site.client.get(address, headers={"If-None-Match": etag}) as response:
        assert (response.status, await response.read()) == (304, b"")
    async with site.client.head(address) as response:
        assert (response.status, int(response.headers["Content-Length"])) == (200, len(whole))
        assert response.headers["Content-Disposition"] == 'attachment; filename="face-lipsync.mp4"'


async def test_a_video_is_409_before_it_is_finished(site: Site) -> None:
    job_id = (await site.submit(prompt="hold"))["id"]
    for method, part in (("GET", "video"), ("POST", "collected")):
        async with site.client.request(method, f"/v1/jobs/{job_id}/{part}") as response:
            assert response.status == 409
    site.executor.let_go.set()


async def test_a_failed_job_has_no_video(site: Site) -> None:
    job_id = (await site.submit(prompt="no face"))["id"]
    job = await site.ended(job_id)
    assert job["links"]["video"] is None
    async with site.client.get(f"/v1/jobs/{job_id}/video") as response:
        assert response.status == 409
        assert "No face was found" in (await response.json())["detail"]


async def test_a_waiting_job_is_cancelled_at_once(site: Site) -> None:
    await site.submit(prompt="hold")
    waiting = await site.submit()
    async with site.client.delete(f"/v1/jobs/{waiting['id']}") as response:
        assert response.status == 200
        assert (await response.json())["state"] == "cancelled"
    site.executor.let_go.set()


async def test_a_running_job_stops_and_the_next_one_starts(site: Site) -> None:
    running = await site.submit(prompt="hold")
    following = await site.submit()
    await site.executor.rendering.wait()
    async with site.client.delete(f"/v1/jobs/{running['id']}") as response:
        assert response.status == 202
    assert (await site.ended(running["id"]))["state"] == "cancelled"
    assert (await site.ended(following["id"]))["state"] == "succeeded"


async def test_a_deleted_job_is_gone_with_its_video(site: Site) -> None:
    job_id = (await site.submit(prompt="something private"))["id"]
    await site.ended(job_id)
    async with site.client.delete(f"/v1/jobs/{job_id}") as response:
        assert response.status == 204
    for method, part in (("GET", ""), ("GET", "/video"), ("GET", "/events"), ("DELETE", ""), ("POST", "/collected")):
        async with site.client.request(method, f"/v1/jobs/{job_id}{part}") as response:
            assert response.status == 410
    async with site.client.get("/v1/jobs") as response:
        assert await response.json() == {"jobs": [], "next": None}
    assert site.left_on_disk() == []
    database = b"".join(path.read_bytes() for path in site.data_dir.glob("lipsync.db"))
    assert database


@pytest.mark.parametrize("job_id", ["nothing", "0" * 26, "%2e%2e", "..%2f..%2fetc%2fpasswd", "x" * 300])
async def test_an_unknown_job_is_404(site: Site, job_id: str) -> None:
    async with site.client.get(f"/v1/jobs/{job_id}") as response:
        assert response.status == 404
        assert response.content_type == "application/problem+json"


async def test_a_job_whose_worker_crashes_is_retried_once_and_then_fails(site: Site) -> None:
    once = await site.submit(prompt="crash once")
    always = await site.submit(prompt="crash")
    good = await site.submit()
    job = await site.ended(once["id"])
    assert (job["state"], job["attempts"]) == ("succeeded", 2)
    job = await site.ended(always["id"])
    assert (job["state"], job["attempts"], job["error"]["code"]) == ("failed", 2, "worker_crashed")
    assert (await site.ended(good["id"]))["state"] == "succeeded"


async def test_a_job_past_its_time_limit_fails_with_that_reason(start: Start) -> None:
    site = await start(job_timeout_s=0.1)
    job = await site.ended((await site.submit(prompt="hold"))["id"])
    assert (job["state"], job["error"]["code"]) == ("failed", "time_limit")


async def test_a_full_queue_is_answered_429_with_a_time_to_wait(start: Start) -> None:
    site = await start(max_queue=1)
    await site.submit(prompt="hold")
    await site.submit()
    for address in ("/v1/jobs", "/lipsync"):
        async with site.client.post(address, data=form()) as response:
            assert response.status == 429
            assert (await response.json())["code"] == "queue_full"
            assert 1 <= int(response.headers["Retry-After"]) <= 3600
    assert len([path for path in site.left_on_disk() if path.count("/") == 1]) == 2
    site.executor.let_go.set()


async def test_several_workers_share_the_queue(start: Start) -> None:
    site = await start(executor=StandInExecutor(3))
    jobs = [await site.submit(prompt="hold") for _ in range(3)]
    await until(site, jobs[-1]["id"], lambda job: job["state"] == "running")
    site.executor.let_go.set()
    assert {(await site.ended(job["id"]))["state"] for job in jobs} == {"succeeded"}
    assert len({path.parent for path in (task.output for task in site.executor.tasks)}) == 3


async def test_a_video_expires_when_its_time_is_over(start: Start) -> None:
    site = await start(result_ttl_s=0.05)
    job_id = (await site.submit())["id"]
    await site.ended(job_id)
    await until(site, job_id, lambda job: job["links"]["video"] is None)
    async with site.client.get(f"/v1/jobs/{job_id}/video") as response:
        assert response.status == 410
        assert "expired" in (await response.json())["detail"]
    await until(site, job_id, lambda job: not site.left_on_disk())


async def test_a_collected_video_is_removed_after_the_grace_period(start: Start) -> None:
    site = await start(collected_grace_s=0.05)
    kept, collected = [(await site.submit())["id"] for _ in range(2)]
    await site.ended(kept)
    await site.ended(collected)
    async with site.client.post(f"/v1/jobs/{collected}/collected") as response:
        assert response.status == 200
    await until(site, collected, lambda job: job["links"]["video"] is None)
    assert (await site.job(kept))["links"]["video"] is not None


async def test_a_job_reports_its_cost(start: Start) -> None:
    site = await start(price_per_hour=0.36, currency="EUR")
    job = await site.ended((await site.submit())["id"])
    cost = job["cost"]
    assert cost["price_per_hour"] == 0.36
    assert cost["currency"] == "EUR"
    assert cost["amount"] == pytest.approx(cost["worker_seconds"] * 0.0001, abs=1e-6)


async def test_the_video_is_handed_over_before_the_job_counts_as_succeeded(start: Start) -> None:
    seen = []

    async def hand_over(job: Job, path: Path) -> str:
        seen.append((job.state, await asyncio.to_thread(path.is_file)))
        return "s3://bucket/video.mp4"

    site = await start(after_render=hand_over)
    job = await site.ended((await site.submit())["id"])
    assert seen == [("running", True)]
    assert job["links"]["stored"] == "s3://bucket/video.mp4"


async def test_the_inputs_are_dropped_with_the_end_of_the_job(site: Site) -> None:
    job_id = (await site.submit())["id"]
    await site.ended(job_id)
    assert site.left_on_disk() == [f"jobs/{job_id}", f"jobs/{job_id}/video.mp4"]
