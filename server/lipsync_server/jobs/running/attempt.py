"""One attempt of a job on a worker: progress, time limit, cancelling.

Knows the worker interface and a task. Does not know the store: finish.py records how an attempt ended.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from lipsync_server.errors import Cancelled, TimeLimit
from lipsync_server.workers.base import Worker
from lipsync_server.workers.task import ProgressEvent, RenderOutcome, RenderTask

log = logging.getLogger(__name__)

# Longer than the time after which a worker process is killed (workers/link.py).
CANCEL_GRACE_S = 75.0
_ASK_AGAIN_S = 1.0


@dataclass
class RunningJob:
    """A running job in memory: its worker and its progress. Times are of the monotonic clock, in seconds.

    worker: None once the video is rendered and only its copy to LIPSYNC_STORE is missing.
    """

    worker: Worker | None
    engine: str
    duration_s: float
    began: float = field(default_factory=time.monotonic)
    stage: str = "load"
    fraction: float = 0.0
    note: str = ""
    cancel: asyncio.Event = field(default_factory=asyncio.Event)
    _stage_began: float = field(default_factory=time.monotonic)
    _stage_s: dict[str, float] = field(default_factory=dict)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start of the attempt."""
        return time.monotonic() - self.began

    @property
    def worker_s(self) -> float:
        """Seconds on the worker that the store does not have yet."""
        return 0.0 if self.worker is None else self.elapsed_s

    def enter(self, stage: str) -> None:
        """Begin `stage` unless it is the current one; a stage may occur more than once."""
        if stage != self.stage:
            self._stage_s = self.timings()
            self.stage, self._stage_began = stage, time.monotonic()

    def advance(self, event: ProgressEvent) -> None:
        """Take over the stage, the fraction and the note of a progress event."""
        self.enter(event.stage)
        # A second try or a repeated stage must not move the progress bar backwards.
        self.fraction = max(self.fraction, min(1.0, event.fraction))
        self.note = event.note

    def timings(self) -> dict[str, float]:
        """Seconds per stage so far."""
        spent = time.monotonic() - self._stage_began
        return {**self._stage_s, self.stage: self._stage_s.get(self.stage, 0.0) + spent}


async def attempt(
    task: RenderTask, job: RunningJob, *, limit_s: float, on_progress: Callable[[RunningJob], None]
) -> RenderOutcome:
    """Render `task` on the worker of `job`.

    Raises the worker's error, Cancelled when `job.cancel` was set first, TimeLimit after `limit_s` seconds. While the
    worker may still write into the task's folder, this function neither returns nor raises, unless the worker ignores
    its cancellation.
    """

    def progress(event: ProgressEvent) -> None:
        job.advance(event)
        on_progress(job)

    worker = job.worker
    assert worker is not None
    render = asyncio.create_task(worker.render(task, progress), name=f"render {task.task_id}")
    cancel = asyncio.create_task(job.cancel.wait())
    try:
        await asyncio.wait({render, cancel}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        out_of_time = not render.done() and not job.cancel.is_set()
        if not render.done():
            await _stop(render, worker, task.task_id)
        if job.cancel.is_set():
            raise Cancelled("The job was cancelled.")
        if out_of_time and (render.cancelled() or render.exception() is not None):
            raise TimeLimit(
                f"The job ran longer than {limit_s:.0f} s and was stopped. Use a shorter recording or a faster preset, "
                "or raise LIPSYNC_JOB_TIMEOUT_S."
            )
        return render.result()
    finally:
        cancel.cancel()
        render.cancel()
        await asyncio.gather(cancel, render, return_exceptions=True)


async def _stop(render: asyncio.Task[RenderOutcome], worker: Worker, task_id: str) -> None:
    """Cancel the render again and again until it has ended; give up on a worker that does not react."""
    # One cancel() is not enough: the render may not have reached the worker yet.
    for _ in range(int(CANCEL_GRACE_S / _ASK_AGAIN_S)):
        worker.cancel(task_id)
        await asyncio.wait({render}, timeout=_ASK_AGAIN_S)
        if render.done():
            return
    log.error("worker %s ignored being cancelled", worker.worker_id, extra={"job_id": task_id})
    render.cancel()
    await asyncio.wait({render}, timeout=CANCEL_GRACE_S)
