"""FlashTalk through the real HTTP API and worker process, with tiny files in the published layout: shards alone."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from jobs_of_server import (
    TOKEN,
    engines_of,
    frames_in,
    noise_png,
    posted,
    rendered,
    sound_in,
    speaking_form,
    succeeded,
    until,
    video_of,
)
from lipsync_server.engines.infinitetalk.files.places import CONVERTED, FLASHTALK_FOLDER
from lipsync_server.random_models import infinitetalk as random_models
from lipsync_server.random_models.infinitetalk import Contents
from server_process import ServerProcess

ENCODERS_ALONE = Contents(people=(), text=("fp8",))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flashtalk") / "weights"
    random_models.write(folder, contents=ENCODERS_ALONE)
    random_models.write_flashtalk(folder)
    return folder


def _server(weights: Path, data: Path, engine: str = "product", **options: str) -> ServerProcess:
    given = {"ENGINE": "infinitetalk", "DEVICE": "cpu", "PRESET": "fast", "WEIGHTS_DIR": str(weights), **options}
    return ServerProcess(data, engine, {"TOKENS": TOKEN, **given}, environment={"OMP_NUM_THREADS": "1"})


@pytest.fixture(scope="module")
def server(weights: Path) -> Iterator[ServerProcess]:
    with _server(weights, weights.parent / "data").running() as server:
        yield server


def _form() -> aiohttp.FormData:
    return speaking_form(noise_png(56, 96), "image/png", 0.3)


async def _reason(session: aiohttp.ClientSession, server: ServerProcess) -> str:
    return str((await engines_of(session, server))["infinitetalk"]["reason"])


async def test_a_preset_of_few_steps_uses_flashtalk_and_names_it(
    server: ServerProcess, session: aiohttp.ClientSession
) -> None:
    assert "FlashTalk" in await _reason(session, server)
    address = await posted(session, server, _form())
    warnings = (await until(session, address, succeeded))["result"]["warnings"]
    assert any("FlashTalk" in warning for warning in warnings), warnings
    video = await video_of(session, address)
    assert frames_in(video).shape == (8, 768, 448, 3)
    assert sound_in(video)[0] == pytest.approx(0.3, abs=0.03)


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
        with _server(weights, tmp_path / "data", "small", QUANT="int8").running() as server:
            assert "FlashTalk's int8 weights" in await _reason(session, server)
            form = speaking_form(noise_png(200, 64), "image/png", 0.3)
            assert frames_in(await rendered(session, server, form)).shape == (8, 64, 192, 3)
    finally:
        target.unlink(missing_ok=True)
        target.with_suffix(".json").unlink(missing_ok=True)
