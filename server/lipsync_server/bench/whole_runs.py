"""Runs that measure an engine: each in a process of its own, or through a warm server over HTTP.

Knows how to time a render and what this machine is; presents nothing.
"""

import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path

import psutil
import soundfile

from lipsync_server import __version__
from lipsync_server.bench.warm_server import WarmServer
from lipsync_server.engines import hardware
from lipsync_server.errors import InvalidAudio, InvalidInput, LipsyncError
from lipsync_server.settings import Settings

_VERSIONS_OF = ("numpy", "av", "ai-edge-litert", "opencv-python-headless", "torch", "diffusers", "transformers")


@dataclass(frozen=True)
class Plan:
    """What is to be measured. options: `key=value` as `lipsync render --option` takes them."""

    engine: str
    image: Path
    audio: Path
    durations_s: tuple[float, ...]
    repeat: int = 1
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """One measured render. wall_s: the render's seconds of work, or from POST to last byte; memory at its peak."""

    duration_s: float
    wall_s: float
    stage_s: dict[str, float] = field(default_factory=dict)
    peak_rss_bytes: int = 0
    peak_gpu_bytes: int = 0


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    memory_gib = psutil.virtual_memory().total / 2**30
    gpus = [f"{gpu.name} ({gpu.total_bytes / 2**30:.0f} GiB)" for gpu in hardware.gpus()]
    versions = [f"lipsync-server {__version__}", f"Python {platform.python_version()}"]
    for package in _VERSIONS_OF:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return {
        "system": f"{platform.platform(terse=True)}, {memory_gib:.0f} GiB",
        "CPU": f"{hardware.cpu_name()}, {hardware.usable_cpus()} cores",
        "GPU": ", ".join(gpus) or "none",
        "versions": ", ".join(versions),
    }


def in_processes(plan: Plan, settings: Settings) -> Iterator[Run]:
    """Each run in a fresh process, which loads the engine, renders and ends."""
    with tempfile.TemporaryDirectory(prefix="lipsync-bench-") as folder:
        for audio, duration_s in _recordings(plan, Path(folder)):
            yield _run_process(plan, audio, Path(folder) / "video.mp4", duration_s)


def over_http(plan: Plan, settings: Settings) -> Iterator[Run]:
    """Each run a POST /lipsync to one server that has its engine loaded; memory is that of server and worker."""
    form = {"engine": plan.engine, **_options_form(plan.options)}
    with tempfile.TemporaryDirectory(prefix="lipsync-bench-") as folder:
        recordings = list(_recordings(plan, Path(folder)))
        with WarmServer(plan.engine, Path(folder) / "data") as server:
            for audio, duration_s in recordings:
                answer = asyncio.run(server.post(plan.image, audio, form))
                yield Run(duration_s, answer.wall_s, answer.stage_s, answer.peak_rss_bytes, answer.peak_gpu_bytes)


def medians(runs: list[Run]) -> list[Run]:
    """One run for each length, every figure the median of its runs; memory the largest."""
    by_duration: dict[float, list[Run]] = {}
    for run in runs:
        by_duration.setdefault(run.duration_s, []).append(run)
    return [
        replace(
            same[0],
            wall_s=statistics.median(run.wall_s for run in same),
            stage_s={
                stage: statistics.median(run.stage_s.get(stage, 0.0) for run in same) for stage in same[0].stage_s
            },
            peak_rss_bytes=max(run.peak_rss_bytes for run in same),
            peak_gpu_bytes=max(run.peak_gpu_bytes for run in same),
        )
        for same in by_duration.values()
    ]


def repeat_recording(source: Path, target: Path, duration_s: float) -> None:
    """Write `source`, repeated, cut to `duration_s`, to the WAV file `target`."""
    try:
        samples, rate_hz = soundfile.read(source, dtype="int16", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise InvalidAudio(f"{source} cannot be repeated ({error}); give a WAV, FLAC, OGG or MP3 file.") from error
    if not len(samples):
        raise InvalidAudio(f"{source} has no sound.")
    n_left = round(duration_s * rate_hz)
    with soundfile.SoundFile(target, "w", rate_hz, samples.shape[1], subtype="PCM_16") as file:
        while n_left > 0:
            block = samples[:n_left]
            file.write(block)
            n_left -= len(block)


def _recordings(plan: Plan, folder: Path) -> Iterator[tuple[Path, float]]:
    """The recordings of all runs in order; every length is made once."""
    for duration_s in plan.durations_s:
        path = folder / f"{duration_s:g}.wav"
        repeat_recording(plan.audio, path, duration_s)
        for _ in range(plan.repeat):
            yield path, duration_s


def _run_process(plan: Plan, audio: Path, output: Path, duration_s: float) -> Run:
    command = [sys.executable, "-P", "-m", "lipsync_server.cli", "render", str(plan.image), str(audio)]
    command += ["--output", str(output), "--engine", plan.engine, "--json"]
    for option in plan.options:
        command += ["--option", option]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ, check=False)
    if finished.returncode != 0:
        raise LipsyncError(f"The run with {duration_s:g} s of sound failed; its error is above.")
    outcome = json.loads(finished.stdout)
    return Run(
        duration_s, outcome["render_s"], outcome["stage_s"], outcome["peak_rss_bytes"], outcome["peak_gpu_bytes"]
    )


def _options_form(options: tuple[str, ...]) -> dict[str, str]:
    """`key=value` options as the form field that POST /lipsync takes."""
    values: dict[str, object] = {}
    for pair in options:
        key, sign, text = pair.partition("=")
        if not sign:
            raise InvalidInput(f"--option takes KEY=VALUE, for example --option steps=8; got {pair!r}.")
        try:
            values[key] = json.loads(text)
        except json.JSONDecodeError:
            values[key] = text
    return {"options": json.dumps(values)} if values else {}
