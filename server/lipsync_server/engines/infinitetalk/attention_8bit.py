"""Self-attention with 8-bit scores on Hopper: compiles attention_8bit.cu at run time and launches it.

Knows the driver, NVRTC, tensor maps and the form of rounded tensors. Does not know the transformer or how tokens were
rounded (fused_kernels.py). Scores are int8 products of centred keys and queries. Values stay bf16 (the error is that of
the scores alone: about 1 % on normal values) or are fp8 (about 4 %, and a fifth faster), the form of SageAttention 2,
https://arxiv.org/abs/2411.10958. Optionally each block of queries looks at its most promising tiles of keys only.
"""

import ctypes
import functools
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lipsync_server.errors import EngineUnavailable

HEAD_DIM = 128
TILE = 128
"""Keys of a tile, and queries of a block."""
# As in attention_8bit.cu: tiles in flight, threads.
_STAGES = 4
_THREADS = 384
_MOST_SHARED_BYTES = 227 * 1024
_LOG2_E = 1.4426950408889634


class Queries(NamedTuple):
    """data (N, H, 128) int8 contiguous; scale (H, N) float32."""

    data: Tensor
    scale: Tensor


class Keys(NamedTuple):
    """data (N, H, 128) int8 contiguous; scale (H, tiles) float32, one for each 128 keys."""

    data: Tensor
    scale: Tensor


class Values(NamedTuple):
    """(value - centre) / scale in fp8: data (H, 128, N rounded up to whole tiles), keys in the kernel's order and zero
    beyond the last; scale, centre (H, 128) float32."""

    data: Tensor
    scale: Tensor
    centre: Tensor


