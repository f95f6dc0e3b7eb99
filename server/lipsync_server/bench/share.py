"""Turns measured renders into the file that a user sends back or feeds to the bill: `lipsync bench --share`.

Only the figures of a warm server with the longest recording are shared: the end-to-end time of a video without loading.
Reads the driver's version. Knows neither the measurement of renders (whole_runs.py) nor prices.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

from lipsync_server.bench.machine import Machine
from lipsync_server.bench.whole_runs import Run, medians
from lipsync_server.card_speeds import CardSpeeds, SharedSpeed
from lipsync_server.engines import hardware
from lipsync_server.nvidia_driver import driver_version
from lipsync_server.version import __version__


def card_speeds(
    machine: Machine, engine: str, options: Mapping[str, object], runs: Sequence[Run], measured_on: date
) -> CardSpeeds:
    """The content of the shared file: the median of the runs with the longest recording.

    options: preset, size and resolution of the engine, and all other options that were set.
    """
    longest = max(run.duration_s for run in runs)
    same = [run for run in runs if run.duration_s == longest]
    median = medians(same)[0]
    gpus = hardware.gpus()
    named = ("preset", "size", "resolution")
    return CardSpeeds(
        card=machine.card,
        card_bytes=machine.gpu_bytes,
        compute_capability=".".join(map(str, gpus[0].compute_capability)) if gpus else "",
        driver=driver_version(),
        cpu=machine.cpu,
        memory_bytes=machine.memory_bytes,
        versions={"lipsync-server": __version__, **machine.software},
        measured_on=measured_on,
        speeds=(
            SharedSpeed(
                engine=engine,
                preset=str(options.get("preset") or options.get("size") or ""),
                resolution=str(options.get("resolution") or ""),
                options={name: value for name, value in options.items() if name not in named},
                seconds_per_second=round(median.wall_s / longest, 4),
                sound_s=longest,
                n_runs=len(same),
                peak_gpu_bytes=median.peak_gpu_bytes,
                peak_memory_bytes=median.peak_rss_bytes,
            ),
        ),
    )


def file_name(found: CardSpeeds) -> str:
    """A file name with card, engine and preset: lipsync-speed-nvidia-geforce-rtx-4090-infinitetalk-fast.json."""
    words = (found.card, *(word for speed in found.speeds for word in (speed.engine, speed.preset)))
    return f"lipsync-speed-{re.sub(r'[^a-z0-9]+', '-', ' '.join(words).lower()).strip('-')}.json"


def write_share(found: CardSpeeds, folder: Path) -> Path:
    """Write the file into `folder` and return its path."""
    path = folder / file_name(found)
    path.write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return path
