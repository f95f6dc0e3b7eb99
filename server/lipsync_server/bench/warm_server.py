"""A server with a loaded engine, for a benchmark of whole jobs over HTTP.

Measures the seconds from POST to the last byte, and samples the memory of the server, its worker and the GPU during
that time.
"""

import importlib
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
import psutil

from lipsync_server.bench.local_server import LocalServer
from lipsync_server.engines import hardware
from lipsync_server.errors import LipsyncError
from lipsync_server.workers.rendering.measure import STAGES

_START_TIMEOUT_S = 1800.0
_SAMPLE_S = 0.05


@dataclass(frozen=True)
class Answer:
    """The figures of one job.

    wall_s: from POST to the last byte. stage_s: seconds of each stage, from the server. peak_rss_bytes: largest memory
    of server and worker. peak_gpu_bytes: largest memory in use on the cards, with CUDA's own share, minus the memory
    that was in use before the server started; 0 without a GPU.
    """

    wall_s: float
    stage_s: dict[str, float]
    peak_rss_bytes: int
    peak_gpu_bytes: int


class WarmServer:
    """`lipsync serve` on a free port with its own data folder; use as a context manager.

    settings: of the engine, by their names without LIPSYNC_. ready_s: seconds from the start to the loaded engine.
    """

    def __init__(self, engine: str, data_dir: Path, settings: Mapping[str, str] | None = None) -> None:
        self._token = secrets.token_urlsafe(16)
        own = {"TOKENS": self._token, "ENGINE": engine, "LOG_LEVEL": "warning"}
        self._server = LocalServer(data_dir, {**(settings or {}), **own}, inherits=True)
        self.ready_s = 0.0

    def __enter__(self) -> Self:
        self._gpu_bytes_before, started = _gpu_bytes(), time.monotonic()
        self._server.start()
        try:
            self._server.wait_until_it_answers("/readyz", _START_TIMEOUT_S)
            self.ready_s = time.monotonic() - started
        except BaseException:
            self._server.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop()

    async def post(self, image: Path, audio: Path, fields: dict[str, str]) -> Answer:
        """POST /lipsync, and read the whole video. Raises LipsyncError with the server's message if it refuses."""
        headers = {"Authorization": f"Bearer {self._token}"}
        timeout = aiohttp.ClientTimeout(total=None)
        process = self._server.process
        assert process is not None
        with image.open("rb") as picture, audio.open("rb") as sound:
            form = aiohttp.FormData(fields)
            form.add_field("image", picture, filename=image.name)
            form.add_field("audio", sound, filename=audio.name)
            async with aiohttp.ClientSession(self._server.url, headers=headers, timeout=timeout) as session:
                with _PeakMemory(process.pid) as memory:
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
        stages = {stage: timings[f"{stage}_s"] for stage in STAGES}
        gpu_bytes = max(0, memory.peak_gpu_bytes - self._gpu_bytes_before)
        return Answer(wall_s, stages, memory.peak_rss_bytes, gpu_bytes)


class _PeakMemory:
    """The largest resident memory of a process and its descendants, and the largest memory in use on the cards.

    A thread samples both every 50 ms, so a shorter peak may be missed.
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
    """Memory in use by any process on the server's cards, in bytes; 0 without NVML (NVIDIA's library of card data)."""
    return sum(read() for read in _gpus())


@cache
def _gpus() -> tuple[Callable[[], int], ...]:
    """For each card a function that reads its memory in use."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # pynvml has many own error classes, and the module itself may be missing
        return ()
    # hardware.gpus() has only cards in CUDA_VISIBLE_DEVICES. Other programs may use the rest.
    handles = [nvml.nvmlDeviceGetHandleByUUID(gpu.uuid) for gpu in hardware.gpus()]
    return tuple(lambda handle=handle: int(nvml.nvmlDeviceGetMemoryInfo(handle).used) for handle in handles)
