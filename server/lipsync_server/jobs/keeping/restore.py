"""Makes new records for finished videos when the database was lost, emptied or damaged.

A caller who has a job's id can then still fetch the video, and the video is kept for its full time again. The video
file is complete, because it was created by a rename; its length and size are read from it. Knows store, files and
media/.
"""

import asyncio
import logging
from pathlib import Path

from lipsync_server.jobs.database.store import Ending, Store
from lipsync_server.jobs.files import JobFiles
from lipsync_server.jobs.model import Job, JobSpec, made_at
from lipsync_server.workers.task import RenderOutcome

log = logging.getLogger(__name__)


async def restore_videos(store: Store, files: JobFiles, *, keep_s: float) -> None:
    """Make a record for every finished video that has none, or whose record cannot be read."""
    for job_id in await store.unknown(await asyncio.to_thread(files.with_video)):
        video = files.video(job_id)
        try:
            outcome = await asyncio.to_thread(_facts_of, video)
        except Exception as error:  # a file that cannot be read must neither prevent the start nor be removed
            log.error("the video of job %s has no record and cannot be read: %s. It stays where it is.", job_id, error)
            continue
        finished_at = (await asyncio.to_thread(video.stat)).st_mtime
        spec = JobSpec(
            engine="auto", image_name="", audio_name="", file_name="lipsync.mp4", duration_s=outcome.duration_s
        )
        await store.restore(Job(job_id, spec, "running", made_at(job_id), attempts=1))
        await store.succeed(job_id, outcome, now=finished_at, keep_s=keep_s, ending=Ending())
        log.warning("the video of job %s had no readable record; it has one again and is kept", job_id)


def _facts_of(video: Path) -> RenderOutcome:
    """The outcome as read from the video file. The file has neither the seed nor the seconds of work."""
    from lipsync_server.media.mp4.mux import probe_video

    found = probe_video(video)
    if not found.n_frames:
        raise ValueError("it has no frames")
    return RenderOutcome(
        width=found.width,
        height=found.height,
        fps=found.fps,
        n_frames=found.n_frames,
        duration_s=found.duration_s,
        size_bytes=found.size_bytes,
        sha256=found.sha256,
        seed=0,
        render_s=0.0,
        stage_s={},
        warnings=("The server lost its record of this job; only the video is left of it.",),
    )