def missing(device: torch.device) -> str | None:
    """Why the kernel cannot run on `device`, or None."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) != (9, 0):
        return "it needs a Hopper GPU (H100, H200)"
    try:
        index = device.index if device.index is not None else torch.cuda.current_device()
        _kernel(index, False)
        _kernel(index, True)
    except Exception as error:  # missing bindings, an old driver, a compiler that refuses: all mean the same
        return f"it could not be built: {error}"
    return None


def n_tiles(n_tokens: int) -> int:
    return -(-n_tokens // TILE)


def attend(q: Queries, k: Keys, v: Tensor | Values, chosen: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(128)) v: (Nq, H, 128) bf16.

    v: (Nk, H, 128) bf16 with any token stride, or Values. chosen: (H, blocks of queries, n) int32, the tiles of keys
    that each block looks at, ascending (`choose_tiles`); None for all of them.
    """
    driver = _bindings("driver")
    (n_queries, heads, _), n_keys = q.data.shape, k.data.shape[0]
    eight_bit = isinstance(v, Values)
    out = torch.empty(q.data.shape, dtype=torch.bfloat16, device=q.data.device)
    if isinstance(v, Values):
        value_map = _tensor_map(v.data.permute(1, 0, 2), TILE, HEAD_DIM)
        of_values = [v.scale.data_ptr(), v.centre.data_ptr()]
    else:
        value_map = _tensor_map(v, HEAD_DIM // 2, TILE)
        of_values = [0, 0]
    maps = [_tensor_map(q.data, HEAD_DIM, TILE), _tensor_map(k.data, HEAD_DIM, TILE), value_map]
    tiles = n_tiles(n_keys) if chosen is None else chosen.shape[2]
    pointers = [
        q.scale.data_ptr(),
        k.scale.data_ptr(),
        *of_values,
        0 if chosen is None else chosen.data_ptr(),
        out.data_ptr(),
    ]
    values = [
        *(ctypes.c_void_p(pointer) for pointer in pointers),
        *(ctypes.c_int(n) for n in (n_queries, n_keys, tiles)),
        ctypes.c_float(HEAD_DIM**-0.5 * _LOG2_E),
    ]
    addresses = [int(tensor_map.getPtr()) for tensor_map in maps] + [ctypes.addressof(value) for value in values]
    parameters = (ctypes.c_void_p * len(addresses))(*addresses)
    grid = (n_tiles(n_queries), heads, 1)
    stream = torch.cuda.current_stream(out.device).cuda_stream
    kernel, shared_bytes = _kernel(out.device.index, eight_bit), _shared_bytes(eight_bit, tiles)
    if shared_bytes > _MOST_SHARED_BYTES:
        raise EngineUnavailable(f"8-bit attention cannot hold {n_keys} tokens; set attention to cudnn.")
    _check(driver.cuLaunchKernel(kernel, *grid, _THREADS, 1, 1, shared_bytes, stream, ctypes.addressof(parameters), 0))
    return out


def choose_tiles(q: Queries, k: Keys, density: float) -> Tensor:
    """Which tiles of keys each block of queries looks at: the `density` (0 to 1) of them whose mean key goes best with
    the block's mean query, and its own. (H, blocks, n) int32, ascending.

    Training-free block sparsity as in SpargeAttention (https://arxiv.org/abs/2502.18137), with a fixed number of tiles.
    """
    # The mean of a partial last tile comes out small, and that tile is chosen a little too seldom by others.
    scale = _tiles(q.scale.t()[..., None].bfloat16())
    queries = (scale.transpose(2, 3) @ _tiles(q.data.bfloat16()))[:, :, 0]
    keys = _tiles(k.data).sum(dim=2, dtype=torch.float32) * k.scale[..., None]
    scores = queries.float() @ keys.transpose(1, 2)
    blocks = torch.arange(scores.shape[1], device=scores.device)
    scores[:, blocks, blocks.clamp(max=scores.shape[2] - 1)] = torch.inf
    n = min(scores.shape[2], max(1, round(density * scores.shape[2])))
    return scores.topk(n, dim=2).indices.sort(dim=2).values.to(torch.int32).contiguous()


def _tiles(x: Tensor) -> Tensor:
    """(N, H, c) -> (H, tiles, 128, c), zero beyond the last token."""
    padded = torch.nn.functional.pad(x, (0, 0, 0, 0, 0, n_tiles(x.shape[0]) * TILE - x.shape[0]))
    tiles: Tensor = padded.unflatten(0, (-1, TILE)).permute(2, 0, 1, 3)
    return tiles


def _shared_bytes(eight_bit: bool, tiles: int) -> int:
    values = TILE * HEAD_DIM + 1024 if eight_bit else TILE * HEAD_DIM * 2
    return TILE * HEAD_DIM + _STAGES * (TILE * HEAD_DIM + values) + 8 * (1 + 2 * _STAGES) + 4 * tiles + 1024


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
def _kernel(device_index: int, eight_bit_values: bool) -> Any:
    """The compiled kernel, loaded into the device's context (a few seconds once per process)."""
    driver, nvrtc = _bindings("driver"), _bindings("nvrtc")
    torch.cuda.current_stream(device_index).synchronize()
    source = Path(__file__).with_suffix(".cu").read_bytes()
    program = _check(nvrtc.nvrtcCreateProgram(source, b"attention_8bit.cu", 0, [], []))
    options = [b"--gpu-architecture=sm_90a", b"--std=c++17", f"-DVALUES_8BIT={int(eight_bit_values)}".encode()]
    if int(nvrtc.nvrtcCompileProgram(program, len(options), options)[0]) != 0:
        log = b" " * _check(nvrtc.nvrtcGetProgramLogSize(program))
        nvrtc.nvrtcGetProgramLog(program, log)
        said = log.decode(errors="replace").strip()[:500]
        raise EngineUnavailable(f"the 8-bit attention kernel did not compile: {said}")
    cubin = b" " * _check(nvrtc.nvrtcGetCUBINSize(program))
    _check(nvrtc.nvrtcGetCUBIN(program, cubin))
    module = _check(driver.cuModuleLoadData(cubin))
    kernel = _check(driver.cuModuleGetFunction(module, b"attention_8bit"))
    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    _check(driver.cuFuncSetAttribute(kernel, attribute, _MOST_SHARED_BYTES))
    return kernel


@functools.cache
def _bindings(name: str) -> Any:
    import importlib

    return importlib.import_module(f"cuda.bindings.{name}")


def _check(result: tuple[Any, ...]) -> Any:
    """The value of a (status, value) pair from cuda.bindings, or an error naming the status."""
    if int(result[0]) != 0:
        raise EngineUnavailable(f"the 8-bit attention kernel failed on the GPU: {result[0]}")
    return result[1] if len(result) > 1 else None
