"""Host memory for weights that are copied to the GPU again and again: pinned where that can be had.

Pinned memory stays at its physical address, so the GPU copies it without the CPU and beside its other work. CUDA can
refuse to pin: the machine has too little free memory, a container's limit is reached, or `ulimit -l` forbids it. The
refusal reads "CUDA error: out of memory" although the GPU's memory is not concerned. So it is caught here, logged once
in words, and the memory is taken without pinning. Knows buffers of bytes. Does not know what lies in them.
"""

import logging

import torch
from torch import Tensor

from lipsync_server.errors import HostOutOfMemory

log = logging.getLogger(__name__)


class HostBuffers:
    """Buffers of one owner. pin: try to pin them."""

    def __init__(self, *, pin: bool) -> None:
        self.pins = pin

    def empty(self, n_bytes: int) -> Tensor:
        """An uninitialised (n_bytes,) uint8 tensor. Raises HostOutOfMemory where not even plain memory can be had."""
        if self.pins:
            try:
                return torch.empty(n_bytes, dtype=torch.uint8, pin_memory=True)
            except RuntimeError as error:
                self.pins = False
                log.warning(
                    "host memory could not be pinned (%s): a limit of the machine, the container or `ulimit -l`, not "
                    "of the GPU. Weights wait in plain memory instead, which makes every forward slower",
                    str(error).partition("\n")[0],
                )
        try:
            return torch.empty(n_bytes, dtype=torch.uint8)
        except RuntimeError as error:
            raise HostOutOfMemory(
                f"The machine has no {n_bytes / 2**30:.1f} GiB of host memory left for a part of the model. Give it "
                "more memory, use 8-bit weights, or a GPU with more memory."
            ) from error

    def release(self) -> None:
        """Give pinned memory that nobody refers to any more back to the system; torch keeps it for reuse otherwise."""
        if self.pins and hasattr(torch._C, "_host_emptyCache"):
            torch._C._host_emptyCache()
