"""FlashTalk through the real HTTP API and worker process, with tiny files in the published layout: shards alone."""

import asyncio
import io
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import aiohttp
import av
import numpy as np
import pytest
import soundfile
from lipsync_server.engines.infinitetalk.files.places import CONVERTED, FLASHTALK_FOLDER
from lipsync_server.random_models import infinitetalk as random_models
from lipsync_server.random_models.infinitetalk import Contents
from PIL import Image
from server_process import ServerProcess

TOKEN = "flashtalk-test-token"
ENCODERS_ALONE = Contents(people=(), text=("fp8",))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flashtalk") / "weights"
    random_models.write(folder, contents=ENCODERS_ALONE)
    random_models.write_flashtalk(folder)
    return folder


def _server(weights: Path, data: Path, **options: str) -> ServerProcess:
    given = {"ENGINE": "infinitetalk", "DEVICE": "cpu", "PRESET": "fast", "WEIGHTS_DIR": str(weights), **options}
    return ServerProcess(data, "product", {"TOKENS": TOKEN, **given}, environment={"OMP_NUM_THREADS": "1"})


@pytest.fixture(scope="module")
def server(weights: Path) -> Iterator[ServerProcess]:
    with _server(weights, weights.parent / "data").running() as server:
        yield server


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as opened:
        yield opened


def _form(duration_s: float) -> aiohttp.FormData:
    sound, picture = io.BytesIO(), io.BytesIO()
    times = np.arange(round(duration_s * 44_100)) / 44_100
    soundfile.write(sound, 0.3 * np.sin(2 * np.pi * 220 * times), 44_100, format="WAV")
    noise = np.random.default_rng(1).integers(0, 255, (96, 56, 3), dtype=np.uint8)
    Image.fromarray(noise).save(picture, "PNG")
    form = aiohttp.FormData()
    form.add_field("image", picture.getvalue(), filename="face.png", content_type="image/png")
    form.add_field("audio", sound.getvalue(), filename="voice.wav", content_type="audio/wav")
    return form


async def _reason(session: aiohttp.ClientSession, server: ServerProcess) -> str:
    async with session.get(f"{server.url}/v1/engines") as answer:
        engines = (await answer.json())["engines"]
    return next(str(engine["reason"]) for engine in engines if engine["name"] == "infinitetalk")


async def test_a_preset_of_few_steps_takes_flashtalk_and_says_so(
    server: ServerProcess, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    assert "FlashTalk" in await _reason(session, server)
    async with session.post(f"{server.url}/lipsync", data=_form(0.3)) as answer:
        body = await answer.read()
        assert (answer.status, answer.content_type) == (200, "video/mp4"), body[:500]
        job_id = answer.headers["Lipsync-Job-Id"]
    video = tmp_path / "video.mp4"
    video.write_bytes(body)
    with av.open(str(video)) as container:
        stream, sound = container.streams.video[0], container.streams.audio[0]
        assert (stream.frames, stream.width, stream.height) == (8, 448, 768)
        assert sound.duration is not None
        assert sound.time_base is not None
        assert float(sound.duration * sound.time_base) == pytest.approx(0.3, abs=0.03)
    async with session.get(f"{server.url}/v1/jobs/{job_id}") as answer:
        result = (await answer.json())["result"]
    assert any("FlashTalk" in warning for warning in result["warnings"]), result["warnings"]


async def test_the_8_bit_file_is_written_once_and_the_next_start_reads_it(
    weights: Path, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "lipsync_server.cli", "weights", "convert", "flashtalk"]
    command += ["--weights-dir", str(weights)]
    target = weights / FLASHTALK_FOLDER / CONVERTED.format(kind="int8")
    convert = partial(subprocess.run, command, check=True, capture_output=True, text=True)
    try:
        said = (await asyncio.to_thread(convert)).stdout
        assert f"{target.stat().st_size:,} bytes" in said
        before = target.stat().st_mtime_ns
        await asyncio.to_thread(convert)
        assert target.stat().st_mtime_ns == before, "a second call has nothing to do"
        with _server(weights, tmp_path / "data", QUANT="int8").running() as server:
            assert "FlashTalk's int8 weights" in await _reason(session, server)
            async with session.post(f"{server.url}/lipsync", data=_form(0.3)) as answer:
                assert answer.status == 200, (await answer.text())[:500]
    finally:
        target.unlink(missing_ok=True)
        target.with_suffix(".json").unlink(missing_ok=True)
