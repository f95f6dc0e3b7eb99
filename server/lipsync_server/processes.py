"""Let a process end with the process that started it. Linux does so in the kernel; elsewhere the pipe's end does it."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when the parent's thread that started it ends (prctl(2)).

    parent_pid: the parent's own id, handed down by the parent: if this process has another parent already, the parent
    ended before the kernel was asked, and this process ends at once.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(0)
