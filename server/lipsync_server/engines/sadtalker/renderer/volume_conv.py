"""3-D convolutions as 2-D ones over the slices of a volume, for GPUs whose 3-D kernels are slow.

A k x k x k convolution is a k x k one on every slice with its k neighbours side by side as channels; where the output
is narrow, on the slice alone with k times the outputs, which are then added over neighbours. In channels-last memory
all views but the copies of the neighbours are free. Does not know the network around it.
"""

import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_NARROW = 128


class VolumeConv(nn.Module):
    """Computes the same as the Conv3d from which it is made: stride 1, cubic odd kernel, padded to keep the size."""

    def __init__(self, conv: nn.Conv3d) -> None:
        super().__init__()
        out, _, k, height, width = conv.weight.shape
        if not (k == height == width and k % 2 == 1 and conv.padding == (k // 2,) * 3 and conv.stride == (1, 1, 1)):
            raise ValueError(f"not a convolution that keeps the size: {conv}")
        self.kernel, self.n_outputs = k, out
        self.adds_outputs = out * k <= _NARROW
        # (O, I, z, y, x) -> slices' taps as outputs or as inputs
        taps = conv.weight.movedim(2, 0) if self.adds_outputs else conv.weight.movedim(2, 1)
        weight = taps.flatten(0, 1) if self.adds_outputs else taps.flatten(1, 2)
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last), requires_grad=False)
        self.bias = conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, O, D, H, W), in the same dtype."""
        B, _, D, H, W = x.shape
        k, half = self.kernel, self.kernel // 2
        slices = x.permute(0, 2, 3, 4, 1)  # (B, D, H, W, C)
        if self.adds_outputs:
            y = self._convolve(slices, None).reshape(B, D, H, W, k, self.n_outputs)
            y = F.pad(y, (0, 0, 0, 0, 0, 0, 0, 0, half, half))
            # float32: k roundings of half-precision terms would add up
            total = torch.stack([y[:, z : z + D, :, :, z] for z in range(k)]).float().sum(0)
            y = total if self.bias is None else total + self.bias.float()
            return y.to(x.dtype).permute(0, 4, 1, 2, 3)
        padded = F.pad(slices, (0, 0, 0, 0, 0, 0, half, half))
        y = self._convolve(torch.cat([padded[:, z : z + D] for z in range(k)], dim=-1), self.bias)
        return y.reshape(B, D, H, W, -1).permute(0, 4, 1, 2, 3)

    def _convolve(self, slices: Tensor, bias: Tensor | None) -> Tensor:
        """(B, D, H, W, C) -> (B D, H, W, O)."""
        images = slices.flatten(0, 1).permute(0, 3, 1, 2)
        return F.conv2d(images, self.weight, bias, padding=self.kernel // 2).permute(0, 2, 3, 1)


def use_volume_convs(root: nn.Module) -> None:
    """Replace every Conv3d of a kernel larger than 1 below `root`."""
    for module in list(root.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv3d) and child.kernel_size[0] > 1:
                setattr(module, name, VolumeConv(child))


@torch.inference_mode()
def conv_times(device: torch.device, dtype: torch.dtype, batch: int = 4) -> dict[str, float]:
    """Milliseconds of the dense motion network's two largest convolutions in either form, on this device."""
    times: dict[str, float] = {}
    for name, inputs, outputs, kernel in (("hourglass", 112, 112, 3), ("mask", 112, 16, 7)):
        plain = nn.Conv3d(inputs, outputs, kernel, padding=kernel // 2, device=device, dtype=dtype)
        plain.weight.data = plain.weight.data.contiguous(memory_format=torch.channels_last_3d)
        x = torch.randn(batch, inputs, 16, 64, 64, device=device, dtype=dtype)
        x = x.contiguous(memory_format=torch.channels_last_3d)
        for form, conv in (("3d", plain), ("2d", VolumeConv(plain))):
            conv(x)
            torch.cuda.synchronize(device)
            start = time.perf_counter()
            for _ in range(3):
                conv(x)
            torch.cuda.synchronize(device)
            times[f"{name}_{form}"] = (time.perf_counter() - start) / 3 * 1000
    return times


def prefer_2d(times: dict[str, float]) -> bool:
    """Whether the two convolutions of `conv_times` together are faster in the 2-D form."""
    return times["hourglass_2d"] + times["mask_2d"] < times["hourglass_3d"] + times["mask_3d"]
