"""Self-attention with both products in int8, on any NVIDIA GPU since Ampere: launches attention_int8.cu.

Only int8 products run at the tensor cores' full rate on every card since Ampere: a GeForce card multiplies int8 twice
as fast as fp8 with float32 sums, and an RTX 3090 or A100 has no fp8 at all. Int8 rounds more coarsely, so each scale
covers few numbers: one scale for each query, each key, and each channel of 128 values.

Knows the form of rounded tensors and the kernel's tiles. Does not know the transformer, nor how tokens are rounded
(int8_rounding.py).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lipsync_server.models.kernels import nvrtc
from lipsync_server.models.kernels.attention_8bit import HEAD_DIM, TILE, Queries, n_tiles

THREADS = 256
# As in attention_int8.cu: two stages of shared memory, each with a tile of keys, a tile of values, their scales, and
# two barriers of 8 bytes.
SHARED_BYTES = 2 * (2 * TILE * HEAD_DIM + 4 * TILE + 4 * HEAD_DIM + 16)
_LOG2_E = 1.4426950408889634


class Keys(NamedTuple):
    """data (N rounded up to whole tiles, H, 128) int8 contiguous; scale (H, N rounded up) float32, one for each key.

    Rows beyond the last key may hold anything.
    """

    data: Tensor
    scale: Tensor


class Values(NamedTuple):
    """(value - centre) / scale in int8, transposed for the second product.

    data (H, 128, N rounded up to whole tiles), the keys of each 64 in `KEY_ORDER`; scale (H, tiles, 128) and centre
    (H, 128) float32. Columns beyond the last key may hold anything.
    """

    data: Tensor
    scale: Tensor
    centre: Tensor


KEY_ORDER = tuple(8 * (place // 2 % 8) + 2 * (place // 16) + place % 2 for place in range(64))
"""The index of the key at each of 64 places in a row of `Values.data`.

A thread holds the scores of keys 2t and 2t + 1 of each 8, t from 0 to 3, and reads 16 neighbouring values at a time.
The values are therefore stored in the threads' order, and no score has to move to another thread.
"""


def why_not(device: torch.device) -> str | None:
    """The reason why the kernel cannot run on `device`; None if it can, and then it is compiled."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        return "it needs an NVIDIA GPU of compute capability 8.0 or newer (RTX 3090, A100 and later)"
    return nvrtc.why_not(device, "attention_int8")


def attend(q: Queries, k: Keys, v: Values, n_keys: int) -> Tensor:
    """softmax(q k^T / sqrt(128)) v over the first `n_keys` keys: (Nq, H, 128) bf16."""
    n_queries, heads, _ = q.data.shape
    out = torch.empty(q.data.shape, dtype=torch.bfloat16, device=q.data.device)
    nvrtc.launch(
        nvrtc.compiled(out.device, "attention_int8"), (n_tiles(n_queries), heads), THREADS, SHARED_BYTES,
        [], [q.data, k.data, v.data, q.scale, k.scale, v.scale, v.centre, out], [n_queries, n_keys, n_tiles(n_keys)],
        HEAD_DIM**-0.5 * _LOG2_E, out.device,
    )  # fmt: skip
    return out
