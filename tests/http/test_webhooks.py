"""A webhook gets one call for each ended job of its owner, signed with its own key, until it is removed."""

import asyncio

import pytest
from call_receiver import CallReceiver
from lipsync_server.jobs.database.webhooks import MAX_WEBHOOKS
from lipsync_server.jobs.delivery import callbacks
from site_kit import Json, Site, Start, form

pytestmark = pytest.mark.usefixtures("quick_repeats")
TOKENS = "alice:a,bob:b,o"


def by(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


ALICE, BOB, OWNER = by("a"), by("b"), by("o")


async def add(site: Site, headers: dict[str, str], url: str, **fields: object) -> Json:
    async with site.client.post("/v1/webhooks", json={"url": url, **fields}, headers=headers) as response:
        assert response.status == 201, await response.text()
        made: Json = await response.json()
        return made


async def listed(site: Site, headers: dict[str, str]) -> list[Json]:
    async with site.client.get("/v1/webhooks", headers=headers) as response:
        found: list[Json] = (await response.json())["webhooks"]
        return found


async def make(site: Site, headers: dict[str, str], **fields: object) -> str:
    async with site.client.post("/v1/jobs", data=form(**fields), headers=headers) as response:
        assert response.status == 202, await response.text()
        return str((await response.json())["id"])


async def test_every_ended_job_is_posted_once_and_signed_with_the_key_of_the_webhook(
    start: Start, receiver: CallReceiver
) -> None:
    site = await start(allow_private_urls=True, tokens=TOKENS, public_url="https://lips.example")
    webhook = await add(site, OWNER, f"{receiver.root}/0")
    jobs = [await make(site, OWNER), await make(site, OWNER, prompt="no face")]
    seen = {}
    for _ in jobs:
        call = await receiver.next("/0")
        assert call.is_signed_with(webhook["secret"])
        assert call.headers["Lipsync-Webhook"] == webhook["id"]
        seen[call.json["job"]["id"]] = call.json["event"]
    assert seen == dict(zip(jobs, ("job.succeeded", "job.failed"), strict=True))
    assert not receiver.waiting("/0")


async def test_a_webhook_gets_only_the_events_that_it_names(start: Start, receiver: CallReceiver) -> None:
    site = await start(allow_private_urls=True, tokens=TOKENS)
    await add(site, OWNER, f"{receiver.root}/failed", events=["job.failed"])
    await add(site, OWNER, f"{receiver.root}/all")
    good, bad = await make(site, OWNER), await make(site, OWNER, prompt="no face")
    assert {(await receiver.next("/all")).json["job"]["id"] for _ in range(2)} == {good, bad}
    assert (await receiver.next("/failed")).json["job"]["id"] == bad
    assert not receiver.waiting("/failed")


async def test_a_webhook_of_a_named_token_gets_its_own_jobs_only(start: Start, receiver: CallReceiver) -> None:
    site = await start(allow_private_urls=True, tokens=TOKENS)
    alices = await add(site, ALICE, f"{receiver.root}/alice")
    await add(site, OWNER, f"{receiver.root}/owner")
    bobs_job, alices_job = await make(site, BOB), await make(site, ALICE)
    assert {(await receiver.next("/owner")).json["job"]["id"] for _ in range(2)} == {bobs_job, alices_job}
    assert (await receiver.next("/alice")).json["job"]["id"] == alices_job
    assert not receiver.waiting("/alice")
    assert await listed(site, BOB) == []
    assert [each["id"] for each in await listed(site, ALICE)] == [alices["id"]]
    assert len(await listed(site, OWNER)) == 2
    for method in ("GET", "DELETE"):
        async with site.client.request(method, f"/v1/webhooks/{alices['id']}", headers=BOB) as response:
            assert response.status == 404
    assert all("secret" not in each for each in await listed(site, OWNER))


async def test_webhooks_and_their_deliveries_survive_a_restart(start: Start, receiver: CallReceiver) -> None:
    site = await start(allow_private_urls=True, tokens=TOKENS)
    webhook = await add(site, OWNER, f"{receiver.root}/0")
    receiver.statuses = [503]
    missed = await make(site, OWNER)
    await receiver.next("/0")
    await site.client.close()
    receiver.statuses = [200]
    receiver.waiting("/0")
    site = await start(allow_private_urls=True, tokens=TOKENS)
    assert (await receiver.next("/0")).json["job"]["id"] == missed
    assert [each["id"] for each in await listed(site, OWNER)] == [webhook["id"]]
    later = await make(site, OWNER)
    assert (await receiver.next("/0")).json["job"]["id"] == later


async def test_the_same_address_again_replaces_the_webhook_and_posts_each_job_once(
    start: Start, receiver: CallReceiver
) -> None:
    site = await start(allow_private_urls=True, tokens=TOKENS)
    first = await add(site, OWNER, f"{receiver.root}/0")
    second = await add(site, OWNER, f"{receiver.root}/0")
    assert first["secret"] != second["secret"]
    assert [each["id"] for each in await listed(site, OWNER)] == [second["id"]]
    job = await make(site, OWNER)
    call = await receiver.next("/0")
    assert (call.headers["Lipsync-Webhook"], call.json["job"]["id"]) == (second["id"], job)
    await site.client.close()
    assert not receiver.waiting("/0")


async def test_a_removed_webhook_gets_nothing_more_not_even_what_waits(start: Start, receiver: CallReceiver) -> None:
    site = await start(allow_private_urls=True, tokens=TOKENS)
    gone = await add(site, OWNER, f"{receiver.root}/gone")
    receiver.statuses = [503]
    await make(site, OWNER)
    await receiver.next("/gone")
    async with site.client.delete(f"/v1/webhooks/{gone['id']}", headers=OWNER) as response:
        assert response.status == 204
    receiver.statuses = [200]
    await add(site, OWNER, f"{receiver.root}/stays")
    job = await make(site, OWNER)
    assert (await receiver.next("/stays")).json["job"]["id"] == job
    assert job not in {call.json["job"]["id"] for call in receiver.waiting("/gone")}


async def test_a_webhook_is_removed_with_its_token(start: Start, receiver: CallReceiver) -> None:
    """After a leaked token is replaced, webhooks that were added with that token get no more calls."""
    site = await start(allow_private_urls=True, tokens="alice:a,leaked")
    await add(site, by("leaked"), f"{receiver.root}/stranger")
    kept = await add(site, ALICE, f"{receiver.root}/alice")
    await site.client.close()
    site = await start(allow_private_urls=True, tokens="alice:a,fresh")
    assert [each["id"] for each in await listed(site, by("fresh"))] == [kept["id"]]


async def test_an_address_that_is_gone_or_that_nobody_answers_at_loses_its_webhook(
    start: Start, receiver: CallReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks, "_GIVE_UP_REFUSED_S", -1.0)
    monkeypatch.setattr(callbacks, "_MOST_GIVEN_UP", 3)
    site = await start(allow_private_urls=True, tokens=TOKENS)
    await add(site, OWNER, f"{receiver.root}/0")
    receiver.statuses = [404]
    for number in range(3):
        assert len(await listed(site, OWNER)) == 1, number
        await make(site, OWNER)
        await receiver.next("/0")
    async with asyncio.timeout(20):
        while await listed(site, OWNER):
            pass
    await add(site, OWNER, f"{receiver.root}/1")
    receiver.statuses = [410]
    await make(site, OWNER)
    await receiver.next("/1")
    async with asyncio.timeout(20):
        while await listed(site, OWNER):
            pass


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 422, "url"),
        ({"url": "ftp://example.com/"}, 422, "url"),
        ({"url": "http://127.0.0.1:1/"}, 422, "not a public address"),
        ({"url": "http://[::ffff:10.0.0.1]/"}, 422, "not a public address"),
        ({"url": "http://example.com/", "events": ["job.started"]}, 422, "events"),
        ({"url": "http://example.com/", "events": []}, 422, "events"),
        ({"url": "http://example.com/", "secret": "mine"}, 422, "secret"),
        ([], 400, "JSON object"),
    ],
)
async def test_an_invalid_webhook_is_refused_with_the_field(
    start: Start, body: object, status: int, words: str
) -> None:
    site = await start(tokens=TOKENS)
    async with site.client.post("/v1/webhooks", json=body, headers=OWNER) as response:
        assert response.status == status
        assert words in (await response.json())["detail"]
    headers = {**OWNER, "Content-Type": "application/json"}
    async with site.client.post("/v1/webhooks", data=b"x" * 70_000, headers=headers) as response:
        assert response.status == 413
    async with site.client.post("/v1/webhooks", data=b"url=x", headers=OWNER) as response:
        assert response.status == 415
    async with site.client.post("/v1/webhooks", json=body) as response:
        assert response.status == 401


