"""Host memory for weights that are copied to the GPU again and again: pinned if the system allows that.

Pinned memory stays at its physical address, so the GPU copies from it without the CPU, and beside its other work. CUDA
cannot pin if the machine has too little free memory, a container's limit is reached, or `ulimit -l` forbids it. CUDA's
error then reads "CUDA error: out of memory", although the GPU's memory is not full. This module catches that error,
logs the cause once, and allocates plain memory instead. Knows buffers of bytes. Does not know their content.
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
        """Return an uninitialised (n_bytes,) uint8 tensor.

        Raises HostOutOfMemory if there is no plain memory either.
        """
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
        """Return unused pinned memory to the system. torch would keep it for reuse."""
        if self.pins and hasattr(torch._C, "_host_emptyCache"):
            torch._C._host_emptyCache()
