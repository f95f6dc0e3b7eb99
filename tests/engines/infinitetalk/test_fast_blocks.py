"""The fast path computes what the plain blocks do, on any NVIDIA GPU that has its kernels (skipped elsewhere)."""

import pytest
import torch
from lipsync_server.engines.infinitetalk import attention, attention_int8, fast_blocks
from lipsync_server.engines.infinitetalk.quant import dequantize_rows, quantize_rows
from lipsync_server.engines.infinitetalk.random_weights import random_transformer
from lipsync_server.engines.infinitetalk.rope import rotate, video_table
from lipsync_server.engines.infinitetalk.transformer_config import TransformerConfig
from transformer_golden import inputs_for, relative_error, run

DEVICE = torch.device("cuda", 0)
HEADS_OF_128 = TransformerConfig(
    dim=512, ffn_dim=768, num_heads=4, num_layers=3, text_dim=24, text_len=32, image_dim=32, audio_channels=8,
    intermediate_dim=16, output_dim=32,
)  # fmt: skip

needs_fp8 = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 9), reason="fp8 products need an Ada GPU"
)
needs_hopper = pytest.mark.skipif(
    not torch.cuda.is_available() or attention_int8.missing(DEVICE) is not None, reason="it needs a Hopper GPU"
)


def test_the_fast_path_says_why_it_cannot_run() -> None:
    model = random_transformer(HEADS_OF_128, dtype=torch.float32)
    assert model.use_fast_blocks() == "it needs an NVIDIA GPU"
    assert model.fast_blocks is False
    assert attention_int8.missing(torch.device("cpu")) == "it needs a Hopper GPU (H100, H200)"


def test_a_pending_update_settles_to_the_gated_sum() -> None:
    x, y, gate = torch.randn(3, 8), torch.randn(3, 8), torch.randn(8)
    assert fast_blocks.Pending(x).settle() is x
    torch.testing.assert_close(fast_blocks.Pending(x, y, gate).settle(), x + y * gate)


@needs_fp8
@pytest.mark.parametrize("scores", ["bf16", "int8"])
def test_fast_blocks_compute_what_the_plain_ones_do(scores: str) -> None:
    if scores == "int8" and attention_int8.missing(DEVICE) is not None:
        pytest.skip("int8 scores need a Hopper GPU")
    inputs = inputs_for(HEADS_OF_128, size=(16, 16))
    model = random_transformer(HEADS_OF_128, device=DEVICE, quant="fp8", attention="sdpa")
    plain = run(model, inputs)
    if scores == "int8":
        model.set_attention("int8")
    assert model.use_fast_blocks() is None
    assert relative_error(run(model, inputs), plain) < 0.05


@needs_hopper
@pytest.mark.parametrize(("n_queries", "n_keys", "heads"), [(64, 64, 1), (300, 300, 3), (1000, 257, 2), (777, 2048, 5)])
def test_int8_attention_matches_the_plain_formula(n_queries: int, n_keys: int, heads: int) -> None:
    """Lengths that are no multiple of a tile, values with a row stride, keys far from zero."""
    g = torch.Generator(DEVICE).manual_seed(4)
    q = torch.randn(1, n_queries, heads, 128, device=DEVICE, generator=g).bfloat16()
    k = (torch.randn(1, n_keys, heads, 128, device=DEVICE, generator=g) + 3).bfloat16()
    v = torch.randn(1, n_keys, 3, heads, 128, device=DEVICE, generator=g).bfloat16()[:, :, 2]
    weights = (torch.einsum("bqhd,bkhd->bhqk", q.double(), k.double()) / 128**0.5).softmax(-1)
    wanted = torch.einsum("bhqk,bkhd->bqhd", weights, v.double())
    assert relative_error(attention.int8(q, k, v), wanted) < 0.02


@needs_fp8
def test_fused_passes_match_their_plain_counterparts() -> None:
    from lipsync_server.engines.infinitetalk import fused_kernels as fused

    g = torch.Generator(DEVICE).manual_seed(6)
    x, y = (torch.randn(40, 384, device=DEVICE, generator=g).bfloat16() for _ in range(2))
    gate, multiply, add = (torch.randn(384, device=DEVICE, generator=g) for _ in range(3))
    summed, rounded = fused.norm_fp8(x, y, gate, multiply, add, 1e-6)
    plain = (x.float() + y.float() * gate).bfloat16()
    normed = torch.nn.functional.layer_norm(plain.float(), (384,), eps=1e-6) * multiply + add
    assert relative_error(summed, plain) < 1e-3
    for got, wanted in (
        (rounded, normed),
        (fused.sum_fp8(x, y), x.float() + y.float()),
        (fused.gelu_fp8(x), torch.nn.functional.gelu(x.float(), approximate="tanh")),
    ):
        best = relative_error(dequantize_rows(*quantize_rows(wanted, "fp8"), torch.float32), wanted)
        assert relative_error(got.data.float() * got.scale, wanted) < 1.05 * best
    table, weight = video_table((2, 4, 5), 128, DEVICE), multiply.bfloat16()
    scale = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-6)
    turned = rotate((x.float() * scale * weight.float()).unflatten(-1, (3, -1)), table)
    assert relative_error(fused.heads_bf16(x, weight, 1e-6, 3, table), turned) < 0.005
    centre = turned.mean(0)
    data, factor = fused.heads_int8(x, weight, 1e-6, 3, table, centre)
    assert relative_error(data.float() * factor[:, :40].t()[..., None] + centre, turned) < 0.012
