"""Map official parameter names to our modules, which compute q, k and v of self-attention as one product.

One product of three times the width is faster than three products. The published files have three weights. Knows names
and shapes of Wan's transformers. Does not know files or how a tensor is rounded.
"""

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Place:
    """The place of an official tensor in the model: a module's parameter, or a third of its rows (`part` 0, 1 or 2)."""

    module: str
    parameter: str
    part: int | None = None


def place_of(name: str) -> Place:
    """Official parameter name -> place. q, k and v of self-attention are one product here."""
    module, _, parameter = name.rpartition(".")
    parent, _, leaf = module.rpartition(".")
    if parent.endswith("self_attn") and leaf in ("q", "k", "v"):
        return Place(f"{parent}.qkv", parameter, "qkv".index(leaf))
    return Place(module, parameter)


def official_names(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Every parameter of `model` under its official name, with the official shape."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, parameter in model.named_parameters():
        shape = tuple(parameter.shape)
        if ".self_attn.qkv." in name:
            for leaf in "qkv":
                shapes[name.replace(".qkv.", f".{leaf}.")] = (shape[0] // 3, *shape[1:])
        else:
            shapes[name] = shape
    return shapes


def rows_of(parameter: Tensor, part: int | None) -> Tensor:
    """The rows of `parameter` that an official tensor fills: all, or one third."""
    return parameter if part is None else parameter.chunk(3)[part]
