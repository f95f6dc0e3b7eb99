"""The Wan VAE's layers for a video in pieces: diffusers' weights with fewer passes over memory.

diffusers calls a layer as layer(x, feat_cache=..., feat_idx=...), with x (1, C, T, H, W). The cache is a list with an
entry for each causal convolution: the last two frames of its input, in the order in which the layers run. The layers
here have the same call, so that diffusers' middle and up blocks run them unchanged; each layer has its own cache entry.
A convolution may let the next fused pass add its bias (`deferred`). Knows diffusers' module names, nothing of an
engine.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipsync_server.models.wan_vae.ops import FRAMES_BEFORE, Ops, extend

History = list[Tensor | None]
_BEFORE, _TOP, _LEFT = 4, 2, 0
"""Indices of diffusers' `_padding`: (left, right, top, bottom, before, after)."""


class CausalConv(nn.Module):
    """A WanCausalConv3d whose input contains all frames that it reads, with the earlier ones.

    edge: columns of zeros that the input needs left and right. deferred: the bias (C,) float32 that the next layer has
    to add; None if this layer adds it.
    """

    edge = 0

    def __init__(self, conv: nn.Conv3d, *, defer_bias: bool) -> None:
        super().__init__()
        assert conv.bias is not None
        bias = conv.bias.detach()
        self.weight = _constant(conv.weight.detach())
        self.bias = None if defer_bias else _constant(bias)
        self.deferred: Tensor | None
        self.register_buffer("deferred", bias.float() if defer_bias else None)
        padding = cast("tuple[int, ...]", conv._padding)
        self.stride, self.padding = conv.stride, (0, padding[_TOP], padding[_LEFT])

    def forward(self, frames: Tensor) -> Tensor:
        """frames (1, C, 2 + T, H, W), history first -> (1, C', T, H, W) in the weights' type."""
        return F.conv3d(frames, self.weight, self.bias, self.stride, self.padding)


class FoldedConv(CausalConv):
    """A CausalConv as a 2-D convolution. Its input has the channels of all frames that an output frame reads.

    On a CPU, torch's 3-D convolution is slow below 16 channels.
    """

    def __init__(self, conv: nn.Conv3d) -> None:
        super().__init__(conv, defer_bias=False)
        self.kernel_t = conv.kernel_size[0]
        folded = self.weight.transpose(1, 2).flatten(1, 2)
        self.weight = _constant(folded.contiguous(memory_format=torch.channels_last))

    def forward(self, frames: Tensor) -> Tensor:
        """frames (1, C, 2 + T, H, W) -> (1, C', T, H, W)."""
        stride = self.stride[0]
        reach = frames.shape[2] - self.kernel_t + 1
        pictures = frames[0].transpose(0, 1)
        shifted = [pictures[k : k + reach : stride] for k in range(self.kernel_t)]
        pictures = torch.cat(shifted, dim=1) if self.kernel_t > 1 else pictures
        out = F.conv2d(pictures, self.weight, self.bias, padding=self.padding[1:])
        return out.transpose(0, 1)[None]


