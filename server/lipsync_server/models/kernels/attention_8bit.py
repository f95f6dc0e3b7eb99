"""Self-attention with 8-bit scores on Hopper: launches attention_8bit.cu.

Attention is two products, q k^T and probabilities times v. The first runs in int8 on centred keys (attention_rounded.py
explains the centring); the second stays bf16 or runs in fp8, the form of SageAttention 2
(https://arxiv.org/abs/2411.10958). For normally distributed inputs the relative error is about 1 % with bf16 values
(from the scores alone) and about 4 % with fp8 values, which are a fifth faster. Optionally each block of 128 queries
attends only to the tiles of keys with the largest expected scores (`choose_tiles`). Knows the form of rounded tensors,
and the kernel's tiles and memory. Does not know the transformer, nor how tokens are rounded (fused.py).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lipsync_server.errors import EngineUnavailable
from lipsync_server.models.kernels import hopper, nvrtc

HEAD_DIM = 128
TILE = 128
"""Keys of a tile, and queries of a block."""
# As in attention_8bit.cu: tiles in flight, blocks of threads that share them, threads.
_STAGES = 4
_CLUSTER = 2
_THREADS = 384
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


def why_not(device: torch.device, *, fp8_values: bool = True) -> str | None:
    """The reason why the kernel cannot run on `device`; None if it can."""
    return hopper.why_not(device, "attention_8bit", **_constants(fp8_values, _CLUSTER))


def n_tiles(n_tokens: int) -> int:
    """The number of tiles of 128 tokens, the last of which may be partial."""
    return -(-n_tokens // TILE)


def attend(q: Queries, k: Keys, v: Tensor | Values, chosen: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(128)) v: (Nq, H, 128) bf16.

    v: (Nk, H, 128) bf16 with any token stride, or Values. chosen: (H, blocks of queries, n) int32, the tiles of keys
    that each block attends to, ascending (`choose_tiles`); None for all of them.
    """
    (n_queries, heads, _), n_keys = q.data.shape, k.data.shape[0]
    eight_bit = isinstance(v, Values)
    tiles = n_tiles(n_keys) if chosen is None else chosen.shape[2]
    shared_bytes = _shared_bytes(eight_bit, tiles)
    if shared_bytes > hopper.MOST_SHARED_BYTES:
        raise EngineUnavailable(f"8-bit attention cannot hold {n_keys} tokens; set attention to cudnn.")
    out = torch.empty(q.data.shape, dtype=torch.bfloat16, device=q.data.device)
    # Neighbouring blocks of queries share a tile in memory if both attend to it.
    cluster = _CLUSTER if chosen is None else 1
    if isinstance(v, Values):
        value_map = hopper.tensor_map(v.data.permute(1, 0, 2), TILE, HEAD_DIM // cluster)
        of_values: list[Tensor | None] = [v.scale, v.centre]
    else:
        value_map = hopper.tensor_map(v, HEAD_DIM // 2, TILE)
        of_values = [None, None]
    nvrtc.launch(
        nvrtc.compiled(out.device, "attention_8bit", **_constants(eight_bit, cluster)),
        (-(-n_tiles(n_queries) // cluster) * cluster, heads), _THREADS, shared_bytes,
        [*(hopper.tensor_map(x.data, HEAD_DIM, rows) for x, rows in ((q, TILE), (k, TILE // cluster))), value_map],
        [q.scale, k.scale, *of_values, chosen, out],
        [n_queries, n_keys, tiles], HEAD_DIM**-0.5 * _LOG2_E, out.device,
    )  # fmt: skip
    return out


def choose_tiles(q: Queries, k: Keys, density: float) -> Tensor:
    """Choose the tiles of keys that each block of queries attends to: (H, blocks, n) int32, ascending.

    A tile's expected score is the dot product of its mean key with the block's mean query. Each block attends to the
    share `density` (0 to 1) of all tiles with the largest scores, and to its own tile. This is the training-free block
    sparsity of SpargeAttention (https://arxiv.org/abs/2502.18137) with a fixed number of tiles.
    """
    # The padding makes the mean of a partial last tile too small, so that tile is chosen a little too seldom.
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
    """Shared memory of one block of threads, as attention_8bit.cu divides it.

    A tile of queries; for each stage a tile of keys and one of values; the barriers; the list of chosen tiles; and room
    to align the tiles.
    """
    values = TILE * HEAD_DIM + 1024 if eight_bit else TILE * HEAD_DIM * 2
    return TILE * HEAD_DIM + _STAGES * (TILE * HEAD_DIM + values) + 8 * (1 + 2 * _STAGES) + 4 * tiles + 1024


def compiled_form(fp8_values: bool, tiles: int) -> tuple[dict[str, int], int, int]:
    """The constants, threads and shared bytes with which `attend` launches the kernel over all of `tiles` tiles."""
    return _constants(fp8_values, _CLUSTER), _THREADS, _shared_bytes(fp8_values, tiles)


def _constants(fp8_values: bool, cluster: int) -> dict[str, int]:
    return {"VALUES_8BIT": int(fp8_values), "CLUSTER": cluster}
