"""Self-attention in bf16 on Hopper: launches attention_bf16.cu.

The kernel is as exact as torch's own bf16 attention, and faster at the length of a video: 34 ms a layer, against
cuDNN's 40 (docs/performance.md). Two blocks of threads share each tile of keys and values. Knows the kernel's tiles and
memory. Does not know the transformer.
"""

import torch
from torch import Tensor

from lipsync_server.models.kernels import hopper, nvrtc

HEAD_DIM = 128
# As in attention_bf16.cu: query rows of a block of threads, keys of a tile, tiles in flight, blocks that share tiles.
_ROWS = 128
_KEYS = 176
_STAGES = 2
_CLUSTER = 2
THREADS = 384
SHARED_BYTES = 2 * HEAD_DIM * (_ROWS + 2 * _STAGES * _KEYS) + 8 * (1 + 4 * _STAGES) + 1024
"""The tiles, the barriers that guard them, and room to align the tiles."""
_LOG2_E = 1.4426950408889634


def why_not(device: torch.device) -> str | None:
    """The reason why the kernel cannot run on `device`; None if it can."""
    return hopper.why_not(device, "attention_bf16")


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(128)) v. q (Nq, H, 128), k and v (Nk, H, 128) bf16, any token stride -> (Nq, H, 128)."""
    (n_queries, heads, _), n_keys = q.shape, k.shape[0]
    out = torch.empty(n_queries, heads, HEAD_DIM, dtype=torch.bfloat16, device=q.device)
    blocks = -(-n_queries // (_ROWS * _CLUSTER)) * _CLUSTER
    nvrtc.launch(
        nvrtc.compiled(q.device, "attention_bf16"), (blocks, heads), THREADS, SHARED_BYTES,
        [hopper.tensor_map(x, HEAD_DIM // 2, rows) for x, rows in ((q, _ROWS), (k, _KEYS), (v, _KEYS))],
        [out], [n_queries, n_keys], HEAD_DIM**-0.5 * _LOG2_E, q.device,
    )  # fmt: skip
    return out
