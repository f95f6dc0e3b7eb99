"""The machine stops itself after idle minutes, and never while a job or an uncollected video needs it."""

import asyncio
import functools
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from lipsync_server.cloud.this_machine.idle import IdleWatch, Stop, make_stop
from lipsync_server.errors import InvalidInput
from lipsync_server.http import keys
from lipsync_server.http.idleness import machine_is_needed
from lipsync_server.settings import Settings
from model_hub import digest, serve_hub
from provider import Provider, serve_provider
from site_kit import Site, StandInExecutor, Start

PART = {"Range": "bytes=0-9"}
IDLE_S = 600.0


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with serve_provider() as stand_in:
        stand_in.answers("PUT /instances/77/", (200, {"success": True}))
        stand_in.answers("POST /pods/pod7/action", (200, {"id": "pod7", "status": "EXITED"}))
        yield stand_in


def settings(**options: Any) -> Settings:
    return Settings(_env_file=None, idle_stop=IDLE_S / 60, **options)


def vast_stop(provider: Provider, pauses_s: tuple[float, ...] = (0.0, 0.0)) -> Stop:
    environment = {"CONTAINER_ID": "77", "CONTAINER_API_KEY": provider.key}
    return make_stop(settings(), environment, vast_url=provider.url, pauses_s=pauses_s)


def watch_over(site: Site, provider: Provider, clock: Clock) -> IdleWatch:
    app = site.client.app
    assert app is not None
    busy: Callable[[], Awaitable[bool]] = functools.partial(machine_is_needed, app)
    return IdleWatch(idle_s=IDLE_S, busy=busy, stop=vast_stop(provider), clock=clock)


def idle_watch(site: Site) -> IdleWatch:
    """The watch of a running server that stops its machine."""
    watch = site.client.app[keys.IDLE]
    assert watch is not None
    return watch


async def stays(watch: IdleWatch, clock: Clock) -> bool:
    """Whether the machine stays on although the idle time passes twice."""
    for _ in range(4):
        clock.now += IDLE_S / 2
        if await watch.check():
            return False
    return watch.left_s() is None


async def stops(watch: IdleWatch, clock: Clock) -> bool:
    """Whether the machine stays on until the idle time is over, and stops then."""
    await watch.check()
    clock.now += IDLE_S - 1
    if await watch.check() or watch.left_s() != 1:
        return False
    clock.now += 1
    return await watch.check()


async def test_an_unused_machine_stops_through_its_own_key(start: Start, provider: Provider) -> None:
    site, clock = await start(), Clock()
    assert await stops(watch_over(site, provider, clock), clock)
    (call,) = provider.asked
    assert (call.method, call.path, call.body) == ("PUT", "/instances/77/", {"state": "stopped"})


async def test_the_machine_stays_on_while_a_job_is_queued_or_running(start: Start, provider: Provider) -> None:
    site, clock = await start(), Clock()
    watch = watch_over(site, provider, clock)
    running = await site.submit(prompt="hold")
    queued = await site.submit(prompt="hold")
    assert await stays(watch, clock)
    async with site.client.delete(f"/v1/jobs/{running['id']}"):
        pass
    await site.ended(running["id"])
    assert await stays(watch, clock)
    async with site.client.delete(f"/v1/jobs/{queued['id']}"):
        pass
    await site.ended(queued["id"])
    assert await stops(watch, clock)


async def test_the_idle_time_begins_when_the_video_is_collected(start: Start, provider: Provider) -> None:
    site, clock = await start(), Clock()
    watch = watch_over(site, provider, clock)
    job = await site.submit()
    await site.ended(job["id"])
    assert await stays(watch, clock)
    async with site.client.post(f"/v1/jobs/{job['id']}/collected") as response:
        assert response.status == 200
    assert await stops(watch, clock)


async def test_a_complete_download_of_the_video_collects_it_and_lets_the_machine_stop(
    start: Start, provider: Provider
) -> None:
    site, clock = await start(), Clock()
    watch = watch_over(site, provider, clock)
    job = await site.submit()
    await site.ended(job["id"])
    for headers in (PART, {"Lipsync-Keep": "true"}):
        async with site.client.get(f"/v1/jobs/{job['id']}/video", headers=headers) as response:
            await response.read()
        assert (await site.job(job["id"]))["collected_at"] is None
    assert await stays(watch, clock)
    async with site.client.get(f"/v1/jobs/{job['id']}/video") as response:
        await response.read()
    assert (await site.job(job["id"]))["collected_at"] is not None
    assert await stops(watch, clock)


