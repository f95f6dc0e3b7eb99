"""The contract at /openapi.json agrees with the answers: schemathesis finds no 5xx and no undocumented answer."""

import importlib
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from lipsync_server.engines.registry import ENGINES
from lipsync_server.http.answers import schemas
from lipsync_server.http.api_docs.openapi import document
from lipsync_server.http.app import ROUTES, create_app
from lipsync_server.settings import Settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from site_kit import PNG, WAV, Site, StandInExecutor

EXAMPLES = 8


async def test_every_route_is_documented_and_every_documented_route_exists(site: Site) -> None:
    async with site.client.get("/openapi.json") as response:
        contract = await response.json()
    assert contract["openapi"].startswith("3.1")
    documented = {(method.upper(), path) for path, methods in contract["paths"].items() for method in methods}
    routed = {
        (route.method, route.resource.canonical)
        for route in site.client.app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    assert documented == routed
    for (method, path), route in {(route.method, route.path): route for route in ROUTES}.items():
        operation = contract["paths"][path][method.lower()]
        assert (operation.get("security") == []) is route.public
        assert ("401" in operation["responses"]) is not route.public


async def test_the_models_of_the_contract_are_those_of_the_answers(site: Site) -> None:
    async with site.client.get("/openapi.json") as response:
        contract = await response.json()
    assert set(contract["components"]["schemas"]["Job"]["properties"]) == set(schemas.Job.model_fields)
    form = contract["paths"]["/lipsync"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(schemas.JobOptions.model_fields) | {"image", "audio"} <= set(form["properties"])


async def test_the_docs_page_shows_every_route_and_needs_no_other_host(site: Site) -> None:
    async with site.client.get("/docs") as response:
        text = await response.text()
    for route in ROUTES:
        assert f"{route.method} {route.path}" in text
    assert "<script" not in text
    assert "`" not in text
    assert "://" not in text.replace(str(site.client.make_url("")).rstrip("/"), "").replace("http:// or https://", "")


async def test_the_docs_page_lists_fields_with_type_default_and_meaning_and_every_engine_s_options(site: Site) -> None:
    async with site.client.get("/docs") as response:
        text = await response.text()
    assert "<td><code>seed</code></td><td>whole number from 0</td><td>Same seed, same inputs: same video.</td>" in text
    for name in ENGINES.entries:
        assert f"<h3><code>{name}</code></h3>" in text
        for option in ENGINES.options_model(name).model_fields:
            assert f"<code>{option}</code>" in text
    assert "number from 0 to 2<br>Default: <code>1.0</code>" in text


async def test_every_route_has_a_curl_line_that_reports_errors(site: Site) -> None:
    async with site.client.get("/docs") as response:
        lines = re.findall(r"<pre>(curl --fail-with-body .*?)</pre>", await response.text())
    assert len(lines) == len(ROUTES)
    base = str(site.client.make_url("")).rstrip("/")
    assert all(base in line for line in lines)


@pytest.mark.parametrize("host", ["evil$(reboot).example", 'x"; rm -rf ~; "', "[", "localhost:1"])
async def test_a_curl_line_holds_no_host_that_a_shell_would_run(site: Site, host: str) -> None:
    async with site.client.get("/docs", headers={"Host": host}) as response:
        text = await response.text()
    assert "reboot" not in text
    assert "rm -rf" not in text


async def test_the_sample_files_of_the_curl_lines_are_there(site: Site) -> None:
    for name, kind in (("portrait.jpg", "image/jpeg"), ("speech.wav", "audio/")):
        async with site.client.get(f"/page/{name}") as response:
            assert response.status == 200
            assert response.content_type.startswith(kind)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server in a thread of its own, because schemathesis calls it with blocking functions."""
    import asyncio

    from aiohttp.test_utils import TestServer

    folder: Path = tmp_path_factory.mktemp("contract")
    started = threading.Event()
    found: dict[str, Any] = {}

    async def run() -> None:
        stop = found["stop"] = asyncio.Event()
        found["loop"] = asyncio.get_running_loop()
        config = Settings(_env_file=None, data_dir=folder, min_free_disk_bytes=0, tokens="token")
        server = TestServer(create_app(config, StandInExecutor()))
        await server.start_server()
        found["url"] = str(server.make_url(""))
        started.set()
        await stop.wait()
        await server.close()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert started.wait(20)
    yield str(found["url"]).rstrip("/")
    found["loop"].call_soon_threadsafe(found["stop"].set)
    thread.join(20)


# schemathesis imports this module inside the first test. Python 3.11 can fail to compile a module that deep in the
# stack ("AST constructor recursion depth mismatch"), so it is imported here.
importlib.import_module("schemathesis.wfc.escalation")
contract = schemathesis.openapi.from_dict(document(ROUTES))


@contract.exclude(path_regex="/events$").parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
def test_schemathesis_finds_no_5xx_and_no_undocumented_answer(case: schemathesis.Case[Any], address: str) -> None:
    case.call_and_validate(
        base_url=address,
        headers={"Authorization": "Bearer token"},
        checks=[
            schemathesis.checks.not_a_server_error,
            status_code_conformance,
            content_type_conformance,
            response_schema_conformance,
            response_headers_conformance,
        ],
    )


def test_the_answers_about_a_real_job_are_the_documented_ones(address: str) -> None:
    session = requests.Session()
    session.headers["Authorization"] = "Bearer token"
    seen: list[tuple[str, str, int]] = []

    def call(method: str, path: str, **request: Any) -> requests.Response:
        response = session.request(method, address + path.format(job_id=job_id), **request)
        contract[path][method].validate_response(response)
        seen.append((method, path, response.status_code))
        return response

    job_id = ""
    files = {"image": ("face.png", PNG), "audio": ("hello.wav", WAV)}
    job_id = call("POST", "/v1/jobs", files=files).json()["id"]
    call("GET", "/v1/jobs/{job_id}/events")
    assert call("GET", "/v1/jobs/{job_id}").json()["state"] == "succeeded"
    call("GET", "/v1/jobs")
    etag = call("GET", "/v1/jobs/{job_id}/video").headers["ETag"]
    call("GET", "/v1/jobs/{job_id}/video", headers={"Range": "bytes=0-9"})
    call("GET", "/v1/jobs/{job_id}/video", headers={"Range": "bytes=99999999-"})
    call("GET", "/v1/jobs/{job_id}/video", headers={"If-None-Match": etag})
    call("GET", "/v1/jobs/{job_id}/video", headers={"If-Match": '"other"'})
    call("GET", "/v1/jobs/{job_id}/link")
    call("POST", "/v1/jobs/{job_id}/collected")
    call("DELETE", "/v1/jobs/{job_id}")
    call("GET", "/v1/jobs/{job_id}")
    call("POST", "/lipsync", files=files)
    call("POST", "/lipsync", files=files, data={"prompt": "no face"})
    job_id = call("POST", "/lipsync", files=files, data={"prompt": "hold"}, headers={"Prefer": "respond-async"}).json()[
        "id"
    ]
    call("GET", "/v1/jobs/{job_id}/video")
    call("DELETE", "/v1/jobs/{job_id}")
    statuses = [status for _, _, status in seen]
    assert statuses == [202, 200, 200, 200, 200, 206, 416, 304, 412, 200, 200, 204, 410, 200, 422, 202, 409, 202]


def test_the_contract_is_json_without_surprises(address: str) -> None:
    import urllib.request

    with urllib.request.urlopen(f"{address}/openapi.json") as response:
        text = response.read().decode()
    assert json.loads(text)["info"]["title"] == "Lipsync"
