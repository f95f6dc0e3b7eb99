"""Idempotency-Key: however often a request is sent, there is one job."""

import asyncio

import pytest
from site_kit import Site, Start, form, png

KEY = {"Idempotency-Key": "run-17/item-0"}


async def test_the_same_request_again_gets_the_same_job(site: Site) -> None:
    first = await site.submit(headers=KEY, prompt="hello")
    await site.ended(first["id"])
    async with site.client.post("/v1/jobs", data=form(prompt="hello"), headers=KEY) as response:
        assert response.status == 202
        assert response.headers["Idempotency-Replayed"] == "true"
        assert (await response.json())["id"] == first["id"]
    assert len(site.executor.tasks) == 1


async def test_lipsync_with_a_key_answers_the_first_video_again(site: Site) -> None:
    videos = []
    for _ in range(2):
        async with site.client.post("/lipsync", data=form(), headers=KEY) as response:
            assert response.status == 200
            videos.append((response.headers["Lipsync-Job-Id"], await response.read()))
    assert videos[0] == videos[1]
    assert len(site.executor.tasks) == 1


@pytest.mark.parametrize("other", [{"prompt": "else"}, {"image": ("face.png", png(shade=9))}, {"seed": 3}])
async def test_the_key_with_another_request_is_a_conflict(site: Site, other: dict[str, object]) -> None:
    await site.submit(headers=KEY)
    async with site.client.post("/v1/jobs", data=form(**other), headers=KEY) as response:
        assert response.status == 409
        assert (await response.json())["field"] == "Idempotency-Key"
    assert len([path for path in site.left_on_disk() if path.startswith("incoming")]) == 0


async def test_twenty_at_once_make_one_job(start: Start) -> None:
    site = await start(max_uploads=20)
    jobs = await asyncio.gather(*(site.submit(headers=KEY) for _ in range(20)))
    assert len({job["id"] for job in jobs}) == 1
    async with site.client.get("/v1/jobs") as response:
        assert len((await response.json())["jobs"]) == 1


async def test_a_refused_request_does_not_use_up_its_key(site: Site) -> None:
    async with site.client.post("/v1/jobs", data=form(audio=None), headers=KEY) as response:
        assert response.status == 422
    await site.submit(headers=KEY)


async def test_a_known_key_is_answered_though_the_queue_is_full(start: Start) -> None:
    site = await start(max_queue=0)
    first = await site.submit(headers=KEY, prompt="hold")
    assert (await site.submit(headers=KEY, prompt="hold"))["id"] == first["id"]
    async with site.client.post("/v1/jobs", data=form()) as response:
        assert response.status == 429
    site.executor.let_go.set()


async def test_keys_of_different_tokens_do_not_meet(start: Start) -> None:
    site = await start(tokens="a:one,b:two")
    ids = {
        (await site.submit(headers={**KEY, "Authorization": f"Bearer {token}"}))["id"]
        for token in ("one", "two", "one")
    }
    assert len(ids) == 2


async def test_the_key_survives_a_restart(start: Start) -> None:
    site = await start()
    first = await site.submit(headers=KEY)
    await site.ended(first["id"])
    await site.client.close()
    again = await start()
    assert (await again.submit(headers=KEY))["id"] == first["id"]


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "ü"])
async def test_a_malformed_key_is_refused(site: Site, key: str) -> None:
    async with site.client.post("/v1/jobs", data=form(), headers={"Idempotency-Key": key}) as response:
        assert response.status == 400
