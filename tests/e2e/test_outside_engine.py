"""The engine of docs/add-an-engine.md, a package outside this repository, can be installed, listed and used."""

import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from lipsync_server.media.mp4.mux import probe_video
from lipsync_server.paths import SAMPLES_DIR
from playwright.sync_api import expect, sync_playwright
from server_process import ServerProcess
from site_kit import wav

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PAGE = Path(__file__).parents[2] / "docs" / "add-an-engine.md"


def files_of_the_page() -> dict[str, str]:
    """The example's Python files: a name in backquotes, then a block."""
    found = re.findall(r"`(lipsync_wobble/\w+\.py)`:\n\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    return {"lipsync_wobble/__init__.py": "", **dict(found)}


def install(target: Path, files: dict[str, str], entry_points: str) -> None:
    """Install a package as pip does, from a wheel, without a package index."""
    info = "lipsync_wobble-1.0.dist-info"
    wheel = target.parent / "lipsync_wobble-1.0-py3-none-any.whl"
    files = files | {
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: lipsync-wobble\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": entry_points,
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD")))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(target)]
    subprocess.run([*pip, str(wheel)], check=True)


def entry_points_of_the_page() -> str:
    found = re.search(r'\[project\.entry-points\."([\w.]+)"\]\n(\w+) = ', PAGE.read_text("utf-8"))
    assert found is not None
    group, line = found.groups()
    return f"[{group}]\n{line} = lipsync_wobble\n"


def server_with(folder: Path) -> ServerProcess:
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return ServerProcess(folder.parent / "data", "auto", {"TOKENS": "T"}, {"PYTHONPATH": path})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("outside") / "site"
    install(folder, files_of_the_page(), entry_points_of_the_page())
    with server_with(folder).running() as server:
        yield server


def engines(server: ServerProcess) -> dict[str, dict[str, object]]:
    answer = requests.get(f"{server.url}/v1/engines", headers={"Authorization": "Bearer T"}, timeout=30).json()
    return {engine["name"]: engine for engine in answer["engines"]}


def test_the_example_is_complete_and_short() -> None:
    files = files_of_the_page()
    assert set(files) == {f"lipsync_wobble/{name}.py" for name in ("__init__", "options", "info", "engine")}
    assert sum(len(text.splitlines()) for text in files.values()) <= 70


def test_an_installed_engine_is_listed_with_its_options_and_auto_does_not_choose_it(server: ServerProcess) -> None:
    listed = engines(server)
    assert listed["wobble"]["available"] is True
    assert "swing" in str(listed["wobble"])
    answer = requests.get(f"{server.url}/v1/engines", headers={"Authorization": "Bearer T"}, timeout=30).json()
    assert answer.get("default", "preview") != "wobble"


def test_an_installed_engine_renders_through_http(server: ServerProcess, tmp_path: Path) -> None:
    with (SAMPLES_DIR / "portrait.jpg").open("rb") as image, (SAMPLES_DIR / "speech.wav").open("rb") as sound:
        response = requests.post(
            f"{server.url}/lipsync",
            files={"image": image, "audio": sound},
            data={"engine": "wobble", "options": '{"swing": 20}'},
            headers={"Authorization": "Bearer T"},
            timeout=120,
        )
    assert response.status_code == 200, response.text
    video = tmp_path / "video.mp4"
    video.write_bytes(response.content)
    assert probe_video(video).n_frames > 0


@pytest.mark.skipif(CHROMIUM is None and not os.environ.get("CI"), reason="needs Chromium: apt-get install chromium")
def test_the_page_shows_an_installed_engine_and_its_options_and_renders_with_it(server: ServerProcess) -> None:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = chromium.new_page()
        page.goto(server.url + "/")
        page.get_by_label("Token").fill("T")
        page.keyboard.press("Enter")
        expect(page.locator("#engine option[value=wobble]")).to_have_text("Rocks the picture")
        page.locator("#engine").select_option("wobble")
        page.locator("#more summary").click()
        expect(page.locator("#option-swing-note")).to_contain_text("Pixels that the picture moves")
        page.locator("#option-swing").fill("20")
        page.locator("#image").set_input_files(SAMPLES_DIR / "portrait.jpg")
        page.locator("#audio").set_input_files(SAMPLES_DIR / "speech.wav")
        page.locator("#make").get_by_role("button", name="Make the video").click()
        expect(page.get_by_role("link", name="Download")).to_be_visible(timeout=120_000)
        chromium.close()
    jobs = requests.get(f"{server.url}/v1/jobs", headers={"Authorization": "Bearer T"}, timeout=30).json()["jobs"]
    assert jobs[0]["engine"] == "wobble"


def test_a_broken_engine_is_listed_as_not_available_and_the_others_still_work(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    files = files_of_the_page() | {"lipsync_wobble/info.py": "raise RuntimeError('broken on purpose')\n"}
    install(folder, files, entry_points_of_the_page())
    with server_with(folder).running() as server:
        listed = engines(server)
    assert listed["wobble"]["available"] is False
    assert "broken on purpose" in str(listed["wobble"]["reason"])
    assert listed["preview"]["available"] is True


def submitted(server: ServerProcess, engine: str) -> str:
    response = requests.post(
        f"{server.url}/v1/jobs",
        files={"image": ("face.jpg", (SAMPLES_DIR / "portrait.jpg").read_bytes()), "audio": ("hello.wav", wav(2))},
        data={"engine": engine},
        headers={"Authorization": "Bearer T"},
        timeout=60,
    )
    assert response.status_code == 202, response.text
    return str(response.json()["id"])


def ended(server: ServerProcess, job_id: str) -> tuple[str, str]:
    """The state of the job once it has ended, and the sentence of its error."""
    deadline = time.monotonic() + 120
    while True:
        assert time.monotonic() < deadline
        job = requests.get(f"{server.url}/v1/jobs/{job_id}", headers={"Authorization": "Bearer T"}, timeout=30).json()
        if job["state"] in ("succeeded", "failed", "cancelled"):
            return job["state"], (job["error"] or {}).get("detail", "")
        time.sleep(0.2)


def test_jobs_of_an_uninstalled_engine_end_with_the_reason_and_others_still_run(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    install(folder, files_of_the_page(), entry_points_of_the_page())
    server = server_with(folder)
    with server.running():
        server.wait_until_it_answers("/readyz", 60)
        shutil.rmtree(folder)
        state, reason = ended(server, submitted(server, "wobble"))
        assert state == "failed"
        assert "install the package with lipsync_wobble again" in reason
        jobs = [submitted(server, engine) for engine in ("preview", "wobble", "preview")]
        server.kill()
    with server.running():
        ends = [ended(server, job_id) for job_id in jobs]
    assert [state for state, _ in ends] == ["succeeded", "failed", "succeeded"]
    assert "There is no engine 'wobble'" in ends[1][1]
