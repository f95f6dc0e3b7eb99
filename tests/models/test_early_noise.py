"""Noise that is drawn early: the numbers and the generator's states of plain draws."""

import torch
from lipsync_server.models.sampling.early_noise import EarlyNoise
from lipsync_server.models.sampling.sampler import draw_noise

SHAPE = (16, 3, 8, 6)


def test_noise_drawn_ahead_is_that_of_plain_draws() -> None:
    plain, early = torch.Generator().manual_seed(7), torch.Generator().manual_seed(7)
    noise = EarlyNoise(early)
    for _ in range(3):
        noise.draw_ahead(SHAPE)
        assert torch.equal(early.get_state(), plain.get_state())  # a resume point stores this state
        for _ in range(2):
            assert torch.equal(noise.draw(SHAPE), draw_noise(SHAPE, plain))
            assert torch.equal(early.get_state(), plain.get_state())


def test_noise_drawn_ahead_is_dropped_for_another_shape_or_state() -> None:
    plain, early = torch.Generator().manual_seed(7), torch.Generator().manual_seed(7)
    noise = EarlyNoise(early)
    noise.draw_ahead(SHAPE)
    shorter = (16, 2, 8, 6)
    assert torch.equal(noise.draw(shorter), draw_noise(shorter, plain))
    noise.draw_ahead(SHAPE)
    for generator in (plain, early):  # a second attempt at a window begins with its stored state
        generator.manual_seed(8)
    assert torch.equal(noise.draw(SHAPE), draw_noise(SHAPE, plain))
    assert torch.equal(early.get_state(), plain.get_state())
