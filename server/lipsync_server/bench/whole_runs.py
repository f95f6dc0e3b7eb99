"""Whole renders of an engine with its real model files: each in a process of its own, or over HTTP by a warm server.

In a new process, load time and peak memory include no earlier work. Measures renders; prints nothing.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import soundfile

from lipsync_server.bench.warm_server import WarmServer
from lipsync_server.errors import InvalidAudio, LipsyncError


@dataclass(frozen=True)
class Plan:
    """The renders to measure.

    durations_s: lengths to which the recording is repeated. repeat: renders of each length. options: of the engine, by
    name.
    """

    engine: str
    image: Path
    audio: Path
    durations_s: tuple[float, ...]
    repeat: int = 1
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One measured render.

    duration_s: of the sound. wall_s: seconds of work, or from POST to the last byte. stage_s: seconds of each stage.
    peak_rss_bytes, peak_gpu_bytes: largest host and GPU memory.
    """

    duration_s: float
    wall_s: float
    stage_s: dict[str, float] = field(default_factory=dict)
    peak_rss_bytes: int = 0
    peak_gpu_bytes: int = 0


def in_processes(plan: Plan) -> Iterator[Run]:
    """Render each run in a new process, which loads the engine and ends."""
    with tempfile.TemporaryDirectory(prefix="lipsync-bench-") as folder:
        for audio, duration_s in _recordings(plan, Path(folder)):
            yield _run_process(plan, audio, Path(folder) / "video.mp4", duration_s)


def over_http(plan: Plan) -> Iterator[Run]:
    """POST each run to /lipsync of one server whose engine is loaded. Memory is the sum of server and worker."""
    form = {"engine": plan.engine}
    if plan.options:
        form["options"] = json.dumps(plan.options)
    with tempfile.TemporaryDirectory(prefix="lipsync-bench-") as folder:
        recordings = list(_recordings(plan, Path(folder)))
        with WarmServer(plan.engine, Path(folder) / "data") as server:
            for audio, duration_s in recordings:
                answer = asyncio.run(server.post(plan.image, audio, form))
                yield Run(duration_s, answer.wall_s, answer.stage_s, answer.peak_rss_bytes, answer.peak_gpu_bytes)


def medians(runs: list[Run]) -> list[Run]:
    """One run for each length, with the median of every time and the largest of every memory peak."""
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
    """Write the recording `source` to the WAV file `target`, repeated and cut to `duration_s`. Raises InvalidAudio."""
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
    """The recording and its length for every run, in order. A file is written once for each length."""
    for duration_s in plan.durations_s:
        path = folder / f"{duration_s:g}.wav"
        repeat_recording(plan.audio, path, duration_s)
        for _ in range(plan.repeat):
            yield path, duration_s


def _run_process(plan: Plan, audio: Path, output: Path, duration_s: float) -> Run:
    """Run `lipsync render` in a new process. Raises LipsyncError if it fails."""
    command = [sys.executable, "-P", "-m", "lipsync_server.cli", "render", str(plan.image), str(audio)]
    command += ["--output", str(output), "--engine", plan.engine, "--json"]
    for name, value in plan.options.items():
        command += ["--option", f"{name}={json.dumps(value)}"]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ, check=False)
    if finished.returncode != 0:
        raise LipsyncError(f"The render of {duration_s:g} s of sound failed; its error is above.")
    outcome = json.loads(finished.stdout)
    return Run(
        duration_s, outcome["render_s"], outcome["stage_s"], outcome["peak_rss_bytes"], outcome["peak_gpu_bytes"]
    )
