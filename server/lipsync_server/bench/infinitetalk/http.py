"""A section of the random-weight benchmark: the real server with a random checkpoint, from POST to the last byte.

Knows the warm server and the section's form. Imports no torch: the checkpoint is written by whoever runs the section.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from PIL import Image, ImageOps

from lipsync_server.bench.warm_server import Answer, WarmServer
from lipsync_server.bench.whole_runs import repeat_recording
from lipsync_server.paths import SAMPLES_DIR

# Two windows, the last one short: everything that a longer job runs is compiled by then.
_WARM_UP_S = 4.0
_SIDE = 640


class _Scale(Protocol):
    @property
    def http_durations_s(self) -> tuple[float, ...]: ...


class Bench(Protocol):
    """What this section uses of bench.record.Bench."""

    @property
    def scale(self) -> _Scale: ...
    @property
    def scratch(self) -> Path: ...
    @property
    def cuda(self) -> bool: ...
    @property
    def say(self) -> Callable[[str], None]: ...

    def checkpoint(self) -> Path: ...

    def save(self) -> None: ...


def http(bench: Bench, found: dict[str, object]) -> None:
    """Preset `fast`, one still square picture; the first short job is a warm-up and stands apart."""
    durations_s = bench.scale.http_durations_s
    settings = {
        "LIPSYNC_WEIGHTS_DIR": str(bench.checkpoint().absolute()),
        "LIPSYNC_PRESET": "fast",
        "LIPSYNC_DEVICE": "cuda" if bench.cuda else "cpu",
    }
    with TemporaryDirectory(dir=bench.scratch, prefix="http-") as name:
        folder = Path(name)
        picture = folder / "picture.png"
        with Image.open(SAMPLES_DIR / "portrait.jpg") as portrait:
            ImageOps.fit(portrait.convert("RGB"), (_SIDE, _SIDE)).save(picture)
        with WarmServer("infinitetalk", folder / "data", settings) as server:
            found["ready_s"] = round(server.ready_s, 2)
            bench.save()

            def post(key: str, duration_s: float) -> None:
                audio = folder / f"{key}.wav"
                repeat_recording(SAMPLES_DIR / "speech.wav", audio, duration_s)
                found[key] = numbers = _numbers(asyncio.run(server.post(picture, audio, {})), duration_s)
                bench.say(f"http, {duration_s:g} s of sound: {numbers}")
                bench.save()

            post("warm_up", min(_WARM_UP_S, durations_s[0]))
            for duration_s in durations_s:
                post(f"{duration_s:g}_s", duration_s)


def _numbers(answer: Answer, duration_s: float) -> dict[str, object]:
    return {
        "sound_s": duration_s,
        "wall_s": round(answer.wall_s, 2),
        "s_per_s": round(answer.wall_s / duration_s, 3),
        "stage_s": answer.stage_s,
        "peak_rss_gib": round(answer.peak_rss_bytes / 2**30, 2),
        "peak_device_gib": round(answer.peak_gpu_bytes / 2**30, 2),
    }