async def test_a_forgotten_video_keeps_the_machine_for_a_limited_time_only(start: Start, provider: Provider) -> None:
    site, clock = await start(idle_stop_uncollected=0), Clock()
    job = await site.submit()
    await site.ended(job["id"])
    assert await stops(watch_over(site, provider, clock), clock)
    async with site.client.get(f"/v1/jobs/{job['id']}/video") as response:
        assert response.status == 200


async def test_a_video_that_was_handed_over_keeps_nothing_running(start: Start, provider: Provider) -> None:
    async def hand_over(job: object, video: Path) -> str:
        return "s3://videos/x.mp4"

    site, clock = await start(after_render=hand_over), Clock()
    await site.ended((await site.submit())["id"])
    assert await stops(watch_over(site, provider, clock), clock)


async def test_a_video_whose_time_is_over_keeps_nothing_running(start: Start, provider: Provider) -> None:
    site, clock = await start(result_ttl_s=0.001), Clock()
    await site.ended((await site.submit())["id"])
    assert await stops(watch_over(site, provider, clock), clock)


async def test_a_failed_job_keeps_nothing_running(start: Start, provider: Provider) -> None:
    site, clock = await start(), Clock()
    await site.ended((await site.submit(prompt="no face"))["id"])
    assert await stops(watch_over(site, provider, clock), clock)


async def test_the_machine_stays_on_during_an_upload(start: Start, provider: Provider) -> None:
    site, clock = await start(), Clock()
    watch = watch_over(site, provider, clock)
    with site.client.app[keys.SLOTS].take():
        assert await stays(watch, clock)
    assert await stops(watch, clock)


class LateExecutor(StandInExecutor):
    def hold_back(self, engine: str) -> None: ...

    async def load_default(self) -> None: ...


