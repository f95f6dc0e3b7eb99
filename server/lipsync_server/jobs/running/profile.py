"""Download the model files of LIPSYNC_PROFILE while the server already answers.

A profile is a named set of model files.

Until the files are downloaded and verified, the profile's engine is held back: jobs that need this engine wait, other
jobs run. A profile may name late files, which the engine can start without, such as a text encoder: these are
downloaded while the engine loads and works (weights/arriving.py). An interrupted download is repeated until it
succeeds; a download that the hub refuses ends with the reason.
Knows the download, the planner, the executor and the queue; does not know HTTP.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence

from lipsync_server import durations
from lipsync_server.errors import LipsyncError
from lipsync_server.jobs.running.plan import Planner
from lipsync_server.jobs.running.queue import JobQueue
from lipsync_server.settings import Settings
from lipsync_server.weights.arriving import announce, withdraw
from lipsync_server.weights.download import Interrupted, PullProgress, pull
from lipsync_server.weights.manifest import load_manifest
from lipsync_server.weights.verify import is_here
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
        self._done = False  # the engine may start
        self._complete = False
        self._stop = threading.Event()
        executor.hold_back(self.engine)
        planner.hold_back(self.engine, self._in_words)

    @property
    def downloading(self) -> bool:
        """Whether the download has neither finished nor failed."""
        return not (self._complete or self._failed)

    def load_state(self) -> LoadState | None:
        """The progress of the download; None once the engine may start, when the executor's own state counts."""
        if self._failed:
            return LoadState(False, "failed", 0.0, self._failed)
        if self._done:
            return None
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
        """Download the profile and release its engine; returns when the download is complete or has failed for good.

        The engine is released before the late files are downloaded.
        """
        late = self._manifest.profile(self._settings.profile).late
        await self._download(lambda: self._pull(skip=late))
        if late and not self._failed:
            if not await asyncio.to_thread(self._late_files_are_here):
                await asyncio.to_thread(self._announce_late_files)
                await self._release_engine(queue)
            await self._download(lambda: self._pull(only=late))
            await asyncio.to_thread(withdraw, self._settings.weights_dir)
        self._complete = not self._failed
        if self._complete:
            log.info("weights of %s are complete", self._settings.profile)
        if self._failed or not self._done:
            await self._release_engine(queue)

    async def _download(self, pull_once: Callable[[], None]) -> None:
        """Repeat `pull_once` until it succeeds or fails for good."""
        n_tries = 0
        while True:
            try:
                await asyncio.to_thread(pull_once)
                return
            except Interrupted as error:
                pause_s = _PAUSES_S[min(n_tries, len(_PAUSES_S) - 1)]
                n_tries += 1
                self._trouble = f"{error.detail}; trying again"
                log.warning("%s in %.0f s", self._trouble, pause_s)
                await asyncio.sleep(pause_s)
            except LipsyncError as error:
                log.error("weights of %s: %s", self._settings.profile, error.detail)
                self._failed = f"The weights of {self._settings.profile} could not be downloaded: {error.detail}"
                return
            except Exception as error:  # a fault of ours: readiness shows it, and other engines keep running
                log.exception("weights of %s", self._settings.profile)
                self._failed = f"The weights of {self._settings.profile} could not be downloaded: {error}"
                return

    def _late_files_are_here(self) -> bool:
        """Whether the late files were downloaded before, by their sizes; the pull verifies them."""
        late = self._manifest.files_named(self._manifest.profile(self._settings.profile).late)
        return all(is_here(self._manifest, file, self._settings.weights_dir) for file in late)

    def _announce_late_files(self) -> None:
        """Let engines of this machine know which files are still coming (weights/arriving.py)."""
        manifest, folder = self._manifest, self._settings.weights_dir
        late = manifest.files_named(manifest.profile(self._settings.profile).late)
        announce(folder, [manifest.local_path(file, folder) for file in late])
        log.info(
            "%s starts now; %s follows, and a job with a prompt of its own waits for that",
            self.engine,
            ", ".join(file.path for file in late),
        )

    def stop(self) -> None:
        """End the download soon; the received bytes are kept."""
        self._stop.set()

    async def _release_engine(self, queue: JobQueue) -> None:
        """Let the engine start, and fail the jobs that wait for it if it cannot run."""
        self._planner.let_go()
        await self._executor.load_default()
        self._done = not self._failed
        try:
            await self._planner.resolve(self.engine)
        except LipsyncError as error:
            await queue.give_up_on(self.engine, error)
        queue.wake()

    def _pull(self, *, only: Sequence[str] = (), skip: Sequence[str] = ()) -> None:
        settings = self._settings
        pull(
            settings.profile,
            settings.weights_dir,
            on_progress=self._note,
            cancelled=self._stop.is_set,
            manifest=self._manifest,
            only=only,
            skip=skip,
        )

    def _note(self, progress: PullProgress) -> None:
        """Store the progress. The download's threads call this."""
        self._progress, self._trouble = progress, ""
        if time.monotonic() - self._logged_at > _LOG_EVERY_S:
            self._logged_at = time.monotonic()
            log.info("%s", self._in_words())

    def _in_words(self) -> str:
        """The progress, the last trouble and the licence in sentences, for readiness and the log."""
        progress, name = self._progress, self._settings.profile
        if progress is None or not progress.bytes_total:
            return f"Checking the weights of {name}. {self._trouble}".strip() + self._licence
        left = "" if progress.seconds_left is None else f", about {durations.rounded(progress.seconds_left)} left"
        share = f"{progress.bytes_done / 1e9:.2f} of {progress.bytes_total / 1e9:.2f} GB"
        return f"Downloading {name}: {share}{left}. {self._trouble}".strip() + self._licence
