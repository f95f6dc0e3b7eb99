"""The files of jobs: their folders, and how they are created and removed.

    data/incoming/<random>/   an upload that is being received; removed at the next start
    data/jobs/<id>/           image, audio, second_audio, scratch/, video.mp4, video.srt, video.vtt with captions,
                              video.sheet.jpg of a checked video, speech.wav with speech from text, and poster.jpg,
                              preview.webp, preview.gif where somebody has asked for them

An upload's folder becomes a job's folder by one rename. Knows no job state and no HTTP. Every function here may block:
call it in a thread.
"""

import errno
import secrets
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from lipsync_server.durable import sync_file, sync_folder, write_file
from lipsync_server.errors import DiskFull
from lipsync_server.jobs.model import is_job_id
from lipsync_server.jobs.volume import volume_stuck
from lipsync_server.media.framing.wishes import STILL_TYPES, Still
from lipsync_server.workers.rendering.progressive import STREAM_FILE

CaptionFile = Literal["srt", "vtt"]
CAPTION_FILES: tuple[CaptionFile, ...] = ("srt", "vtt")

SPEECH_FILE = "speech.wav"
_ON_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class JobFiles:
    """The folders under one data directory."""

    def __init__(self, data_dir: Path, *, min_free_bytes: int) -> None:
        self.data_dir = data_dir.resolve()
        self._incoming = self.data_dir / "incoming"
        self._jobs = self.data_dir / "jobs"
        self._min_free_bytes = min_free_bytes

    def prepare(self) -> None:
        """Make the folders. Raises OSError when that is not possible."""
        for folder in (self.data_dir, self._incoming, self._jobs):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def check_space(self, wanted_bytes: int = 0) -> None:
        """Raise DiskFull unless the configured reserve stays free after `wanted_bytes` more bytes."""
        self._check_data_dir()
        free = shutil.disk_usage(self.data_dir).free
        if free - wanted_bytes < self._min_free_bytes:
            raise DiskFull(
                f"Only {free / 2**20:.0f} MiB are free on the server's disk and {self._min_free_bytes / 2**20:.0f} MiB "
                "have to stay free. Collect or delete finished videos, or lower LIPSYNC_MIN_FREE_DISK_BYTES.",
                retry_after_s=300,
            )

    def new_incoming(self) -> Path:
        """A new folder for an upload."""
        self._check_data_dir()
        folder = self._incoming / secrets.token_hex(12)
        folder.mkdir(mode=0o700, parents=True)
        return folder

    def _check_data_dir(self) -> None:
        """Raise VolumeStuck when the data folder is missing. A new one could be on the disk below an unmounted one."""
        if not self.data_dir.is_dir():
            raise volume_stuck("is missing: its folder was removed, or its disk is not mounted")

    def adopt(self, incoming: Path, job_id: str) -> None:
        """Rename an upload's folder to the job's folder, durably."""
        for path in incoming.iterdir():
            sync_file(path)
        sync_folder(incoming)
        incoming.rename(self.folder(job_id))
        sync_folder(self._jobs)

    def folder(self, job_id: str) -> Path:
        """The folder of a job, whether it exists or not."""
        assert is_job_id(job_id)
        return self._jobs / job_id

    def image(self, job_id: str) -> Path:
        """The caller's picture, or the video that stands in for it."""
        return self.folder(job_id) / "image"

    def audio(self, job_id: str) -> Path:
        """The caller's recording."""
        return self.folder(job_id) / "audio"

    def speech(self, job_id: str) -> Path:
        """The sound that the server made from the text of a job; it stays beside the video."""
        return self.folder(job_id) / SPEECH_FILE

    def second_audio(self, job_id: str) -> Path:
        """The recording of a second person."""
        return self.folder(job_id) / "second_audio"

    def video(self, job_id: str) -> Path:
        """The finished video."""
        return self.folder(job_id) / "video.mp4"

    def captions(self, job_id: str, kind: CaptionFile) -> Path:
        """The captions as a file of this kind."""
        return self.video(job_id).with_suffix(f".{kind}")

    def sheet(self, job_id: str) -> Path:
        """The contact sheet of the check."""
        return self.video(job_id).with_suffix(".sheet.jpg")

    def still(self, job_id: str, kind: Still) -> Path:
        """A picture made from the finished video; it exists once somebody has asked for it."""
        return self.folder(job_id) / kind

    def has_picture(self, job_id: str) -> bool:
        """Whether the caller's picture, which every job has until its end, exists."""
        return self.image(job_id).exists()

    def has_video(self, job_id: str, size_bytes: int) -> bool:
        """Whether the complete finished video exists."""
        try:
            return self.video(job_id).stat().st_size == size_bytes
        except FileNotFoundError:
            return False

    def scratch(self, job_id: str) -> Path:
        """The folder for a render's intermediate files, made if it is missing."""
        folder = self.folder(job_id) / "scratch"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def stream(self, job_id: str) -> Path:
        """The part of the video that is finished, as a growing file; gone once the job has ended."""
        return self.folder(job_id) / "scratch" / STREAM_FILE

    def keep_only_video(self, job_id: str) -> None:
        """Remove the inputs and the scratch folder of a finished job. Captions, pictures and speech from text stay."""
        folder = self.folder(job_id)
        captions = (self.captions(job_id, kind) for kind in CAPTION_FILES)
        kept = {self.video(job_id), self.sheet(job_id), self.speech(job_id), *captions}
        kept |= {self.still(job_id, kind) for kind in STILL_TYPES}
        if not folder.is_dir():
            return
        for path in folder.iterdir():
            if path not in kept:
                remove(path)

    def remove(self, job_id: str) -> None:
        """Remove all files of a job."""
        remove(self.folder(job_id))

    def sweep_incoming(self) -> None:
        """Remove unfinished uploads of an earlier run. Call it only before the server listens."""
        for path in self._incoming.iterdir():
            remove(path)

    def job_ids(self) -> Iterator[str]:
        """Names of the job folders on disk."""
        return (path.name for path in self._jobs.iterdir() if is_job_id(path.name))

    def with_video(self) -> list[str]:
        """The job folders that hold a finished video."""
        return [job_id for job_id in self.job_ids() if self.video(job_id).exists()]

    def remove_all(self, job_ids: Iterable[str]) -> None:
        """Remove all files of these jobs."""
        for job_id in job_ids:
            self.remove(job_id)


def remove(path: Path) -> None:
    """Remove a file or a folder with its content; a missing one is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def kept_secret(path: Path, make: Callable[[], str]) -> tuple[str, bool]:
    """The secret in the file `path`, made atomically if missing, readable by its owner only; True if just made."""
    with suppress(FileNotFoundError):
        return path.read_text().strip(), False
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    secret = make()
    write_file(path, lambda file: file.write(f"{secret}\n".encode()), mode=0o600)
    return secret, True


def signing_key(path: Path) -> bytes:
    """The key in the file `path`, made on first use. Without the file, all earlier signatures end."""
    return kept_secret(path, lambda: secrets.token_hex(32))[0].encode()


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turn "no space left on device", of a file or of the database, into DiskFull."""
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        if is_full(error):
            raise DiskFull(
                "The server's disk filled up. Collect or delete finished videos and send the request again.",
                retry_after_s=300,
            ) from error
        raise


def is_full(error: BaseException) -> bool:
    """Whether the error says that the disk is full."""
    if isinstance(error, sqlite3.OperationalError):
        return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL
    return isinstance(error, OSError) and error.errno in _ON_DISK_FULL
