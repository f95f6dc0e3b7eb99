"""Self-attention with int8 scores on Hopper: compiles attention_int8.cu at run time and launches it.

Knows the driver, NVRTC and tensor maps. Does not know the transformer or how tokens were rounded. The score product
runs on the 8-bit units, the value product in bf16 with float32 sums, so the error is that of rounding queries and keys
alone (about 1 % on normal values, against 4 % for fp8 scores).
"""

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lipsync_server.errors import EngineUnavailable

HEAD_DIM = 128
TILE = 128
# As in attention_int8.cu: query rows of a CTA, tiles of keys and values in flight, threads.
_ROWS = 192
_STAGES = 3
_THREADS = 512
_TILE_BYTES = TILE * HEAD_DIM * 3 + TILE * 4
_SHARED_BYTES = _ROWS * HEAD_DIM + _STAGES * _TILE_BYTES + 8 * (1 + 2 * _STAGES) + 1024
_LOG2_E = 1.4426950408889634


def missing(device: torch.device) -> str | None:
    """Why the kernel cannot run on `device`, or None."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) != (9, 0):
        return "it needs a Hopper GPU (H100, H200)"
    try:
        _kernel(device.index if device.index is not None else torch.cuda.current_device())
    except Exception as error:  # missing bindings, an old driver, a compiler that refuses: all mean the same
        return f"it could not be built: {error}"
    return None


def padded(n_tokens: int) -> int:
    """Tokens rounded up to whole tiles: the length of a row of scales."""
    return -(-n_tokens // TILE) * TILE


def attend(q: Tensor, q_scale: Tensor, k: Tensor, k_scale: Tensor, v: Tensor) -> Tensor:
    """q (Nq, H, 128) and k (Nk, H, 128) int8 contiguous, scales (H, padded(N)) float32, v (Nk, H, 128) bf16 with any
    token stride -> (Nq, H, 128) bf16 = softmax(q k^T / sqrt(128)) v."""
    driver = _bindings("driver")
    (n_queries, heads, _), n_keys = q.shape, k.shape[0]
    out = torch.empty(q.shape, dtype=torch.bfloat16, device=q.device)
    maps = [_tensor_map(q, HEAD_DIM, _ROWS), _tensor_map(k, HEAD_DIM, TILE), _tensor_map(v, HEAD_DIM // 2, TILE)]
    values = [
        *(ctypes.c_void_p(x.data_ptr()) for x in (q_scale, k_scale, out)),
        *(ctypes.c_int(n) for n in (n_queries, n_keys, q_scale.shape[1], k_scale.shape[1])),
        ctypes.c_float(HEAD_DIM**-0.5 * _LOG2_E),
    ]
    addresses = [int(tensor_map.getPtr()) for tensor_map in maps] + [ctypes.addressof(value) for value in values]
    parameters = (ctypes.c_void_p * len(addresses))(*addresses)
    grid = (-(-n_queries // _ROWS), heads, 1)
    stream = torch.cuda.current_stream(q.device).cuda_stream
    _check(
        driver.cuLaunchKernel(
            _kernel(q.device.index), *grid, _THREADS, 1, 1, _SHARED_BYTES, stream, ctypes.addressof(parameters), 0
        )
    )
    return out


def _tensor_map(x: Tensor, box_columns: int, box_rows: int) -> Any:
    """How the tensor memory accelerator reads tiles of tokens by columns of one head, with 128-byte swizzle."""
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


@functools.cache
def _kernel(device_index: int) -> Any:
    """The compiled kernel, loaded into the device's context (a few seconds once per process)."""
    driver, nvrtc = _bindings("driver"), _bindings("nvrtc")
    torch.cuda.current_stream(device_index).synchronize()
    source = Path(__file__).with_suffix(".cu").read_bytes()
    program = _check(nvrtc.nvrtcCreateProgram(source, b"attention_int8.cu", 0, [], []))
    options = [b"--gpu-architecture=sm_90a", b"--std=c++17"]
    if int(nvrtc.nvrtcCompileProgram(program, len(options), options)[0]) != 0:
        log = b" " * _check(nvrtc.nvrtcGetProgramLogSize(program))
        nvrtc.nvrtcGetProgramLog(program, log)
        said = log.decode(errors="replace").strip()[:500]
        raise EngineUnavailable(f"the int8 attention kernel did not compile: {said}")
    cubin = b" " * _check(nvrtc.nvrtcGetCUBINSize(program))
    _check(nvrtc.nvrtcGetCUBIN(program, cubin))
    module = _check(driver.cuModuleLoadData(cubin))
    kernel = _check(driver.cuModuleGetFunction(module, b"attention_int8"))
    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    _check(driver.cuFuncSetAttribute(kernel, attribute, _SHARED_BYTES))
    return kernel


@functools.cache
def _bindings(name: str) -> Any:
    import importlib

    return importlib.import_module(f"cuda.bindings.{name}")


def _check(result: tuple[Any, ...]) -> Any:
    """The value of a (status, value) pair from cuda.bindings, or an error naming the status."""
    if int(result[0]) != 0:
        raise EngineUnavailable(f"the int8 attention kernel failed on the GPU: {result[0]}")
    return result[1] if len(result) > 1 else None
