"""A server in this process with a stand-in for the workers that writes real, tiny MP4 files.

The prompt decides what a job does: "hold" waits until the test releases or cancels it, "crash" loses its worker every
time, "crash once" the first time, "no face" fails as the preview engine does, "boom" raises an unexpected error.
"""

import asyncio
import hashlib
import io
import os
import wave
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import aiohttp
import av
import numpy as np
from aiohttp import web
from aiohttp.test_utils import TestClient
from lipsync_server.check.quality import Quality
from lipsync_server.errors import Cancelled, DiskFull, NoFace, WorkerCrashed
from lipsync_server.settings import Settings
from lipsync_server.workers.base import LoadState, Worker, WorkerInfo
from lipsync_server.workers.rendering.failures import in_words
from lipsync_server.workers.task import ProgressEvent, RenderOutcome, RenderTask
from PIL import Image

_END_S = 120
"""No job of these tests takes longer, on a busy machine either; a job that hangs fails its test."""


def write_mp4(path: Path, n_frames: int = 10) -> None:
    """A real H.264 file that appears by rename."""
    part = path.with_suffix(".part")
    with av.open(str(part), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(25))
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for index in range(n_frames):
            picture = np.full((64, 64, 3), index * 20 % 255, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    part.rename(path)


@dataclass
class StandInWorker:
    executor: "StandInExecutor"
    worker_id: str
    node: str = "here"
    engines: frozenset[str] = frozenset({"preview"})
    task: RenderTask | None = None
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def render(self, task: RenderTask, on_progress: Callable[[ProgressEvent], None]) -> RenderOutcome:
        self.task = task
        self.stop.clear()
        self.executor.attempts[task.ask.prompt] += 1
        self.executor.tasks.append(task)
        self.executor.seen[task.task_id].append(self.node)
        try:
            on_progress(ProgressEvent("generate", 1, 2, 0.5, "frame 1 of 2"))
            self.executor.rendering.set()
            return await self._render(task)
        finally:
            self.task = None

    async def _render(self, task: RenderTask) -> RenderOutcome:
        match task.ask.prompt:
            case "hold":
                await self._hold()
            case "no face":
                raise NoFace("No face was found in the picture. Use one in which a face is seen from the front.")
            case "fails on sick" | "disk full everywhere" if self.node == "sick" or "everywhere" in task.ask.prompt:
                raise DiskFull(f"On machine {self.node}: Only 0 MiB are free in /tmp; free some space there.")
            case "crashes on sick" if self.node == "sick":
                raise WorkerCrashed("The worker process on sick ended while rendering: signal 9.")
            case "crash":
                raise WorkerCrashed("The worker process ended while rendering: signal 9.")
            case "crash once" if self.executor.attempts["crash once"] == 1:
                raise WorkerCrashed("The worker process ended while rendering: signal 9.")
            case "reads its picture":
                try:
                    await asyncio.to_thread(task.image.read_bytes)
                except OSError as error:
                    raise in_words(error, "preview") from error
            case "boom":
                raise RuntimeError("a secret of the server")
        try:
            await asyncio.to_thread(write_mp4, task.output)
        except OSError as error:
            self.executor.failed.set()
            raise in_words(error, "preview") from error
        data = await asyncio.to_thread(task.output.read_bytes)
        return RenderOutcome(
            width=64,
            height=64,
            fps=25.0,
            n_frames=10,
            duration_s=0.4,
            size_bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            seed=int(task.ask.seed or 42),
            render_s=0.1,
            stage_s={"preprocess": 0.02, "generate": 0.05, "encode": 0.03},
            warnings=("The head is turned far to the side.",) if task.ask.prompt == "profile" else (),
            quality=self.executor.quality,
        )

    async def _hold(self) -> None:
        waits = [asyncio.create_task(event.wait()) for event in (self.stop, self.executor.let_go, self.executor.closed)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self.stop.is_set():
            raise Cancelled("The job was cancelled.")
        if self.executor.closed.is_set():
            raise WorkerCrashed("The worker process ended while rendering: the server stopped it.")

    def cancel(self, task_id: str) -> None:
        if self.task is not None and self.task.task_id == task_id:
            self.stop.set()


class StandInExecutor:
    """Workers that live in this process."""

    def __init__(self, n_workers: int = 1, nodes: tuple[str, ...] = ()) -> None:
        self.attempts: Counter[str] = Counter()
        self.tasks: list[RenderTask] = []
        self.rendering, self.let_go, self.closed = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.failed = asyncio.Event()
        """A video could not be written."""
        self.state = LoadState(True, "ready", 1.0, "preview is loaded.")
        self._idle: asyncio.Queue[Worker] = asyncio.Queue()
        nodes = nodes or ("here",) * n_workers
        self._workers = [StandInWorker(self, f"stand-in-{number}", node) for number, node in enumerate(nodes)]
        self.hopeless = False
        self.quality: Quality | None = None
        """The result of the check of every video."""
        self.seen: defaultdict[str, list[str]] = defaultdict(list)

    async def start(self) -> None:
        for worker in self._workers:
            self._idle.put_nowait(worker)

    async def next_idle(self) -> Worker:
        return await self._idle.get()

    def release(self, worker: Worker) -> None:
        self._idle.put_nowait(worker)

    def workers(self) -> list[WorkerInfo]:
        return [
            WorkerInfo(
                each.worker_id,
                each.node,
                "preview",
                "dead" if self.hopeless else "busy" if each.task else "ready",
                engines=each.engines,
            )
            for each in self._workers
        ]

    def load_state(self) -> LoadState:
        return self.state

    async def close(self) -> None:
        self.closed.set()


Json = dict[str, Any]


@dataclass
class Site:
    """A running server and a client for it."""

    client: TestClient[web.Request, web.Application]
    executor: StandInExecutor
    settings: Settings
    data_dir: Path

    async def submit(self, path: str = "/v1/jobs", *, headers: dict[str, str] | None = None, **fields: object) -> Json:
        async with self.client.post(path, data=form(**fields), headers=headers) as response:
            assert response.status == 202, await response.text()
            answer: Json = await response.json()
            return answer

    async def ended(self, job_id: str) -> Json:
        """The job once it has ended, by its event stream."""
        async with asyncio.timeout(_END_S), self.client.get(f"/v1/jobs/{job_id}/events") as response:
            assert "event: end" in (await response.text())
        return await self.job(job_id)

    async def job(self, job_id: str) -> Json:
        async with self.client.get(f"/v1/jobs/{job_id}") as response:
            assert response.status == 200, await response.text()
            answer: Json = await response.json()
            return answer

    def left_on_disk(self) -> list[str]:
        """Files and folders of uploads and jobs. Unlike rglob, os.walk skips a folder that is removed meanwhile."""
        return [
            str((Path(folder) / name).relative_to(self.data_dir))
            for part in ("incoming", "jobs")
            for folder, folders, files in os.walk(self.data_dir / part)
            for name in (*folders, *files)
        ]


# The fixture `start`: starts a server with the settings that it is called with.
Start = Callable[..., Awaitable[Site]]


def png(width: int = 64, height: int = 64, shade: int = 120) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (shade, 90, 80)).save(file, "PNG")
    return file.getvalue()


def wav(seconds: float = 0.4, rate: int = 16000, level: int = 8000) -> bytes:
    file = io.BytesIO()
    times = np.arange(round(seconds * rate)) / rate
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes((np.sin(times * 1400) * level).astype("<i2").tobytes())
    return file.getvalue()


PNG, WAV = png(), wav()


def form(**fields: object) -> aiohttp.FormData:
    """A form with a good picture and recording, other fields beside or in place of them; None omits a field.

    A value (name, bytes) is a file, bytes are a file with the field's name, any other value is text.
    """
    data = aiohttp.FormData(default_to_multipart=True, quote_fields=False)
    for name, value in {"image": ("face.png", PNG), "audio": ("hello.wav", WAV), **fields}.items():
        match value:
            case None:
                continue
            case (str(file_name), bytes(content)):
                data.add_field(name, content, filename=file_name)
            case bytes():
                data.add_field(name, value, filename=name)
            case _:
                data.add_field(name, str(value))
    return data
