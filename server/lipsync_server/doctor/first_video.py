"""Estimate the time to the first video: download, load, first job. Arithmetic on bytes and the speed of the line.

    download = missing bytes / line        load = bytes of the weights / reading speed
    first job = compiling + seconds of the sample x seconds of work per second (cloud/costs/speeds.py)

The speed of the line is measured (weights/line_speed.py) or stated by the caller. All other times are computed, and the
sentence says so.
"""

from dataclasses import dataclass

from lipsync_server.cloud.costs.speeds import expected_speed, row_of_profile
from lipsync_server.doctor.checks import missing_bytes, profile_for
from lipsync_server.doctor.facts import Facts
from lipsync_server.doctor.finding import Finding
from lipsync_server.durations import rounded
from lipsync_server.engines.registry import ENGINES
from lipsync_server.settings import Settings
from lipsync_server.weights.manifest import Manifest

SAMPLE_S = 4.0
"""Length of the video that is estimated, in seconds."""
_READ_BYTES_PER_S = 1.5e9
"""Reading speed of a rented disk: 1 to 2 GB/s is usual."""
_COMPILE_S = 60.0
"""Compiling and the text encoder in a first job take 28 s on an H100, two to four times as long on slower hosts."""


@dataclass(frozen=True)
class FirstVideo:
    """Seconds of each part. work_s: None if there is no figure for this card."""

    profile: str
    missing_bytes: int
    download_s: float
    load_s: float
    work_s: float | None

    @property
    def total_s(self) -> float:
        """Seconds of all parts. An unknown part counts as 0."""
        return self.download_s + self.load_s + (self.work_s or 0.0)


def first_video(settings: Settings, manifest: Manifest, facts: Facts, line_mbps: float) -> FirstVideo | None:
    """The first video with the profile for this machine; None if its card suits no profile."""
    profile = profile_for(settings, facts)
    if not profile or not facts.gpus:
        return None
    missing = missing_bytes(manifest, profile, settings.weights_dir)
    card = max(facts.gpus, key=lambda gpu: gpu.total_bytes)
    speed = expected_speed(card.name, row_of_profile(manifest, profile, settings.preset))
    return FirstVideo(
        profile=profile,
        missing_bytes=missing,
        download_s=missing * 8 / (line_mbps * 1e6),
        load_s=manifest.size_bytes(profile) / _READ_BYTES_PER_S,
        work_s=None if speed is None else _COMPILE_S + SAMPLE_S * speed.seconds,
    )


def finding(estimate: FirstVideo | None, line_mbps: float, origin: str) -> Finding:
    """The estimate as a finding. origin: of the line's speed, `measured` or `stated`."""
    if estimate is None:
        sheets = {name: ENGINES.data_sheet(name) for name in ENGINES.entries}
        on_cpu = [f"{name} needs no download: {sheet.cpu_speed}" for name, sheet in sheets.items() if sheet.cpu_speed]
        return Finding("first video", "ok", f"{'; '.join(on_cpu) or 'no engine runs without a card'}.")
    if not estimate.missing_bytes:
        work = "" if estimate.work_s is None else f", {rounded(estimate.work_s)} for {SAMPLE_S:g} s of video"
        detail = (
            f"about {rounded(estimate.total_s)} with {estimate.profile}, which is here: {rounded(estimate.load_s)} to "
            f"load{work} (computed)."
        )
        return Finding("first video", "ok", detail)
    work = (
        "an unknown time of work"
        if estimate.work_s is None
        else f"{rounded(estimate.work_s)} for {SAMPLE_S:g} s of video"
    )
    detail = (
        f"about {rounded(estimate.total_s)} with {estimate.profile}: {rounded(estimate.download_s)} for "
        f"{estimate.missing_bytes / 1e9:.1f} GB at {line_mbps:.0f} Mbit/s ({origin}), {rounded(estimate.load_s)} to "
        f"load, {work} (computed)."
    )
    return Finding("first video", "ok", detail)
