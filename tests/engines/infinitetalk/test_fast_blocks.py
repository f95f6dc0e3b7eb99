"""The fast path computes the result of the plain blocks, on any NVIDIA GPU that has its kernels (skipped elsewhere)."""

import pytest
import torch
from lipsync_server.bench.clock import relative_error
from lipsync_server.engines.infinitetalk.model.config import TransformerConfig
from lipsync_server.errors import EngineUnavailable
from lipsync_server.models.kernels import attention, attention_8bit
from lipsync_server.models.kernels.rope import rotate, video_table
from lipsync_server.models.kernels.rounding import dequantize_rows, quantize_rows
from lipsync_server.models.layers.fast import Pending
from lipsync_server.quantization import EightBit, Quantization
from lipsync_server.random_models.infinitetalk_transformer import random_transformer
from transformer_golden import inputs_for, run

DEVICE = torch.device("cuda", 0)
HEADS_OF_128 = TransformerConfig(
    dim=512, ffn_dim=768, num_heads=4, num_layers=3, text_dim=24, text_len=32, image_dim=32, audio_channels=8,
    intermediate_dim=16, output_dim=32,
)  # fmt: skip

needs_fp8 = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 9), reason="fp8 products need an Ada GPU"
)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="it needs an NVIDIA GPU")
needs_hopper = pytest.mark.skipif(
    not torch.cuda.is_available() or attention_8bit.why_not(DEVICE) is not None, reason="it needs a Hopper GPU"
)


def test_the_fast_path_names_the_reason_why_it_cannot_run() -> None:
    model = random_transformer(HEADS_OF_128, dtype=torch.float32)
    assert model.use_fast_blocks() == "it needs an NVIDIA GPU"
    assert model.fast_blocks is False
    assert attention_8bit.why_not(torch.device("cpu")) == "it needs a Hopper GPU (H100, H200)"


def test_a_pending_update_settles_to_the_gated_sum() -> None:
    x, y, gate = torch.randn(3, 8), torch.randn(3, 8), torch.randn(8)
    assert Pending(x).settle() is x
    torch.testing.assert_close(Pending(x, y, gate).settle(), x + y * gate)


@needs_fp8
@pytest.mark.parametrize(
    ("quant", "kernel", "limit"),
    [
        ("fp8", "sdpa", 0.05),
        ("fp8", "bf16", 0.05),
        ("fp8", "int8", 0.05),
        ("fp8", "fp8", 0.05),
        ("fp8", "int8_both", 0.05),
        ("int8", "sdpa", 0.03),
        ("int8", "fp8", 0.05),
        ("int8", "int8_both", 0.03),
        ("none", "sdpa", 0.01),
        ("none", "bf16", 0.01),
    ],
)
def test_fast_blocks_compute_what_the_plain_ones_do(quant: Quantization, kernel: str, limit: float) -> None:
    if kernel != "sdpa" and (why_not := attention.why_not(kernel, DEVICE)) is not None:
        pytest.skip(why_not)
    inputs = inputs_for(HEADS_OF_128, size=(16, 16))
    model = random_transformer(HEADS_OF_128, device=DEVICE, quant=quant, attention="sdpa")
    plain = run(model, inputs)
    model.set_attention(kernel)
    assert model.use_fast_blocks() is None
    assert relative_error(run(model, inputs), plain) < limit


@needs_hopper
@pytest.mark.parametrize(("in_8bit", "ours"), [(True, attention.EIGHT_BIT), (False, ("bf16",))])
def test_auto_chooses_our_own_attention_for_the_full_models_heads(in_8bit: bool, ours: tuple[str, ...]) -> None:
    chosen = attention.choose("auto", DEVICE, in_8bit=in_8bit)
    assert chosen.ours in ours
    assert "measured" in chosen.reason


@needs_gpu
@pytest.mark.parametrize(("quant", "rounded"), [("fp8", True), ("none", False)])
def test_auto_chooses_what_was_fastest_and_rounds_only_beside_rounded_layers(
    quant: Quantization, rounded: bool
) -> None:
    """With the tiny model's four heads any kernel may win. The stated reason has all times, the fastest first."""
    model = random_transformer(HEADS_OF_128, device=DEVICE, quant=quant)
    assert model.attention is not None
    _, _, times = model.attention.reason.partition("measured: ")
    measured = [time.split()[0] for time in times.split(", ")]
    assert measured[0] == (model.attention.ours or model.attention.name)
    assert bool(set(measured) & set(attention.EIGHT_BIT)) <= rounded


