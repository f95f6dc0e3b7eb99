"""Round weights to GGUF's block formats. The package `gguf` can unpack K blocks, but cannot make them.

A K block holds 256 numbers in sub-blocks of 16 or 32, each with a scale of 6 or 8 bits, and one float16 that scales the
scales (https://github.com/ggml-org/llama.cpp/pull/1684). Here a scale is simply the largest magnitude or the range of a
sub-block. llama.cpp searches for better scales, so its files are closer to the weights.
"""

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import quantize
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
_K_BLOCK = 256


def pack_rows(rows: Floats, kind: str) -> tuple[NDArray[np.generic], GGMLQuantizationType]:
    """Pack float32 rows (n, length) into the block format `kind`.

    Returns the packed rows and their format. The format is F16 if a row is no whole number of blocks.
    """
    wanted = GGMLQuantizationType[kind]
    if rows.shape[-1] % GGML_QUANT_SIZES[wanted][0]:
        wanted = GGMLQuantizationType.F16
    if wanted.name not in ("Q4_K", "Q5_K", "Q6_K"):
        return quantize(rows, wanted), wanted
    blocks = rows.reshape(-1, _K_BLOCK)
    packed = _q6_k(blocks) if wanted.name == "Q6_K" else _with_minimum(blocks, 4 if wanted.name == "Q4_K" else 5)
    return packed.reshape(len(rows), -1), wanted


def _q6_k(blocks: Floats) -> Bytes:
    """w = d * scale * (q - 32): 16 sub-blocks of 16 numbers, scales of 8 bits, q of 6."""
    parts = blocks.reshape(-1, 16, 16)
    wanted = np.abs(parts).max(-1) / 31
    d = _half(wanted.max(-1, keepdims=True) / 127)
    scales = np.round(wanted / _nonzero(d)).astype(np.int8)
    step = (d * scales)[..., None]
    q = np.clip(np.round(parts / _nonzero(step)) + 32, 0, 63).astype(np.uint8).reshape(-1, 2, 4, 32)
    low = q & 15
    ql = np.concatenate([low[:, :, 0] | (low[:, :, 2] << 4), low[:, :, 1] | (low[:, :, 3] << 4)], axis=-1)
    qh = sum(((q[:, :, t] >> 4) << (2 * t) for t in range(4)), np.zeros((), np.uint8))
    n = len(blocks)
    return np.concatenate([ql.reshape(n, -1), qh.reshape(n, -1), scales.view(np.uint8), _bytes(d)], axis=-1)


def _with_minimum(blocks: Floats, bits: int) -> Bytes:
    """w = d * scale * q - dmin * minimum: 8 sub-blocks of 32 numbers, scales and minima of 6 bits, q of `bits`."""
    parts = blocks.reshape(-1, 8, 32)
    lowest = np.minimum(parts.min(-1), 0)
    wanted = (parts.max(-1) - lowest) / (2**bits - 1)
    d, dmin = _half(wanted.max(-1, keepdims=True) / 63), _half((-lowest).max(-1, keepdims=True) / 63)
    scales = np.clip(np.round(wanted / _nonzero(d)), 0, 63).astype(np.uint8)
    minima = np.clip(np.round(-lowest / _nonzero(dmin)), 0, 63).astype(np.uint8)
    shifted = parts + (dmin * minima)[..., None]
    q = np.clip(np.round(shifted / _nonzero((d * scales)[..., None])), 0, 2**bits - 1).astype(np.uint8)
    n = len(blocks)
    first = scales[:, :4] | ((scales[:, 4:] & 0x30) << 2)
    second = minima[:, :4] | ((minima[:, 4:] & 0x30) << 2)
    both = (scales[:, 4:] & 15) | ((minima[:, 4:] & 15) << 4)
    pairs = (q & 15).reshape(n, 4, 2, 32)
    qs = (pairs[:, :, 0] | (pairs[:, :, 1] << 4)).reshape(n, -1)
    parts_of_block = [_bytes(d), _bytes(dmin), first, second, both]
    if bits == 5:
        parts_of_block.append(sum(((q[:, g] >> 4) << g for g in range(8)), np.zeros((), np.uint8)))
    return np.concatenate([*parts_of_block, qs], axis=-1)


def _half(values: Floats) -> Floats:
    """`values` rounded to float16, as float32."""
    return values.astype(np.float16).astype(np.float32)


def _bytes(values: Floats) -> Bytes:
    """`values` as the bytes of float16 numbers."""
    return values.astype(np.float16).view(np.uint8)


def _nonzero(values: Floats) -> Floats:
    """`values` with 1 in place of 0, for a division."""
    return np.where(values == 0, np.float32(1), values)
