"""An engine outside this repository is installed, listed and rendered with, as docs/add-an-engine.md shows it."""

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from lipsync_server.media.mp4.mux import probe_video
from lipsync_server.paths import SAMPLES_DIR
from server_process import ServerProcess

PAGE = Path(__file__).parents[2] / "docs" / "add-an-engine.md"


def files_of_the_page() -> dict[str, str]:
    """The example's Python files: a name in backquotes, then a block."""
    found = re.findall(r"`(lipsync_wobble/\w+\.py)`:\n\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    return {"lipsync_wobble/__init__.py": "", **dict(found)}


def install(target: Path, files: dict[str, str], entry_points: str) -> None:
    """Install a package the way pip does, from a wheel, without asking any index."""
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


def test_an_installed_engine_is_listed_with_its_options_and_auto_does_not_take_it(server: ServerProcess) -> None:
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


def test_a_broken_engine_is_listed_as_not_available_and_the_others_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    files = files_of_the_page() | {"lipsync_wobble/info.py": "raise RuntimeError('broken on purpose')\n"}
    install(folder, files, entry_points_of_the_page())
    with server_with(folder).running() as server:
        listed = engines(server)
    assert listed["wobble"]["available"] is False
    assert "broken on purpose" in str(listed["wobble"]["reason"])
    assert listed["preview"]["available"] is True
