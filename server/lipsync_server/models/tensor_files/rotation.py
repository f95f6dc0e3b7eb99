"""ConvRot: weights whose columns were rotated in groups before they were rounded to int8, and the way back.

A rotation spreads a few large numbers of a row over a whole group of columns, so that rounding loses less
(https://arxiv.org/abs/2512.03673). The rotation is a regular Hadamard matrix H of a size that is a power of 4, in which
every row has the same sum: the Kronecker power of the matrix of size 4 below, divided by its length. H is symmetric and
its own inverse. ComfyUI stores W H, and multiplies H into the activations; here the weight is turned back instead, and
rounded anew where the model computes in 8 bits. The format is that of the public package comfy-kitchen. Knows no files.
"""

from functools import lru_cache

import torch
from torch import Tensor

DEFAULT_GROUP = 256
"""Columns that are rotated together where a file does not state the number."""
_FOUR = ((1, 1, 1, -1), (1, 1, -1, 1), (1, -1, 1, 1), (-1, 1, 1, 1))


def is_group_size(group: int, n_columns: int) -> bool:
    """Whether rows of `n_columns` numbers can be rotated in groups of `group`: a power of 4 that divides them."""
    is_power_of_4 = group >= 4 and group.bit_count() == 1 and group.bit_length() % 2 == 1
    return is_power_of_4 and n_columns % group == 0


def turned_back(weight: Tensor, group: int) -> Tensor:
    """(rows, columns) float32, rotated in groups of `group` columns -> the weight before its rotation."""
    matrix = _regular_hadamard(group).to(weight)
    back: Tensor = (weight.unflatten(1, (-1, group)) @ matrix).flatten(1)
    return back


@lru_cache(maxsize=8)
def _regular_hadamard(size: int) -> Tensor:
    """The rotation H (size, size) float64, with H H = I. size: a power of 4."""
    four = torch.tensor(_FOUR, dtype=torch.float64)
    whole = torch.ones(1, 1, dtype=torch.float64)
    while len(whole) < size:
        whole = torch.kron(whole, four)
    normalised: Tensor = whole / size**0.5
    return normalised
