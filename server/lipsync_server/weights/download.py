"""Download a profile's files from the model hub: resumed, in parallel, with one overall progress, then verified.

The library huggingface_hub transfers the bytes (resumed.py). The library reads a token and a mirror from HF_TOKEN and
HF_ENDPOINT. This module adds a check of the free disk space, one progress for all files, and errors with advice. The
functions block, so the server runs them in a thread.
"""

import errno
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tqdm import tqdm

from lipsync_server.errors import Cancelled, DiskFull, LipsyncError, WeightsError
from lipsync_server.weights import resumed
from lipsync_server.weights.manifest import Manifest, WeightFile, load_manifest
from lipsync_server.weights.verify import check_file

PARALLEL_FILES = 4
TRIES = 6
TRIES_WITHOUT_NETWORK = 2
SPARE_BYTES = 1024**3
"""Disk space that stays free for the rest of the machine."""


@dataclass(frozen=True)
class PullProgress:
    """Progress of a pull. seconds_left: None until a rate was measured."""

    bytes_done: int
    bytes_total: int
    seconds_left: float | None
    note: str


class _Meter:
    """Adds up the bytes of all files, from several threads. The rate is the mean of the whole pull."""

    def __init__(self, total: int, on_progress: Callable[[PullProgress], None], cancelled: Callable[[], bool]) -> None:
        self._lock = threading.Lock()
        self._start = time.monotonic()
        self._on_progress = on_progress
        self._cancelled = cancelled
        self.total = total
        self.done = self._n_fetched = 0

    @property
    def has_fetched(self) -> bool:
        """Whether this pull has received bytes from the hub."""
        return self._n_fetched > 0

    def check(self) -> None:
        """Raise Cancelled when the pull was cancelled."""
        if self._cancelled():
            raise Cancelled("the download was stopped; what has arrived is kept and the next pull goes on from there")

    def pause(self, seconds: float) -> None:
        """Wait. Raises Cancelled when the pull was cancelled."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.check()
            time.sleep(min(0.2, left))

    def add(self, n_bytes: int, note: str, *, fetched: bool = True) -> None:
        """Count bytes of the file `note`. fetched: False for bytes of an earlier pull, which do not count as speed."""
        self.check()
        with self._lock:
            self.done += n_bytes
            self._n_fetched += n_bytes if fetched else 0
            elapsed = time.monotonic() - self._start
            rate = self._n_fetched / elapsed if self._n_fetched > 0 and elapsed > 1 else 0
            left = max(0, self.total - self.done) / rate if rate else None
            progress = PullProgress(max(0, self.done), max(self.total, self.done), left, note)
        self._on_progress(progress)


def pull(
    profile: str,
    weights_dir: Path,
    *,
    on_progress: Callable[[PullProgress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
    manifest: Manifest | None = None,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
) -> list[Path]:
    """Download the missing files of a profile, and verify all its files. Returns their paths.

    only: names of files in the manifest, to download in place of the profile's. skip: names of files to leave out.

    Complete and correct files are not downloaded again, and a partial file is resumed. Raises DiskFull before the first
    download if the disk has too little space, WeightsError with file and reason if the hub refuses or a checksum is
    wrong, and Cancelled when `cancelled()` returns True.
    """
    manifest = manifest or load_manifest()
    weights_dir.mkdir(parents=True, exist_ok=True)

    def fetch_missing(files: list[WeightFile]) -> None:
        missing = [file for file in files if check_file(manifest, file, weights_dir).state in ("missing", "damaged")]
        if missing:
            with _quiet_library():
                _fetch_all(manifest, missing, profile, weights_dir, on_progress, cancelled)

    if only:
        chosen = manifest.files_named(only)
        fetch_missing(chosen)
        return [manifest.local_path(file, weights_dir) for file in chosen]
    skipped = manifest.files_named(skip)
    # An index is downloaded first, because it lists shards that belong to the profile too.
    fetch_missing([file for file in manifest.profile_files(profile) if file.named_bytes and file not in skipped])
    files = [file for file in manifest.profile_files(profile, weights_dir) if file not in skipped]
    fetch_missing(files)
    return [manifest.local_path(file, weights_dir) for file in files]


def _fetch_all(
    manifest: Manifest,
    missing: list[WeightFile],
    profile: str,
    weights_dir: Path,
    on_progress: Callable[[PullProgress], None],
    cancelled: Callable[[], bool],
) -> None:
    sizes = _sizes(manifest, missing)
    arrived = sum(resumed.arrived_bytes(file.path, manifest.folder(file, weights_dir)) for file in missing)
    _check_room(weights_dir, sum(sizes.values()), arrived, profile)
    meter = _Meter(sum(sizes.values()), on_progress, cancelled)
    on_progress(PullProgress(0, meter.total, None, profile))
    with ThreadPoolExecutor(PARALLEL_FILES, thread_name_prefix="pull") as pool:
        jobs = [pool.submit(_fetch, manifest, file, weights_dir, meter) for file in missing]
        _raise_first(jobs)


@contextmanager
def _quiet_library() -> Iterator[None]:
    """Silence huggingface_hub's log lines about its retries; a final error is reported in one sentence of ours."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _raise_first(jobs: list[Future[None]]) -> None:
    """Wait for all jobs. The first error cancels the jobs that have not started, and is raised."""
    for job in as_completed(jobs):
        if job.exception() is not None:
            for other in jobs:
                other.cancel()
            job.result()


