"""Download the model files of LIPSYNC_PROFILE while the server already answers.

A profile is a named set of model files.

Until every file is downloaded and verified, the profile's engine is held back: jobs that need this engine wait, other
jobs run. An interrupted download is repeated until it succeeds; a download that the hub refuses ends with the reason.
Knows the download, the planner, the executor and the queue; does not know HTTP.
"""

import asyncio
import logging
import threading
import time

from lipsync_server.errors import LipsyncError
from lipsync_server.jobs.running.plan import Planner
from lipsync_server.jobs.running.queue import JobQueue
from lipsync_server.settings import Settings
from lipsync_server.weights.download import Interrupted, PullProgress, pull
from lipsync_server.weights.manifest import load_manifest
from lipsync_server.workers.base import LoadState, TakesLateWeights

log = logging.getLogger(__name__)

_PAUSES_S = (5.0, 15.0, 60.0, 300.0)
_LOG_EVERY_S = 30.0


class ProfileAtStart:
    """The download of one profile. All methods belong to the event loop.

    The constructor holds the engine back, so it must run before the queue starts. Raises InvalidInput for an unknown
    profile.
    """

    def __init__(self, settings: Settings, planner: Planner, executor: TakesLateWeights) -> None:
        self._settings, self._planner, self._executor = settings, planner, executor
        self._manifest = load_manifest(settings.manifest)
        self.engine = self._manifest.profile(settings.profile).engine
        self._licence = "".join(f" Licence: {notice}." for notice in self._manifest.licence_notices(settings.profile))
        if self._licence:
            # The licence is shown before the download starts, as in `lipsync weights pull`.
            log.warning("weights of %s:%s", settings.profile, self._licence)
        self._progress: PullProgress | None = None
        self._logged_at = 0.0
        self._trouble = ""
        self._failed = ""
        self._done = False
        self._stop = threading.Event()
        executor.hold_back(self.engine)
        planner.hold_back(self.engine, self._in_words)

    @property
    def downloading(self) -> bool:
        return not (self._done or self._failed)

    def load_state(self) -> LoadState | None:
        """The progress of the download; None once it is complete, when the executor's own state counts."""
        if self._done:
            return None
        if self._failed:
            return LoadState(False, "failed", 0.0, self._failed)
        progress = self._progress
        if progress is None or not progress.bytes_total:
            return LoadState(False, "downloading", 0.0, self._in_words())
        return LoadState(
            False,
            "downloading",
            min(1.0, progress.bytes_done / progress.bytes_total),
            self._in_words(),
            bytes_done=progress.bytes_done,
            bytes_total=progress.bytes_total,
            seconds_left=progress.seconds_left,
        )

    async def run(self, queue: JobQueue) -> None:
        """Download the profile and release its engine; returns when the download is complete or has failed for good."""
        n_tries = 0
        while True:
            try:
                await asyncio.to_thread(self._pull)
                break
            except Interrupted as error:
                pause_s = _PAUSES_S[min(n_tries, len(_PAUSES_S) - 1)]
                n_tries += 1
                self._trouble = f"{error.detail}; trying again"
                log.warning("%s in %.0f s", self._trouble, pause_s)
                await asyncio.sleep(pause_s)
            except LipsyncError as error:
                log.error("weights of %s: %s", self._settings.profile, error.detail)
                self._failed = f"The weights of {self._settings.profile} could not be downloaded: {error.detail}"
                break
            except Exception as error:
                log.exception("weights of %s", self._settings.profile)
                self._failed = f"The weights of {self._settings.profile} could not be downloaded: {error}"
                break
        if not self._failed:
            log.info("weights of %s are complete", self._settings.profile)
        await self._let_in(queue)

    def stop(self) -> None:
        """End the download soon; the received bytes are kept."""
        self._stop.set()

    async def _let_in(self, queue: JobQueue) -> None:
        self._planner.let_go()
        await self._executor.load_default()
        self._done = not self._failed
        try:
            await self._planner.resolve(self.engine)
        except LipsyncError as error:
            await queue.give_up_on(self.engine, error)
        queue.wake()

    def _pull(self) -> None:
        settings = self._settings
        pull(
            settings.profile,
            settings.weights_dir,
            on_progress=self._note,
            cancelled=self._stop.is_set,
            manifest=self._manifest,
        )

    def _note(self, progress: PullProgress) -> None:
        """Store the progress. The download's threads call this."""
        self._progress, self._trouble = progress, ""
        if time.monotonic() - self._logged_at > _LOG_EVERY_S:
            self._logged_at = time.monotonic()
            log.info("%s", self._in_words())

    def _in_words(self) -> str:
        progress, name = self._progress, self._settings.profile
        if progress is None or not progress.bytes_total:
            return f"Checking the weights of {name}. {self._trouble}".strip() + self._licence
        left = "" if progress.seconds_left is None else f", about {_minutes(progress.seconds_left)} left"
        share = f"{progress.bytes_done / 1e9:.2f} of {progress.bytes_total / 1e9:.2f} GB"
        return f"Downloading {name}: {share}{left}. {self._trouble}".strip() + self._licence


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