async def test_a_receiver_can_ask_whether_a_delivery_is_still_open(start: Start, receiver: CallReceiver) -> None:
    site = await start(allow_private_urls=True, tokens=TOKENS)
    webhook = await add(site, ALICE, f"{receiver.root}/0")
    receiver.statuses = [503]
    job = await make(site, ALICE)
    await receiver.next("/0")
    path = f"/v1/webhooks/{webhook['id']}/deliveries/{job}"
    async with site.client.get(path, headers=ALICE) as response:
        assert await response.json() == {"job_id": job, "waits": True}
    async with site.client.get(path, headers=BOB) as response:
        assert response.status == 404
    receiver.statuses = [200]
    async with asyncio.timeout(20):
        while True:
            async with site.client.get(path, headers=ALICE) as response:
                if not (await response.json())["waits"]:
                    break
    async with site.client.get(path.replace(job, "0" * 26), headers=ALICE) as response:
        assert (await response.json())["waits"] is False


async def test_an_address_that_turns_private_later_is_not_reached(start: Start, receiver: CallReceiver) -> None:
    """DNS named another address when the webhook was added. The address is checked again when the call is sent."""
    site = await start(tokens=TOKENS)
    await add(site, OWNER, receiver.root.replace("127.0.0.1", "no-such-host.invalid"))
    job = await make(site, OWNER)
    async with site.client.get(f"/v1/jobs/{job}/events", headers=OWNER) as response:
        assert "event: end" in await response.text()
    assert not receiver.was_called


async def test_one_caller_has_a_limited_number_of_webhooks(start: Start) -> None:
    site = await start(allow_private_urls=True, tokens=TOKENS)
    for number in range(MAX_WEBHOOKS):
        await add(site, ALICE, f"http://127.0.0.1:1/{number}")
    async with site.client.post("/v1/webhooks", json={"url": "http://127.0.0.1:1/more"}, headers=ALICE) as response:
        assert response.status == 409
        assert "limit" in (await response.json())["detail"]
    await add(site, ALICE, "http://127.0.0.1:1/0")
    await add(site, BOB, "http://127.0.0.1:1/0")
