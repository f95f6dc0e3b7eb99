"""Runs the Triton kernels in Triton's interpreter on small CPU tensors, and prints each one's relative error as JSON.

The interpreter is switched on by TRITON_INTERPRET=1 before the first import of a kernel, so this is a program of its
own: tests/models/test_triton_interpreted.py starts it. Every error is relative to plain torch arithmetic.
"""

import json
import os
import sys
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import torch
from lipsync_server.models.kernels import fused, int8_product, int8_rounding, tile_rounding
from lipsync_server.models.kernels.attention_8bit import TILE
from lipsync_server.models.kernels.attention_int8 import KEY_ORDER
from lipsync_server.models.kernels.int8_product import _product
from lipsync_server.models.kernels.rope import RotaryTable
from lipsync_server.models.wan_vae import kernels as vae_kernels
from lipsync_server.models.wan_vae import ops
from torch import Tensor
from triton.runtime import interpreter

N, HEADS, DIM = 150, 2, 128
RANDOM = torch.Generator().manual_seed(0)


def loops_with_numpy_2_4() -> None:
    """Let a loop's bound be an array of one number, which NumPy from 2.4 no longer turns into an int by itself."""
    patch = interpreter._patch_lang_tensor

    def patched(tensor: Any, *scope: Any) -> None:
        patch(tensor, *scope)
        tensor.__index__ = lambda self: int(self.handle.data.item())

    interpreter._patch_lang_tensor = patched


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=RANDOM)


def error(got: Tensor, wanted: Tensor) -> float:
    return float((got.float() - wanted.float()).norm() / wanted.float().norm())


def layer_norm(x: Tensor, multiply: Tensor, add: Tensor) -> Tensor:
    return torch.nn.functional.layer_norm(x, x.shape[-1:], eps=1e-6) * multiply + add


def rotated(x: Tensor, table: RotaryTable) -> Tensor:
    """x (N, H, 128) float: pairs turned by the angles whose cosine and sine are in `table`."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.complex(table.cos, table.sin)[:, None]).flatten(-2)


def passes() -> dict[str, float]:
    """The passes between a block's products, rounded to bf16 and to int8."""
    x, y, gate, multiply, add = normal(N, 96).bfloat16(), normal(N, 96).bfloat16(), *(normal(96) for _ in range(3))
    found = {}
    for kind in (None, "int8", "fp8"):
        summed, rows = fused.norm(x, y, gate, multiply, add, 1e-6, kind)
        moved = (x.float() + y.float() * gate).bfloat16()
        name = kind or "bf16"
        found[f"norm {name}, residual"] = error(summed, moved)
        found[f"norm {name}"] = error(values_of(rows), layer_norm(moved.float(), multiply, add))
        weight = (multiply / 5).bfloat16()
        _, rows = fused.norm(x, None, None, weight, add, 1e-6, kind, plus_one=True)
        raised = layer_norm(x.float(), 1 + weight.float(), add)
        found[f"norm {name}, one more"] = error(values_of(rows), raised)
        found[f"sum {name}"] = error(values_of(fused.sum_of(x, y, kind)), x.float() + y.float())
    wanted = torch.nn.functional.gelu(x.float(), approximate="tanh")
    for eight_bit in ("int8", "fp8"):
        found[f"gelu {eight_bit}"] = error(values_of(fused.gelu(x, eight_bit)), wanted)
    return found


def values_of(rows: fused.Rows) -> Tensor:
    return rows.data.float() if rows.scale is None else rows.data.float() * rows.scale


