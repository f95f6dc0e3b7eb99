"""Requests of a child process to the kernel: to end with the server, and to run after it."""

import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path

_AUTOGROUP = Path("/proc/self/autogroup")
_PR_SET_PDEATHSIG = 1
_LOWEST_SESSION = 4
"""The session's own niceness at most. Each step is a quarter less of a busy CPU, against every program of the machine:
at 15 a render beside a few busy programs stood still, and 4 still leaves the server more than twice a child's share."""


def end_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when the parent's thread that started it ends (prctl(2)).

    parent_pid: the parent's own id, handed down by the parent: if this process has another parent already, the parent
    ended before the kernel was asked, and this process ends at once.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(0)


def yield_to_server(niceness: int) -> None:
    """Run at a lower CPU priority than the server. niceness: 0 is the server's own, 19 the lowest priority.

    Linux with autogroup, the default of desktops and many servers, shares the CPU out between sessions first, so that
    a process's niceness counts within its session only. A child in a session of its own lowers that a little too.
    """
    if sys.platform == "win32":
        return
    with contextlib.suppress(OSError):
        os.nice(niceness)
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):
            _AUTOGROUP.write_text(str(min(niceness, _LOWEST_SESSION)))
