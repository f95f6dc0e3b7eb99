"""The check over real HTTP: score, findings and sheet of a job, another attempt after a bad one, and kill -9."""

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import soundfile
from lipsync_server.paths import SAMPLES_DIR
from PIL import Image
from server_process import ServerProcess

KEY = "one-video"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "data", "bars", {}).running() as server:
        yield server


def speech() -> bytes:
    samples, rate_hz = soundfile.read(SAMPLES_DIR / "speech.wav")
    file = io.BytesIO()
    soundfile.write(file, samples[rate_hz // 2 : 3 * rate_hz], rate_hz, format="WAV")
    return file.getvalue()


def submit(server: ServerProcess, *, key: str | None = None, **fields: str) -> requests.Response:
    with (SAMPLES_DIR / "portrait.jpg").open("rb") as image:
        return requests.post(
            f"{server.url}/v1/jobs",
            files={"image": image, "audio": io.BytesIO(speech())},
            data={"engine": "takes", **fields},
            headers={"Idempotency-Key": key} if key else {},
            timeout=60,
        )


def job_when(server: ServerProcess, job_id: str, holds: Any, limit_s: float = 240) -> dict[str, Any]:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        job: dict[str, Any] = requests.get(f"{server.url}/v1/jobs/{job_id}", timeout=30).json()
        if holds(job):
            return job
        assert job["state"] in ("queued", "running"), job
        time.sleep(0.2)
    raise AssertionError(f"the job did not get there: {job}")


def ended(job: dict[str, Any]) -> bool:
    return bool(job["state"] == "succeeded")


def test_a_checked_job_has_a_score_findings_with_times_and_a_sheet(server: ServerProcess) -> None:
    answer = submit(server, check="true", options=json.dumps({"good_seed": 43}))
    assert answer.status_code == 202, answer.text
    job = job_when(server, answer.json()["id"], ended)
    quality = job["result"]["quality"]
    assert quality["score"] is not None and quality["score"] < 0.6
    [finding] = [found for found in quality["findings"] if found["name"] == "flicker"]
    assert 0 <= finding["from_s"] < finding["to_s"] <= 2.6
    assert job["timings"]["check_s"] > 0
    sheet = requests.get(f"{server.url}{job['links']['sheet']}", timeout=30)
    assert (sheet.status_code, sheet.headers["Content-Type"]) == (200, "image/jpeg")
    with Image.open(io.BytesIO(sheet.content)) as image:
        assert image.width > 1000


def test_a_job_without_a_check_has_the_reason_and_no_sheet(server: ServerProcess) -> None:
    job = job_when(server, submit(server, check="false").json()["id"], ended)
    assert job["result"]["quality"] is None and "switched" in job["result"]["unchecked"]
    assert job["links"]["sheet"] is None
    assert requests.get(f"{server.url}/v1/jobs/{job['id']}/sheet", timeout=30).status_code == 404


def test_options_that_contradict_each_other_are_refused(server: ServerProcess) -> None:
    answer = submit(server, check="false", retries_below="0.6")
    assert answer.status_code == 422
    assert answer.json()["field"] == "retries_below"
    assert "check=true" in answer.json()["detail"]


def test_a_killed_server_resumes_the_second_attempt_and_keeps_the_best(server: ServerProcess) -> None:
    options = json.dumps({"good_seed": 43, "seconds_per_frame": 0.02})
    answer = submit(server, key=KEY, retries_below="0.6", options=options)
    job_id = answer.json()["id"]
    job_when(server, job_id, lambda job: "attempt 2 of at most 2" in job["progress"]["note"])
    server.kill()
    server.start()
    server.wait_until_it_listens(60)
    again = submit(server, key=KEY, retries_below="0.6", options=options)
    assert again.json()["id"] == job_id and again.headers["Idempotency-Replayed"] == "true"
    job = job_when(server, job_id, ended)
    scores = [attempt["score"] for attempt in job["result"]["attempts"]]
    assert [attempt["seed"] for attempt in job["result"]["attempts"]] == [42, 43]
    assert scores[0] < 0.6 < scores[1] == job["result"]["quality"]["score"]
    assert job["result"]["seed"] == 43
    video = requests.get(f"{server.url}{job['links']['video']}", timeout=60).content
    assert len(video) == job["result"]["size_bytes"]
