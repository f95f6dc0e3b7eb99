"""Rounding to 8 bits: the number formats int8 and fp8, and the scale of a row.

A matrix product of 8-bit numbers needs half the memory traffic of bfloat16 and runs at twice the speed on tensor cores.
Eight bits hold 256 different values, so a row x of K numbers is stored as 8-bit numbers d and one scale s for the row:

    s = max |x| / L          the largest magnitude of the row becomes the largest 8-bit number L
    d = round(x / s)         so that d * s is close to x

int8   whole numbers from -128 to 127, L = 127. The step is the same everywhere: x is off by at most s / 2.
fp8    float8_e4m3fn: 1 sign bit, 4 exponent bits, 3 mantissa bits, no infinity, L = 448. The step grows with the
       number: x is off by at most 1/16 of itself (https://arxiv.org/abs/2209.05433). Small numbers in a row with one
       large outlier survive better in fp8, evenly spread ones better in int8.

If x and w have one scale a row, the scales factor out of a product: (d_x s_x) (d_w s_w)^T = (d_x d_w^T) s_x s_w^T.
Knows tensors. Does not know layers, nor which weights may be rounded.
"""

import torch
from torch import Tensor

from lipsync_server.quantization import EightBit

DTYPES: dict[EightBit, torch.dtype] = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
LARGEST: dict[EightBit, float] = {"int8": 127.0, "fp8": 448.0}


def quantize_rows(x: Tensor, kind: EightBit) -> tuple[Tensor, Tensor]:
    """Round x (..., K) float -> 8-bit data (..., K) and scale (..., 1) in x's type, with data * scale close to x.

    The scale is optimum-quanto's: the row's largest magnitude / LARGEST[kind]. A row of zeros gets the smallest
    positive scale, so that nothing is divided by zero.
    """
    scale = x.abs().amax(dim=-1, keepdim=True) / LARGEST[kind]
    scale = scale.clamp(min=torch.finfo(x.dtype).tiny)
    return _round_to(x / scale, kind), scale


def _round_to(scaled: Tensor, kind: EightBit) -> Tensor:
    if kind == "int8":
        # A scale that was itself rounded (to bf16) can make the largest value exceed 127, so values are clamped to the
        # type.
        return scaled.round().clamp(-128, 127).to(torch.int8)
    return scaled.clamp(-LARGEST[kind], LARGEST[kind]).to(DTYPES[kind])


def dequantize_rows(data: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """data * scale in `dtype`, computed in float32. data (..., K) 8-bit, scale (..., 1)."""
    return (data.float() * scale.float()).to(dtype)
