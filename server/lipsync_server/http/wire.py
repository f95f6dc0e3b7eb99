"""From a job's record to the JSON that callers see, with links relative to where they asked.

Knows the records and schemas.py. Does not know handlers.
"""

import posixpath
import re
import unicodedata
from datetime import UTC, datetime
from typing import get_args
from urllib.parse import quote, urljoin

from lipsync_server.http import schemas
from lipsync_server.jobs.model import Job
from lipsync_server.jobs.queue import JobQueue

_STAGES = frozenset(get_args(schemas.Stage))


def job_path(job_id: str, part: str = "") -> str:
    return f"/v1/jobs/{job_id}{part}"


def relative(target: str, asked: str) -> str:
    """`target` as a reference relative to the path `asked`, so that it holds behind any prefix."""
    reference = posixpath.relpath(target, posixpath.dirname(asked))
    # From /v1/jobs/ID/video the job itself would be ".", which resolves to a path with a slash at its end.
    return f"../{posixpath.basename(target)}" if reference == "." else reference


async def job_now(job: Job, queue: JobQueue, asked: str) -> schemas.Job:
    """The job as it stands at this moment, for a request to the path `asked`."""
    position = (await queue.store.ahead(job.id))[0] if job.state == "queued" else None
    return job_view(job, queue, asked, position=position, expected_finish=await queue.forecast.finish_of(job))


def job_view(
    job: Job,
    queue: JobQueue | None,
    asked: str = "/",
    *,
    base_url: str = "",
    position: int | None = None,
    expected_finish: float | None = None,
) -> schemas.Job:
    """The wire form of `job`. base_url: makes the links absolute (callbacks have no address to be relative to)."""
    live = queue.live(job.id) if queue is not None else None
    stage, fraction, note = (live.stage, live.fraction, live.note) if live else (job.stage, job.fraction, "")
    spec = job.spec

    def link(part: str = "") -> str:
        path = relative(job_path(job.id, part), asked)
        return urljoin(base_url.rstrip("/") + "/", path) if base_url else path

    return schemas.Job.model_validate(
        {
            "id": job.id,
            "state": job.state,
            "engine": job.engine or spec.engine,
            "prompt": spec.ask.prompt,
            "image_name": spec.image_name,
            "audio_name": spec.audio_name,
            "file_name": spec.file_name,
            "created_at": _time(job.created_at),
            "started_at": _time(job.started_at),
            "finished_at": _time(job.finished_at),
            "collected_at": _time(job.collected_at),
            "expires_at": _time(job.expires_at),
            "queue_position": position,
            "attempts": job.attempts,
            "progress": {
                "stage": stage if stage in _STAGES else "generate",
                "fraction": fraction,
                "note": note,
                "expected_finish": _time(expected_finish),
            },
            "timings": _timings(job, live.timings() if live else job.stage_s),
            "result": _result(job),
            "cost": None
            if job.cost is None
            else {
                "worker_seconds": round(job.cost.worker_seconds, 3),
                "price_per_hour": job.cost.price_per_hour,
                "amount": round(job.cost.amount, 6),
                "currency": job.cost.currency,
            },
            "error": None
            if job.failure is None
            else {"code": job.failure.code, "title": job.failure.title, "detail": job.failure.detail},
            "links": {
                "self": link(),
                "events": link("/events"),
                "video": link("/video") if job.has_video else None,
                "collected": link("/collected") if job.has_video else None,
                "stored": job.stored,
            },
        }
    )


def _result(job: Job) -> dict[str, object] | None:
    outcome = job.outcome
    if outcome is None or job.state != "succeeded":
        return None
    return {
        "width": outcome.width,
        "height": outcome.height,
        "fps": outcome.fps,
        "duration_s": outcome.duration_s,
        "n_frames": outcome.n_frames,
        "size_bytes": outcome.size_bytes,
        "sha256": outcome.sha256,
        "render_s": outcome.render_s,
        "seconds_per_second": outcome.render_s / outcome.duration_s if outcome.duration_s > 0 else 0.0,
        "seed": outcome.seed,
        "warnings": list(outcome.warnings),
    }


def _timings(job: Job, stage_s: dict[str, float]) -> dict[str, float]:
    known = schemas.Timings.model_fields
    timings = {f"{stage}_s": round(seconds, 3) for stage, seconds in stage_s.items() if f"{stage}_s" in known}
    if job.started_at is not None:
        timings["queued_s"] = round(max(0.0, job.started_at - job.created_at), 3)
    return timings


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def video_name(wanted: str | None, image_name: str) -> str:
    """A safe name for the finished video: the wanted one, else made from the picture's."""
    if wanted:
        name = safe_name(wanted)
        return name if name.lower().endswith(".mp4") else f"{name}.mp4"
    stem = safe_name(image_name).rsplit(".", 1)[0].strip(" .") if image_name else ""
    return f"{stem}-lipsync.mp4" if stem else "lipsync.mp4"


def safe_name(name: str) -> str:
    """The last part of a path without control characters and what file systems dislike; never empty."""
    name = re.split(r"[/\\]", unicodedata.normalize("NFC", name))[-1]
    name = "".join(c for c in name if unicodedata.category(c)[0] != "C" and c not in '<>:"|?*').strip(" .")
    return name[:200] or "file"


def attachment(name: str) -> str:
    """Content-Disposition for a download: an ASCII name for old clients, the real one by RFC 5987."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    plain = re.sub(r'[\\"%;]', "_", plain).strip() or "lipsync.mp4"
    if plain == ".mp4":
        plain = "lipsync.mp4"
    value = f'attachment; filename="{plain}"'
    return value if plain == name else f"{value}; filename*=UTF-8''{quote(name, safe='')}"
