"""The mathematics of LoRA and its relatives: the difference that a file makes to one weight.

Each function returns a `Change`. Given a weight W and a scale s, a change returns D, and the new weight is W + D. W is
(rows, columns) or a convolution's (rows, columns, ...), float; D has its shape and type. Low-rank adaptation
(https://arxiv.org/abs/2106.09685) gives D = s * factor * up down. The relatives are LyCORIS's, from its public code and
https://arxiv.org/abs/2309.14859. Every function has the formula in its docstring. Knows tensors. Does not know files.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Change = Callable[[Tensor, float], Tensor]
"""(weight, scale) -> the difference, in the weight's shape and type."""


@dataclass(frozen=True)
class Product:
    """A matrix as a file holds it: whole, or as left (rows, r) times right (r, columns), or with a Tucker core.

    A Tucker core is a small tensor between two factors; it stands for a convolution's kernel at a low rank.

    With a core (i, j, kernel ...), left is (i, rows) and right is (j, columns), as LyCORIS stores them.
    """

    left: Tensor
    right: Tensor | None = None
    core: Tensor | None = None

    def made(self, like: Tensor) -> Tensor:
        """The matrix (rows, columns * kernel) in the type and on the device of `like`."""
        if self.right is None:
            return self.left.flatten(1).to(like)
        left, right = self.left.flatten(1).to(like), self.right.flatten(1).to(like)
        if self.core is None:
            return left @ right
        return torch.einsum("ij...,ip,jr->pr...", self.core.to(like), left, right).flatten(1)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns, or (0, 0) for parts that do not fit together."""
        left, right = self.left.flatten(1), self.right
        if right is None:
            return left.shape[0], left.shape[1]
        right = right.flatten(1)
        if self.core is None:
            return (left.shape[0], right.shape[1]) if left.shape[1] == right.shape[0] else (0, 0)
        inner = (left.shape[0], right.shape[0])
        kernel = int(torch.Size(self.core.shape[2:]).numel())
        return (left.shape[1], right.shape[1] * kernel) if self.core.shape[:2] == inner else (0, 0)

    @property
    def rank(self) -> int | None:
        """The number that alpha is divided by; None for a whole matrix."""
        return None if self.right is None else self.right.shape[0]


def low_rank(product: Product, factor: float) -> Change:
    """LoRA: D = s * factor * up down."""

    def change(weight: Tensor, scale: float) -> Tensor:
        return product.made(weight).reshape(weight.shape) * (scale * factor)

    return change


def kronecker(first: Product, second: Product, factor: float) -> Change:
    """LoKr: D = s * factor * first (x) second, the Kronecker product of two matrices."""

    def change(weight: Tensor, scale: float) -> Tensor:
        made = torch.kron(first.made(weight), second.made(weight))
        return made.reshape(weight.shape) * (scale * factor)

    return change


def hadamard(first: Product, second: Product, factor: float) -> Change:
    """LoHa (https://arxiv.org/abs/2108.06098): D = s * factor * first * second, number by number."""

    def change(weight: Tensor, scale: float) -> Tensor:
        made = first.made(weight) * second.made(weight)
        return made.reshape(weight.shape) * (scale * factor)

    return change


def generalised(a1: Tensor, a2: Tensor, b1: Tensor, b2: Tensor, factor: float) -> Change:
    """GLoRA (https://arxiv.org/abs/2306.07967): D = s * factor * (W a1 a2 + b1 b2).

    a1 (columns, r), a2 (r, columns), b1 (rows, r), b2 (r, columns * kernel).
    """

    def change(weight: Tensor, scale: float) -> Tensor:
        inner = torch.einsum("oi...,ij->oj...", weight, a1.to(weight))
        moved = torch.einsum("oi...,ij->oj...", inner, a2.to(weight))
        return (moved + (b1.to(weight) @ b2.to(weight)).reshape(weight.shape)) * (scale * factor)

    return change


def rotated(blocks: Tensor, rescale: Tensor | None, bound: float) -> Change:
    """OFT (https://arxiv.org/abs/2306.07280) and BOFT (https://arxiv.org/abs/2311.06243): D = R W - W.

    blocks: (k, n, n), one rotation of each n rows of W; or (m, k, n, n), m such steps on rows that a butterfly has
    mixed. Each block b is stored as a free matrix: Q = b - b^T is skew, and the rotation is its Cayley transform
    (I + Q) (I - Q)^-1. bound: the largest norm of all Q of a file's layer together; 0 is none. rescale: a factor for
    each row, (rows, 1). At a scale s each rotation counts as s r + (1 - s) I, as in LyCORIS.
    """

    def change(weight: Tensor, scale: float) -> Tensor:
        exact = torch.float64 if weight.dtype == torch.float64 else torch.float32
        turns = _cayley(blocks.to(weight.device, exact), bound)
        turns = turns * scale + torch.eye(turns.shape[-1], device=turns.device, dtype=exact) * (1 - scale)
        rows = weight.flatten(1).to(exact)
        if turns.ndim == 3:
            # LyCORIS multiplies by the transposed rotation here, and by the rotation itself in BOFT.
            turned = torch.einsum("knm,kni->kmi", turns, rows.unflatten(0, turns.shape[:2])).flatten(0, 1)
        else:
            turned = rows
            for step, turn in enumerate(turns):
                turned = _butterfly(turned, turn, 2**step * (turn.shape[-1] // 2))
        if rescale is not None:
            turned = turned * (1 + scale * (rescale.reshape(-1, 1).to(turned) - 1))
        difference: Tensor = (turned - rows).reshape(weight.shape).to(weight.dtype)
        return difference

    return change


def with_magnitude(change: Change, magnitude: Tensor) -> Change:
    """DoRA (https://arxiv.org/abs/2402.09353): each row of W + D, or each column, gets the length that the file says.

    magnitude: (rows, 1) or (1, columns). The scale moves W towards the result on a straight line.
    """

    def decomposed(weight: Tensor, scale: float) -> Tensor:
        flat = weight.flatten(1)
        moved = flat + change(weight, 1.0).reshape(flat.shape)
        wanted = magnitude.to(weight)
        length = moved.norm(dim=1 if wanted.shape[1] == 1 else 0, keepdim=True)
        scaled: Tensor = moved * (wanted / length.clamp(min=torch.finfo(weight.dtype).tiny))
        return (scaled - flat).reshape(weight.shape) * scale

    return decomposed


def glora_in_order(parts: Sequence[Tensor], rows: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """a1, a2, b1, b2 as matrices, in the order of `generalised`; early LyCORIS files have them the other way round."""
    a1, a2, b1, b2 = (part.flatten(1) for part in parts)
    if b1.shape[0] == rows and b1.shape[1] == b2.shape[0]:
        return a1, a2, b1, b2
    return a2, a1, b2, b1


def _cayley(blocks: Tensor, bound: float) -> Tensor:
    """The rotations (I + Q) (I - Q)^-1 of Q = b - b^T for each block b: (..., n, n) -> (..., n, n), float.

    A Cayley transform of a skew matrix is orthogonal. bound: the largest norm of all Q together; 0 is none.
    """
    skew = blocks - blocks.transpose(-1, -2)
    if bound > 0:
        norm = skew.norm() + 1e-8
        skew = skew * (bound / norm) if norm > bound else skew
    one = torch.eye(blocks.shape[-1], device=blocks.device, dtype=blocks.dtype)
    turn: Tensor = (one + skew) @ torch.linalg.inv(one - skew)
    return turn


def _butterfly(rows: Tensor, turn: Tensor, reach: int) -> Tensor:
    """One step of BOFT: rows that are `reach` apart meet in a block of turn (k, n, n), and go back to their places."""
    n = turn.shape[-1]
    met = rows.unflatten(0, (-1, 2, reach)).transpose(1, 2).flatten(0, 2).unflatten(0, (-1, n))
    turned = torch.einsum("bij,bjc->bic", turn, met).flatten(0, 1)
    back: Tensor = turned.unflatten(0, (-1, reach, 2)).transpose(1, 2).flatten(0, 2)
    return back
