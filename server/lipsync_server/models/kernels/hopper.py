"""Compiles the project's .cu files for Hopper at run time and launches their kernels.

Knows NVRTC, the driver and tensor maps. Does not know attention.
"""

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lipsync_server.errors import EngineUnavailable

MOST_SHARED_BYTES = 227 * 1024
"""Shared memory that one block of threads can have."""

_HEADER = "hopper.cuh"


def why_not(device: torch.device, name: str, **constants: int) -> str | None:
    """Why the kernel cannot run on `device`, or None; then it is compiled."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) != (9, 0):
        return "it needs a Hopper GPU (H100, H200)"
    try:
        compiled(device, name, **constants)
    except Exception as error:  # missing bindings, an old driver, a compiler that refuses: all mean the same
        return f"it could not be built: {error}"
    return None


def compiled(device: torch.device, name: str, **constants: int) -> Any:
    """The kernel of the CUDA file `name` with these constants, loaded into the device's context.

    Compiling takes a second, once per process.

    Raises EngineUnavailable with what the compiler says.
    """
    index = device.index if device.index is not None else torch.cuda.current_device()
    return _compiled(index, name, tuple(constants.items()))


@functools.cache
def _compiled(device_index: int, name: str, constants: tuple[tuple[str, int], ...]) -> Any:
    driver, nvrtc = _bindings("driver"), _bindings("nvrtc")
    torch.cuda.current_stream(device_index).synchronize()
    folder = Path(__file__).parent
    source, header = ((folder / file).read_bytes() for file in (f"{name}.cu", _HEADER))
    program = _check(nvrtc.nvrtcCreateProgram(source, f"{name}.cu".encode(), 1, [header], [_HEADER.encode()]))
    options = [b"--gpu-architecture=sm_90a", b"--std=c++17"]
    options += [f"-D{constant}={value}".encode() for constant, value in constants]
    if int(nvrtc.nvrtcCompileProgram(program, len(options), options)[0]) != 0:
        log = b" " * _check(nvrtc.nvrtcGetProgramLogSize(program))
        nvrtc.nvrtcGetProgramLog(program, log)
        said = log.decode(errors="replace").strip()[:500]
        raise EngineUnavailable(f"the kernel {name} did not compile: {said}")
    cubin = b" " * _check(nvrtc.nvrtcGetCUBINSize(program))
    _check(nvrtc.nvrtcGetCUBIN(program, cubin))
    module = _check(driver.cuModuleLoadData(cubin))
    kernel = _check(driver.cuModuleGetFunction(module, name.encode()))
    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    _check(driver.cuFuncSetAttribute(kernel, attribute, MOST_SHARED_BYTES))
    return kernel


def tensor_map(x: Tensor, box_columns: int, box_rows: int) -> Any:
    """How the tensor memory accelerator reads tiles of x (tokens, heads, columns), with 128-byte swizzle.

    A tile is box_rows tokens by box_columns of one head. x: 8-bit or bf16, contiguous columns, any other strides.
    """
    driver = _bindings("driver")
    tokens, heads, columns = x.shape
    kind = driver.CUtensorMapDataType
    data_type = kind.CU_TENSOR_MAP_DATA_TYPE_UINT8 if x.element_size() == 1 else kind.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
    size = x.element_size()
    return _check(
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


def launch(
    kernel: Any, grid: tuple[int, int], n_threads: int, shared_bytes: int,
    maps: Sequence[Any], pointers: Sequence[Tensor | None], integers: Sequence[int], factor: float,
    device: torch.device,
) -> None:  # fmt: skip
    """Start a kernel that takes tensor maps, pointers, ints and a float, in this order, on the current stream."""
    values = [
        *(ctypes.c_void_p(0 if tensor is None else tensor.data_ptr()) for tensor in pointers),
        *(ctypes.c_int(n) for n in integers),
        ctypes.c_float(factor),
    ]
    addresses = [int(one.getPtr()) for one in maps] + [ctypes.addressof(value) for value in values]
    parameters = (ctypes.c_void_p * len(addresses))(*addresses)
    stream = torch.cuda.current_stream(device).cuda_stream
    _check(
        _bindings("driver").cuLaunchKernel(
            kernel, *grid, 1, n_threads, 1, 1, shared_bytes, stream, ctypes.addressof(parameters), 0
        )
    )


@functools.cache
def _bindings(name: str) -> Any:
    import importlib

    return importlib.import_module(f"cuda.bindings.{name}")


def _check(result: tuple[Any, ...]) -> Any:
    """The value of a (status, value) pair from cuda.bindings, or an error naming the status."""
    if int(result[0]) != 0:
        raise EngineUnavailable(f"a kernel of ours failed on the GPU: {result[0]}")
    return result[1] if len(result) > 1 else None
