"""A server of one's own for a benchmark: started on loopback, waited for until its engine is loaded, ended after.

Measures what a caller would: seconds from POST to the last byte, and the memory of server and worker meanwhile.
"""

import importlib
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.error import URLError
from urllib.request import urlopen

import aiohttp
import psutil

from lipsync_server.engines import hardware
from lipsync_server.errors import LipsyncError

_START_TIMEOUT_S = 1800.0
_SAMPLE_S = 0.05


@dataclass(frozen=True)
class Answer:
    """One job. peak_gpu_bytes: what the card had in use beyond what it had before the server started, CUDA's own
    share included; 0 without a GPU."""

    wall_s: float
    stage_s: dict[str, float]
    peak_rss_bytes: int
    peak_gpu_bytes: int


class WarmServer:
    """`lipsync serve` on a free port with its own data folder; use as a context manager.

    settings: further environment for it, LIPSYNC_* and others. `ready_s` is how long it took to load its engine.
    """

    def __init__(self, engine: str, data_dir: Path, settings: Mapping[str, str] | None = None) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._url = f"http://127.0.0.1:{port}"
        self._token = secrets.token_urlsafe(16)
        self._environment = {
            **os.environ,
            **(settings or {}),
            "LIPSYNC_HOST": "127.0.0.1",
            "LIPSYNC_PORT": str(port),
            "LIPSYNC_TOKENS": self._token,
            "LIPSYNC_DATA_DIR": str(data_dir),
            "LIPSYNC_ENGINE": engine,
            "LIPSYNC_LOG_LEVEL": "warning",
        }
        self.ready_s = 0.0

    def __enter__(self) -> Self:
        command = [sys.executable, "-P", "-m", "lipsync_server.cli", "serve"]
        self._gpu_bytes_before, started = _gpu_bytes(), time.monotonic()
        self._process = subprocess.Popen(command, env=self._environment, stdout=subprocess.DEVNULL)
        try:
            self._wait_until_ready()
            self.ready_s = time.monotonic() - started
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    async def post(self, image: Path, audio: Path, fields: dict[str, str]) -> Answer:
        """POST /lipsync; raises LipsyncError with the server's sentence when it refuses."""
        headers = {"Authorization": f"Bearer {self._token}"}
        timeout = aiohttp.ClientTimeout(total=None)
        with image.open("rb") as picture, audio.open("rb") as sound:
            form = aiohttp.FormData(fields)
            form.add_field("image", picture, filename=image.name)
            form.add_field("audio", sound, filename=audio.name)
            async with aiohttp.ClientSession(self._url, headers=headers, timeout=timeout) as session:
                with _PeakMemory(self._process.pid) as memory:
                    started = time.monotonic()
                    async with session.post("/lipsync", data=form) as response:
                        if response.status != 200:
                            raise LipsyncError(f"The server answered {response.status}: {await response.text()}")
                        async for _ in response.content.iter_chunked(1 << 16):
                            pass
                        job_id = response.headers["Lipsync-Job-Id"]
                    wall_s = time.monotonic() - started
                async with session.get(f"/v1/jobs/{job_id}") as response:
                    timings = (await response.json())["timings"]
        stages = {stage: timings[f"{stage}_s"] for stage in ("load", "preprocess", "generate", "encode")}
        gpu_bytes = max(0, memory.peak_gpu_bytes - self._gpu_bytes_before)
        return Answer(wall_s, stages, memory.peak_rss_bytes, gpu_bytes)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise LipsyncError("The server did not start; its error is above.")
            try:
                with urlopen(f"{self._url}/readyz", timeout=5):  # noqa: S310 - our own address
                    return
            except (URLError, TimeoutError, ConnectionError):
                time.sleep(0.1)
        raise LipsyncError("The server's engine was not loaded within half an hour.")

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class _PeakMemory:
    """The largest sum of the resident memory of a process and all below it, and of the cards' memory in use.

    Looked at often, not measured by the kernel: a peak of some milliseconds may be missed.
    """

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._done = threading.Event()
        self.peak_rss_bytes = self.peak_gpu_bytes = 0
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            total = 0
            for process in (self._process, *self._process.children(recursive=True)):
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.peak_rss_bytes = max(self.peak_rss_bytes, total)
            self.peak_gpu_bytes = max(self.peak_gpu_bytes, _gpu_bytes())
            if self._done.wait(_SAMPLE_S):
                return


def _gpu_bytes() -> int:
    """Memory in use on the cards that the server may use, whoever uses it; 0 where NVML cannot be asked."""
    return sum(read() for read in _gpus())


@cache
def _gpus() -> tuple[Callable[[], int], ...]:
    """For each card what tells its memory in use."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # the module is missing, or there is no driver: its own error class for each case
        return ()
    # Of several cards those that CUDA_VISIBLE_DEVICES leaves: on the others someone else may be at work.
    handles = [nvml.nvmlDeviceGetHandleByUUID(gpu.uuid) for gpu in hardware.gpus()]
    return tuple(lambda handle=handle: int(nvml.nvmlDeviceGetMemoryInfo(handle).used) for handle in handles)
