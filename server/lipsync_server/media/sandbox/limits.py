"""Limits for decoding one untrusted file: memory, processor time, wall time, bytes written.

The kernel enforces memory and processor time on Linux. On macOS the kernel enforces processor time only, on Windows
neither; why_not() gives that in one sentence. The wall time is enforced everywhere, by the process that waits.
"""

import contextlib
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lipsync_server.processes import yield_to_server

if sys.platform != "win32":
    import resource

MIB = 1024 * 1024

_NICENESS = 10
_OOM_SCORE = 700
_MAX_OPEN_FILES = 64
_UNLIMITED = -1
# Virtual memory that is reserved and never touched, such as a mapped file, counts against RLIMIT_AS alone.
_ADDRESS_SLACK_BYTES = 256 * MIB


@dataclass(frozen=True)
class Limits:
    """Limits of one task. memory_bytes: on top of the decoder libraries themselves. written_bytes: size of a file."""

    memory_bytes: int
    cpu_s: float
    wall_s: float
    written_bytes: int = 0


_LIMITS_MISSING = {
    "linux": None,
    "win32": "Windows cannot limit the memory and processor time of decoders: only their wall time is limited.",
}


def why_not() -> str | None:
    """The reason why a decoder process cannot be limited fully on this system; None if it can."""
    return _LIMITS_MISSING.get(
        sys.platform,
        "This system cannot limit the memory of decoders: only their processor time and wall time are limited.",
    )


def confine_process() -> None:
    """Settings for the whole life of a decoder process: low priority, no core dumps, and the kernel kills this process
    first when memory runs out."""
    if sys.platform == "win32":
        return
    yield_to_server(_NICENESS)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (_MAX_OPEN_FILES, _MAX_OPEN_FILES))


@contextlib.contextmanager
def applied(limits: Limits) -> Iterator[None]:
    """Hold this process to `limits` in the block. The kernel ends the process when the processor time is used up;
    an allocation beyond the memory fails; a file beyond written_bytes cannot be written."""
    if sys.platform == "win32":
        yield
        return
    cpu_s = int(time.process_time() + limits.cpu_s) + 1
    _set_soft(resource.RLIMIT_CPU, cpu_s)
    _set_soft(resource.RLIMIT_FSIZE, limits.written_bytes)
    if sys.platform == "linux":
        used = _memory_in_use()
        _set_soft(resource.RLIMIT_DATA, used["VmData"] + limits.memory_bytes)
        _set_soft(resource.RLIMIT_AS, used["VmSize"] + limits.memory_bytes + _ADDRESS_SLACK_BYTES)
    try:
        yield
    finally:
        _set_soft(resource.RLIMIT_CPU, _UNLIMITED)
        _set_soft(resource.RLIMIT_FSIZE, _UNLIMITED)
        if sys.platform == "linux":
            _set_soft(resource.RLIMIT_DATA, _UNLIMITED)
            _set_soft(resource.RLIMIT_AS, _UNLIMITED)


if sys.platform != "win32":

    def _set_soft(kind: int, value: int) -> None:
        """Set the soft limit only, within the hard limit, so that the next task of this process can have another."""
        hard = resource.getrlimit(kind)[1]
        if hard != resource.RLIM_INFINITY and (value == _UNLIMITED or value > hard):
            value = hard
        resource.setrlimit(kind, (resource.RLIM_INFINITY if value == _UNLIMITED else value, hard))


def _memory_in_use() -> dict[str, int]:
    """VmData and VmSize of this process in bytes, as Linux counts them for RLIMIT_DATA and RLIMIT_AS."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    found = re.findall(r"^(VmData|VmSize):\s+(\d+) kB", status, re.MULTILINE)
    return {name: int(kib) * 1024 for name, kib in found}
