"""Copies finished videos to a folder or an S3-compatible bucket, so that no video is lost with a rented machine.

The copy is made between the finished file and the state "succeeded". A copy has the same name at every try, appears
only when it is complete, and is tried again until it succeeds. A folder may be a network volume that stops answering,
so copies to folders run in threads of their own and do not block uploads and other videos. Knows files and aioboto3;
does not know the store or the queue.
"""

import asyncio
import logging
import os
import re
import shutil
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Any, Protocol

from lipsync_server.daemon_threads import in_daemon_thread
from lipsync_server.durable import publish
from lipsync_server.errors import Cancelled, LipsyncError, StoreFailed
from lipsync_server.extras import extra_is_missing
from lipsync_server.jobs.model import Job
from lipsync_server.settings import Settings

log = logging.getLogger(__name__)

_PAUSES_S = (0.5, 2.0, 5.0, 15.0, 30.0, 60.0)
_N_COPIES = 4
_CHECK_S = 30.0
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


class Stopped(Exception):
    """The server stops during a copy; the next start repeats the copy."""


class Target(Protocol):
    """A place for copies of finished videos."""

    async def check(self) -> None:
        """Called at start. Raises StoreFailed when no copy can succeed, for example because the bucket is missing."""

    async def put(self, video: Path, name: str) -> str:
        """Copy `video` atomically and return the address of the copy. Raises any error of the target."""


def make_target(settings: Settings) -> Target | None:
    """The target that LIPSYNC_STORE names; None when it is unset. Raises LipsyncError when it names no valid target."""
    if not settings.store:
        return None
    scheme, separator, rest = settings.store.partition("://")
    if not separator:
        return FolderTarget(Path(settings.store))
    bucket, _, prefix = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise LipsyncError(f"LIPSYNC_STORE is {settings.store!r}; it must be a folder or s3://bucket/prefix.")
    return BucketTarget(bucket, prefix.strip("/"), settings.store_endpoint)


def copy_name(job: Job) -> str:
    """The name of a job's copy: the download's name, made unique by the job's id."""
    stem = _UNSAFE.sub("-", Path(job.spec.file_name).stem).strip("-.")[:80]
    return f"{stem or 'lipsync'}-{job.id}.mp4"


class HandOver:
    """The step after rendering: tries the copy until it succeeds, for at most `give_up_s` seconds."""

    def __init__(self, target: Target, *, give_up_s: float, pauses_s: tuple[float, ...] = _PAUSES_S) -> None:
        self._target = target
        self._give_up_s = give_up_s
        self._pauses_s = pauses_s

    async def __call__(self, job: Job, video: Path) -> str:
        """Copy the video; returns the copy's address. Raises StoreFailed after `give_up_s` seconds of tries."""
        began, n_tries = time.monotonic(), 0
        while True:
            try:
                async with asyncio.timeout(max(1.0, self._give_up_s - (time.monotonic() - began))):
                    return await self._target.put(video, copy_name(job))
            except TimeoutError as error:
                raise StoreFailed(
                    f"The finished video could not be copied to LIPSYNC_STORE: it did not answer for "
                    f"{self._give_up_s / 3600:.1f} hours. Correct the store and send the job again."
                ) from error
            except Exception as error:  # a target may raise any error; each is tried again
                if isinstance(error, FileNotFoundError) and not await in_daemon_thread(video.exists):
                    raise StoreFailed(
                        "The finished video is no longer in the server's data folder: somebody removed it by hand "
                        "before it was copied to LIPSYNC_STORE. Send the job again."
                    ) from error
                pause_s = self._pauses_s[min(n_tries, len(self._pauses_s) - 1)]
                n_tries += 1
                if time.monotonic() - began + pause_s > self._give_up_s:
                    raise StoreFailed(
                        f"The finished video could not be copied to LIPSYNC_STORE in {n_tries} tries: {error}. Correct "
                        "the store's address or credentials and send the job again."
                    ) from error
                log.warning("copying failed, again in %.1f s: %s", pause_s, error, extra={"job_id": job.id})
                await asyncio.sleep(pause_s)


