"""Parts that the kernels for Hopper (compute capability 9.0) share: the check of the GPU, and tensor maps.

Hopper's tensor memory accelerator loads a whole tile with one instruction. The instruction needs a tensor map: the
description of the tensor's shape and strides. Knows the driver's call that makes the map. Does not know attention, nor
how a kernel is compiled (nvrtc.py).
"""

from typing import Any

import torch
from torch import Tensor

from lipsync_server.models.kernels import nvrtc

MOST_SHARED_BYTES = 227 * 1024
"""Shared memory that one block of threads can have."""


def why_not(device: torch.device, name: str, **constants: int) -> str | None:
    """The reason why the kernel cannot run on `device`; None if it can. Compiles the kernel to find out."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) != (9, 0):
        return "it needs a Hopper GPU (H100, H200)"
    return nvrtc.why_not(device, name, **constants)


def tensor_map(x: Tensor, box_columns: int, box_rows: int) -> Any:
    """Make the tensor map for tiles of x (tokens, heads, columns), with 128-byte swizzle.

    A tile is box_rows tokens by box_columns of one head. x: 8-bit or bf16, contiguous columns, any other strides.
    """
    driver = nvrtc.bindings("driver")
    tokens, heads, columns = x.shape
    kind = driver.CUtensorMapDataType
    data_type = kind.CU_TENSOR_MAP_DATA_TYPE_UINT8 if x.element_size() == 1 else kind.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
    size = x.element_size()
    return nvrtc.check(
        driver.cuTensorMapEncodeTiled(
            data_type,
            3,
            x.data_ptr(),
            [driver.cuuint64_t(n) for n in (columns, heads, tokens)],
            [driver.cuuint64_t(x.stride(axis) * size) for axis in (1, 0)],
            [driver.cuuint32_t(n) for n in (box_columns, 1, box_rows)],
            [driver.cuuint32_t(1)] * 3,
            driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
            driver.CUtensorMapSwizzle.CU_TENSOR_MAP_SWIZZLE_128B,
            driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            driver.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    )