class PairedConv(CausalConv):
    """A 3x3x3 convolution as a 3x3x2 one over pairs of columns, for 96 channels on tensor cores.

    In channels-last memory the channels of two neighbouring columns are side by side, so 96 channels become 192 without
    a copy. A pair of outputs reads four columns, and each output uses three of them, so a quarter of the products is
    with zero. It is still faster: cuDNN's kernels for multiples of 64 channels are more than twice as fast on an H100
    as its kernels for 96.
    """

    edge = 1

    def __init__(self, conv: nn.Conv3d) -> None:
        super().__init__(conv, defer_bias=True)
        n_out, n_in = self.weight.shape[:2]
        self.n_out = n_out
        # Tensor cores want multiples of 8 channels; the last layer has three colours.
        rows = -(-2 * n_out // 8) * 8
        paired = self.weight.new_zeros(rows, 2 * n_in, 3, 3, 2)
        for out in range(2):
            for column in range(4):
                if 0 <= column - out < 3:
                    pair, side = divmod(column, 2)
                    place = paired[out * n_out : (out + 1) * n_out, side * n_in : (side + 1) * n_in, :, :, pair]
                    place.copy_(self.weight[..., column - out])
        self.weight = _constant(paired.contiguous(memory_format=torch.channels_last_3d))

    @staticmethod
    def suits(conv: nn.Conv3d) -> bool:
        """Whether pairs can compute this convolution and bring its channels to a multiple of 64."""
        return conv.kernel_size == (3, 3, 3) and conv.in_channels % 64 == 32

    def forward(self, frames: Tensor) -> Tensor:
        """frames (1, C, 2 + T, H, W + 2 edge) -> (1, C', T, H, W)."""
        width = frames.shape[-1] - 2 * self.edge
        columns = frames.movedim(1, -1)
        if width % 2:
            columns = F.pad(columns, (0, 0, 0, 1))
        pairs = columns.reshape(*columns.shape[:3], -1, 2 * columns.shape[4])
        out = F.conv3d(pairs.movedim(-1, 1), self.weight, padding=(0, 1, 0)).movedim(1, -1)
        singles = out[..., : 2 * self.n_out].reshape(*out.shape[:3], -1, self.n_out)
        return singles[:, :, :, :width].movedim(-1, 1)


@dataclass(frozen=True)
class Ways:
    """The choice of convolution.

    pair: PairedConv, with biases added by `ops`. fold: FoldedConv. Neither: CausalConv.
    """

    ops: Ops
    fold: bool = False
    pair: bool = False

    def conv(self, conv: nn.Conv3d) -> CausalConv:
        """The chosen form of `conv`. Its bias may be deferred: the caller adds `deferred` if that is not None."""
        if not self.pair:
            return self.conv_with_bias(conv)
        return PairedConv(conv) if PairedConv.suits(conv) else CausalConv(conv, defer_bias=True)

    def conv_with_bias(self, conv: nn.Conv3d) -> CausalConv:
        """The chosen form of `conv` among those that add their bias themselves."""
        return FoldedConv(conv) if self.fold else CausalConv(conv, defer_bias=False)


class NormConv(nn.Module):
    """RMS norm over channels, SiLU, convolution. bias: the deferred bias (C,) float32 of the previous layer."""

    def __init__(self, norm: nn.Module, conv: nn.Conv3d, ways: Ways, bias: Tensor | None = None) -> None:
        super().__init__()
        gamma = cast(Tensor, norm.gamma)
        scale = cast(float, norm.scale)
        self.gamma: Tensor
        self.register_buffer("gamma", gamma.detach().float().flatten() * scale)
        self.before: Tensor | None
        self.register_buffer("before", bias)
        self.conv = ways.conv(conv)
        self._ops = ways.ops

    def forward(self, x: Tensor, feat_cache: History, feat_idx: list[int]) -> Tensor:
        """x (1, C, T, H, W) -> (1, C', T, H, W)."""
        at = _next(feat_idx)
        frames, feat_cache[at] = self._ops.norm_silu(x, self.gamma, self.before, feat_cache[at], self.conv.edge)
        out: Tensor = self.conv(frames)
        return out


class FirstConv(nn.Module):
    """The first convolution."""

    n_remembered = 2

    def __init__(self, conv: nn.Conv3d, ways: Ways) -> None:
        super().__init__()
        self.conv = ways.conv_with_bias(conv)

    def forward(self, x: Tensor, feat_cache: History, feat_idx: list[int]) -> Tensor:
        """x (1, 3 or 16, T, H, W) -> (1, C, T, H, W)."""
        at = _next(feat_idx)
        frames, feat_cache[at] = extend(x, feat_cache[at])
        out: Tensor = self.conv(frames)
        return out


class Head(nn.Module):
    """The last norm and convolution."""

    n_remembered = 2

    def __init__(self, norm: nn.Module, conv: nn.Conv3d, ways: Ways) -> None:
        super().__init__()
        self.last = NormConv(norm, conv, ways)

    def forward(self, x: Tensor, feat_cache: History, feat_idx: list[int]) -> Tensor:
        """x (1, C, T, H, W) -> (1, C', T, H, W)."""
        out: Tensor = self.last(x, feat_cache, feat_idx)
        bias = self.last.conv.deferred
        return out if bias is None else out + bias.to(out.dtype).view(-1, 1, 1, 1)


class ResidualBlock(nn.Module):
    """diffusers' WanResidualBlock."""

    n_remembered = 4

    def __init__(self, block: nn.Module, ways: Ways) -> None:
        super().__init__()
        first, second = cast(nn.Conv3d, block.conv1), cast(nn.Conv3d, block.conv2)
        self.first = NormConv(cast(nn.Module, block.norm1), first, ways)
        self.second = NormConv(cast(nn.Module, block.norm2), second, ways, self.first.conv.deferred)
        shortcut = block.conv_shortcut
        self.shortcut = ways.conv(shortcut) if isinstance(shortcut, nn.Conv3d) else None
        bias = self.second.conv.deferred
        if bias is not None and self.shortcut is not None and self.shortcut.deferred is not None:
            bias = bias + self.shortcut.deferred
        self.bias: Tensor | None
        self.register_buffer("bias", bias)
        self._ops = ways.ops

    def forward(self, x: Tensor, feat_cache: History, feat_idx: list[int]) -> Tensor:
        """x (1, C, T, H, W) -> (1, C', T, H, W)."""
        beside = x if self.shortcut is None else self.shortcut(x)
        out = self.second(self.first(x, feat_cache, feat_idx), feat_cache, feat_idx)
        return self._ops.add(out, beside, self.bias)


class Upsample(nn.Module):
    """diffusers' WanResample upwards: twice the pixels; with a time convolution twice the frames after the first."""

    def __init__(self, block: nn.Module, ways: Ways) -> None:
        super().__init__()
        self.conv = cast(nn.Conv2d, cast(nn.Sequential, block.resample)[1])
        time_conv = getattr(block, "time_conv", None)
        self.time_conv = ways.conv(time_conv) if time_conv is not None else None
        self._ops = ways.ops

    def forward(self, x: Tensor, feat_cache: History, feat_idx: list[int]) -> Tensor:
        """x (1, C, T, H, W) -> (1, C', T', 2 H, 2 W)."""
        n_parts, bias = 1, None
        if self.time_conv is not None:
            at = _next(feat_idx)
            history = feat_cache[at]
            if history is None:
                # The first frame of a video is not doubled, and is no history of the next frames.
                feat_cache[at] = F.pad(torch.zeros_like(x), (0, 0, 0, 0, FRAMES_BEFORE - x.shape[2], 0))
            else:
                frames, feat_cache[at] = extend(x, history)
                x = self.time_conv(frames)
                n_parts, bias = 2, self.time_conv.deferred
        return _on_pictures(self.conv, self._ops.double(x, n_parts, bias))


class Downsample(nn.Module):
    """diffusers' WanResample downwards: half the pixels; with a time convolution half the frames after the first."""

    def __init__(self, block: nn.Module, ways: Ways) -> None:
        super().__init__()
        self.spatial = cast(nn.Module, block.resample)
        time_conv = getattr(block, "time_conv", None)
        self.time_conv = ways.conv_with_bias(time_conv) if time_conv is not None else None
        self.halves_time = self.time_conv is not None
        self.n_remembered = int(self.halves_time)

    def forward(self, x: Tensor, feat_cache: History, feat_idx: list[int]) -> Tensor:
        """x (1, C, T, H, W) -> (1, C', T', H / 2, W / 2)."""
        x = _on_pictures(self.spatial, x)
        if self.time_conv is None:
            return x
        at = _next(feat_idx)
        history, feat_cache[at] = feat_cache[at], x[:, :, -1:].clone()
        out: Tensor = x if history is None else self.time_conv(torch.cat([history, x], dim=2))
        return out


def streaming(side: nn.Module, ways: Ways) -> nn.ModuleList:
    """The layers of a WanEncoder3d or WanDecoder3d in order. The classes above replace its modules in place."""
    kinds: dict[str, Callable[[nn.Module, Ways], nn.Module]] = {
        "WanResidualBlock": ResidualBlock,
        "WanResample": _resample,
    }
    for parent in list(side.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__ in kinds:
                setattr(parent, name, kinds[type(child).__name__](child, ways))
    blocks = cast(nn.ModuleList, getattr(side, "down_blocks", None) or side.up_blocks)
    first = FirstConv(cast(nn.Conv3d, side.conv_in), ways)
    head = Head(cast(nn.Module, side.norm_out), cast(nn.Conv3d, side.conv_out), ways)
    middle = side.mid_block
    inner = [*blocks, middle] if hasattr(side, "down_blocks") else [middle, *blocks]
    return nn.ModuleList([first, *inner, head])


def order_channels_last(model: nn.Module) -> None:
    """Store the convolutions' weights channels-last, the order of the tensor cores; in place."""
    for parameter in model.parameters():
        if parameter.dim() == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
        elif parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def _resample(block: nn.Module, ways: Ways) -> nn.Module:
    """Our form of diffusers' WanResample, which is one class for both directions."""
    return Upsample(block, ways) if str(block.mode).startswith("up") else Downsample(block, ways)


def _on_pictures(layer: nn.Module, x: Tensor) -> Tensor:
    """A 2-D layer on every frame of x (1, C, T, H, W)."""
    out: Tensor = layer(x[0].transpose(0, 1))
    # Not transpose(0, 1)[None]: torch recognises channels-last memory by all strides, also the stride of the batch.
    return out.movedim(1, -1)[None].movedim(-1, 1)


def _next(feat_idx: list[int]) -> int:
    """The next entry of diffusers' cache, which is counted in a list of one number."""
    at = feat_idx[0]
    feat_idx[0] += 1
    return at


def _constant(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=False)