async def unless_stopped(copying: Awaitable[str | None], *, cancel: asyncio.Event, stop: asyncio.Event) -> str | None:
    """Return the result of `copying`. Raises Cancelled or Stopped when one of the two events is set first."""
    copy = asyncio.ensure_future(copying)
    tasks = [copy, asyncio.create_task(cancel.wait()), asyncio.create_task(stop.wait())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if copy.done():
            return await copy
        if cancel.is_set():
            raise Cancelled("The job was cancelled.")
        raise Stopped
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class FolderTarget:
    """A folder, for example a mounted network volume."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        # An abandoned copy keeps its slot until its thread ends, so that a dead volume blocks only a few threads.
        self._slots = asyncio.Semaphore(_N_COPIES)

    async def check(self) -> None:
        try:
            async with asyncio.timeout(_CHECK_S):
                await in_daemon_thread(self._check)
        except TimeoutError:
            log.warning("LIPSYNC_STORE does not answer now, videos will wait for it: %s", self._folder)
        except OSError as error:
            raise StoreFailed(
                f"LIPSYNC_STORE: nothing can be written to {self._folder}: {error.strerror}. Name a folder that the "
                "server may write to."
            ) from error

    async def put(self, video: Path, name: str) -> str:
        await self._slots.acquire()
        copying = asyncio.ensure_future(in_daemon_thread(lambda: self._put(video, name)))
        copying.add_done_callback(self._copied)
        return str(await asyncio.shield(copying))

    def _copied(self, copying: "asyncio.Future[Path]") -> None:
        """Free the slot of a copy whose thread has ended, also of one that nobody waits for any more."""
        self._slots.release()
        if not copying.cancelled():
            copying.exception()  # raised in put() if it still waits

    def _check(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        probe = self._folder / f".lipsync-{os.getpid()}"
        probe.touch()
        probe.unlink()

    def _put(self, video: Path, name: str) -> Path:
        partial, copy = self._folder / f".{name}.part", self._folder / name
        try:
            shutil.copyfile(video, partial)
            publish(partial, copy)
        except OSError:
            with suppress(OSError):
                partial.unlink(missing_ok=True)  # on a full disk it would take the room that others need
            raise
        return copy


class BucketTarget:
    """A bucket of any S3-compatible store. Credentials come from AWS's own variables, files and roles."""

    def __init__(self, bucket: str, prefix: str, endpoint: str) -> None:
        try:
            import aioboto3
            from botocore.config import Config
        except ImportError as error:
            raise StoreFailed(extra_is_missing("LIPSYNC_STORE=s3://...", ["aioboto3"], "s3")) from error
        self._bucket, self._prefix, self._endpoint = bucket, prefix, endpoint or None
        self._session = aioboto3.Session()
        # Checksums only where S3 requires them: R2, B2 and older MinIO refuse those that boto adds by default.
        self._config = Config(
            connect_timeout=10,
            read_timeout=60,
            retries={"mode": "standard", "max_attempts": 3},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )

    async def check(self) -> None:
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

        try:
            async with self._client() as client:
                await client.head_bucket(Bucket=self._bucket)
        except (NoCredentialsError, PartialCredentialsError, ValueError) as error:
            raise StoreFailed(
                f"LIPSYNC_STORE: {error}. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and LIPSYNC_STORE_ENDPOINT "
                "unless the bucket is Amazon's."
            ) from error
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404:
                raise StoreFailed(
                    f"LIPSYNC_STORE: there is no bucket {self._bucket} at {self._endpoint or 'Amazon S3'}. Make it, or "
                    "correct LIPSYNC_STORE and LIPSYNC_STORE_ENDPOINT."
                ) from error
            # A key with permission to put objects only is refused here, but it suffices.
            log.warning("LIPSYNC_STORE: the bucket %s could not be checked: %s", self._bucket, error)
        except (BotoCoreError, OSError) as error:
            log.warning("LIPSYNC_STORE cannot be reached now, videos will wait for it: %s", error)

    async def put(self, video: Path, name: str) -> str:
        from botocore.exceptions import ClientError

        key = f"{self._prefix}/{name}" if self._prefix else name
        n_bytes = (await asyncio.to_thread(video.stat)).st_size
        async with self._client() as client:
            with suppress(ClientError):
                await self._drop_unfinished(client, key)
            await client.upload_file(str(video), self._bucket, key, ExtraArgs={"ContentType": "video/mp4"})
            try:
                found = (await client.head_object(Bucket=self._bucket, Key=key))["ContentLength"]
            except ClientError as error:
                if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") != 403:
                    raise
                found = n_bytes  # The key may write but not read; the copy is complete, else put would have failed.
        if found != n_bytes:
            raise OSError(f"the copy of {key} has {found} bytes instead of {n_bytes}")
        return f"s3://{self._bucket}/{key}"

    async def _drop_unfinished(self, client: Any, key: str) -> None:
        """Remove the uploaded parts that a killed server left of this copy; the store would bill them for ever."""
        listed = await client.list_multipart_uploads(Bucket=self._bucket, Prefix=key)
        for upload in listed.get("Uploads", []):
            await client.abort_multipart_upload(Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"])

    def _client(self) -> AbstractAsyncContextManager[Any]:
        region = None if self._endpoint is None else (self._session.region_name or "us-east-1")
        client: AbstractAsyncContextManager[Any] = self._session.client(
            "s3", endpoint_url=self._endpoint, region_name=region, config=self._config
        )
        return client


async def checked_hand_over(settings: Settings) -> Callable[[Job, Path], Awaitable[str | None]] | None:
    """The hand-over step for these settings, after a check of its target; None without LIPSYNC_STORE."""
    target = make_target(settings)
    if target is None:
        return None
    await target.check()
    return HandOver(target, give_up_s=settings.result_ttl_s)
