"""Recognises the errors by which torch reports that the GPU's memory ran out.

torch reports it in three ways: its allocator raises torch.OutOfMemoryError; CUDA itself and the libraries below torch
(cuBLAS, cuDNN) raise a plain RuntimeError with a known text. Does not import torch, so that the server process can use
it too.
"""

import sys

_LIBRARY_MESSAGES = ("CUDA error: out of memory", "_STATUS_ALLOC_FAILED")


def gpu_ran_out(error: BaseException) -> bool:
    """Whether `error` means that the GPU's memory ran out."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _LIBRARY_MESSAGES)
