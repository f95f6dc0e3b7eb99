"""Cross-attention: the tokens of a Wan transformer attend to other tokens (text, picture or sound).

Queries come from the hidden states, keys and values from the other tokens: softmax(q k^T / sqrt(head_dim)) v. Two
engines share these layers. Knows the layers and their kernel. Does not know the kind of the other tokens, nor how a
block adds the result.
"""

from typing import NamedTuple

from torch import Tensor, nn

from lipsync_server.models.kernels.attention import Kernel, sdpa
from lipsync_server.models.layers.norms import RMSNorm


class KeysValues(NamedTuple):
    """Keys and values, each (B, tokens, heads, head_dim) in the type of the hidden states."""

    k: Tensor
    v: Tensor


class CrossAttentionLayers(nn.Module):
    """Queries from the hidden states, keys and values from the context.

    Queries and keys are normed over the width D.
    """

    def __init__(self, dim: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.o = nn.Linear(dim, dim)
        self.norm_q = RMSNorm(dim, eps)
        self.norm_k = RMSNorm(dim, eps)
        self.attend: Kernel = sdpa

    def queries(self, x: Tensor) -> Tensor:
        """x (N, D) -> (N, heads, head_dim) in x's type."""
        return self.split_heads(self.norm_q(self.q(x)).to(x.dtype))

    def keys_values(self, context: Tensor) -> KeysValues:
        """context (..., D) -> keys and values (..., heads, head_dim) in its type."""
        k = self.norm_k(self.k(context)).to(context.dtype)
        return KeysValues(self.split_heads(k), self.split_heads(self.v(context)))

    def split_heads(self, x: Tensor) -> Tensor:
        """x (..., D) -> (..., heads, head_dim)."""
        split: Tensor = x.unflatten(-1, (self.heads, -1))
        return split


def feed_forward(dim: int, hidden_dim: int) -> nn.Sequential:
    """A block's feed-forward layers, with the approximation of GELU by tanh."""
    return nn.Sequential(nn.Linear(dim, hidden_dim), nn.GELU("tanh"), nn.Linear(hidden_dim, dim))
