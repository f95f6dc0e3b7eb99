"""A linear layer whose weight has 8 bits: int8 or fp8 with one scale for each output row.

The 14B transformer has 32 GB of weights in bfloat16, 98 % of them in the blocks' linear layers. Rounded to 8 bits they
take half of that, which is why a 24 GB card can run the model. Two ways to compute, a switch on each layer:

exact    The weight becomes a float again (data * scale), and the product runs in the activations' type. The published
         int8 and fp8 files mean this. It saves memory, but no time.
dynamic  Each activation is rounded to 8 bits too, with one scale a token, and the product runs on the GPU's 8-bit units
         (kernels/product_8bit.py). It saves memory and time. A CPU emulates it with the same rounding.

Knows layers and modules. Does not know file formats. The caller of `replace_linears` chooses the layers to round.
"""

from collections.abc import Callable
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipsync_server.models.kernels.choice import Chooser
from lipsync_server.models.kernels.product_8bit import fastest_tile, multiply_8bit, native_8bit
from lipsync_server.models.kernels.rounding import DTYPES, dequantize_rows, quantize_rows
from lipsync_server.quantization import EightBit

Activations = Literal["exact", "dynamic"]


class QuantizedLinear(nn.Module):
    """y = x W^T + b with W = data * scale: `data` (out, in) int8 or fp8, `scale` (out, 1) float32, `bias` (out,)."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        kind: EightBit,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        activations: Activations = "exact",
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.kind = in_features, out_features, kind
        self.activations = activations
        # The tile of the int8 product, which use_fastest_tiles measures.
        self.tile: str | None = None
        self.data = _frozen(torch.empty(out_features, in_features, dtype=DTYPES[kind], device=device))
        self.scale = _frozen(torch.empty(out_features, 1, dtype=torch.float32, device=device))
        self.bias = _frozen(torch.empty(out_features, dtype=dtype, device=device)) if bias else None

    @classmethod
    def from_linear(cls, linear: nn.Linear, kind: EightBit) -> "QuantizedLinear":
        """Round a linear layer's weight. The bias keeps its type."""
        made = cls(
            linear.in_features, linear.out_features, kind=kind, bias=linear.bias is not None,
            device=linear.weight.device, dtype=linear.weight.dtype,
        )  # fmt: skip
        if not linear.weight.is_meta:
            data, scale = quantize_rows(linear.weight.detach().float(), kind)
            made.data.copy_(data)
            made.scale.copy_(scale)
            if made.bias is not None:
                made.bias.copy_(linear.bias)
        return made

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """The weight (out, in) as floats of `dtype`."""
        if self.kind == "fp8" and not native_8bit(self.data.device, "fp8"):
            weight: Tensor = fp8_to_float(self.data, self.scale, dtype)
            return weight
        return dequantize_rows(self.data, self.scale, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) float -> (..., out) in x's type."""
        if self.activations == "dynamic":
            flat = x.reshape(-1, self.in_features)
            return multiply_8bit(flat, self.data, self.scale, self.bias, self.kind, self.tile).view(*x.shape[:-1], -1)
        return F.linear(x, self.dequantized(x.dtype), self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.kind}, activations={self.activations}"


@torch.library.custom_op("lipsync::fp8_to_float", mutates_args=())
def fp8_to_float(data: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """dequantize_rows, hidden from torch.compile.

    Below compute capability 8.9 a GPU has no fp8 instructions, and torch.compile cannot make a kernel that reads fp8
    ("type fp8e4nv not supported in this architecture"). torch's own kernels convert fp8 on every GPU.
    """
    return dequantize_rows(data, scale, dtype)


@fp8_to_float.register_fake
def _(data: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(data, dtype=dtype)


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def linear_in(linear: nn.Module, x: Tensor) -> Tensor:
    """Apply a float or quantised linear layer in x's type, for any type of the weight: x (..., in) -> (..., out).

    The layers that embed the timestep compute in float32 this way: their result scales every channel of every block.
    """
    bias = cast("Tensor | None", linear.bias)
    weight = (
        linear.dequantized(x.dtype) if isinstance(linear, QuantizedLinear) else cast(Tensor, linear.weight).to(x.dtype)
    )
    return F.linear(x, weight, None if bias is None else bias.to(x.dtype))


def replace_linears(model: nn.Module, kind_of: Callable[[str, nn.Linear], EightBit | None]) -> int:
    """Swap each linear layer for a quantised one of the kind `kind_of(name, layer)`; None keeps the layer.

    On the meta device nothing is computed; elsewhere weights are rounded one layer at a time. Returns the number
    of layers that were swapped.
    """
    linears = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    count = 0
    for name, linear in linears:
        kind = kind_of(name, linear)
        if kind is None:
            continue
        parent_name, _, child = name.rpartition(".")
        parent = model.get_submodule(parent_name)
        if isinstance(parent, nn.Sequential):
            parent[int(child)] = QuantizedLinear.from_linear(linear, kind)
        else:
            setattr(parent, child, QuantizedLinear.from_linear(linear, kind))
        count += 1
    return count


def computes_in_8bit(model: nn.Module) -> bool:
    """Whether any layer rounds its activations to multiply in 8 bits."""
    return any(isinstance(module, QuantizedLinear) and module.activations == "dynamic" for module in model.modules())


def use_fastest_tiles(model: nn.Module, device: torch.device, chooser: Chooser) -> None:
    """Let every layer that computes in int8 use the tile that `chooser` finds fastest for its size on this card."""
    tiles: dict[tuple[int, int], str | None] = {}
    for module in model.modules():
        if isinstance(module, QuantizedLinear) and module.activations == "dynamic" and module.kind == "int8":
            size = module.out_features, module.in_features
            if size not in tiles:
                tiles[size] = fastest_tile(*size, device, chooser)
            module.tile = tiles[size]
