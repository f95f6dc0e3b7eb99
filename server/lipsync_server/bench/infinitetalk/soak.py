"""Run many jobs one after the other in the real engine, and compare the memory after them with the memory before.

Knows the engine interface and short jobs of several kinds. Does not time parts.
"""

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
import torch

from lipsync_server.bench.infinitetalk.bench import Bench
from lipsync_server.bench.memory import GIB
from lipsync_server.bench.record import Numbers, say
from lipsync_server.bench.render_context import RecordingContext
from lipsync_server.engines.base import SPEECH_RATE_HZ, Preset, RenderRequest
from lipsync_server.engines.infinitetalk.engine import create
from lipsync_server.engines.infinitetalk.options import Options
from lipsync_server.settings import Settings

# After this many jobs every kind of job has run, and caches have their final size.
_SETTLED = 5


@dataclass(frozen=True)
class _Kind:
    """A short job: seconds of sound, the picture's height and width, which decide the size, and the preset."""

    duration_s: float
    picture: tuple[int, int]
    preset: Preset


# One window and two, a square and a wide picture, one and two passes.
_KINDS = (
    _Kind(0.5, (400, 400), "fast"),
    _Kind(0.8, (300, 600), "fast"),
    _Kind(0.5, (300, 600), "balanced"),
    _Kind(0.8, (400, 400), "balanced"),
)


def soak(bench: Bench, found: Numbers) -> None:
    """Run jobs of one denoising step and windows of 13 frames. Record the memory after the fifth and the last job."""
    n_jobs = bench.scale.soak_jobs
    with TemporaryDirectory(dir=bench.scratch, prefix="soak-") as folder:
        device = str(bench.device) if bench.cuda else "cpu"
        settings = Settings(
            _env_file=None, weights_dir=bench.model_files(), data_dir=Path(folder), device=device, preset="fast"
        )
        with closing(create(settings)) as engine:
            started = time.perf_counter()
            engine.load()
            found["load_s"] = round(time.perf_counter() - started, 2)
            started = time.perf_counter()
            for job, request in enumerate(_requests(n_jobs), 1):
                n_frames = sum(len(frames) for frames in engine.generate(request, RecordingContext(Path(folder))))
                if n_frames != request.n_frames:
                    raise RuntimeError(f"job {job} made {n_frames} frames instead of {request.n_frames}")
                if job in (min(_SETTLED, n_jobs - 1), n_jobs):
                    found[f"after_{job}"] = memory = _memory(bench)
                    say(f"soak, after job {job}: {memory}")
                    bench.record.save()
            found["jobs"] = n_jobs
            found["jobs_s"] = round(time.perf_counter() - started, 1)


def _requests(n: int) -> Iterator[RenderRequest]:
    """`n` requests with the kinds of jobs in turn, each with other noise as picture and speech."""
    for job in range(n):
        kind = _KINDS[job % len(_KINDS)]
        rng = np.random.default_rng(job)
        speech = rng.standard_normal(round(kind.duration_s * SPEECH_RATE_HZ)).astype(np.float32) * 0.1
        options = Options(preset=kind.preset, steps=1, window_frames=13, motion_frames=5, seed=job)
        picture = rng.integers(0, 256, (*kind.picture, 3), dtype=np.uint8)
        yield RenderRequest(picture, speech, kind.duration_s, options)


def _memory(bench: Bench) -> Numbers:
    """Memory of this process now, in GiB."""
    found: Numbers = {"rss_gib": round(psutil.Process().memory_info().rss / GIB, 3)}
    if bench.cuda:
        found["gpu_allocated_gib"] = round(torch.cuda.memory_allocated(bench.device) / GIB, 3)
        found["gpu_reserved_gib"] = round(torch.cuda.memory_reserved(bench.device) / GIB, 3)
    return found
