"""Promise 4: a token with a name sees, cancels and deletes the jobs of that name only; the owner sees all."""

import pytest
from lipsync_server.errors import LipsyncError
from lipsync_server.http.callers.auth import Tokens
from lipsync_server.settings import Settings
from site_kit import Site, Start, form


def by(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


ALICE, BOB, OWNER = by("a"), by("b"), by("o")


@pytest.fixture
async def site(start: Start) -> Site:
    return await start(tokens="alice:a,bob:b,o")


async def made_by(site: Site, headers: dict[str, str], **fields: object) -> str:
    async with site.client.post("/v1/jobs", data=form(**fields), headers=headers) as response:
        assert response.status == 202
        return str((await response.json())["id"])


async def ids_seen_by(site: Site, headers: dict[str, str]) -> list[str]:
    async with site.client.get("/v1/jobs", headers=headers) as response:
        return [job["id"] for job in (await response.json())["jobs"]]


async def test_a_named_token_sees_its_own_jobs_and_the_owner_sees_all(site: Site) -> None:
    alices, bobs, owners = [await made_by(site, each) for each in (ALICE, BOB, OWNER)]
    assert await ids_seen_by(site, ALICE) == [alices]
    assert await ids_seen_by(site, BOB) == [bobs]
    assert await ids_seen_by(site, OWNER) == [owners, bobs, alices]


async def test_lists_show_the_owner_of_each_job(site: Site) -> None:
    await made_by(site, ALICE)
    async with site.client.get("/v1/jobs", headers=OWNER) as response:
        assert [job["owner"] for job in (await response.json())["jobs"]] == ["alice"]


@pytest.mark.parametrize(
    ("method", "part"),
    [("GET", ""), ("GET", "/video"), ("GET", "/events"), ("DELETE", ""), ("POST", "/collected"), ("HEAD", "/video")],
)
async def test_a_job_of_another_name_is_answered_404(site: Site, method: str, part: str) -> None:
    job_id = await made_by(site, BOB, prompt="hold")
    async with site.client.request(method, f"/v1/jobs/{job_id}{part}", headers=ALICE) as response:
        assert response.status == 404
    async with site.client.get(f"/v1/jobs/{job_id}", headers=BOB) as response:
        assert (await response.json())["state"] in ("queued", "running")
    site.executor.let_go.set()


async def test_a_named_token_cancels_its_own_job_and_the_owner_any(site: Site) -> None:
    for headers in (ALICE, OWNER):
        job_id = await made_by(site, ALICE, prompt="hold")
        async with site.client.delete(f"/v1/jobs/{job_id}", headers=headers) as response:
            assert response.status in (200, 202)
    site.executor.let_go.set()


async def test_a_named_token_does_not_see_which_jobs_of_others_a_worker_renders(site: Site) -> None:
    job_id = await made_by(site, BOB, prompt="hold")
    await site.executor.rendering.wait()
    for headers, told in ((ALICE, None), (OWNER, job_id)):
        async with site.client.get("/v1/engines", headers=headers) as response:
            assert (await response.json())["workers"][0]["job_id"] in (None, told)
    site.executor.let_go.set()


@pytest.mark.parametrize("tokens", ["local:x", "token-1:x", "a b:x", "\n:x", "alice:"])
def test_a_name_that_could_be_confused_with_another_is_refused(tokens: str) -> None:
    with pytest.raises(LipsyncError, match="LIPSYNC_TOKENS"):
        Tokens(Settings(_env_file=None, tokens=[tokens]).tokens)
