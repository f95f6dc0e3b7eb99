"""Matrix products of 8-bit rows: by torch's kernels, by ours, or on a CPU with the same rounding in float32.

x (M, K) times a weight (N, K), both rounded with one scale a row (rounding.py), is an 8-bit product whose element
(m, n) is multiplied with x_scale[m] * scale[n]. The weight's scale is loaded with the weight. The activation's scale is
computed from each activation ("dynamic" quantisation). Knows tensors and devices. Does not know layers.
"""

import importlib.util

import torch
from torch import Tensor
from torch.nn import functional as F

from lipsync_server.models.kernels.rounding import quantize_rows
from lipsync_server.quantization import EightBit

_HAS_TRITON = importlib.util.find_spec("triton") is not None
if _HAS_TRITON:
    from lipsync_server.models.kernels.int8_product import int8_product


def native_8bit(device: torch.device, kind: EightBit) -> bool:
    """Whether the device multiplies this kind in 8 bits: int8 from compute capability 8.0, fp8 from 8.9."""
    if device.type != "cuda":
        return False
    return torch.cuda.get_device_capability(device) >= ((8, 0) if kind == "int8" else (8, 9))


def multiply_8bit(x: Tensor, data: Tensor, scale: Tensor, bias: Tensor | None, kind: EightBit) -> Tensor:
    """x (M, K) float times an 8-bit weight `data` (N, K) with `scale` (N, 1), + bias (N,) -> (M, N) in x's type.

    Rounds x with one scale a row first. fp8 accumulates in the tensor cores' fast mode.
    """
    x8, x_scale = quantize_rows(x.float(), kind)
    if not x.is_cuda:
        out = F.linear(x8.float(), data.float()) * x_scale * scale.t()
        return (out if bias is None else out + bias.float()).to(x.dtype)
    return multiply_rows(x8, x_scale, data, scale, bias, x.dtype)


def multiply_rows(
    x: Tensor, x_scale: Tensor, data: Tensor, scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """The product of `multiply_8bit` on a GPU, for rows x (M, K) that are rounded already, x_scale (M, 1)."""
    if x.dtype != torch.int8:
        return torch._scaled_mm(
            x, data.t(), scale_a=x_scale, scale_b=scale.t(), bias=bias, out_dtype=dtype, use_fast_accum=True
        )
    if _HAS_TRITON and dtype == torch.bfloat16:
        product: Tensor = int8_product(x, data, x_scale, scale, bias)
        return product
    out = torch._int_mm(x, data.t()).float() * x_scale * scale.t()
    return (out if bias is None else out + bias.float()).to(dtype)
