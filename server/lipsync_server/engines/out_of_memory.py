"""Recognises that memory ran out, and words the error, for every engine and for the worker.

torch reports GPU memory that ran out in three ways: its allocator raises torch.OutOfMemoryError; CUDA itself and the
libraries below torch (cuBLAS, cuDNN) raise a plain RuntimeError with a known text. Does not import torch, so that the
server process can use it too.
"""

import sys

from lipsync_server.errors import OutOfMemory

_SAID_BY_LIBRARIES = ("CUDA error: out of memory", "_STATUS_ALLOC_FAILED")


def gpu_ran_out(error: BaseException) -> bool:
    """Whether `error` means that the GPU's memory ran out."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID_BY_LIBRARIES)


def gpu_out_of_memory(error: BaseException, *, doing: str, remedies: tuple[str, ...]) -> OutOfMemory:
    """The error for a person. doing: "while ...". remedies: changes that this person can make, the best first."""
    first_line = next(iter(str(error).splitlines()), "out of memory")
    return OutOfMemory(
        f"The GPU's memory ran out {doing} ({first_line}). Try {', '.join(remedies)}, or stop other programs that use "
        "the GPU."
    )
