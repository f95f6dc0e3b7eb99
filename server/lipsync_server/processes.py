"""Two requests of a child process to the kernel: to end with the server, and to run at a lower priority."""

import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path

_AUTOGROUP = Path("/proc/self/autogroup")
_PR_SET_PDEATHSIG = 1
_LOWEST_SESSION = 4
"""The largest niceness of a session.

Each step reduces its share of a busy CPU by a quarter, against every program of the machine. With 15 a render beside a
few busy programs made no progress. With 4 the server has more than twice a child's share.
"""


def end_with_parent(parent_pid: int) -> None:
    """Let the kernel kill this process when the thread of the parent that started it ends (prctl(2)).

    parent_pid: the parent's own id, sent by the parent. If this process already has another parent, the first one ended
    before this call, and this process ends at once.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(0)


def yield_to_server(niceness: int) -> None:
    """Run at a lower CPU priority than the server. niceness: 0 for the server's own priority, 19 for the lowest.

    With autogroup, the default of desktops and many servers, Linux first divides the CPU between sessions. The niceness
    of a process then counts within its session only. So a child with its own session also lowers that session's share.
    """
    if sys.platform == "win32":
        return
    with contextlib.suppress(OSError):
        os.nice(niceness)
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):
            _AUTOGROUP.write_text(str(min(niceness, _LOWEST_SESSION)))
