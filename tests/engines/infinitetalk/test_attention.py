"""Attention kernels: each kernel that runs here computes the plain formula's result, and the choice is logged."""

import pytest
import torch
from lipsync_server.bench.clock import relative_error
from lipsync_server.engines.infinitetalk.model.blocks import speaker_map
from lipsync_server.errors import EngineUnavailable
from lipsync_server.models.kernels import attention
from lipsync_server.random_models.infinitetalk_transformer import random_transformer
from transformer_golden import TINY, inputs_for, run

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPE = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32


def qkv(n_queries: int = 50, n_keys: int = 37) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(5)
    made = [torch.randn(2, n, 3, 64, generator=g) for n in (n_queries, n_keys, n_keys)]
    q, k, v = (tensor.to(DEVICE, DTYPE) for tensor in made)
    return q, k, v


@pytest.mark.parametrize("name", attention.KERNELS)
def test_kernel_matches_the_plain_formula(name: str) -> None:
    why_not = attention.why_not(name, DEVICE, DTYPE)
    if why_not:
        pytest.skip(f"{name}: {why_not}")
    q, k, v = qkv()
    if name in attention.OURS:
        pytest.skip("one sequence, heads of 128: see test_fast_blocks.py")
    weights = (torch.einsum("bqhd,bkhd->bhqk", q.double(), k.double()) / 8).softmax(-1)
    wanted = torch.einsum("bhqk,bkhd->bqhd", weights, v.double())
    got = attention.choose(name, DEVICE, DTYPE)(q, k, v)
    assert got.shape == q.shape
    limit = 1e-5 if torch.float32 == DTYPE else (0.05 if name == "sage" else 0.01)
    assert relative_error(got, wanted) < limit


def test_a_kernel_that_computes_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(attention.KERNELS, "flash", lambda q, k, v: attention.math(q, k[:, :30], v[:, :30]))
    assert "was wrong by" in str(attention.why_not("flash", DEVICE, DTYPE))


def test_xformers_is_found_when_it_is_installed() -> None:
    pytest.importorskip("xformers.ops", exc_type=ImportError)
    if DEVICE.type != "cuda":
        pytest.skip("xformers needs an NVIDIA GPU")
    assert attention.why_not("xformers", DEVICE, DTYPE) is None


def test_the_choice_names_kernel_and_reason() -> None:
    chosen = attention.choose("auto", "cpu")
    assert str(chosen) == "attention: sdpa (torch's own on cpu)"
    model = random_transformer(TINY, dtype=torch.float32)
    assert model.attention_line == str(chosen)


def test_a_kernel_that_cannot_run_is_refused_with_the_reason() -> None:
    with pytest.raises(EngineUnavailable, match="unknown"):
        attention.choose("quantum", "cpu")
    with pytest.raises(EngineUnavailable, match=r"cudnn.*needs an NVIDIA GPU"):
        attention.choose("cudnn", "cpu")


def test_the_models_output_does_not_depend_on_the_kernel() -> None:
    model = random_transformer(TINY, dtype=torch.float32)
    inputs = inputs_for(TINY, 2)
    first = run(model, inputs)
    model.set_attention("math")
    assert relative_error(run(model, inputs), first) < 1e-5


def test_speaker_map_is_the_masked_share_of_attention() -> None:
    """The result equals the definition: softmax over the first frame's keys, averaged over each mask."""
    g = torch.Generator().manual_seed(2)
    q, k = torch.randn(18, 4, 16, generator=g), torch.randn(18, 4, 16, generator=g)
    masks = torch.tensor([[1, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]).float()
    shares = (torch.einsum("qhd,khd->hqk", q, k[:6]) / 4).softmax(-1)
    wanted = torch.einsum("hqk,mk->mq", shares, masks) / 4 / masks.sum(1, keepdim=True)
    torch.testing.assert_close(speaker_map(q, k, masks, attention.sdpa), wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", attention.OURS)
def test_our_kernels_are_refused_for_heads_that_they_do_not_compute(name: str) -> None:
    with pytest.raises(EngineUnavailable, match="heads of 128 numbers, and this model's have 32"):
        attention.choose(name, "cpu", head_dim=32)
