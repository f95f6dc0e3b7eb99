"""Render again with another seed while the score is too low, and keep the best attempt.

Each attempt is one whole render with a check (checking.py). Its video is stored beside the task's output under a hidden
name. A record in the scratch folder lists the finished attempts with their results, so that after a crash the render
continues with the interrupted attempt and loses no finished one. A rename makes the best attempt the output. Knows
tasks and outcomes; the caller passes the function that renders one attempt.

Three limits bound the cost: the caller's `retries`, the owner's LIPSYNC_MAX_RETRIES, and the job's time limit, in which
another attempt as long as the last one has to fit. An attempt that fails or kills the worker is not repeated; the best
earlier attempt is delivered.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from lipsync_server.durable import publish, write_file
from lipsync_server.engines.ask import MAX_SEED
from lipsync_server.errors import Cancelled, LipsyncError, WorkerCrashed
from lipsync_server.gpu_errors import gpu_is_lost
from lipsync_server.workers.task import Attempt, ProgressEvent, RenderOutcome, RenderTask

log = logging.getLogger(__name__)

RECORD_FILE = "attempts.json"
_BESIDE = (".mp4", ".srt", ".vtt", ".sheet.jpg")
"""The suffixes of an attempt's files: the video, its captions, its contact sheet."""
_ROOM_FOR_ANOTHER = 1.2
"""The time reserved for another attempt, as a multiple of the last attempt's time."""

Render = Callable[[RenderTask, Callable[[ProgressEvent], None]], RenderOutcome]


@dataclass(frozen=True)
class _Record:
    """finished: the outcomes of the attempts whose videos are stored, in order. best: the index of the best of them.

    begun: number of attempts that were started. n_crashes: number of the job's crashed workers at the last start.
    """

    finished: tuple[RenderOutcome, ...] = ()
    best: int = 0
    begun: int = 0
    n_crashes: int = 0


_RECORD = TypeAdapter(_Record)


def best_of(
    task: RenderTask,
    render_once: Render,
    report: Callable[[ProgressEvent], None],
    *,
    max_retries: int,
    in_words: Callable[[Exception], LipsyncError],
) -> RenderOutcome:
    """Render `task` up to 1 + `max_retries` times and return the outcome of the best attempt, published as its output.

    render_once: renders and checks one attempt. in_words: turns an unforeseen exception of it into a LipsyncError.
    Raises the error of the first attempt, and Cancelled.
    """
    return _BestOf(task, render_once, report, max_retries, in_words).run()


