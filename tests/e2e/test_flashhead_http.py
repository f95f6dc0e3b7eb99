"""FlashHead through the real HTTP API and worker process at 512 x 512, with tiny files in the published layout."""

from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from jobs_of_server import (
    TOKEN,
    check_that_a_killed_server_makes_the_same_video,
    engines_of,
    frames_in,
    rendered,
    sound_in,
    speaking_form,
    tone,
)
from lipsync_server.random_models import flashhead as random_flashhead
from server_process import ServerProcess

PORTRAITS = Path(__file__).parents[2] / "docs" / "contact-sheets" / "portraits"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("flashhead")


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[ServerProcess]:
    random_flashhead.write(home / "weights")
    options = {"ENGINE": "flashhead", "DEVICE": "cpu", "PRESET": "fast", "WEIGHTS_DIR": str(home / "weights")}
    server = ServerProcess(home / "data", "product", {"TOKENS": TOKEN, **options}, environment={"OMP_NUM_THREADS": "1"})
    with server.running():
        yield server


def _form(duration_s: float, **fields: str) -> aiohttp.FormData:
    return speaking_form((PORTRAITS / "glasses.jpg").read_bytes(), "image/jpeg", duration_s, **fields)


@pytest.mark.parametrize("variant", ["pro", "lite"])
async def test_a_picture_and_a_recording_become_a_video_of_the_whole_picture(
    server: ServerProcess, session: aiohttp.ClientSession, variant: str
) -> None:
    video = await rendered(session, server, _form(0.3, options=f'{{"variant": "{variant}", "steps": 1}}'))
    assert frames_in(video).shape == (8, 600, 512, 3)
    assert sound_in(video)[0] == pytest.approx(0.3, abs=0.03)


async def test_the_square_alone_is_512_wide_and_high(server: ServerProcess, session: aiohttp.ClientSession) -> None:
    video = await rendered(session, server, _form(0.2, options='{"framing": "crop", "steps": 1}'))
    assert frames_in(video).shape == (5, 512, 512, 3)


async def test_a_server_killed_between_windows_makes_the_same_video(
    server: ServerProcess, session: aiohttp.ClientSession, home: Path
) -> None:
    await check_that_a_killed_server_makes_the_same_video(
        session, server, home / "data", lambda: _form(1.36, options='{"steps": 1}'), n_frames=34
    )


async def test_a_second_recording_is_refused_in_words(server: ServerProcess, session: aiohttp.ClientSession) -> None:
    form = _form(0.3)
    form.add_field("second_audio", tone(0.5), filename="second.wav", content_type="audio/wav")
    async with session.post(f"{server.url}/lipsync", data=form) as answer:
        problem = await answer.json()
    assert answer.status == 422
    assert "second" in problem["detail"] or "two" in problem["detail"]


async def test_flashhead_is_listed_with_its_options(server: ServerProcess, session: aiohttp.ClientSession) -> None:
    flashhead = (await engines_of(session, server))["flashhead"]
    assert flashhead["available"] is True
    assert "variant" in flashhead["options_schema"]["properties"]
