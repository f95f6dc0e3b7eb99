"""The rounding of int8 attention, without the card: errors on six kinds of input, and that each part of it matters."""

import pytest
import torch
from lipsync_server.bench.infinitetalk.attention_design import DIM, KINDS, attend_as_designed, design_error


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_of_the_design_stays_below_its_limit(kind: str) -> None:
    assert design_error(kind, n_keys=2_048) < KINDS[kind][1]


def test_numbers_that_int8_holds_exactly_are_attended_to_exactly() -> None:
    """Equal keys give equal weights, so the result is the mean of the values."""
    values = torch.tensor([-127.0, 127.0, 0.0, 0.0], dtype=torch.float64).repeat(64)[None, :, None].expand(1, 256, DIM)
    q, k = torch.ones(1, 3, DIM, dtype=torch.float64), torch.ones(1, 256, DIM, dtype=torch.float64)
    torch.testing.assert_close(attend_as_designed(q, k, values), torch.zeros(1, 3, DIM, dtype=torch.float64))


def test_the_position_of_a_large_value_does_not_spoil_other_tiles() -> None:
    """One scale for each tile: an outlier in the last tile does not change the steps of the others."""
    random = torch.Generator().manual_seed(2)
    q = torch.zeros(1, 4, DIM, dtype=torch.float64)
    k, v = torch.zeros(1, 256, DIM, dtype=torch.float64), torch.randn(1, 256, DIM, generator=random).double()
    v[:, -1] = 1000
    error = (attend_as_designed(q, k, v) - v.mean(dim=1, keepdim=True)).abs().max()
    assert error < 0.5 * 1000 / 127