class _BestOf:
    def __init__(
        self,
        task: RenderTask,
        render_once: Render,
        report: Callable[[ProgressEvent], None],
        max_retries: int,
        in_words: Callable[[Exception], LipsyncError],
    ) -> None:
        self._task, self._render, self._report, self._in_words = task, render_once, report, in_words
        self._n_most = 1 + max_retries
        self._began = time.monotonic()
        self._path = task.scratch / RECORD_FILE
        self._record = self._recorded()
        self._note = ""

    def run(self) -> RenderOutcome:
        """Render until no other attempt is due, and publish the best one."""
        try:
            if self._record.begun > len(self._record.finished) > 0 and self._task.n_crashes > self._record.n_crashes:
                self._note = "The worker died in the next attempt, so that one was given up."
            while not self._note and self._another_is_due():
                self._attempt(len(self._record.finished))
            return self._publish()
        except (Cancelled, KeyboardInterrupt):
            self._clear()
            raise

    def _another_is_due(self) -> bool:
        """Whether to render again: the last score is too low, and retries and time are left."""
        finished = self._record.finished
        if not finished:
            return True
        score, bar = _score(finished[-1]), self._task.ask.retries_below
        if score is None or bar is None or score >= bar or len(finished) >= self._n_most:
            return False
        limit_s = self._task.limit_s
        if limit_s is not None and time.monotonic() - self._began + _ROOM_FOR_ANOTHER * finished[-1].render_s > limit_s:
            self._note = f"Another attempt would not have fitted into the job's time limit of {limit_s:.0f} s."
            return False
        return True

    def _attempt(self, index: int) -> None:
        """Render attempt `index` and record its result. Only a failure of the first attempt is raised."""
        record = self._record
        self._store(replace(record, begun=index + 1, n_crashes=self._task.n_crashes))
        try:
            outcome = self._render(self._task_of(index), self._report_of(index))
        except Cancelled:
            raise
        except Exception as error:  # whatever fails in a repetition, the best earlier attempt is delivered
            if index == 0:
                raise
            if gpu_is_lost(error):
                # This process must end. The next process of the job reads in the record that this attempt was given up.
                self._store(replace(self._record, n_crashes=-1))
                raise WorkerCrashed(f"The worker lost its GPU in attempt {index + 1}.") from error
            log.warning("attempt %d of task %s failed", index + 1, self._task.task_id, exc_info=error)
            self._note = f"Attempt {index + 1} failed: {self._in_words(error).detail}"
            return
        finished = (*record.finished, outcome)
        best = max(range(len(finished)), key=lambda i: -1.0 if (score := _score(finished[i])) is None else score)
        self._store(replace(self._record, finished=finished, best=best))

    def _task_of(self, index: int) -> RenderTask:
        """The task of one attempt.

        Its seed is the first attempt's seed plus its index. A repetition has no live video.
        """
        task = replace(self._task, output=self._file(index, ".mp4"))
        if task.sheet is not None:
            task = replace(task, sheet=self._file(index, ".sheet.jpg"))
        if index == 0:
            return task
        seed = (self._record.finished[0].seed + index) % (MAX_SEED + 1)
        options = {name: value for name, value in task.ask.options.items() if name != "seed"}
        return replace(task, progressive=False, ask=task.ask.model_copy(update={"seed": seed, "options": options}))

    def _report_of(self, index: int) -> Callable[[ProgressEvent], None]:
        """The progress function of one attempt, which covers its share of the whole task's progress."""

        def report(event: ProgressEvent) -> None:
            note = ", ".join(filter(None, (f"attempt {index + 1} of at most {self._n_most}", event.note)))
            fraction = (index + event.fraction) / self._n_most
            self._report(replace(event, fraction=fraction, note=note if index else event.note))

        return report

    def _publish(self) -> RenderOutcome:
        """Make the best attempt's files the task's output; returns its outcome with the figures of all attempts."""
        finished, best = self._record.finished, self._record.best
        chosen = finished[best]
        for ending in reversed(_BESIDE):
            source, target = self._file(best, ending), self._target(ending)
            if target is not None and source.is_file():
                publish(source, target)
        self._clear()
        warnings = dict.fromkeys([*chosen.warnings, *self._sentences()])
        stages = {stage: round(sum(each.stage_s.get(stage, 0) for each in finished), 4) for stage in chosen.stage_s}
        return replace(
            chosen,
            render_s=round(sum(each.render_s for each in finished), 4),
            stage_s=stages,
            warnings=tuple(warnings),
            peak_rss_bytes=max(each.peak_rss_bytes for each in finished),
            peak_gpu_bytes=max(each.peak_gpu_bytes for each in finished),
            attempts=tuple(Attempt(each.seed, _score(each)) for each in finished),
        )

    def _sentences(self) -> list[str]:
        """Sentences for the caller about the attempts; none if the first attempt was good enough."""
        finished, bar = self._record.finished, self._task.ask.retries_below
        sentences = []
        if len(finished) > 1:
            scores = ", ".join(_shown(each) for each in finished)
            kept = f"attempt {self._record.best + 1}"
            sentences.append(f"The video was rendered {len(finished)} times ({scores}); {kept} was kept.")
        best = _score(finished[self._record.best])
        if best is None:
            sentences.append("The check has no score for this video, so it was not rendered again.")
        elif bar is not None and best < bar:
            sentences.append(f"The score of the video, {best:.2f}, is below {bar:g}.")
        return [*sentences, *([self._note] if self._note else [])]

    def _target(self, ending: str) -> Path | None:
        """The path to which an attempt's file with this ending is published; None if the task has no such file."""
        return self._task.sheet if ending == ".sheet.jpg" else self._task.output.with_suffix(ending)

    def _file(self, index: int, ending: str) -> Path:
        return self._task.output.with_name(f".{self._task.output.stem}.attempt-{index + 1}{ending}")

    def _clear(self) -> None:
        """Remove the files of all attempts."""
        for index in range(self._n_most):
            for ending in _BESIDE:
                self._file(index, ending).unlink(missing_ok=True)

    def _recorded(self) -> _Record:
        """The record of an interrupted run; an empty record if there is none or its best video is missing."""
        try:
            record = _RECORD.validate_json(self._path.read_bytes())
        except (OSError, ValidationError):
            return _Record()
        is_there = any(path.is_file() for path in (self._file(record.best, ".mp4"), self._task.output))
        return record if record.finished and is_there else _Record()

    def _store(self, record: _Record) -> None:
        self._record = record
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_file(self._path, lambda file: file.write(_RECORD.dump_json(record)))


def _score(outcome: RenderOutcome) -> float | None:
    return None if outcome.quality is None else outcome.quality.score


def _shown(outcome: RenderOutcome) -> str:
    score = _score(outcome)
    return f"{'no score' if score is None else f'score {score:.2f}'} with seed {outcome.seed}"
