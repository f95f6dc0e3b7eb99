"""Converts a job's record to the JSON that callers see, with links from the root of the server's address.

Knows the records and schemas.py. Does not know handlers.
"""

from datetime import UTC, datetime
from typing import get_args

from lipsync_server.check.quality import Quality
from lipsync_server.http.answers import schemas
from lipsync_server.jobs.model import Job
from lipsync_server.jobs.running.queue import JobQueue

_STAGES = frozenset(get_args(schemas.Stage))


def job_path(job_id: str, part: str = "") -> str:
    """The address of a job from the server's root. part: for example "/video"."""
    return f"/v1/jobs/{job_id}{part}"


async def job_now(job: Job, queue: JobQueue, root: str = "") -> schemas.Job:
    """The wire form of the current state of the job. root: see job_view."""
    position = (await queue.store.ahead(job.id))[0] if job.state == "queued" else None
    return job_view(job, queue, root, position=position, expected_finish=await queue.forecast.finish_of(job))


def job_view(
    job: Job,
    queue: JobQueue | None,
    root: str = "",
    *,
    position: int | None = None,
    expected_finish: float | None = None,
) -> schemas.Job:
    """The wire form of `job`.

    root: the beginning of each link: "" for links from the server's root, the path of a proxy, or a whole address
    (in callbacks).
    """
    live = queue.running_job(job.id) if queue is not None else None
    stage, fraction, note = (live.stage, live.fraction, live.note) if live else (job.stage, job.fraction, "")
    spec = job.spec
    has_sheet = job.has_video and job.outcome is not None and job.outcome.quality is not None
    has_captions = job.has_video and job.outcome is not None and bool(job.outcome.caption_language)

    def link(part: str = "") -> str:
        return f"{root.rstrip('/')}{job_path(job.id, part)}"

    return schemas.Job.model_validate(
        {
            "id": job.id,
            "state": job.state,
            "engine": job.engine or spec.engine,
            "owner": spec.owner,
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
                "captions_srt": link("/captions.srt") if has_captions else None,
                "captions_vtt": link("/captions.vtt") if has_captions else None,
                "speech": link("/speech") if job.has_video and spec.ask.is_spoken else None,
                "sheet": link("/sheet") if has_sheet else None,
                "poster": link("/poster.jpg") if job.has_video else None,
                "preview_webp": link("/preview.webp") if job.has_video else None,
                "preview_gif": link("/preview.gif") if job.has_video else None,
                "stored": job.stored,
            },
        }
    )


def _result(job: Job) -> dict[str, object] | None:
    """The fields of schemas.Result for a job that succeeded, else None."""
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
        "caption_language": outcome.caption_language or None,
        "quality": None if outcome.quality is None else _quality(outcome.quality),
        "voice": outcome.voice or None,
        "unchecked": outcome.unchecked or None,
        "attempts": [{"seed": each.seed, "score": each.score} for each in outcome.attempts],
        # The worker decodes the files again and repeats the probe's warnings.
        "warnings": list(dict.fromkeys([*job.spec.warnings, *outcome.warnings])),
    }


def _quality(quality: Quality) -> dict[str, object]:
    return {
        "score": quality.score,
        "findings": [
            {"name": each.name, "from_s": each.from_s, "to_s": each.to_s, "sentence": each.sentence}
            for each in quality.findings
        ],
        "mouth_r": quality.mouth_r,
        "lag_ms": quality.lag_ms,
        "closures": quality.closures,
        "face_share": quality.face_share,
        "cost_s": quality.cost_s,
    }


def _timings(job: Job, stage_s: dict[str, float]) -> dict[str, float]:
    """The fields of schemas.Timings. stage_s: seconds by stage, so far or of the ended job."""
    known = schemas.Timings.model_fields
    timings = {f"{stage}_s": round(seconds, 3) for stage, seconds in stage_s.items() if f"{stage}_s" in known}
    if job.started_at is not None:
        timings["queued_s"] = round(max(0.0, job.started_at - job.created_at), 3)
    return timings


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
