"""Measures a render: seconds per stage, overall progress, peak memory.

Knows the names of the stages and the usual share of each in a render. Knows no engine and never imports torch: GPU
memory is read from torch only if an engine has already imported torch.
"""

import contextlib
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lipsync_server.workers.task import ProgressEvent

_STAGE_SPAN = {
    "load": (0.0, 0.02),
    "preprocess": (0.02, 0.05),
    "generate": (0.05, 0.97),
    "encode": (0.97, 1.0),
    "check": (0.985, 1.0),
}
"""The range of the overall progress that each stage covers.

Loading covers no range if the engine is already loaded. The check begins before the end of encoding is reported.
"""

STAGES = tuple(_STAGE_SPAN)


class StageClock:
    """Adds up wall-clock seconds per stage; exactly one stage runs at any time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = self._since = clock()
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self.stage = STAGES[0]

    def switch(self, stage: str) -> None:
        """Count the time from now on for `stage`."""
        now = self._clock()
        self._seconds[self.stage] += now - self._since
        self._since, self.stage = now, stage

    def seconds(self) -> dict[str, float]:
        """Seconds of each stage so far."""
        self.switch(self.stage)
        return {stage: round(seconds, 4) for stage, seconds in self._seconds.items()}

    def total_s(self) -> float:
        """Seconds since this clock was made."""
        return self._clock() - self._started


class ProgressScale:
    """Converts progress within a stage to an event whose overall fraction never decreases."""

    def __init__(self) -> None:
        self._fraction = 0.0

    def event(self, stage: str, done: float, total: float, note: str) -> ProgressEvent:
        """The event for `done` of `total` steps of a stage."""
        begin, end = _STAGE_SPAN[stage]
        part = min(1.0, max(0.0, done / total)) if total > 0 else 0.0
        self._fraction = max(self._fraction, begin + (end - begin) * part)
        return ProgressEvent(stage=stage, done=done, total=total, fraction=self._fraction, note=note)


class PeakMemory:
    """Peak memory of this process and of the GPU (through torch) since this object was made."""

    def __init__(self) -> None:
        with contextlib.suppress(OSError):
            # Reset the kernel's peak value, which otherwise covers the whole life of the process.
            Path("/proc/self/clear_refs").write_text("5")
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            for device in range(torch.cuda.device_count()):
                torch.cuda.reset_peak_memory_stats(device)

    def rss_bytes(self) -> int:
        """Peak resident memory, in bytes."""
        try:
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        except (OSError, ValueError):
            pass
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    def gpu_bytes(self) -> int:
        """Peak memory reserved on all GPUs, in bytes; 0 without torch on CUDA."""
        torch = sys.modules.get("torch")
        if torch is None or not torch.cuda.is_initialized():
            return 0
        return sum(int(torch.cuda.max_memory_reserved(device)) for device in range(torch.cuda.device_count()))
