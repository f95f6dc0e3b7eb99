"""The section http: whole jobs of the real server with random model files, from POST to the last byte."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image, ImageOps

from lipsync_server.bench.infinitetalk.bench import Bench
from lipsync_server.bench.memory import GIB
from lipsync_server.bench.record import Numbers, say
from lipsync_server.bench.warm_server import Answer, WarmServer
from lipsync_server.bench.whole_runs import repeat_recording
from lipsync_server.paths import SAMPLES_DIR

# This job has two windows, and the last one is short. So it compiles every kernel that a longer job needs.
_WARM_UP_S = 4.0
_SIDE = 640


def http(bench: Bench, found: Numbers) -> None:
    """Post a still square picture with the preset `fast`; the key of the short first job is `warm_up`."""
    durations_s = bench.scale.http_durations_s
    settings = {
        "WEIGHTS_DIR": str(bench.model_files().absolute()),
        "PRESET": "fast",
        "DEVICE": "cuda" if bench.cuda else "cpu",
    }
    with TemporaryDirectory(dir=bench.scratch, prefix="http-") as name:
        folder = Path(name)
        picture = folder / "picture.png"
        with Image.open(SAMPLES_DIR / "portrait.jpg") as portrait:
            ImageOps.fit(portrait.convert("RGB"), (_SIDE, _SIDE)).save(picture)
        with WarmServer("infinitetalk", folder / "data", settings) as server:
            found["ready_s"] = round(server.ready_s, 2)
            bench.record.save()

            def post(key: str, duration_s: float) -> None:
                audio = folder / f"{key}.wav"
                repeat_recording(SAMPLES_DIR / "speech.wav", audio, duration_s)
                found[key] = numbers = _numbers(asyncio.run(server.post(picture, audio, {})), duration_s)
                say(f"http, {duration_s:g} s of sound: {numbers}")
                bench.record.save()

            post("warm_up", min(_WARM_UP_S, durations_s[0]))
            for duration_s in durations_s:
                post(f"{duration_s:g}_s", duration_s)


def _numbers(answer: Answer, duration_s: float) -> Numbers:
    """The numbers of one job. s_per_s: wall seconds per second of sound."""
    return {
        "sound_s": duration_s,
        "wall_s": round(answer.wall_s, 2),
        "s_per_s": round(answer.wall_s / duration_s, 3),
        "stage_s": answer.stage_s,
        "peak_rss_gib": round(answer.peak_rss_bytes / GIB, 2),
        "peak_device_gib": round(answer.peak_gpu_bytes / GIB, 2),
    }