async def test_the_machine_stays_on_while_weights_are_downloaded(
    start: Start, provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = {"source": "s", "path": "w", "size_bytes": 4, "size_exact": True, "sha256": digest(b"1234")}
    source = {"repository": "some/model", "revision": "main", "folder": "f", "licence": "x", "what": "x"}
    profile = {"engine": "sadtalker", "title": "t", "files": ["w"]}
    manifest = {"version": 1, "sources": {"s": source}, "files": {"w": weight}, "profiles": {"p": profile}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    async with serve_hub({"w": b"1234"}) as hub:
        hub.open.clear()
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        places = {"weights_dir": tmp_path / "weights", "manifest": tmp_path / "manifest.json"}
        site, clock = await start(executor=LateExecutor(), profile="p", **places), Clock()
        watch = watch_over(site, provider, clock)
        assert await stays(watch, clock)
        hub.open.set()
        async with asyncio.timeout(30):
            while True:
                async with site.client.get("/readyz") as response:
                    if (await response.json())["stage"] != "downloading":
                        break
                await asyncio.sleep(0.01)
    assert await stops(watch, clock)


async def test_the_engines_answer_counts_the_minutes_down(start: Start) -> None:
    site = await start(idle_stop=10, idle_stop_command="true")
    watch = idle_watch(site)
    await watch.check()
    async with site.client.get("/v1/engines") as response:
        assert 0 < (await response.json())["idle_stop_in_s"] <= 600
    await site.submit(prompt="hold")
    await watch.check()
    async with site.client.get("/v1/engines") as response:
        assert (await response.json())["idle_stop_in_s"] is None


async def test_the_log_warns_at_five_minutes_and_at_one(
    start: Start, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    site, clock = await start(), Clock()
    watch = watch_over(site, provider, clock)
    await watch.check()
    with caplog.at_level(logging.WARNING):
        for _ in range(59):
            clock.now += 10
            await watch.check()
    assert [record.getMessage() for record in caplog.records] == [
        "this machine stops itself in 5.0 minutes unless a job comes",
        "this machine stops itself in 1.0 minutes unless a job comes",
    ]


async def test_runpod_is_stopped_by_the_pod_s_own_key(provider: Provider) -> None:
    environment = {"RUNPOD_POD_ID": "pod7", "RUNPOD_API_KEY": provider.key}
    await make_stop(settings(), environment, runpod_url=provider.url)()
    (call,) = provider.asked
    assert (call.method, call.path, call.body) == ("POST", "/pods/pod7/action", {"action": "stop"})


async def test_the_owners_stop_command_takes_precedence_over_the_providers(provider: Provider, tmp_path: Path) -> None:
    command = f"touch {tmp_path / 'stopped'}"
    environment = {"CONTAINER_ID": "77", "CONTAINER_API_KEY": provider.key}
    await make_stop(settings(idle_stop_command=command), environment, vast_url=provider.url)()
    assert (tmp_path / "stopped").exists()
    assert provider.asked == []


def test_a_machine_that_nobody_can_stop_is_reported_at_the_start() -> None:
    with pytest.raises(InvalidInput, match="LIPSYNC_IDLE_STOP_COMMAND"):
        make_stop(settings(), {"CONTAINER_ID": "77"})


async def test_too_many_requests_without_retry_after_is_waited_out(provider: Provider) -> None:
    provider.answers("PUT /instances/77/", (429, "API requests too frequent"), (200, {"success": True}))
    await vast_stop(provider)()
    assert len(provider.asked) == 2


async def test_a_stop_that_fails_is_tried_again_a_minute_later_and_the_key_stays_secret(
    start: Start, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    site, clock = await start(), Clock()
    watch = watch_over(site, provider, clock)
    provider.answers("PUT /instances/77/", (400, {"success": False, "error": "bad", "msg": "no"}))
    assert not await stops(watch, clock)
    clock.now += 30
    assert not await watch.check()
    assert len(provider.asked) == 1
    provider.answers("PUT /instances/77/", (200, {"success": True}))
    clock.now += 30
    assert await watch.check()
    assert "could not be stopped" in caplog.text
    assert provider.key not in caplog.text


async def test_a_database_that_hangs_does_not_keep_the_machine_running() -> None:
    async def never_answers() -> bool:
        await asyncio.Event().wait()
        return True

    stopped, clock = asyncio.Event(), Clock()

    async def stop() -> None:
        stopped.set()

    watch = IdleWatch(idle_s=IDLE_S, busy=never_answers, stop=stop, clock=clock, answer_s=0.01)
    assert not await watch.check()
    assert not stopped.is_set()
    clock.now += IDLE_S
    assert await watch.check()
    assert stopped.is_set()


async def test_a_stop_command_that_hangs_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async def busy() -> bool:
        return False

    clock = Clock()
    stop = make_stop(settings(idle_stop_command="sleep 600"), {})
    watch = IdleWatch(idle_s=IDLE_S, busy=busy, stop=stop, clock=clock, stop_s=0.2)
    clock.now += IDLE_S
    assert not await watch.check()
    assert "took longer" in caplog.text
    clock.now += 61
    assert not await watch.check()
    assert caplog.text.count("took longer") == 2


async def test_a_machine_can_be_kept_and_released(provider: Provider) -> None:
    async def busy() -> bool:
        return False

    stopped, clock = asyncio.Event(), Clock()

    async def stop() -> None:
        stopped.set()

    watch = IdleWatch(idle_s=300, busy=busy, stop=stop, clock=clock)
    await watch.check()
    watch.keep(1800)
    clock.now += 1799
    assert not await watch.check()
    assert (watch.left_s(), watch.kept_s()) == (1, 1)
    watch.keep(0)
    assert (watch.left_s(), watch.kept_s()) == (300, 0)
    clock.now += 300
    assert await watch.check()
    assert stopped.is_set()


async def test_a_job_does_not_shorten_the_time_for_which_the_machine_is_kept(start: Start, provider: Provider) -> None:
    site, clock = await start(), Clock()
    watch = watch_over(site, provider, clock)
    watch.keep(4 * IDLE_S)
    job = await site.submit(prompt="hold")
    await watch.check()
    assert watch.left_s() is None
    async with site.client.delete(f"/v1/jobs/{job['id']}"):
        pass
    await site.ended(job["id"])
    await watch.check()
    assert watch.left_s() == 4 * IDLE_S


async def test_countdown_cost_of_a_start_and_keep_are_available_over_http(start: Start) -> None:
    site = await start(idle_stop=5, idle_stop_command="true", price_per_hour=0.45)
    await idle_watch(site).check()
    async with site.client.get("/v1/idle-stop") as response:
        said = await response.json()
    assert said["enabled"] is True
    assert 0 < said["in_s"] <= 300
    # (3 + 5) minutes of $0.45 an hour
    assert said["start_cost"]["amount"] == pytest.approx(0.06)
    async with site.client.post("/v1/idle-stop/keep", json={"minutes": 40}) as response:
        assert (response.status, 2390 < (await response.json())["in_s"] <= 2400) == (200, True)
    async with site.client.post("/v1/idle-stop/keep", json={"minutes": 10_000}) as response:
        assert (response.status, (await response.json())["field"]) == (422, "minutes")


async def test_keeping_a_machine_without_an_idle_stop_is_answered_409(start: Start) -> None:
    site = await start()
    async with site.client.get("/v1/idle-stop") as response:
        said = await response.json()
        assert (said["enabled"], said["in_s"], said["start_cost"]) == (False, None, None)
    async with site.client.post("/v1/idle-stop/keep") as response:
        assert response.status == 409
