"""Attention to a padded prompt, whose equal padding tokens count as one key with a weight.

The model's prompt has 512 tokens, and most of them are padding. All padding tokens are equal, so their keys and values
are too. In softmax(s) v, m equal keys with score s have the weight of one key with score s + log m. So the attention to
512 tokens is computed exactly with the prompt's own tokens and one more. With at most 128 keys the softmax needs one
step, and a program keeps the keys and values of a head while it computes several rows of queries. Does not know the
prompt, nor the transformer.
"""

# mypy: disable-error-code="untyped-decorator, no-untyped-def"
# Triton functions take pointers and compile-time constants; Python annotations would mean something else to it.

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST_KEYS = 128
"""The largest number of different keys."""
HEAD_DIM = 128
_ROWS = 64
# Blocks of rows that one program computes in turn with the same keys.
_IN_TURN = 4
_LOG2_E = 1.4426950408889634


# One program some blocks of ROWS queries of one head. The last key counts 2 ** repeats_log2 times.
@triton.jit
def _few_keys(
    q, k, v, out, n, heads, n_keys, repeats_log2, score_scale, in_turn,
    ROWS: tl.constexpr, KEYS: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1)
    first = tl.program_id(0) * in_turn
    channel = tl.arange(0, DIM)
    key = tl.arange(0, KEYS)
    at = (key[:, None] * heads + head) * DIM + channel[None, :]
    real = (key < n_keys)[:, None]
    keys, values = tl.load(k + at, real, 0.0), tl.load(v + at, real, 0.0)
    more = tl.where(key < n_keys, tl.where(key == n_keys - 1, repeats_log2, 0.0), -float("inf"))
    for block in range(first, tl.minimum(first + in_turn, tl.cdiv(n, ROWS))):
        row = block * ROWS + tl.arange(0, ROWS)
        inside = (row < n)[:, None]
        place = (row.to(tl.int64)[:, None] * heads + head) * DIM + channel[None, :]
        scores = tl.dot(tl.load(q + place, inside, 0.0), tl.trans(keys)) * score_scale + more[None, :]
        weights = tl.exp2(scores - tl.max(scores, 1)[:, None])
        weights = weights * (1.0 / tl.sum(weights, 1))[:, None]
        mixed = tl.dot(weights.to(v.dtype.element_ty), values)
        tl.store(out + place, mixed.to(out.dtype.element_ty), inside)


def attend(q: Tensor, k: Tensor, v: Tensor, n_distinct: int) -> Tensor:
    """softmax(q k^T / sqrt(128)) v: (N, H, 128) in the type of q.

    q (N, H, 128), k and v (n, H, 128) of one float type, contiguous. n_distinct: 1 to MOST_KEYS; from the key with the
    number n_distinct - 1 on, all keys are equal, and so are their values.
    """
    n, heads, dim = q.shape
    out = torch.empty_like(q)
    _few_keys[(triton.cdiv(triton.cdiv(n, _ROWS), _IN_TURN), heads)](
        q, k, v, out, n, heads, n_distinct, math.log2(k.shape[0] - n_distinct + 1), dim**-0.5 * _LOG2_E, _IN_TURN,
        ROWS=_ROWS, KEYS=MOST_KEYS, DIM=dim, num_warps=4, num_stages=1,
    )  # fmt: skip
    return out
