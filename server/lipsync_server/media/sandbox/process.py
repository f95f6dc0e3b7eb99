"""One decoder process, seen from the process that started it: hand over a task, wait, kill.

A crash of the decoder, a limit and a kill all become a sentence about the file. The child's answers are checked before
use, because a hostile file may control the child.
"""

import contextlib
import dataclasses
import functools
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Literal, TypeVar

import numpy as np
from pydantic import ValidationError

from lipsync_server.errors import Cancelled, DiskFull, InvalidAudio, InvalidImage, LipsyncError, UnsupportedMedia
from lipsync_server.media.sandbox.limits import MIB
from lipsync_server.media.sandbox.tasks import ReadVideoFrames, Task
from lipsync_server.media_types import Frames
from lipsync_server.paths import PACKAGE_DIR

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_MAX_ANSWER_BYTES = 8 * MIB
"""The times of the longest script's words, 80 bytes for each of 60,000 letters of a writing without blanks."""
_START_S = 120.0
"""Python and the decoders' libraries are loaded in 0.3 to 1 s, and in many seconds on a machine with too much work."""
_MAX_TASKS = 50
"""A process is replaced after so many files: decoders leak."""
_REFUSALS: dict[str, type[LipsyncError]] = {
    kind.__name__: kind for kind in (UnsupportedMedia, InvalidImage, InvalidAudio, LipsyncError)
}
_PASSED_ON = ("PATH", "PYTHONHOME", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR", "TEMP", "LANG")


class DecoderProcess:
    """A decoder process. One task at a time; kill() may be called from any thread meanwhile."""

    def __init__(self) -> None:
        # -P: modules are not imported from the folder in which the server was started.
        command = [sys.executable, "-P", "-m", "lipsync_server.media.sandbox.child"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            start_new_session=True,  # a terminal's Ctrl-C reaches the server only
        )
        self._ended_by: Literal["caller", "wall time"] | None = None
        self._n_tasks = 0
        self._is_ready = False
        self.is_fit = True
        """Whether another file may be given to this process: False after one on which a decoder failed."""

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    @property
    def was_killed(self) -> bool:
        """Whether the server ended the process: by a call of kill(), or because its time was over."""
        return self._ended_by is not None

    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def run(self, task: Task[Result], began: Callable[[], object] = bool) -> Result:
        """Do `task` in the process and wait for the result. began: called when the process has started and begins.

        Raises UnsupportedMedia, or the task's own error with a sentence that names the fault of the file.
        """
        limits = task.limits()
        self._n_tasks += 1
        fit, self.is_fit = self._n_tasks < _MAX_TASKS, False
        self._await_start(task)
        began()
        line = self._timed(limits.wall_s, lambda: self._ask(task))
        if not line.endswith(b"\n"):
            raise self._death(task)
        try:
            result = _read(line, task)
        except LipsyncError as refusal:
            # No decoder has read a file of another kind, nor one that our own readers of headers have refused.
            self.is_fit = fit and (isinstance(refusal, UnsupportedMedia) or refusal.before_decoding)
            raise
        self.is_fit = fit
        return result

    def frames(self, task: ReadVideoFrames) -> Iterator[Frames]:
        """The frames of `task` as uint8 RGB (H, W, 3), each as soon as it is decoded. Raises as run() does."""
        self.is_fit = False
        limits, stdout = task.limits(), self._process.stdout
        assert stdout is not None
        self._await_start(task)
        line = self._timed(limits.wall_s, lambda: self._ask(task))
        while (shape := _frame_shape(line, task.max_pixels)) is not None:
            n_bytes = shape[0] * shape[1] * 3
            data = self._timed(limits.wall_s, functools.partial(stdout.read, n_bytes))
            if len(data) < n_bytes:
                raise self._death(task)
            yield np.frombuffer(data, np.uint8).reshape(*shape, 3)
            line = self._timed(limits.wall_s, lambda: stdout.readline(_MAX_ANSWER_BYTES))
        if not line.endswith(b"\n"):
            raise self._death(task)
        _read(line, task)

    def kill(self) -> None:
        """End the process now, whatever it does; a run() that waits raises."""
        self._kill("caller")

    def close(self) -> None:
        """Kill the process and wait for its end."""
        self.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _timed(self, wall_s: float, wait: Callable[[], bytes]) -> bytes:
        """The result of `wait`; kills the process when it takes longer than `wall_s` seconds."""
        timer = threading.Timer(wall_s, self._kill, ["wall time"])
        timer.daemon = True
        timer.start()
        try:
            return wait()
        finally:
            timer.cancel()

    def _await_start(self, task: Task[Result]) -> None:
        """Wait until a fresh process has loaded its libraries, so that the time of the start is not the file's."""
        if self._is_ready:
            return
        stdout = self._process.stdout
        assert stdout is not None
        if not self._timed(_START_S, lambda: stdout.readline(_MAX_ANSWER_BYTES)):
            raise self._death(task)
        self._is_ready = True

    def _ask(self, task: Task[Result]) -> bytes:
        """Send `task` and wait for the first line of the answer; b"" if the process has ended."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        request = {"task": type(task).__name__, "fields": dataclasses.asdict(task)}
        line = json.dumps(request, default=str).encode() + b"\n"  # a path is written as its text
        try:
            stdin.write(line)
            stdin.flush()
            return stdout.readline(_MAX_ANSWER_BYTES)
        except (OSError, ValueError):
            return b""

    def _kill(self, reason: Literal["caller", "wall time"]) -> None:
        if self._ended_by is None:
            self._ended_by = reason
        self._process.kill()

    def _death(self, task: Task[Result]) -> LipsyncError:
        """The refusal of a file whose process ended in the middle of the task."""
        self._process.kill()
        status = self._process.wait()
        limits, subject = task.limits(), task.subject
        if self._ended_by == "caller":
            return Cancelled("The check of the file was stopped.")
        if self._ended_by == "wall time":
            return task.error(f"The {subject} was not decoded within {limits.wall_s:.0f} s. {task.advice}")
        if sys.platform != "win32" and status == -signal.SIGXCPU:
            return task.error(
                f"The {subject} takes more than {limits.cpu_s:.0f} s of processor time to decode. {task.advice}"
            )
        if sys.platform != "win32" and status == -signal.SIGKILL:
            return task.error(f"The {subject} takes more memory to decode than this machine has. {task.advice}")
        log.warning("a decoder process ended with status %d on a %s", status, subject)
        return task.error(f"The {subject} made its decoder crash, so the file is damaged. {task.advice}")


def _read(line: bytes, task: Task[Result]) -> Result:
    """The result in the child's answer; raises the error that the answer has instead."""
    subject = task.subject
    try:
        answer = json.loads(line)
        if "result" in answer:
            return task.parse(answer["result"])
        kind, detail = str(answer["error"]), str(answer.get("detail", ""))
        before_decoding = answer.get("before_decoding") is True
    except (ValueError, KeyError, TypeError, ValidationError):
        log.warning("a decoder process gave an answer that cannot be read")
        raise task.error(f"The {subject} made its decoder fail. {task.advice}") from None
    if kind == "disk_full":
        raise DiskFull("The server's disk is full; free some space and try again.")
    if kind == "memory":
        mib = task.limits().memory_bytes / MIB
        raise task.error(
            f"The {subject} takes more than {mib:,.0f} MiB of memory to decode, which no usual file does. {task.advice}"
        )
    if kind == "damaged":
        raise task.error(f"The {subject} is damaged ({detail}). {task.advice}")
    refusal = _REFUSALS.get(kind, task.error)(detail)
    refusal.before_decoding = before_decoding
    raise refusal


def _frame_shape(line: bytes, max_pixels: int) -> tuple[int, int] | None:
    """Height and width in a line that announces a frame, or None for any other line."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        height, width = json.loads(line)["frame"]
        if isinstance(height, int) and isinstance(width, int) and 0 < height * width <= max_pixels:
            return height, width
    return None


def _environment() -> dict[str, str]:
    """The child's environment: the variables that Python needs, one thread for the math libraries, and no secret."""
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    # The package may have been found by a path that only this process knows.
    kept["PYTHONPATH"] = os.pathsep.join([str(PACKAGE_DIR.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    return kept | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "PYTHONUTF8": "1"}
