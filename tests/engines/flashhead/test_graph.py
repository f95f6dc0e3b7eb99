"""A forward as a CUDA graph makes the numbers of a plain one. Needs an NVIDIA GPU."""

from collections.abc import Sequence

import pytest
import torch
from flashhead_kit import transformer
from lipsync_server.engines.flashhead.model.graph import GraphedForward
from torch import Tensor

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


@gpu
def test_a_recorded_forward_is_the_plain_one_for_every_input_and_shape() -> None:
    weight = torch.randn(16, 16, device="cuda")

    def forward(inputs: Sequence[Tensor]) -> Tensor:
        return torch.tanh(inputs[0] @ weight) + inputs[1]

    graphed = GraphedForward(forward)
    with torch.inference_mode():
        for n_rows in (4, 4, 9, 4):
            inputs = [torch.randn(n_rows, 16, device="cuda") for _ in range(2)]
            first = graphed(inputs)
            second = graphed([x + 1 for x in inputs])
            torch.testing.assert_close(first, forward(inputs))
            torch.testing.assert_close(second, forward([x + 1 for x in inputs]))


@gpu
def test_a_forward_that_cannot_be_recorded_still_runs() -> None:
    def forward(inputs: Sequence[Tensor]) -> Tensor:
        # item() makes the host wait for the GPU. CUDA refuses to record such a call in a graph.
        return inputs[0] * inputs[0].sum().item()

    graphed = GraphedForward(forward)
    x, stream = torch.randn(8, device="cuda"), torch.cuda.current_stream()
    for _ in range(2):
        torch.testing.assert_close(graphed([x]), forward([x]))
    # Later work of this process on the GPU is not affected by the failed recording.
    assert torch.cuda.current_stream() == stream
    assert torch.randn(8, device="cuda").isfinite().all()


@gpu
@pytest.mark.parametrize("variant", ["pro", "lite"])
def test_a_recorded_sound_is_the_plain_one(variant: str) -> None:
    model = transformer(variant).to("cuda", torch.bfloat16)
    config = model.config
    n_frames = 2 * config.stride + 1
    shape = n_frames, config.audio_window, config.audio_blocks, config.audio_channels
    plain_sounds, recorded = [], GraphedForward(model._hear_flat)
    for seed in range(3):
        audio = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        model._graphed_sound = None
        plain_sounds.append(model.hear(audio))
        model._graphed_sound = recorded
        for got, wanted in zip(model.hear(audio), plain_sounds[-1], strict=True):
            torch.testing.assert_close(got.k, wanted.k)
            torch.testing.assert_close(got.v, wanted.v)
    assert not torch.equal(plain_sounds[0][0].k, plain_sounds[1][0].k)


@pytest.mark.parametrize("variant", ["pro", "lite"])
def test_the_sound_in_one_tensor_is_that_of_every_block(variant: str) -> None:
    """The form that a CUDA graph records, on a CPU."""
    model = transformer(variant)
    config = model.config
    audio = torch.randn(2 * config.stride + 1, config.audio_window, config.audio_blocks, config.audio_channels)
    sound = model.hear(audio)
    flat = model._hear_flat([audio])
    assert flat.shape[0] == 2 * config.num_layers
    assert all(torch.equal(flat[2 * i], heard.k) for i, heard in enumerate(sound))
    assert all(torch.equal(flat[2 * i + 1], heard.v) for i, heard in enumerate(sound))
