"""Promise 1: POST /lipsync is the contract that people have in their workflows."""

import asyncio
import io

import av
import pytest
from site_kit import PNG, WAV, Site, Start, form, png


def frames_in(video: bytes) -> int:
    with av.open(io.BytesIO(video), "r") as container:
        return len(list(container.decode(video=0)))


async def test_lipsync_answers_the_video_as_attachment(site: Site) -> None:
    async with site.client.post("/lipsync", data=form(prompt="A person talking")) as response:
        assert response.status == 200
        assert response.content_type == "video/mp4"
        assert response.headers["Content-Disposition"] == 'attachment; filename="lipsync.mp4"'
        video = await response.read()
        assert len(video) == int(response.headers["Content-Length"])
        job = await site.job(response.headers["Lipsync-Job-Id"])
    assert frames_in(video) == 10
    assert job["state"] == "succeeded"
    assert job["prompt"] == "A person talking"
    assert job["image_name"] == "face.png"
    assert job["audio_name"] == "hello.wav"


async def test_lipsync_needs_no_prompt_and_accepts_every_option_as_a_field(site: Site) -> None:
    fields = {
        "engine": "preview",
        "preset": "fast",
        "resolution": "720p",
        "seed": 7,
        "face_index": 1,
        "face_box": "1, 2, 30, 40",
        "options": "{}",
        "file_name": "Grüße",
        "second_audio": ("b.wav", WAV),
    }
    async with site.client.post("/lipsync", data=form(**fields)) as response:
        assert response.status == 200, await response.text()
        disposition = response.headers["Content-Disposition"]
    assert disposition == "attachment; filename=\"Grue.mp4\"; filename*=UTF-8''Gr%C3%BC%C3%9Fe.mp4"
    (task,) = site.executor.tasks
    assert task.second_audio is not None
    assert (task.ask.seed, task.ask.face_index, task.ask.face_box) == (7, 1, (1.0, 2.0, 30.0, 40.0))


async def test_a_delivered_video_counts_as_collected(site: Site) -> None:
    async with site.client.post("/lipsync", data=form()) as response:
        await response.read()
        job = await site.job(response.headers["Lipsync-Job-Id"])
    assert job["collected_at"] is not None
    kept = job["expires_at"]
    async with site.client.post(f"/v1/jobs/{job['id']}/collected") as response:
        assert (await response.json())["expires_at"] == kept


@pytest.mark.parametrize("prefer", ["respond-async", "Respond-Async, wait=0", "wait=0, respond-async"])
async def test_prefer_respond_async_answers_with_the_job(site: Site, prefer: str) -> None:
    async with site.client.post("/lipsync", data=form(prompt="hold"), headers={"Prefer": prefer}) as response:
        assert response.status == 202
        assert response.headers["Preference-Applied"] == "respond-async"
        job = await response.json()
        assert response.url.join(response.url.__class__(response.headers["Location"])).path == f"/v1/jobs/{job['id']}"
    site.executor.let_go.set()
    assert (await site.ended(job["id"]))["state"] == "succeeded"


async def test_a_long_wait_turns_into_a_job(start: Start) -> None:
    site = await start(sync_timeout_s=0.05)
    async with site.client.post("/lipsync", data=form(prompt="hold")) as response:
        assert response.status == 202
        job_id = (await response.json())["id"]
    site.executor.let_go.set()
    assert (await site.ended(job_id))["state"] == "succeeded"


async def test_a_caller_who_hangs_up_can_still_collect_the_video(site: Site) -> None:
    call = asyncio.create_task(site.client.post("/lipsync", data=form(prompt="hold")))
    await site.executor.rendering.wait()
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    site.executor.let_go.set()
    async with site.client.get("/v1/jobs") as response:
        (job,) = (await response.json())["jobs"]
    job = await site.ended(job["id"])
    assert (job["state"], job["collected_at"]) == ("succeeded", None)
    async with site.client.get(f"/v1/jobs/{job['id']}/video") as response:
        assert frames_in(await response.read()) == 10


async def test_a_failed_job_answers_its_problem(site: Site) -> None:
    async with site.client.post("/lipsync", data=form(prompt="no face")) as response:
        assert response.status == 422
        assert response.content_type == "application/problem+json"
        problem = await response.json()
        assert problem["code"] == "no_face"
        assert problem["detail"].startswith("No face was found in the picture. Use one")
        job = await site.job(problem["job_id"])
    assert job["state"] == "failed"
    assert job["error"] == {"code": "no_face", "title": problem["title"], "detail": problem["detail"]}
    assert site.left_on_disk() == []


async def test_an_unexpected_error_reveals_nothing(site: Site) -> None:
    async with site.client.post("/lipsync", data=form(prompt="boom")) as response:
        text = await response.text()
        assert response.status == 500
        assert "secret" not in text
        assert "Traceback" not in text
        assert (await response.json())["job_id"] in text


async def test_a_cancelled_job_answers_conflict(site: Site) -> None:
    call = asyncio.create_task(site.client.post("/lipsync", data=form(prompt="hold")))
    await site.executor.rendering.wait()
    async with site.client.get("/v1/jobs?state=running") as response:
        (job,) = (await response.json())["jobs"]
    async with site.client.delete(f"/v1/jobs/{job['id']}") as response:
        assert response.status == 202
    async with await call as response:
        assert response.status == 409
        assert (await response.json())["code"] == "cancelled"
    assert site.left_on_disk() == []


async def test_a_stop_tells_waiting_callers_where_the_job_continues(start: Start) -> None:
    site = await start()
    call = asyncio.create_task(site.client.post("/lipsync", data=form(prompt="hold")))
    await site.executor.rendering.wait()
    server = site.client.server
    assert server.runner is not None
    await server.runner.shutdown()
    async with await call as response:
        assert response.status == 503
        assert "goes on after the restart" in (await response.json())["detail"]
    await site.client.close()
    again = await start()
    again.executor.let_go.set()
    async with again.client.get("/v1/jobs") as response:
        (job,) = (await response.json())["jobs"]
    assert (await again.ended(job["id"]))["state"] == "succeeded"


async def test_the_file_keeps_the_name_of_the_picture_in_v1(site: Site) -> None:
    job = await site.submit(image=("Anna Müller.jpeg.png", png(48, 48)))
    assert job["file_name"] == "Anna Müller.jpeg-lipsync.mp4"
    assert png(48, 48) != PNG
