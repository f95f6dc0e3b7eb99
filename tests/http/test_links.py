"""A signed link shows one video without the token until it expires, and nothing else."""

import functools
import stat
import time
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from lipsync_server.http import keys
from lipsync_server.http.callers.links import MAX_LINK_S
from site_kit import Json, Site, Start, form

TOKEN = {"Authorization": "Bearer o"}


@pytest.fixture
async def site(start: Start) -> Site:
    return await start(tokens="alice:a,o")


async def finished(site: Site) -> str:
    async with site.client.post("/v1/jobs", data=form(), headers=TOKEN) as response:
        job_id = str((await response.json())["id"])
    async with site.client.get(f"/v1/jobs/{job_id}/events", headers=TOKEN) as response:
        await response.text()
    return job_id


async def link(site: Site, job_id: str, **query: str) -> Json:
    async with site.client.get(f"/v1/jobs/{job_id}/link", params=query, headers=TOKEN) as response:
        assert response.status == 200, await response.text()
        made: Json = await response.json()
        return made


def seconds_from_now(seconds: float) -> float:
    return time.time() + seconds


async def answer(site: Site, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes]:
    """The status and the body of the answer to a caller without a token."""
    async with site.client.request(method, path, headers=headers) as response:
        body = await response.read()
        if response.status >= 400 and method != "HEAD":
            assert response.content_type == "application/problem+json"
        return response.status, body


async def collected_at(site: Site, job_id: str) -> str | None:
    async with site.client.get(f"/v1/jobs/{job_id}", headers=TOKEN) as response:
        collected_at: str | None = (await response.json())["collected_at"]
        return collected_at


async def test_a_link_shows_the_video_without_the_token_whole_in_parts_and_by_head(site: Site) -> None:
    job_id = await finished(site)
    made = await link(site, job_id)
    assert made["url"] == f"{site.client.make_url('/')}".rstrip("/") + made["path"]
    status, whole = await answer(site, made["path"])
    assert (status, whole[4:8]) == (200, b"ftyp")
    assert await answer(site, made["path"], Range="bytes=10-19") == (206, whole[10:20])
    assert await answer(site, made["path"], "HEAD") == (200, b"")
    async with site.client.get(made["path"]) as response:
        assert response.headers["Content-Disposition"] == 'inline; filename="face-lipsync.mp4"'
        assert response.headers["Referrer-Policy"] == "no-referrer"


async def test_a_download_by_link_counts_as_collected_only_when_asked(site: Site) -> None:
    job_id = await finished(site)
    await answer(site, (await link(site, job_id))["path"])
    assert await collected_at(site, job_id) is None
    await answer(site, (await link(site, job_id, collects="true"))["path"])
    assert await collected_at(site, job_id) is not None


Change = Callable[[dict[str, str]], dict[str, str]]


@pytest.mark.parametrize(
    "change",
    [
        lambda query: query | {"expires": str(int(query["expires"]) + 1)},
        lambda query: query | {"signature": query["signature"][:-1] + ("0" if query["signature"][-1] != "0" else "1")},
        lambda query: query | {"signature": ""},
        lambda query: query | {"signature": "é\udc80" * 32},
        lambda query: query | {"expires": "9" * 4000},
        lambda query: query | {"collects": "true"},
        lambda query: {"signature": query["signature"]},
        lambda query: {"expires": query["expires"]},
        lambda query: {},
    ],
)
async def test_a_changed_link_is_refused(site: Site, change: Change) -> None:
    job_id = await finished(site)
    parts = urlsplit((await link(site, job_id))["path"])
    query = urlencode(change(dict(parse_qsl(parts.query))), errors="surrogateescape")
    assert (await answer(site, f"{parts.path}?{query}"))[0] == 403


async def test_a_link_is_for_its_own_job_only(site: Site) -> None:
    first, second = await finished(site), await finished(site)
    path = (await link(site, first))["path"]
    assert (await answer(site, path.replace(first, second)))[0] == 403
    for part in ("", "/video", "/events", "/link", "/captions.srt"):
        assert (await answer(site, f"/v1/jobs/{first}{part}?{urlsplit(path).query}"))[0] == 401
    assert (await answer(site, path, "DELETE"))[0] in (401, 405)


async def test_a_link_ends_at_its_time_and_survives_a_restart_of_the_server(start: Start, site: Site) -> None:
    job_id = await finished(site)
    path = (await link(site, job_id, expires_in_s="60"))["path"]
    links = site.client.app[keys.LINKS]
    for later_s, valid in ((58, True), (61, False)):
        late = replace(links, wall=functools.partial(seconds_from_now, later_s))
        query = dict(parse_qsl(urlsplit(path).query))
        if valid:
            late.check(job_id, query)
        else:
            with pytest.raises(Exception, match="has expired"):
                late.check(job_id, query)
    await site.client.close()
    again = await start(tokens="alice:a,o")
    assert (await answer(again, path))[0] == 200


async def test_a_deleted_job_answers_410_to_its_link(site: Site) -> None:
    job_id = await finished(site)
    path = (await link(site, job_id))["path"]
    async with site.client.delete(f"/v1/jobs/{job_id}", headers=TOKEN) as response:
        assert response.status == 204
    assert (await answer(site, path))[0] == 410


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "", str(MAX_LINK_S + 1), "²", "9" * 5000, "day"])
async def test_the_time_of_a_link_has_a_limit(site: Site, value: str) -> None:
    job_id = await finished(site)
    async with site.client.get(f"/v1/jobs/{job_id}/link", params={"expires_in_s": value}, headers=TOKEN) as response:
        assert response.status == 422
        assert (await response.json())["field"] == "expires_in_s"


async def test_only_those_who_see_a_job_can_make_a_link_to_it(site: Site) -> None:
    job_id = await finished(site)
    for headers, status in (({}, 401), ({"Authorization": "Bearer a"}, 404), (TOKEN, 200)):
        async with site.client.get(f"/v1/jobs/{job_id}/link", headers=headers) as response:
            assert response.status == status


async def test_a_job_without_a_video_has_no_link(site: Site) -> None:
    async with site.client.post("/v1/jobs", data=form(prompt="hold"), headers=TOKEN) as response:
        job_id = (await response.json())["id"]
    async with site.client.get(f"/v1/jobs/{job_id}/link", headers=TOKEN) as response:
        assert response.status == 409
    site.executor.let_go.set()


async def test_a_link_begins_with_the_public_address(start: Start) -> None:
    site = await start(tokens="o", public_url="https://example.com/user/me/proxy/5000/")
    made = await link(site, await finished(site))
    assert made["url"].startswith("https://example.com/user/me/proxy/5000/v1/jobs/")
    assert made["is_public"] is True
    assert made["path"] == made["url"].removeprefix("https://example.com")


async def test_the_key_of_the_links_is_for_its_owner_only(site: Site) -> None:
    assert stat.S_IMODE((site.data_dir / "link_secret").stat().st_mode) == 0o600
