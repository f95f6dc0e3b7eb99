"""Callbacks: signed, repeated until the receiver accepts them, and delivered also after a restart."""

import hmac
import stat

import pytest
from call_receiver import CallReceiver
from lipsync_server.check.quality import Finding, Quality
from lipsync_server.jobs.delivery.callbacks import sign
from site_kit import StandInExecutor, Start, form

pytestmark = pytest.mark.usefixtures("quick_repeats")
HOOK = "/hook"


def url(receiver: CallReceiver) -> str:
    return f"{receiver.root}{HOOK}?run=7"


@pytest.mark.parametrize(("prompt", "event"), [("", "job.succeeded"), ("no face", "job.failed")])
async def test_the_end_of_a_job_is_called_back_with_a_signature(
    start: Start, receiver: CallReceiver, prompt: str, event: str
) -> None:
    site = await start(allow_private_urls=True, webhook_secret="key", public_url="https://lips.example/base")
    job = await site.submit(prompt=prompt, callback_url=url(receiver))
    call = await receiver.next(HOOK)
    assert call.is_signed_with("key")
    callback = call.json
    assert callback["event"] == event
    assert callback["job"]["id"] == job["id"]
    assert callback["job"]["links"]["self"] == f"https://lips.example/base/v1/jobs/{job['id']}"


async def test_the_callback_of_a_checked_video_has_its_score_and_findings(start: Start, receiver: CallReceiver) -> None:
    executor = StandInExecutor()
    executor.quality = Quality(0.42, (Finding("lag", 0.0, 1.5, "The mouth comes late."),), 0.3, 120, 0.5, 1.0, 0.2)
    site = await start(allow_private_urls=True, public_url="https://lips.example", executor=executor)
    job = await site.submit(callback_url=url(receiver))
    called = (await receiver.next(HOOK)).json["job"]
    quality = called["result"]["quality"]
    assert quality["score"] == 0.42
    assert quality["findings"] == [{"name": "lag", "from_s": 0.0, "to_s": 1.5, "sentence": "The mouth comes late."}]
    assert called["links"]["sheet"] == f"https://lips.example/v1/jobs/{job['id']}/sheet"


async def test_a_cancelled_job_is_called_back(start: Start, receiver: CallReceiver) -> None:
    site = await start(allow_private_urls=True)
    await site.submit(prompt="hold")
    waiting = await site.submit(callback_url=url(receiver))
    async with site.client.delete(f"/v1/jobs/{waiting['id']}") as response:
        assert response.status == 200
    assert (await receiver.next(HOOK)).json["event"] == "job.cancelled"
    site.executor.let_go.set()


async def test_a_callback_is_tried_again_until_it_is_accepted(start: Start, receiver: CallReceiver) -> None:
    """n8n answers 404, 409 or 500 to a callback before the run is stored as waiting."""
    receiver.statuses = [500, 404, 409, 302, 503, 200]
    site = await start(allow_private_urls=True)
    await site.submit(callback_url=url(receiver))
    calls = [await receiver.next(HOOK) for _ in range(6)]
    assert len({call.body for call in calls}) == 1
    numbers = [call.headers["Lipsync-Delivery"].rsplit("-", 1)[1] for call in calls]
    assert numbers == ["1", "2", "3", "4", "5", "6"]
    follow_up = await site.submit(callback_url=url(receiver))
    assert (await receiver.next(HOOK)).json["job"]["id"] == follow_up["id"]


async def test_a_200_of_a_receiver_that_is_starting_up_does_not_count_as_accepted(
    start: Start, receiver: CallReceiver
) -> None:
    """n8n 1.123.81 and 2.41.1 answer 200 to every request while they start."""
    receiver.texts = ["n8n is starting up. Please wait"] * 2
    site = await start(allow_private_urls=True)
    await site.submit(callback_url=url(receiver))
    calls = [await receiver.next(HOOK) for _ in range(3)]
    assert [call.headers["Lipsync-Delivery"].rsplit("-", 1)[1] for call in calls] == ["1", "2", "3"]


async def test_a_callback_survives_a_restart(start: Start, receiver: CallReceiver) -> None:
    receiver.statuses = [500]
    site = await start(allow_private_urls=True)
    job = await site.submit(callback_url=url(receiver))
    await receiver.next(HOOK)
    await site.client.close()
    receiver.statuses = [200]
    receiver.waiting(HOOK)
    await start(allow_private_urls=True)
    assert (await receiver.next(HOOK)).json["job"]["id"] == job["id"]


async def test_the_signing_key_is_made_once_and_kept_private(start: Start) -> None:
    site = await start()
    kept = site.data_dir / "webhook_secret"
    first = kept.read_text()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert len(first.strip()) == 64
    await site.client.close()
    await start()
    assert kept.read_text() == first


async def test_a_callback_that_turns_private_later_is_not_sent(start: Start, receiver: CallReceiver) -> None:
    """DNS named another address when the job was accepted. The address is checked again when the callback is sent."""
    site = await start()
    job = await site.submit(callback_url=url(receiver).replace("127.0.0.1", "no-such-host.invalid"))
    assert (await site.ended(job["id"]))["state"] == "succeeded"
    assert not receiver.was_called
    async with site.client.post("/v1/jobs", data=form(callback_url=url(receiver))) as response:
        assert response.status == 422


def test_the_signature_is_the_documented_one() -> None:
    assert sign(b"key", b"body", 1) == ("t=1,v1=" + hmac.new(b"key", b"1.body", "sha256").hexdigest())
