"""The operation of a server: metrics, logs, engines, a second port, a quick start, one server for a data folder."""

import io
import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer
from lipsync_server.cloud.rent import doctor_lines
from lipsync_server.engines.registry import ENGINES
from lipsync_server.errors import LipsyncError
from lipsync_server.http.app import create_app, create_health_app
from lipsync_server.http.logs import REQUEST_ID, JsonFormatter
from lipsync_server.http.serve import log_problems
from lipsync_server.settings import Settings
from site_kit import PNG, WAV, Site, StandInExecutor, Start, form


async def metrics(site: Site) -> dict[str, float]:
    async with site.client.get("/metrics") as response:
        assert response.status == 200
        lines = (await response.text()).splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


async def test_the_waiting_seconds_of_an_engine_are_zero_and_never_missing_when_nothing_waits(site: Site) -> None:
    name = 'lipsync_queue_seconds{engine="preview"}'
    assert (await metrics(site))[name] == 0
    await site.submit(prompt="hold")
    await site.executor.rendering.wait()
    waiting = (await site.submit())["id"]
    assert (await metrics(site))[name] > 0
    site.executor.let_go.set()
    await site.ended(waiting)
    assert (await metrics(site))[name] == 0


async def test_metrics_count_jobs_seconds_bytes_and_money(start: Start) -> None:
    site = await start(price_per_hour=3600, currency="EUR")
    for prompt in ("", "no face"):
        async with site.client.post("/lipsync", data=form(prompt=prompt)) as response:
            body = await response.read()
            if not prompt:
                video = body
    await site.submit(prompt="hold")
    await site.executor.rendering.wait()
    await site.submit()
    figures = await metrics(site)
    assert figures['lipsync_jobs{state="succeeded"}'] == 1
    assert figures['lipsync_jobs{state="failed"}'] == 1
    assert figures['lipsync_jobs{state="running"}'] == 1
    assert figures["lipsync_queue_length"] == 1
    assert figures['lipsync_queue_seconds{engine="preview"}'] == pytest.approx(0.1)
    assert figures['lipsync_jobs_ended_total{engine="preview",state="succeeded"}'] == 1
    assert figures['lipsync_stage_seconds_sum{engine="preview",stage="generate"}'] == pytest.approx(0.05)
    assert figures['lipsync_seconds_per_second_sum{engine="preview"}'] == pytest.approx(0.25)
    assert figures["lipsync_bytes_in_total"] == 4 * (len(PNG) + len(WAV))
    assert figures["lipsync_bytes_out_total"] == len(video)
    worked = figures['lipsync_worker_seconds_total{engine="preview"}']
    assert figures['lipsync_cost_total{currency="EUR"}'] == pytest.approx(worked)
    assert figures['lipsync_workers{engine="preview",node="here",state="busy"}'] == 1
    site.executor.let_go.set()


async def test_the_list_of_engines_has_options_limits_and_workers(site: Site) -> None:
    async with site.client.get("/v1/engines") as response:
        body = await response.json()
    assert body["default"] == "preview"
    engines = {engine["name"]: engine for engine in body["engines"]}
    assert engines["preview"]["available"]
    assert "seed" in engines["preview"]["options_schema"]["properties"]
    assert not engines["infinitetalk"]["available"] and engines["infinitetalk"]["reason"]
    assert body["limits"]["max_audio_s"] == 1800
    assert body["workers"][0]["state"] == "ready"


async def test_the_doctor_names_the_remedies_for_the_servers_machine(site: Site) -> None:
    async with site.client.get("/v1/doctor") as response:
        body = await response.json()
    findings = {found["name"]: found for found in body["findings"]}
    assert body["engine"] == "preview"
    assert {"card", "host memory", "weights disk", "rendering"} <= findings.keys()
    assert "lipsync weights pull" in findings["weights of infinitetalk"]["advice"]
    lines = await doctor_lines(str(site.client.make_url("")).rstrip("/"), "")
    assert any(line.startswith("ok") and "rendering: preview makes the videos." in line for line in lines)
    assert await doctor_lines("http://127.0.0.1:1", "") == []


async def test_the_server_logs_each_problem_of_its_machine_at_its_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(data_dir=tmp_path, weights_dir=tmp_path, min_free_disk_bytes=2**60)
    with caplog.at_level(logging.WARNING):
        await log_problems(settings, ENGINES)
    (line,) = [record.message for record in caplog.records if record.message.startswith("videos disk")]
    assert "Free some, rent a machine with a larger disk" in line


async def test_every_answer_has_a_request_id_and_keeps_a_given_one(site: Site) -> None:
    for address in ("/healthz", "/", "/nothing", "/v1/jobs"):
        async with site.client.get(address) as response:
            assert re.fullmatch(r"[0-9a-f]{16}", response.headers["X-Request-Id"])
        async with site.client.get(address, headers={"X-Request-Id": "abc-1"}) as response:
            assert response.headers["X-Request-Id"] == "abc-1"
            if response.status >= 400:
                assert (await response.json())["request_id"] == "abc-1"
        async with site.client.get(address, headers={"X-Request-Id": "<script>"}) as response:
            assert response.headers["X-Request-Id"] != "<script>"


def test_log_lines_are_json_with_the_request_id() -> None:
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(JsonFormatter())
    record = logging.makeLogRecord(
        {"msg": "job %s", "args": ("done",), "levelname": "INFO", "job_id": "x", "_ray_ns": 1}
    )
    token = REQUEST_ID.set("abc")
    try:
        handler.emit(record)
    finally:
        REQUEST_ID.reset(token)
    line = json.loads(handler.stream.getvalue())
    assert line["message"] == "job done"
    assert (line["level"], line["request_id"], line["job_id"]) == ("info", "abc", "x")
    assert "_ray_ns" not in line, "Ray adds a field with an underscore to every record"


async def test_the_health_port_answers_health_only(site: Site) -> None:
    async with TestClient(TestServer(create_health_app(site.client.app))) as client:
        for address, status in (("/ping", 200), ("/healthz", 200), ("/readyz", 200), ("/v1/jobs", 404), ("/", 404)):
            async with client.get(address) as response:
                assert response.status == status


async def test_the_page_is_served_with_a_strict_policy(site: Site) -> None:
    async with site.client.get("/") as response:
        assert response.status == 200
        assert response.content_type == "text/html"
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy
        assert "script-src" not in policy
        text = await response.text()
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text)
    for name in ("..%2fapp.py", "app.py", "..%2f..%2fsettings.py"):
        async with site.client.get(f"/page/{name}") as response:
            assert response.status == 404


async def test_two_servers_do_not_share_a_data_folder(site: Site) -> None:
    runner = TestServer(create_app(site.settings, StandInExecutor()))
    with pytest.raises(LipsyncError, match="Another server is using"):
        await runner.start_server()
    await runner.close()


def test_the_server_starts_without_the_libraries_of_the_engines() -> None:
    code = (
        "import sys, lipsync_server.http.serve, lipsync_server.workers.process.executor\n"
        "print([name for name in ('torch', 'librosa', 'cv2', 'av', 'PIL', 'ai_edge_litert') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
