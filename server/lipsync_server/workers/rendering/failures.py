"""The error for the caller when a render fails in an unforeseen way.

Knows the error family and the ways in which memory and disks run out. Knows no render.
"""

import errno

from lipsync_server.engines.out_of_memory import gpu_out_of_memory
from lipsync_server.errors import DiskFull, LipsyncError, OutOfMemory
from lipsync_server.gpu_errors import gpu_ran_out


def in_words(error: Exception, engine: str) -> LipsyncError:
    """The LipsyncError that explains the unforeseen exception `error` to the caller."""
    if isinstance(error, LipsyncError):
        return error
    if gpu_ran_out(error):
        remedies = ("a lower resolution", "another engine")
        return gpu_out_of_memory(error, doing=f"while {engine} was rendering", remedies=remedies)
    if isinstance(error, MemoryError):
        return OutOfMemory(f"The machine ran out of memory while {engine} was rendering.")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull("The server's disk is full; free some space and try again.")
    return LipsyncError(
        f"Engine {engine} failed with {type(error).__name__}: {error or 'no message'}. This is a fault of the "
        "server; its log has the details."
    )