def attention_inputs() -> dict[str, float]:
    """Queries, keys and values as attention_int8.cu needs them: norm, rotation, centring, rounding, order."""
    width = HEADS * DIM
    x, weight, centre = normal(N, width).bfloat16(), normal(width).bfloat16(), normal(HEADS, DIM)
    angle = normal(N, DIM // 2)
    table = RotaryTable(angle.cos(), angle.sin())
    normed = torch.nn.functional.rms_norm(x.float(), (width,), weight.float(), 1e-6).view(N, HEADS, DIM)
    turned = rotated(normed, table)
    queries = fused.queries_int8(x, weight, 1e-6, HEADS, table)
    keys = int8_rounding.keys_int8(x, weight, 1e-6, HEADS, table, centre)
    values = int8_rounding.values_int8(x.view(N, HEADS, DIM), centre)
    key_values = keys.data[:N].float() * keys.scale[:, :N].t()[..., None]
    n_places = values.data.shape[2]
    order = torch.tensor([place // 64 * 64 + KEY_ORDER[place % 64] for place in range(n_places)])
    by_token = torch.empty_like(values.data)
    by_token[..., order] = values.data
    scales = values.scale.transpose(1, 2).repeat_interleave(TILE, dim=2)
    value_values = (by_token.float() * scales)[..., :N].permute(2, 0, 1)
    centred = x.float().view(N, HEADS, DIM) - centre
    plain_mean = x[::3].float().mean(0).view(HEADS, DIM)
    by_tile = tile_rounding.keys_int8(x, weight, 1e-6, HEADS, table, centre)
    tile_scales = by_tile.scale.t().repeat_interleave(TILE, dim=0)[:N, :, None]
    rounded = tile_rounding.values_fp8(x.view(N, HEADS, DIM), centre)
    fp8_values = torch.empty_like(by_token, dtype=torch.float32)
    # attention_8bit.cu needs the keys of each 16 in another order.
    fp8_order = torch.tensor([p // 16 * 16 + p // 2 % 2 * 8 + p // 4 % 4 * 2 + p % 2 for p in range(n_places)])
    fp8_values[..., fp8_order] = rounded.data.float() * rounded.scale[..., None]
    return {
        "keys int8, scaled by tile": error(by_tile.data.float() * tile_scales, turned - centre),
        "mean of keys": error(tile_rounding.mean_of_heads(x, weight, 1e-6, HEADS, table), turned.mean(0)),
        "mean of values": error(tile_rounding.mean_of_heads(x[::3], None, 0.0, HEADS, None), plain_mean),
        "values fp8": error(fp8_values[..., :N].permute(2, 0, 1), centred),
        "heads bf16": error(fused.heads_bf16(x, weight, 1e-6, HEADS, table), turned),
        "queries int8": error(queries.data.float() * queries.scale.t()[..., None], turned),
        "keys int8": error(key_values, turned - centre),
        "values int8": error(value_values, centred),
        "values beyond the last": float(by_token[..., N:].abs().sum()),
    }


def product() -> dict[str, float]:
    """The int8 product with edges in all three directions."""
    m, n, k = 70, 90, 80
    x, w = (torch.randint(-127, 128, shape, generator=RANDOM, dtype=torch.int8) for shape in ((m, k), (n, k)))
    x_scale, w_scale, bias = normal(m, 1).abs(), normal(n, 1).abs(), normal(n).bfloat16()
    out = torch.empty(m, n, dtype=torch.bfloat16)
    _product[(6,)](x, w, x_scale, w_scale, bias, out, m, n, k, ROWS=32, COLUMNS=64, DEPTH=32, GROUP=8, HAS_BIAS=True)
    wanted = (x.float() @ w.float().t()) * x_scale * w_scale.t() + bias.float()
    by_tile = [int8_product.launch(x, w, x_scale, w_scale, bias, tile) for tile in int8_product.TILES]
    return {
        "int8 product": error(out, wanted),
        # Sums of integers are exact, so a card may choose any tile without a change in one bit.
        "product, bits that differ between tiles": float(sum((tile != out).sum() for tile in by_tile)),
    }


def vae() -> dict[str, float]:
    x, gamma, bias = normal(1, 6, 3, 4, 5), normal(6), normal(6)
    got, kept = vae_kernels.norm_silu(x, gamma, bias, None, 1)
    wanted, wanted_kept = ops.norm_silu(x, gamma, bias, None, 1)
    again = vae_kernels.norm_silu(x, gamma, bias, kept, 1)[0], ops.norm_silu(x, gamma, bias, wanted_kept, 1)[0]
    doubled = normal(1, 12, 3, 4, 5)
    y = normal(1, 6, 3, 4, 5)
    return {
        "VAE norm, SiLU": error(got, wanted),
        "VAE norm, SiLU with history": error(*again),
        "VAE sum": error(vae_kernels.add(x.clone(), y, bias), ops.add(x.clone(), y, bias)),
        "VAE doubling": error(vae_kernels.double(doubled, 2, normal(12) * 0), ops.double(doubled, 2, torch.zeros(12))),
    }


if __name__ == "__main__":
    loops_with_numpy_2_4()
    sys.stdout.write(json.dumps(passes() | attention_inputs() | product() | vae()))
