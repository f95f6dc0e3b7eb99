"""The work of every worker process, child or actor: load an engine, render a task, send messages about both.

Knows the loaded engines and rendering. Does not know where its messages go (a pipe, a stream of Ray) or how its process
ends.
"""

import logging
import time
from collections.abc import Callable

from lipsync_server.engines.registry import Registry
from lipsync_server.errors import LipsyncError
from lipsync_server.gpu_errors import gpu_is_lost
from lipsync_server.media.sandbox.pool import DecoderPool
from lipsync_server.settings import RenderSettings
from lipsync_server.workers import messages
from lipsync_server.workers.rendering.failures import in_words
from lipsync_server.workers.rendering.render import render
from lipsync_server.workers.shelf import EngineShelf
from lipsync_server.workers.task import ProgressEvent, RenderTask

_PROGRESS_INTERVAL_S = 0.1

log = logging.getLogger(__name__)

Send = Callable[[messages.FromWorker], None]


class Work:
    """Loads and renders, one at a time and always in the same thread; only cancel() may be called from another thread.

    load() and render() return whether the process can continue. After a CUDA error it cannot, because every later
    CUDA call of the process fails; a new process must replace it.
    """

    def __init__(self, registry: Registry, settings: RenderSettings) -> None:
        self._registry, self._settings = registry, settings
        self._shelf = EngineShelf(registry, settings)
        self._cancelled: set[int] = set()
        self._decoders = DecoderPool(n_warm=1)
        self._decoders.warm_up()

    def load(self, name: str, send: Send) -> bool:
        """Load engine `name`. Sends Loading at intervals; the last message is Loaded or LoadFailed."""
        due = _Pace()

        def report(stage: str, done: float, total: float) -> None:
            if due(stage):
                send(messages.Loading(name, stage, done, total))

        send(messages.Loading(name, "load", 0, 1))
        try:
            self._shelf.take(name).load(report)
        except Exception as error:  # an engine may raise anything; the server gets a sentence
            failure = self._failure(error, name, f"engine {name} could not be loaded")
            send(messages.LoadFailed(name, failure))
            return self._can_continue(error)
        send(messages.Loaded(name))
        return True

    def render(self, serial: int, task: RenderTask, send: Send) -> bool:
        """Render `task` as number `serial`. Sends Progress at intervals; the last message is Finished or Failed."""
        due = _Pace()

        def report(event: ProgressEvent) -> None:
            if due(event.stage):
                send(messages.Progress(serial, event))

        try:
            outcome = render(
                self._shelf.take(task.engine),
                task,
                report,
                lambda: serial in self._cancelled,
                self._settings,
                options_model=self._registry.options_model(task.engine),
                decoders=self._decoders,
            )
        except Exception as error:  # an engine may raise anything; the server gets a sentence
            failure = self._failure(error, task.engine, f"task {task.task_id} could not be started")
            send(messages.Failed(serial, failure, self._shelf.holds()))
            return self._can_continue(error)
        finally:
            self._cancelled.discard(serial)
        send(messages.Finished(serial, outcome, self._shelf.holds()))
        return True

    def cancel(self, serial: int) -> None:
        """Stop render `serial`, running or not yet started, at its next cancellation check."""
        self._cancelled.add(serial)

    def _failure(self, error: Exception, engine: str, failed: str) -> LipsyncError:
        """The error for the server. failed: a sentence for the log about an exception that nobody expected."""
        if not isinstance(error, LipsyncError):
            log.error("%s", failed, exc_info=error)
        self._shelf.drop_unloaded()
        return in_words(error, engine)

    def _can_continue(self, error: Exception) -> bool:
        """Whether this process can render again after `error`."""
        if not gpu_is_lost(error):
            return True
        log.error("the CUDA context is lost; this worker ends and a fresh one starts")
        return False


class _Pace:
    """Limits progress messages: the first of each stage is sent, then about ten per second."""

    def __init__(self) -> None:
        self._stage, self._sent_at = "", 0.0

    def __call__(self, stage: str) -> bool:
        now = time.monotonic()
        if stage == self._stage and now - self._sent_at < _PROGRESS_INTERVAL_S:
            return False
        self._stage, self._sent_at = stage, now
        return True
