"""Promise 4: who may call."""

import re
import stat
from pathlib import Path

import pytest
from lipsync_server.errors import LipsyncError
from lipsync_server.http.app import ROUTES, create_app
from lipsync_server.http.callers.auth import Tokens, is_loopback
from lipsync_server.http.serve import with_token
from lipsync_server.settings import Settings
from site_kit import Site, StandInExecutor, Start

# A link to one video has its permission in its signature; tests/http/test_links.py tries it.
LINKS = {"/v1/jobs/{job_id}/shared"}
PUBLIC = {"/healthz", "/readyz", "/ping", "/", "/page/{name}", "/openapi.json", "/docs"} | LINKS


def addresses(site: Site) -> list[tuple[str, str]]:
    """Every method and path of the application's router itself, so that no route can be missing here."""
    return [
        (route.method, route.resource.canonical)
        for route in site.client.app.router.routes()
        if route.resource is not None
    ]


@pytest.fixture
async def locked(start: Start) -> Site:
    return await start(tokens="n8n:first-token,second-token")


async def test_every_route_but_the_public_ones_needs_a_token(locked: Site) -> None:
    walked = set()
    for method, canonical in addresses(locked):
        path = re.sub(r"{\w+}", "x", canonical)
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic first-token"}):
            async with locked.client.request(method, path, headers=headers) as response:
                if canonical in PUBLIC:
                    assert response.status != 401
                else:
                    assert response.status == 401, (method, canonical)
                    assert response.headers["WWW-Authenticate"].startswith("Bearer")
                    assert response.content_type == "application/problem+json"
        walked.add(canonical)
    assert {"/lipsync", "/v1/jobs", "/metrics", "/v1/me", "/v1/engines"} < walked - PUBLIC
    assert walked >= PUBLIC


async def test_unknown_addresses_and_methods_need_a_token_too(locked: Site) -> None:
    for method, path in (("GET", "/nothing"), ("POST", "/healthz"), ("OPTIONS", "/v1/jobs")):
        async with locked.client.request(method, path) as response:
            assert response.status == 401


@pytest.mark.parametrize(("token", "name"), [("first-token", "n8n"), ("second-token", "token-2")])
async def test_each_token_opens_and_has_a_name(locked: Site, token: str, name: str) -> None:
    async with locked.client.get("/v1/me", headers={"Authorization": f"bearer {token}"}) as response:
        assert response.status == 200
        assert (await response.json())["name"] == name


async def test_a_request_with_a_wrong_token_is_not_read_and_stores_nothing(locked: Site) -> None:
    async with locked.client.post("/lipsync", data=b"x" * 100_000, headers={"Authorization": "Bearer no"}) as response:
        assert response.status == 401
    assert locked.left_on_disk() == []


def test_a_token_is_accepted_at_any_place_of_the_list_and_no_other_text_is() -> None:
    tokens = Tokens(Settings(_env_file=None, tokens="a:one,b:two,c:three").tokens)
    given = ("one", "three", "four", "", "ü", "a:one", "on", "one ")
    found = [tokens.caller_of(token) for token in given]
    assert [caller and caller.name for caller in found] == ["a", "c", None, None, None, None, None, None]


def test_a_server_beyond_loopback_does_not_start_without_a_token() -> None:
    with pytest.raises(LipsyncError, match="LIPSYNC_TOKENS"):
        create_app(Settings(_env_file=None, host="0.0.0.0"), StandInExecutor.__new__(StandInExecutor))


def test_the_first_start_beyond_loopback_makes_prints_and_keeps_a_token(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(_env_file=None, host="0.0.0.0", data_dir=tmp_path / "data")
    (token,) = with_token(settings).tokens
    assert token.get_secret_value() in capsys.readouterr().out
    kept = tmp_path / "data" / "token"
    assert kept.read_text().strip() == token.get_secret_value()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert with_token(settings).tokens == [token]
    assert token.get_secret_value() not in capsys.readouterr().out


def test_a_tunnel_needs_a_token_too(tmp_path: Path) -> None:
    assert with_token(Settings(_env_file=None, tunnel="quick", data_dir=tmp_path)).tokens


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *((host, True) for host in ("127.0.0.1", "localhost", "::1", "[::1]", "127.8.8.8")),
        *((host, False) for host in ("0.0.0.0", "::", "10.0.0.1", "", "localhost.evil.example")),
    ],
)
def test_loopback_is_this_machine_only(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


async def test_a_server_without_tokens_serves_its_own_machine(site: Site) -> None:
    async with site.client.get("/v1/me") as response:
        assert (await response.json())["name"] == "local"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "rebound.example"}, 401),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "localhost:5000", "Origin": "http://localhost:5000"}, 200),
    ],
)
async def test_a_server_without_tokens_does_not_serve_foreign_web_pages(
    site: Site, headers: dict[str, str], status: int
) -> None:
    async with site.client.get("/v1/jobs", headers=headers) as response:
        assert response.status == status


async def test_named_origins_may_call_from_a_browser(start: Start) -> None:
    site = await start(tokens="t", cors_origins="https://app.example")
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    async with site.client.options("/v1/jobs", headers=asked) as response:
        assert response.status == 204
        assert response.headers["Access-Control-Allow-Origin"] == "https://app.example"
        assert "Authorization" in response.headers["Access-Control-Allow-Headers"]
    async with site.client.get("/v1/jobs", headers={"Origin": "https://app.example"}) as response:
        assert response.status == 401
        assert response.headers["Access-Control-Allow-Origin"] == "https://app.example"
    async with site.client.options("/v1/jobs", headers={**asked, "Origin": "https://evil.example"}) as response:
        assert response.status == 401
        assert "Access-Control-Allow-Origin" not in response.headers


def test_the_public_routes_are_those_that_the_design_names() -> None:
    assert {route.path for route in ROUTES if route.public} == PUBLIC
