"""The advice for a missing extra can be followed at the place where the server runs."""

import sys
from pathlib import Path

import pytest
from lipsync_server import extras
from lipsync_server.engines.recogniser import recogniser_home
from lipsync_server.errors import InvalidInput
from lipsync_server.media.voice.choice import choose_speaker

ROOT = Path(__file__).parents[2]


def in_image(target: str, prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (prefix / "lipsync-image").write_text(f"{target}\n")
    monkeypatch.setattr(sys, "prefix", str(prefix))


def test_in_a_clone_the_advice_is_the_command_of_the_readme() -> None:
    command = "pip install -c constraints.txt -e '.[speech]'"
    assert command in (ROOT / "docs" / "speech.md").read_text(encoding="utf-8")
    assert extras.way_to_install("speech", then="lipsync weights pull kokoro") == (
        f"In the project's folder run: {command} && lipsync weights pull kokoro"
    )


def test_in_the_cpu_image_which_has_no_pip_the_advice_is_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_image("cpu", tmp_path, monkeypatch)
    advice = extras.way_to_install("speech", then="lipsync weights pull kokoro")
    assert "pip install" not in advice
    assert "use the GPU image" in advice
    assert "docker build . --target cpu --build-arg EXTRAS=speech -t lipsync:cpu. " in advice
    assert advice.endswith("Then run in the container: lipsync weights pull kokoro")
    assert extras.way_to_install("gpu") == "This is the CPU image; use the GPU image, which has all engines"


def test_in_the_gpu_image_the_advice_for_what_it_lacks_is_a_build_argument(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_image("gpu", tmp_path, monkeypatch)
    assert "docker build . --build-arg EXTRAS=enhance -t lipsync" in extras.way_to_install("enhance")


def test_beside_an_installed_wheel_the_advice_names_the_packages_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wheel has no project folder, and no index has lipsync-server."""
    installed = tmp_path / "lipsync_server-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(
        "Metadata-Version: 2.4\nName: lipsync-server\nVersion: 1\n"
        "Requires-Dist: aiohttp>=3\n"
        "Requires-Dist: onnxruntime>=1.20; extra == 'speech'\n"
        "Requires-Dist: faster-whisper>=1.1; extra == 'speech'\n"
        "Requires-Dist: torch>=2.6; extra == 'models'\n"
        "Requires-Dist: lipsync-server[models]; extra == 'enhance'\n"
        "Requires-Dist: spandrel>=0.4; (sys_platform == 'linux') and extra == 'enhance'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(extras, "PACKAGE_DIR", tmp_path / "site-packages" / "lipsync_server")
    run = "In the server's Python environment run: pip install"
    assert extras.way_to_install("speech") == f"{run} 'faster-whisper>=1.1' 'onnxruntime>=1.20'"
    assert extras.way_to_install("enhance") == f"{run} 'spandrel>=0.4' 'torch>=2.6'"


def test_captions_and_speech_say_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_image("cpu", tmp_path, monkeypatch)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InvalidInput, match="use the GPU image") as refused:
        recogniser_home(tmp_path)
    assert refused.value.detail.endswith("Or send the spoken words as script, or leave captions out.")
    assert "use the GPU image" in choose_speaker("", "en-US", tmp_path).warning
