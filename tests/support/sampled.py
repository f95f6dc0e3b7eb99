"""Golden tensors of which every n-th value is committed, so that the files of a clone stay small.

n is 7, and 31 for a tensor of more than 10,000 values.

Every number of a network's output depends on nearly all of its weights and inputs, so a wrong network is wrong in the
sampled values too. Neither step shares a factor with the sizes of the tensors: the sample meets every channel, row and
column. The values that are not committed are NaN, or -1 among the levels of pictures. No comparison reads them.
Whole tensors, which are beside the checkout, have no such values.
"""

import numpy as np
import torch
from torch import Tensor

_STEP, _LONG_STEP, _LONG = 7, 31, 10_000
_LEVELS = torch.int16
_NO_LEVEL = -1


def blank(shape: torch.Size | tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor without any committed value."""
    return torch.full(shape, float("nan") if dtype.is_floating_point else _NO_LEVEL, dtype=dtype)


def step_for(tensor: Tensor) -> int:
    """n for this tensor."""
    return _LONG_STEP if tensor.numel() > _LONG else _STEP


def sampled(tensor: Tensor, every: int) -> Tensor:
    """Every `every`-th value of a tensor in the order of the memory. The levels of a picture become int16."""
    values = tensor if tensor.is_floating_point() else tensor.to(_LEVELS)
    made = blank(values.shape, values.dtype).reshape(-1)
    made[::every] = values.reshape(-1)[::every]
    return made.reshape(values.shape)


def known(golden: Tensor) -> Tensor:
    """Whether each value of a golden tensor is committed."""
    if golden.is_floating_point():
        return ~golden.isnan()
    return golden != _NO_LEVEL if golden.dtype == _LEVELS else torch.ones_like(golden, dtype=torch.bool)


def differences(ours: Tensor, golden: Tensor) -> Tensor:
    """The absolute differences (n,) float32 at the known values. Raises AssertionError if there are none."""
    assert ours.shape == golden.shape
    there = known(golden)
    assert there.any(), "no value of the golden tensor is committed"
    return (ours[there].float() - golden[there].float()).abs()


def known_numbers(golden: np.ndarray) -> np.ndarray:
    """`known` for an array of NumPy."""
    there: np.ndarray = known(torch.from_numpy(np.array(golden))).numpy()
    return there
