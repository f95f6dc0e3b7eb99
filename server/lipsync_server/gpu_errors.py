"""Recognises the errors by which torch reports that the GPU's memory ran out, or that the GPU is lost to this process.

torch reports memory that ran out in three ways: its allocator raises torch.OutOfMemoryError; CUDA itself and the
libraries below torch (cuBLAS, cuDNN) raise a plain RuntimeError with a known text. Does not import torch, so that the
server process can use it too.
"""

import sys

_LIBRARY_MESSAGES = ("CUDA error: out of memory", "_STATUS_ALLOC_FAILED")


def gpu_ran_out(error: BaseException) -> bool:
    """Whether `error` means that the GPU's memory ran out."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _LIBRARY_MESSAGES)


def gpu_is_lost(error: BaseException | None) -> bool:
    """Whether `error` or one of its causes is a CUDA error, after which every later CUDA call of this process fails."""
    while error is not None:
        if isinstance(error, RuntimeError) and "CUDA error" in str(error):
            return True
        error = error.__cause__
    return False