def random_qkv(
    n_queries: int, n_keys: int, heads: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """q, k far from zero, v with a row stride, and the plain formula's result."""
    g = torch.Generator(DEVICE).manual_seed(4)
    q = torch.randn(1, n_queries, heads, 128, device=DEVICE, generator=g).bfloat16()
    k = (torch.randn(1, n_keys, heads, 128, device=DEVICE, generator=g) + 3).bfloat16()
    v = torch.randn(1, n_keys, 3, heads, 128, device=DEVICE, generator=g).bfloat16()[:, :, 2]
    weights = (torch.einsum("bqhd,bkhd->bhqk", q.double(), k.double()) / 128**0.5).softmax(-1)
    return q, k, v, torch.einsum("bhqk,bkhd->bqhd", weights, v.double())


@needs_gpu
@pytest.mark.parametrize(("name", "limit"), [("bf16", 0.004), ("int8", 0.02), ("fp8", 0.05), ("int8_both", 0.02)])
@pytest.mark.parametrize(
    ("n_queries", "n_keys", "heads"),
    [(64, 64, 1), (5, 129, 2), (129, 176, 1), (300, 300, 3), (200, 353, 2), (1000, 257, 2), (777, 2048, 5)],
)
def test_our_attention_matches_the_plain_formula(
    name: str, limit: float, n_queries: int, n_keys: int, heads: int
) -> None:
    """Lengths that are no multiple of a tile, shorter than one and just above it."""
    if (reason := attention.why_not(name, DEVICE)) is not None:
        pytest.skip(reason)
    q, k, v, wanted = random_qkv(n_queries, n_keys, heads)
    assert relative_error(attention.KERNELS[name](q, k, v), wanted) < limit


@needs_hopper
def test_only_what_differs_between_values_is_rounded_to_fp8() -> None:
    """Values around 8. Rounding them to fp8 would be wrong by 3 %, rounding their differences by 3 % of a tenth."""
    q, k, v, wanted = random_qkv(300, 500, 2)
    assert relative_error(attention.KERNELS["fp8"](q, k, v + 8), wanted + 8) < 0.004


@needs_hopper
@pytest.mark.parametrize("name", attention.OURS)
def test_a_key_that_outshines_all_others_is_found(name: str) -> None:
    """Scores of hundreds, the largest in the last tile: maxima move late, and everything before shrinks to nothing."""
    q, k, v, _ = random_qkv(200, 700, 2)
    k[:, 650] = 40 * q[:, 7]
    got = attention.KERNELS[name](q, k, v)
    assert relative_error(got[:, 7], v[:, 650]) < 0.05


@needs_hopper
@pytest.mark.parametrize("name", attention.SPARSE)
def test_sparse_attention_reads_the_chosen_tiles_only(name: str) -> None:
    """Two groups of tokens that attend to themselves only: half of the tiles are enough for the whole result."""
    g = torch.Generator(DEVICE).manual_seed(4)
    n, half = 1024, 512
    x = torch.randn(1, n, 2, 128, device=DEVICE, generator=g)
    x[:, :half, :, 0] += 60
    x[:, half:, :, 0] -= 60
    x = x.bfloat16()
    exact = attention.choose(name, DEVICE).self_kernel(x, x, x)
    sparse = attention.choose(name, DEVICE, density=0.5).self_kernel(x, x, x)
    assert relative_error(sparse, exact) < 0.01
    other = attention.choose(name, DEVICE, density=0.125).self_kernel(x, x, x)
    assert relative_error(other, exact) > 0.1


def test_every_block_chooses_its_own_tile_and_the_density_s_share() -> None:
    g = torch.Generator().manual_seed(1)
    data = torch.randint(-127, 128, (1000, 3, 128), generator=g).to(torch.int8)
    queries = attention_8bit.Queries(data, torch.rand(3, 1000, generator=g))
    keys = attention_8bit.Keys(data, torch.rand(3, 8, generator=g))
    chosen = attention_8bit.choose_tiles(queries, keys, 0.5)
    assert chosen.shape == (3, 8, 4)
    assert bool((chosen.diff(dim=2) > 0).all())
    assert bool((chosen == torch.arange(8)[:, None]).any(dim=2).all())
    assert torch.equal(attention_8bit.choose_tiles(queries, keys, 1.0)[1, 2], torch.arange(8, dtype=torch.int32))


def test_density_is_refused_where_no_kernel_can_do_it() -> None:
    with pytest.raises(EngineUnavailable, match=r"density 0\.5 needs attention int8 or fp8"):
        attention.choose("auto", "cpu", density=0.5)


@needs_fp8
def test_fused_passes_in_bf16_match_their_plain_counterparts() -> None:
    from lipsync_server.models.kernels import fused

    g = torch.Generator(DEVICE).manual_seed(6)
    x, y = (torch.randn(40, 384, device=DEVICE, generator=g).bfloat16() for _ in range(2))
    multiply, add = (torch.randn(384, device=DEVICE, generator=g) for _ in range(2))
    summed, rows = fused.norm(x, y, None, multiply, add, 1e-6, None)
    normed = torch.nn.functional.layer_norm((x + y).float(), (384,), eps=1e-6) * multiply + add
    assert torch.equal(summed, x + y)
    assert rows.kind is None
    assert relative_error(rows.data, normed) < 0.003
    assert torch.equal(fused.sum_of(x, y, None).data, x + y)
    assert fused.sum_of(x, None, None).data is x


@needs_fp8
@pytest.mark.parametrize("kind", ["fp8", "int8"])
def test_fused_passes_match_their_plain_counterparts(kind: EightBit) -> None:
    from lipsync_server.models.kernels import fused, tile_rounding

    g = torch.Generator(DEVICE).manual_seed(6)
    x, y = (torch.randn(40, 384, device=DEVICE, generator=g).bfloat16() for _ in range(2))
    gate, multiply, add = (torch.randn(384, device=DEVICE, generator=g) for _ in range(3))
    summed, rounded = fused.norm(x, y, gate, multiply, add, 1e-6, kind)
    plain = (x.float() + y.float() * gate).bfloat16()
    normed = torch.nn.functional.layer_norm(plain.float(), (384,), eps=1e-6) * multiply + add
    assert relative_error(summed, plain) < 1e-3
    for got, wanted in (
        (rounded, normed),
        (fused.sum_of(x, y, kind), x.float() + y.float()),
        (fused.gelu(x, kind), torch.nn.functional.gelu(x.float(), approximate="tanh")),
    ):
        best = relative_error(dequantize_rows(*quantize_rows(wanted, kind), torch.float32), wanted)
        assert got.scale is not None
        assert got.kind == kind
        assert relative_error(got.data.float() * got.scale, wanted) < 1.05 * best
    table, weight = video_table((2, 4, 5), 128, DEVICE), multiply.bfloat16()
    scale = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-6)
    turned = rotate((x.float() * scale * weight.float()).unflatten(-1, (3, -1)), table)
    assert relative_error(fused.heads_bf16(x, weight, 1e-6, 3, table), turned) < 0.005
    centre = turned.mean(0)
    assert relative_error(tile_rounding.mean_of_heads(x, weight, 1e-6, 3, table), centre) < 1e-4
    raised, rows = fused.norm(x, None, None, weight, weight, 1e-6, kind, plus_one=True)
    assert raised is x
    wanted = torch.nn.functional.layer_norm(x.float(), (384,), eps=1e-6) * (1 + weight.float()) + weight.float()
    best = relative_error(dequantize_rows(*quantize_rows(wanted, kind), torch.float32), wanted)
    assert rows.scale is not None
    assert relative_error(rows.data.float() * rows.scale, wanted) < 1.05 * best
    keys = tile_rounding.keys_int8(x, weight, 1e-6, 3, table, centre)
    assert relative_error(keys.data.float() * keys.scale.t()[..., None] + centre, turned) < 0.025
    queries = fused.queries_int8(x, weight, 1e-6, 3, table)
    assert relative_error(queries.data.float() * queries.scale.t()[..., None], turned) < 0.012
    values = x.unflatten(-1, (3, -1))
    rounded_values = tile_rounding.values_fp8(values, values.float().mean(0))
    # The largest stored values of a channel are that channel's largest values, in whatever order they lie.
    stored = rounded_values.data.float() * rounded_values.scale[..., None] + rounded_values.centre[..., None]
    largest, wanted = (part.sort(-1).values[..., -15:] for part in (stored, values.float().permute(1, 2, 0)))
    assert relative_error(largest, wanted) < 0.05


@pytest.mark.skipif(not torch.cuda.is_available(), reason="it needs an NVIDIA GPU")
@pytest.mark.parametrize(("m", "n", "k"), [(300, 384, 256), (129, 257, 80), (1, 16, 16), (2000, 512, 1000)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_the_int8_product_is_that_of_its_parts(m: int, n: int, k: int, has_bias: bool) -> None:
    """Sizes that are no multiple of a tile; integers are exact, so all of the error is bf16's."""
    from lipsync_server.models.kernels.int8_product import int8_product

    g = torch.Generator(DEVICE).manual_seed(8)
    x, w = (torch.randint(-128, 128, size, device=DEVICE, generator=g).to(torch.int8) for size in ((m, k), (n, k)))
    x_scale, w_scale = (torch.rand(size, 1, device=DEVICE, generator=g) for size in (m, n))
    bias = torch.randn(n, device=DEVICE, generator=g).bfloat16() * 100 if has_bias else None
    wanted = (x.double() @ w.double().t()) * x_scale * w_scale.t() + (0 if bias is None else bias.double())
    assert relative_error(int8_product(x, w, x_scale, w_scale, bias), wanted) < 0.003