def _sizes(manifest: Manifest, files: list[WeightFile]) -> dict[str, int]:
    """Exact sizes in bytes, from the manifest or, for a rounded size there, from the hub."""
    sizes: dict[str, int] = {}
    for file in files:
        sizes[file.path] = file.size_bytes
        if not file.size_exact:
            source = manifest.sources[file.source]
            url = hf_hub_url(source.repository, file.path, revision=source.revision, endpoint=hub_endpoint())
            with explained(manifest, file):
                sizes[file.path] = get_hf_file_metadata(url, endpoint=hub_endpoint()).size or file.size_bytes
    return sizes


def hub_endpoint() -> str | None:
    """The hub's address from HF_ENDPOINT, or None for the default hub."""
    # Read at each call: huggingface_hub itself reads the variable only once, at import.
    return os.environ.get("HF_ENDPOINT") or None


def _check_room(weights_dir: Path, needed: int, arrived: int, profile: str) -> None:
    """Raise DiskFull if the disk has no room for the bytes that have not arrived, and SPARE_BYTES."""
    free = shutil.disk_usage(weights_dir).free
    if free + arrived < needed + SPARE_BYTES:
        raise DiskFull(
            f"profile {profile} needs {needed / 1e9:.1f} GB and 1 GB to spare, {free / 1e9:.1f} GB are free in "
            f"{weights_dir}; free some, rent a machine with a larger disk, or point LIPSYNC_WEIGHTS_DIR elsewhere"
        )


def _fetch(manifest: Manifest, file: WeightFile, weights_dir: Path, meter: _Meter) -> None:
    """Download one file, with several attempts, and verify it. Raises WeightsError or Cancelled."""
    folder = manifest.folder(file, weights_dir)
    source = manifest.sources[file.source]
    path = manifest.local_path(file, weights_dir)
    if path.is_file():
        path.unlink()  # the file is damaged
    for attempt in range(TRIES):
        before = meter.done
        try:
            with explained(manifest, file):
                resumed.fetch(source, file.path, folder, endpoint=hub_endpoint(), tqdm_class=_bar_for(meter, file.path))
        except WeightsError as error:
            tries = TRIES_WITHOUT_NETWORK if isinstance(error, OutOfReach) and not meter.has_fetched else TRIES
            if attempt >= tries - 1 or not isinstance(error, Interrupted):
                raise
            meter.pause(min(30, 2**attempt) if meter.done == before else 1)
        else:
            break
    checked = check_file(manifest, file, weights_dir, lambda _: meter.check())
    if checked.state == "damaged":
        path.unlink(missing_ok=True)
        raise WeightsError(
            f"{file.path} from {source.repository} {checked.detail}; the file was removed. Pull again, and if it "
            "happens twice the published file has changed: update lipsync-server"
        )


def _bar_for(meter: _Meter, path: str) -> type[Any]:
    """A tqdm class that adds a file's bytes to the overall meter and draws no bar."""

    class _Bar(tqdm):  # type: ignore[misc]  # tqdm has no types
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._initial = int(kwargs.get("initial") or 0)
            kwargs["disable"] = True
            kwargs.pop("name", None)
            super().__init__(*args, **kwargs)
            if self._initial:
                meter.add(self._initial, path, fetched=False)

        def update(self, n: float | None = 1) -> bool | None:
            meter.add(int(n or 0), path)
            return None

    return _Bar


class Interrupted(WeightsError):
    """The transfer was interrupted; another attempt resumes it."""


class OutOfReach(Interrupted):
    """The hub did not answer at all: no network, a wrong HF_ENDPOINT, a firewall."""


def _no_connection(error: BaseException | None) -> bool:
    """Whether huggingface_hub's HTTP library could not connect. Its releases use different HTTP libraries."""
    return any(kind.__name__ in ("ConnectError", "ConnectTimeout", "ConnectionError") for kind in type(error).__mro__)


@contextmanager
def explained(manifest: Manifest, file: WeightFile) -> Iterator[None]:
    """Turn the hub's errors about `file` into LipsyncErrors with a reason and advice."""
    source = manifest.sources[file.source]
    try:
        yield
    except LipsyncError:
        raise
    except Exception as error:  # huggingface_hub passes on the errors of its HTTP library, which differ by release
        name, repository = file.path, source.repository
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"the disk filled up while {name} was arriving; free some space and pull again") from error
        # If the hub does not answer, huggingface_hub searches its own cache, and reports "not found".
        if isinstance(error, (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError)) or _no_connection(error):
            raise OutOfReach(
                f"the model hub at {hub_endpoint() or 'https://huggingface.co'} cannot be reached for {name}. "
                "Check the network (and HF_ENDPOINT and HF_HUB_OFFLINE, if they are set), then pull again; the files "
                "that have arrived are kept"
            ) from error
        if isinstance(error, GatedRepoError) or status in (401, 403):
            raise WeightsError(
                f"the model hub wants a token for {repository} (answer {status}); accept the model's terms there and "
                "set HF_TOKEN to a read token"
            ) from error
        if isinstance(error, (EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError)) or status == 404:
            raise WeightsError(
                f"{name} is not at {repository} (revision {source.revision}) any more. It may have "
                "moved: get a newer lipsync-server, or set HF_ENDPOINT to a mirror that has it"
            ) from error
        if isinstance(error, HfHubHTTPError) and status is not None and status < 500 and status != 429:
            raise WeightsError(f"the model hub answered {status} for {name} of {repository}: {error}") from error
        raise Interrupted(
            f"{name} could not be fetched from {repository}: {error}. Check the network and pull again; the bytes "
            "that have arrived are kept"
        ) from error
