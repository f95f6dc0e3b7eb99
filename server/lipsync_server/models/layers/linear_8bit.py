"""8-bit linear layers: int8 and fp8 weights with one scale per output row, computed in 8 bits where the device can.

Knows rounding, scales and the 8-bit matrix products. Does not know the transformer, file formats or which layers are
sensitive: `quantize_` is told the names. Two ways to compute, a switch on each layer:
  exact    the weight is dequantised and multiplied in the activations' type (what the published int8/fp8 files mean);
  dynamic  activations are rounded to 8 bits too, one scale per token found at run time, and the product runs on the
           8-bit units (CUDA), or is emulated with the same rounding (CPU).
"""

import importlib.util
from collections.abc import Callable
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_HAS_TRITON = importlib.util.find_spec("triton") is not None
if _HAS_TRITON:
    from lipsync_server.models.kernels.int8_product import int8_product

Kind = Literal["int8", "fp8"]
Activations = Literal["exact", "dynamic"]

DTYPES: dict[str, torch.dtype] = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
LARGEST: dict[str, float] = {"int8": 127.0, "fp8": 448.0}


def quantize_rows(x: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
    """x (..., K) -> 8-bit data of the same shape and scale (..., 1) in x's type, so that data * scale is close to x.

    scale = largest magnitude of the row / 127 (int8) or / 448 (fp8), the rule of optimum-quanto. Rows of zeros get a
    tiny scale instead of dividing by zero.
    """
    scale = x.abs().amax(dim=-1, keepdim=True) / LARGEST[kind]
    scale = scale.clamp(min=torch.finfo(x.dtype).tiny)
    return _round_to(x / scale, kind), scale


def _round_to(scaled: Tensor, kind: Kind) -> Tensor:
    if kind == "int8":
        # A scale that was itself rounded (bf16) can push the largest value past 127: the type's own limits hold then.
        return scaled.round().clamp(-128, 127).to(torch.int8)
    return scaled.clamp(-LARGEST[kind], LARGEST[kind]).to(DTYPES[kind])


def dequantize_rows(data: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return (data.float() * scale.float()).to(dtype)


def multiply_8bit(x: Tensor, data: Tensor, scale: Tensor, bias: Tensor | None, kind: Kind) -> Tensor:
    """x (M, K) times an 8-bit weight (N, K) with row scales (N, 1) -> (M, N) in x's type.

    Activations get one scale per token here. fp8 accumulates in the tensor cores' fast mode.
    """
    x8, x_scale = quantize_rows(x.float(), kind)
    if not x.is_cuda:
        out = F.linear(x8.float(), data.float()) * x_scale * scale.t()
        return (out if bias is None else out + bias.float()).to(x.dtype)
    return multiply_rows(x8, x_scale, data, scale, bias, x.dtype)


def multiply_rows(
    x: Tensor, x_scale: Tensor, data: Tensor, scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """The product of multiply_8bit on a GPU, of activations that are rounded already, in `dtype`."""
    if x.dtype != torch.int8:
        return torch._scaled_mm(
            x, data.t(), scale_a=x_scale, scale_b=scale.t(), bias=bias, out_dtype=dtype, use_fast_accum=True
        )
    if _HAS_TRITON and dtype == torch.bfloat16:
        product: Tensor = int8_product(x, data, x_scale, scale, bias)
        return product
    out = torch._int_mm(x, data.t()).float() * x_scale * scale.t()
    return (out if bias is None else out + bias.float()).to(dtype)


class QuantizedLinear(nn.Module):
    """A linear layer with an int8 or fp8 weight `data` (out, in) and `scale` (out, 1) float32."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        kind: Kind,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        activations: Activations = "exact",
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.kind = in_features, out_features, kind
        self.activations = activations
        self.data = _frozen(torch.empty(out_features, in_features, dtype=DTYPES[kind], device=device))
        self.scale = _frozen(torch.empty(out_features, 1, dtype=torch.float32, device=device))
        self.bias = _frozen(torch.empty(out_features, dtype=dtype, device=device)) if bias else None

    @classmethod
    def from_linear(cls, linear: nn.Linear, kind: Kind) -> "QuantizedLinear":
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
        return dequantize_rows(self.data, self.scale, dtype)

    def forward(self, x: Tensor) -> Tensor:
        if self.activations == "dynamic":
            flat = x.reshape(-1, self.in_features)
            return multiply_8bit(flat, self.data, self.scale, self.bias, self.kind).view(*x.shape[:-1], -1)
        return F.linear(x, self.dequantized(x.dtype), self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.kind}, activations={self.activations}"


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def linear_in(linear: nn.Module, x: Tensor) -> Tensor:
    """Apply a float or quantised linear layer in x's type, whatever the weight's: the sensitive layers' float32."""
    bias = cast("Tensor | None", linear.bias)
    weight = (
        linear.dequantized(x.dtype) if isinstance(linear, QuantizedLinear) else cast(Tensor, linear.weight).to(x.dtype)
    )
    return F.linear(x, weight, None if bias is None else bias.to(x.dtype))


def replace_linears(model: nn.Module, kind_of: Callable[[str, nn.Linear], Kind | None]) -> int:
    """Swap each linear layer for a quantised one of the kind that `kind_of(name, layer)` says; None keeps it.

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


def native_8bit(device: torch.device, kind: Kind) -> bool:
    """Whether the device multiplies this kind in 8 bits: int8 from compute capability 8.0, fp8 from 8.9."""
    if device.type != "cuda":
        return False
    return torch.cuda.get_device_capability(device) >= ((8, 0) if kind == "int8" else (8, 9))
