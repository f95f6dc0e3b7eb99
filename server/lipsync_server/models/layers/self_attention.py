"""Self-attention of the Wan transformers: q, k and v from one product, normed over the whole width, then rotated.

Knows its kernel. Does not know blocks, masks or the positions of the tokens.
"""

from typing import cast

from torch import Tensor, nn

from lipsync_server.models.kernels.attention import Kernel, sdpa
from lipsync_server.models.kernels.rope import RotaryTable, rotate
from lipsync_server.models.layers.norms import RMSNorm


class SelfAttentionLayers(nn.Module):
    """The two halves of attention of all tokens to all tokens; an engine's own class puts them together.

    x is (N, D): one sequence, no batch.
    """

    def __init__(self, dim: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.o = nn.Linear(dim, dim)
        self.norm_q = RMSNorm(dim, eps)
        self.norm_k = RMSNorm(dim, eps)
        self.attend: Kernel = sdpa

    def queries_keys_values(self, x: Tensor, rope: RotaryTable) -> tuple[Tensor, Tensor, Tensor]:
        """q, k (rotated) and v of x, each (N, heads, head_dim) in x's type."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q = rotate(self.norm_q(q).unflatten(-1, (self.heads, -1)), rope).to(x.dtype)
        k = rotate(self.norm_k(k).unflatten(-1, (self.heads, -1)), rope).to(x.dtype)
        return q, k, v.unflatten(-1, (self.heads, -1))

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention, then the output layer: (N, D) in the type of q."""
        return cast(Tensor, self.o(self.attend(q[None], k[None], v[None])[0].flatten(1)))
