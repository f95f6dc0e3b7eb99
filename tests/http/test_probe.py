"""Uploads are probed in parallel: a slow or hostile file delays no other. A probe ends with its sender's connection.

A named pipe without a writer stands for a file whose decoding does not end.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from lipsync_server.engines.ask import Ask
from lipsync_server.errors import Cancelled, InvalidAudio, UnsupportedMedia
from lipsync_server.http.inputs import probe
from lipsync_server.http.inputs.probe import N_QUICK, N_SLOW, Prober
from lipsync_server.http.inputs.sink import Taken
from lipsync_server.media.sandbox.pool import DecoderPool
from lipsync_server.settings import Settings
from site_kit import PNG, WAV, Site, wav


@pytest.fixture
async def prober(decoders: DecoderPool) -> AsyncIterator[Prober]:
    prober = Prober(Settings(_env_file=None), decoders)
    yield prober
    await prober.close()


def taken(path: Path, content: bytes | None) -> Taken:
    """A file of an upload; without content it is a named pipe."""
    if content is None:
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    return Taken("audio", path, path.name, 100, "")


def decoders_at_work() -> set[int]:
    return {child.pid for child in psutil.Process().children() if "sandbox" in " ".join(child.cmdline())}


async def test_a_decoder_is_killed_when_the_caller_leaves(prober: Prober, tmp_path: Path) -> None:
    calls = 0

    def caller_left() -> bool:
        nonlocal calls
        calls += 1
        return calls > 2

    before = decoders_at_work()
    with pytest.raises(Cancelled):
        await prober.probe({"image": taken(tmp_path / "a.png", None)}, Ask(), caller_left=caller_left)
    assert len(decoders_at_work() - before) <= 1, "at most the decoder that replaced the killed one"
    good = {"image": taken(tmp_path / "p.png", PNG), "audio": taken(tmp_path / "b.wav", WAV)}
    assert (await prober.probe(good, Ask(), caller_left=lambda: False)).duration_s == 0.4


async def test_files_that_decode_for_ever_delay_no_other_upload(
    prober: Prober, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "QUICK_S", 1.0)
    slow = [
        asyncio.create_task(
            prober.probe({"image": taken(tmp_path / f"{number}.png", None)}, Ask(), caller_left=lambda: False)
        )
        for number in range(N_QUICK + N_SLOW + 2)
    ]
    good = {"audio": taken(tmp_path / "good.wav", wav(0.5))}
    # Tasks start in the order in which they were made, so the slow files have every place before the good one asks.
    honest = asyncio.create_task(prober.probe(good, Ask(), caller_left=lambda: False))
    found = await asyncio.wait_for(honest, 60)
    assert found.duration_s == 0.5
    assert not any(task.done() for task in slow)
    for task in slow:
        task.cancel()
    assert all(isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*slow, return_exceptions=True))


async def test_a_bad_file_beside_a_good_one_names_its_field(prober: Prober, tmp_path: Path) -> None:
    files = {"image": taken(tmp_path / "p.png", PNG), "second_audio": taken(tmp_path / "a.wav", wav(0.05))}
    with pytest.raises(InvalidAudio) as refusal:
        await prober.probe(files, Ask(), caller_left=lambda: False)
    assert refusal.value.field == "second_audio"
    with pytest.raises(UnsupportedMedia, match="n8n Binary File"):
        await prober.probe({"audio": taken(tmp_path / "b.wav", b"[object Object]")}, Ask(), caller_left=lambda: False)


async def test_a_joined_recording_is_accepted_with_one_warning(site: Site) -> None:
    job = await site.submit(audio=("vv.wav", wav(0.5) + wav(0.7)))
    result = (await site.ended(job["id"]))["result"]
    assert len([warning for warning in result["warnings"] if "2 files joined" in warning]) == 1
