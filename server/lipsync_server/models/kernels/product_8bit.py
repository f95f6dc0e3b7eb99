"""Matrix products of 8-bit rows: by torch's kernels, by ours, or on a CPU with the same rounding in float32.

x (M, K) times a weight (N, K), both rounded with one scale a row (rounding.py), is an 8-bit product whose element
(m, n) is multiplied with x_scale[m] * scale[n]. The weight's scale is loaded with the weight. The activation's scale is
computed from each activation ("dynamic" quantisation). `fastest_tile` and `fastest_kind` measure on this card which
tile and which kind of 8 bits multiply fastest. Knows tensors and devices. Does not know layers.
"""

import importlib.util
from functools import cache, partial

import torch
from torch import Tensor
from torch.nn import functional as F

from lipsync_server.models.kernels.card import relative_error
from lipsync_server.models.kernels.choice import Chooser, Question, Way
from lipsync_server.models.kernels.rounding import quantize_rows
from lipsync_server.quantization import EightBit

_HAS_TRITON = importlib.util.find_spec("triton") is not None
if _HAS_TRITON:
    from lipsync_server.models.kernels.int8_product import TILES, int8_product

TORCH = "torch"
"""The name in place of a tile for torch's own int8 product, which needs neither Triton nor a C compiler."""
TRIAL_ROWS = 8_192
"""Rows of a trial product: a quarter of a window's tokens, which take about a millisecond."""
_COMPARED_ROWS = 64
# Relative errors against float32. The tile's product is exact up to the rounding of its result to bf16.
_TILE_LIMIT = 0.006
_KIND_LIMITS = {"int8": 0.02, "fp8": 0.05}


def native_8bit(device: torch.device, kind: EightBit) -> bool:
    """Whether the device multiplies this kind in 8 bits: int8 from compute capability 8.0, fp8 from 8.9."""
    if device.type != "cuda":
        return False
    return torch.cuda.get_device_capability(device) >= ((8, 0) if kind == "int8" else (8, 9))


def multiply_8bit(
    x: Tensor, data: Tensor, scale: Tensor, bias: Tensor | None, kind: EightBit, tile: str | None = None
) -> Tensor:
    """x (M, K) float times an 8-bit weight `data` (N, K) with `scale` (N, 1), + bias (N,) -> (M, N) in x's type.

    Rounds x with one scale a row first. fp8 accumulates in the tensor cores' fast mode. tile: of the int8 product, or
    TORCH; None is a tile that every card can run.
    """
    x8, x_scale = quantize_rows(x.float(), kind)
    if not x.is_cuda:
        out = F.linear(x8.float(), data.float()) * x_scale * scale.t()
        return (out if bias is None else out + bias.float()).to(x.dtype)
    return multiply_rows(x8, x_scale, data, scale, bias, x.dtype, tile)


def multiply_rows(
    x: Tensor,
    x_scale: Tensor,
    data: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    tile: str | None = None,
) -> Tensor:
    """The product of `multiply_8bit` on a GPU, for rows x (M, K) that are rounded already, x_scale (M, 1)."""
    if x.dtype != torch.int8:
        return torch._scaled_mm(
            x, data.t(), scale_a=x_scale, scale_b=scale.t(), bias=bias, out_dtype=dtype, use_fast_accum=True
        )
    if _HAS_TRITON and dtype == torch.bfloat16 and tile != TORCH:
        product: Tensor = int8_product(x, data, x_scale, scale, bias, *([] if tile is None else [tile]))
        return product
    out = torch._int_mm(x, data.t()).float() * x_scale * scale.t()
    return (out if bias is None else out + bias.float()).to(dtype)


def fastest_tile(n_out: int, n_in: int, device: torch.device, chooser: Chooser) -> str | None:
    """The tile of int8_product.TILES that multiplies a weight (n_out, n_in) fastest on this card.

    TORCH where torch's own product is faster, or the only one that runs. None where nothing has to be chosen.
    """
    if not _HAS_TRITON or not native_8bit(device, "int8"):
        return None
    some = slice(None, _COMPARED_ROWS)

    @cache
    def rounded() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        x, weight = _rows(TRIAL_ROWS, n_in, device), _rows(n_out, n_in, device)
        return quantize_rows(x, "int8"), quantize_rows(weight, "int8")

    def plain() -> Tensor:
        (x, x_scale), (data, scale) = rounded()
        return (x[some].float() @ data.float().t()) * x_scale[some] * scale.t()

    def multiply(tile: str) -> Tensor:
        (x, x_scale), (data, scale) = rounded()
        return multiply_rows(x, x_scale, data, scale, None, torch.bfloat16, tile)

    question = Question(
        "product",
        f"int8, {n_in} to {n_out}",
        plain=plain,
        error=lambda got, wanted: relative_error(got[some], wanted),
        plain_way=TORCH,
    )
    ways = {tile: Way(partial(multiply, tile), _TILE_LIMIT) for tile in (*TILES, TORCH)}
    choice = chooser.choose(question, ways)
    return None if choice is None else choice.way


def fastest_kind(n_out: int, n_in: int, device: torch.device, chooser: Chooser) -> EightBit | None:
    """The kind of 8 bits that this card multiplies faster with a weight (n_out, n_in); None if it has neither.

    A GeForce card multiplies int8 twice as fast as fp8 with float32 sums; a data-centre card may be faster in fp8.
    """
    kinds: tuple[EightBit, ...] = ("int8", "fp8")
    if not any(native_8bit(device, kind) for kind in kinds):
        return None
    some = slice(None, _COMPARED_ROWS)
    tile = fastest_tile(n_out, n_in, device, chooser)

    @cache
    def inputs() -> tuple[Tensor, Tensor]:
        return _rows(TRIAL_ROWS, n_in, device).bfloat16(), _rows(n_out, n_in, device)

    @cache
    def rounded(kind: EightBit) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        x, weight = inputs()
        return quantize_rows(x.float(), kind), quantize_rows(weight, kind)

    def plain() -> Tensor:
        x, weight = inputs()
        return x[some].float() @ weight.t()

    # Activations are rounded in a pass before the product for both kinds alike, so the product alone is measured.
    def multiply(kind: EightBit) -> Tensor:
        (x, x_scale), (data, scale) = rounded(kind)
        return multiply_rows(x, x_scale, data, scale, None, torch.bfloat16, tile)

    def why_not(kind: EightBit) -> str | None:
        return None if native_8bit(device, kind) else f"this card has no {kind} products"

    question = Question(
        "rounding",
        f"{n_in} to {n_out}",
        plain=plain,
        error=lambda got, wanted: relative_error(got[some], wanted),
    )
    ways: dict[str, Way[Tensor]] = {
        kind: Way(partial(multiply, kind), _KIND_LIMITS[kind], partial(why_not, kind)) for kind in kinds
    }
    choice = chooser.choose(question, ways)
    return None if choice is None else ("fp8" if choice.way == "fp8" else "int8")


def _rows(n: int, width: int, device: torch.device) -> Tensor:
    """Random rows, float32 (n, width)."""
    return torch.randn(n, width, generator=torch.Generator(device).manual_seed(n), device=device)
