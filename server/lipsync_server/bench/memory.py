"""GPU memory: its peak since a reset, and a limit that makes the card behave as a smaller one.

GPU memory can be counted in three ways. *Tensors*: the bytes of the program's own tensors. *torch's allocator*: the
tensors and the blocks that the allocator keeps for reuse. *The card*: also CUDA's context, the libraries' workspaces
and loaded kernels, which torch does not count; nvidia-smi shows this sum. On a CPU the functions do nothing and return
no numbers.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lipsync_server.bench.record import Numbers

GIB = 2**30


def free(device: torch.device) -> None:
    """Release memory without references."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def reset_peak(device: torch.device) -> None:
    """Start a new measurement of the peaks."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(device: torch.device) -> float | None:
    """Largest sum of tensors since `reset_peak`, in GiB; None on a CPU."""
    return round(torch.cuda.max_memory_allocated(device) / GIB, 3) if device.type == "cuda" else None


def peaks(device: torch.device) -> Numbers:
    """Peak memory since `reset_peak` in GiB: of tensors, of torch's allocator, and of the card."""
    if device.type != "cuda":
        return {}
    reserved = torch.cuda.max_memory_reserved(device)
    return {
        "peak_gib": peak_gib(device),
        "peak_reserved_gib": round(reserved / GIB, 3),
        "peak_device_gib": round((reserved + beside_torch_bytes(device)) / GIB, 3),
    }


def allocated_bytes(device: torch.device) -> int:
    """Memory of all tensors on the card now, in bytes; 0 on a CPU."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def beside_torch_bytes(device: torch.device) -> int:
    """Memory in use on the card outside torch's allocator, in bytes. Includes the memory of other programs."""
    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    return total_bytes - free_bytes - torch.cuda.memory_reserved(device)


@contextmanager
def card_of(n_bytes: int, device: torch.device) -> Iterator[int]:
    """Limit this process to a card of `n_bytes`, which include CUDA's context. Yields the bytes that torch may use."""
    if device.type != "cuda":
        yield n_bytes
        return
    total = torch.cuda.get_device_properties(device).total_memory
    left = n_bytes - beside_torch_bytes(device)
    torch.cuda.set_per_process_memory_fraction(min(1.0, left / total), device)
    try:
        yield left
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
